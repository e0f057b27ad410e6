"""The child process: one engine, one decoder, a number of inputs.

    python -m model_registry.bench.fuzzing.engines ENGINE DECODER INPUTS SEED FOLDER

It leaves in FOLDER what it counted (report.json), the input in hand (input.now) and, of a finding, input and words. Both
engines drive the same mutations: Hypothesis draws their decisions, batch by batch from the seed; Atheris keeps the mutants that
reach new branches of the contract and mutates those.
"""

from __future__ import annotations

import json
import random
import resource
import sys
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from pathlib import Path

RSS_LIMIT_MB = 1024
HANG_S = 20
BATCH = 1000


class Engine(StrEnum):
    """What makes the inputs."""

    HYPOTHESIS = "hypothesis"
    ATHERIS = "atheris"


class Decoder(StrEnum):
    """What takes them."""

    FULL = "full"
    DELTA = "delta"


def main(arguments: list[str]) -> None:
    """Run to the end, or to the first finding."""
    engine, decoder, inputs, seed, folder = arguments
    if engine == Engine.ATHERIS:
        import atheris  # noqa: PLC0415  (before anything of the contract, which it instruments)

        with atheris.instrument_imports(include=["model_registry.contract"], enable_loader_override=False):
            from model_registry.bench.fuzzing import target  # noqa: F401, PLC0415
        _fuzz_atheris(Decoder(decoder), int(inputs), int(seed), Path(folder))
    else:
        _fuzz_hypothesis(Decoder(decoder), int(inputs), int(seed), Path(folder))


class _Course:
    """Seeds, target and report of one run."""

    def __init__(self, decoder: Decoder, folder: Path) -> None:
        from model_registry.bench.fuzzing import seeds, target  # noqa: PLC0415

        self._folder = folder
        self.natural, self.forced = seeds.full_seeds() if decoder is Decoder.FULL else seeds.delta_seeds()
        self.target = target.Target(target.Recorder(folder / "input.now"))
        target.limit_address_space()

    @property
    def seeds(self) -> list[bytes]:
        return self.natural + self.forced

    def mutant(self, rng: random.Random) -> bytes:
        """Of a natural seed as often as of a forced one, though those are few."""
        from model_registry.bench.fuzzing.mutations import mutate  # noqa: PLC0415

        return mutate(rng, rng.choice(self.natural if rng.randrange(2) else self.forced), self.target.bases)

    def run(self, artifact: bytes) -> None:
        from model_registry.bench.fuzzing.target import Finding, limit_address_space  # noqa: PLC0415

        if self.target.executions % 100 == 0:
            # What the engine keeps grows; the limit is for the decoder.
            limit_address_space()
        try:
            self.target.run(artifact)
        except Finding as finding:
            (self._folder / "finding.bin").write_bytes(artifact)
            (self._folder / "finding.txt").write_text(str(finding))
            raise

    def report(self) -> None:
        target = self.target
        found = {
            "seeds": len(self.seeds),
            "executions": target.executions,
            "answers": dict(sorted(target.answers.items())),
            "peak_bytes": target.peak_bytes,
            "slowest_s": round(target.slowest_s, 3),
            "rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        }
        (self._folder / "report.json").write_text(json.dumps(found))


def _fuzz_hypothesis(decoder: Decoder, inputs: int, seed: int, folder: Path) -> None:
    course = _Course(decoder, folder)
    for artifact in course.seeds[:inputs]:
        course.run(artifact)
    batch = 0
    while course.target.executions < inputs:
        left = inputs - course.target.executions
        _batch(course.mutant, course.run, examples=min(BATCH, left), seed=seed * 1_000_003 + batch)
        batch += 1
        course.report()
    course.report()


def _batch(mutant: Callable[[random.Random], bytes], run: Callable[[bytes], None], *, examples: int, seed: int) -> None:
    """A batch of its own, because Hypothesis remembers every decision of one. A finding is made smaller before it is raised."""
    import hypothesis  # noqa: PLC0415
    from hypothesis import strategies as st  # noqa: PLC0415

    quick = hypothesis.settings(
        max_examples=examples,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate, hypothesis.Phase.shrink],
        suppress_health_check=list(hypothesis.HealthCheck),
    )

    @hypothesis.seed(seed)
    @quick
    @hypothesis.given(st.randoms(use_true_random=False), st.integers(0, 2**32 - 1))
    def each(drawn: random.Random, number: int) -> None:
        # Hypothesis draws the first decisions, and shrinks them; the others follow from one number.
        run(mutant(_Mixed(drawn, number)))

    each()


class _Mixed(random.Random):
    """The first decisions from Hypothesis, the many small ones after them from a generator of our own: drawing is slow."""

    DRAWN = 6

    def __new__(cls, *_arguments: object) -> _Mixed:
        # The base class takes one argument, a seed.
        return super().__new__(cls)

    def __init__(self, drawn: random.Random, number: int) -> None:
        super().__init__()
        self.seed(number)
        self._drawn, self._left = drawn, self.DRAWN

    def randrange(self, *bounds: int) -> int:  # type: ignore[override]
        self._left -= 1
        return self._drawn.randrange(*bounds) if self._left >= 0 else super().randrange(*bounds)


def _fuzz_atheris(decoder: Decoder, inputs: int, seed: int, folder: Path) -> None:
    import atheris  # noqa: PLC0415

    from model_registry.bench.fuzzing.mutations import mutate  # noqa: PLC0415

    course = _Course(decoder, folder)
    corpus = folder / "corpus"
    corpus.mkdir()
    for number, artifact in enumerate(course.seeds):
        (corpus / f"{number:05}").write_bytes(artifact)

    def one(data: bytes) -> None:
        course.run(data)
        if course.target.executions in (inputs, inputs - 1) or course.target.executions % BATCH == 0:
            course.report()

    def mutator(data: bytes, max_size: int, number: int) -> bytes:
        rng = random.Random(number)  # noqa: S311  (an engine's seed, no secret)
        if not data or not rng.randrange(16):
            data = course.mutant(rng)
        return mutate(rng, data, course.target.bases)[:max_size]

    options = [f"-runs={inputs}", f"-seed={seed}", f"-rss_limit_mb={RSS_LIMIT_MB}", f"-timeout={HANG_S}", "-max_len=65536"]
    options += ["-len_control=0", "-print_final_stats=1", f"-artifact_prefix={folder}/", str(corpus)]
    atheris.Setup([sys.argv[0], *options], one, custom_mutator=mutator)
    with suppress(SystemExit):
        atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1:])
