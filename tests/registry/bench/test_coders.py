"""Every general tool gives back what it was given, and its costs are those of a process of its own."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.bench import peers
from model_registry.bench.coders import Coder, CoderMissing
from model_registry.bench.comparison import peer_versions
from model_registry.bench.measuring import CODERS, CodingFailed, measure
from model_registry.bench.ours import DELTAS, FULL
from model_registry.bench.peers import PEERS
from model_registry.contract.limits import MIB
from tests.contract.contents import small_network


def content_pair() -> tuple[bytes, bytes]:
    base = small_network()
    return base.data, base.named("small", "9.0.0").data


def random_pair() -> tuple[bytes, bytes]:
    """Of which every hundredth byte differs."""
    rng = np.random.default_rng(0)
    base = rng.integers(0, 256, 20_000, np.uint8)
    new = base.copy()
    new[::100] ^= 1
    return base.tobytes(), new.tobytes()


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_tool_gives_back_what_it_was_given(peer: Coder) -> None:
    try:
        assert peer.version()
    except CoderMissing as exc:
        pytest.skip(f"{exc} (make bench-peers)")
    base, new = random_pair()
    for before in (b"", base):
        coded = peer.encode(before, new)
        assert peer.decode(before, coded) == new
    assert (len(peer.encode(base, new)) < len(new) // 2) == peer.uses_base


def test_ours_come_through_the_same_door() -> None:
    base, new = content_pair()
    assert FULL.decode(b"", FULL.encode(b"", new)) == new
    for coder in DELTAS:
        assert coder.decode(base, coder.encode(base, new)) == new


def test_a_missing_tool_is_named_and_not_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    absent = next(peer for peer in PEERS if peer.name == "xdelta3")
    assert peer_versions([absent]) == {"xdelta3": None}
    gone = replace(absent, name="gone", version=peers._package("no-such-package-here"))
    assert peer_versions([gone]) == {"gone": None}


def test_costs_are_measured_in_fresh_processes(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(bytes(8 * MIB))
    coding = measure(CODERS["xz"], None, tmp_path / "new", tmp_path)
    assert coding.decodes
    assert 0 < coding.bytes < 8 * MIB
    assert coding.encode.cpu_s > 0
    # The input is held while it is packed, and xz at its highest level searches in many times as much.
    assert coding.encode.peak_bytes > 8 * MIB
    assert coding.decode.peak_bytes < coding.encode.peak_bytes


def test_a_coder_that_cannot_is_a_refusal_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"not a content")
    with pytest.raises(CodingFailed, match="full: encode failed"):
        measure(FULL, None, tmp_path / "new", tmp_path)
