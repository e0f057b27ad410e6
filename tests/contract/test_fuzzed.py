"""A short seeded run of the fuzzer, and proof that it would notice; the long run is ``make fuzz``."""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from model_registry.bench.fuzzing.engines import Decoder, Engine
from model_registry.bench.fuzzing.mutations import Bases, loose_head, mutate, unpack
from model_registry.bench.fuzzing.runs import fuzz
from model_registry.bench.fuzzing.seeds import delta_seeds, known_contents
from model_registry.bench.fuzzing.streams import exchanged
from model_registry.bench.fuzzing.target import FIXED_BYTES, LIMITS, Finding, Target
from model_registry.contract.codecs import changes, sparse
from model_registry.contract.codecs.values import ValueCoder
from model_registry.contract.content import Content
from model_registry.contract.delta import apply_delta
from model_registry.contract.errors import MalformedArtifact
from model_registry.contract.full import encode_full

PROGRAM = Path(sys.executable).with_name("deltafleet")
# More than there are seeds, which come first.
INPUTS = 2800
CHANGE_CODERS = {46, 47} | {coder.number for coder in changes.CODERS} | {coder.number for coder in sparse.CODERS}


@pytest.mark.parametrize("decoder", list(Decoder))
def test_a_short_run_finds_nothing(decoder: Decoder, tmp_path: Path) -> None:
    run = fuzz(Engine.HYPOTHESIS, decoder, inputs=INPUTS, seed=1, keep=tmp_path)
    assert not run.finding, run
    assert run.report["executions"] >= INPUTS
    # Shallow and deep: refused for their form, decoded to something else, and harmless.
    assert {"MalformedArtifact", "LimitExceeded", "UnsupportedArtifact", "ContentMismatch", "decoded"} <= set(
        run.report["answers"]
    )


def test_the_same_seed_makes_the_same_inputs() -> None:
    bases = Bases(known_contents(), LIMITS)
    start = encode_full(bases.contents[0])
    first, again = ([mutate(random.Random(i), start, bases) for i in range(50)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 40


def test_natural_seeds_decode_and_forced_ones_reach_every_coder() -> None:
    target = Target(traced_every=1000)
    natural, forced = delta_seeds()
    assert {target.run(artifact) for artifact in natural} == {"decoded"}
    reached, ended = set(), Counter[str]()
    for artifact in forced:
        ended[target.run(artifact)] += 1
        reached.add(_coder(artifact, target.bases))
    assert reached >= CHANGE_CODERS | set(ValueCoder)
    # Through every coder to the digest: no seed gets further without a key.
    assert ended["ContentMismatch"] > 200


def test_forced_seeds_carry_symbols_and_exchanged_streams_are_others() -> None:
    """Without symbols every decoder stops at its first table, and nothing behind it is searched."""
    target = Target(traced_every=1000)
    natural, forced = delta_seeds()
    # Two words name the coders of one tensor.
    carrying = [artifact for artifact in forced if len(unpack(artifact, target.bases).words) > 8]
    assert len(carrying) > len(forced) / 4
    assert {_coder(artifact, target.bases) for artifact in carrying} >= CHANGE_CODERS
    old = target.bases.contents[0]
    deltas = [artifact for artifact in natural if artifact[4] == 0 and artifact[5:37].hex() == old.sha256]
    assert len(deltas) == 3
    for delta in deltas:
        streams = {exchanged(random.Random(seed), partial(apply_delta, old, delta)) for seed in range(20)}
        assert len(streams) > 5
        assert min(map(len, streams)) >= len(unpack(delta, target.bases).words) / 2


def _coder(artifact: bytes, bases: Bases) -> int:
    """The value coder of a forced seed's one tensor."""
    head = loose_head(unpack(artifact, bases), bases.of(artifact))
    return head.tensors[0].coders[1]


@dataclass(frozen=True)
class _Broken:
    """Decoding with a defect."""

    defect: Callable[[], None]

    def decode(self, artifact: bytes) -> Content:
        self.defect()
        raise MalformedArtifact("no harm done")


class PanicException(BaseException):
    """As native code raises it."""


def _panic() -> None:
    raise PanicException


def _overflow() -> None:
    raise OverflowError


def _allocate() -> None:
    np.zeros(FIXED_BYTES + 1000, np.uint8)


@pytest.mark.parametrize(
    ("defect", "kind"),
    [(_panic, "exception"), (_overflow, "exception"), (_allocate, "memory")],
    ids=["panic", "error", "memory"],
)
def test_a_defect_is_a_finding(defect: Callable[[], None], kind: str) -> None:
    target = Target()
    target.bases = cast("Bases", _Broken(defect))
    with pytest.raises(Finding) as found:
        target.run(b"some bytes")
    assert found.value.kind == kind


def test_a_kept_input_tells_again_what_it_does(tmp_path: Path) -> None:
    kept = tmp_path / "kept.bin"
    kept.write_bytes(encode_full(known_contents()[0])[:-4])
    told = subprocess.run(
        [PROGRAM, "bench", "fuzz", "--reproduce", kept], capture_output=True, text=True, timeout=60, check=True
    )
    assert told.stdout.strip() in ("MalformedArtifact", "UnsupportedArtifact", "ContentMismatch")
