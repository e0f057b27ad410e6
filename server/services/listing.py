"""What becomes of versions in signed metadata: who lets them go, and what is done where rows and metadata differ."""

from __future__ import annotations

from collections.abc import Collection

from sqlalchemy.orm import Session

from model_registry.contract.targets import full_path
from server.repositories import artifacts, listings
from server.tables import Listing


def let_go(session: Session, family: str) -> None:
    """Have forgotten what nobody is to look up. Under the family's lock: a rollout that starts meanwhile keeps its version."""
    artifacts.hold_family(session, family)
    for version in listings.unneeded(session, family):
        version.listing = Listing.LEAVING


def compare(session: Session, family: str, named: Collection[str]) -> None:
    """Look again at versions whose row says other than signed metadata, where ``named`` are: a backup may be older than it.

    The caller sees to it that nobody signs meanwhile.
    """
    for version in artifacts.published_versions(session, family):
        is_named = full_path(family, version.version) in named
        if version.listing != Listing.LEAVING and (version.listing == Listing.LISTED) != is_named:
            version.listing = Listing.LEAVING
