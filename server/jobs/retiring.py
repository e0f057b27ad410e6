"""What a worker does by the clock to be rid of deltas: choose those that nobody needs, unsign them, remove their files.

Every step may be repeated and be taken by several workers at once. A delta is offered to nobody before signed metadata forgets
it, and its file stays for a while after that, for vehicles in the middle of a download. Until the last step it may be asked for
again: its row then says so, and the steps here pass it over.
"""

from __future__ import annotations

from datetime import timedelta

from server.bootstrap import Registry
from server.repositories import artifacts
from server.services import deltas, publishing
from server.tables import DeltaState

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


def withdraw(registry: Registry) -> None:
    """Take what is being retired out of signed metadata, all in one edition."""
    with registry.database.reading() as session:
        if not artifacts.retiring(session):
            return
    with registry.database.signing():
        with registry.database.reading() as session:
            rows = artifacts.retiring(session)
        registry.image_repository.retire_deltas(deltas.delta_name(base.family, base, version) for _, base, version in rows)
        with registry.database.writing() as session:
            for delta, _, _ in rows:
                row = artifacts.delta_by_id(session, delta.id)
                if row.state == DeltaState.RETIRING:
                    row.state = DeltaState.RETIRED


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
