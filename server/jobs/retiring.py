"""What a worker does by the clock so that signed metadata names what vehicles need and no more: every vehicle reads all of it.

Deltas that nobody needs: chosen, unsigned, their files removed. Versions that nobody is to look up: chosen and unsigned; their
files stay, and they are signed again when somebody is to run them after all.

Every step may be repeated and be taken by several workers at once. A delta is offered to nobody before signed metadata forgets
it, and its file stays for a while after that, for vehicles in the middle of a download. Until the last step it may be asked for
again: its row then says so, and the steps here pass it over. A wave does not open before signed metadata names its version.
"""

from __future__ import annotations

import logging
from datetime import timedelta

from model_registry.contract.errors import Refusal
from model_registry.contract.targets import full_path
from model_registry.trust.keys import KeyringRefused
from server.bootstrap import Registry
from server.repositories import artifacts, listings
from server.services import deltas, deployments, listing, publishing
from server.tables import DeltaState, Family, Listing

log = logging.getLogger(__name__)
FAMILIES_AT_ONCE = 1000
FILES_AT_ONCE = 100


def retire_unneeded(registry: Registry) -> None:
    """Let go of what no vehicle of any family needs."""
    with registry.database.reading() as session:
        families = [row.name for row in artifacts.families(session, after="", limit=FAMILIES_AT_ONCE)]
    for family in families:
        with registry.database.reading() as session:
            found = deltas.unneeded(session, family, registry.bounds)
        if found:
            # Chosen anew under the family's lock: a vehicle or a release may have come in between.
            with registry.database.writing() as session:
                deltas.retire_unneeded(session, family, bounds=registry.bounds, now=registry.clock())
        with registry.database.signing():
            named = registry.image_repository.versions(family)
            with registry.database.writing() as session:
                listing.compare(session, family, named)
                if registry.image_repository.can_sign_versions():
                    listing.let_go(session, family)


def withdraw(registry: Registry) -> None:
    """Take what is being retired out of signed metadata, all in one edition.

    Versions whose release key does not answer stay listed until the next look; the deltas leave without them.
    """
    with registry.database.reading() as session:
        if not artifacts.retiring(session) and not listings.leaving(session):
            return
    with registry.database.signing():
        with registry.database.reading() as session:
            rows, versions = artifacts.retiring(session), listings.leaving(session)
        names = [deltas.delta_name(base.family, base, version) for _, base, version in rows]
        became = Listing.UNLISTED
        try:
            registry.image_repository.retire([*names, *(full_path(version.family, version.version) for version in versions)])
        except KeyringRefused as exc:
            log.warning("%d versions that nobody needs stay in signed metadata: %s", len(versions), exc)
            registry.image_repository.retire(names)
            became = Listing.LISTED
        with registry.database.writing() as session:
            for delta, _, _ in rows:
                row = artifacts.delta_by_id(session, delta.id)
                if row.state == DeltaState.RETIRING:
                    row.state = DeltaState.RETIRED
            for version in versions:
                artifacts.version_by_id(session, version.id).listing = became


def name_again(registry: Registry) -> tuple[str, ...]:
    """Sign versions that left and that somebody is to run after all; why others could not be signed, one line each."""
    with registry.database.reading() as session:
        if not listings.missing(session):
            return ()
    refused = []
    with registry.database.signing():
        with registry.database.reading() as session:
            rows = [(version, session.get_one(Family, version.family)) for version in listings.missing(session)]
        for version, family in rows:
            signed = deployments.signed_version(version, family)
            try:
                registry.image_repository.add_full(signed.target, sha256=signed.sha256, length=signed.length)
            except Refusal as exc:
                refused.append(f"{version.family} {version.version} waits to be named in signed metadata: {exc}")
                continue
            with registry.database.writing() as session:
                artifacts.version_by_id(session, version.id).listing = Listing.LISTED
    return tuple(refused)


def remove_files(registry: Registry) -> None:
    """Remove files whose time is over. The rows stay locked meanwhile, so that nobody asks for one of them again."""
    before = registry.clock() - timedelta(seconds=registry.settings.retired_file_life_s)
    with registry.database.reading() as session:
        if not artifacts.retired_with_file(session, before, limit=1):
            return
    with registry.database.writing() as session:
        for delta in artifacts.retired_with_file(session, before, limit=FILES_AT_ONCE):
            registry.store.delete(publishing.artifact_key(delta.sha256 or ""))
            delta.sha256 = None
