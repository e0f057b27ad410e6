"""What every test may ask for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reference import REFERENCE_DATA

pytest_plugins = ["tests.services"]


@pytest.fixture(scope="session")
def reference_data() -> Path:
    """The folder of real weights and images; a test that needs it is skipped where it is absent."""
    if not REFERENCE_DATA.is_dir():
        pytest.skip(f"no reference data at {REFERENCE_DATA} (set DELTAFLEET_REFERENCE_DATA)")
    return REFERENCE_DATA
