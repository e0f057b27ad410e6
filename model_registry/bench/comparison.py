"""One scenario after the other: our artifacts by the product's own path, the general tools on the same inputs, what arrives.

The inputs of a tool are the float16 and the float32 weights one after the other, as a fleet would ship them, and the bytes of
our own contents ("the same content": what our coding gains beyond our quantization).
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model_registry.bench.answers import Accuracy, Delivered, Judge
from model_registry.bench.artifacts import Made, compress, lay_out
from model_registry.bench.coders import Coder, CoderMissing
from model_registry.bench.measuring import Coding, CodingFailed, measure
from model_registry.bench.ours import DELTAS, FULL
from model_registry.bench.peers import PEERS
from model_registry.bench.reference import Split
from model_registry.bench.scenarios import TRAININGS, FirstVersion, Pictures, Scenario, Training, Update
from model_registry.compression.pipeline import content_of
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content

Progress = Callable[[str, float, str], None]
FLOAT16, FLOAT32, CONTENT = "float16", "float32", "content"
OURS, EXACT = "ours", "exact"
# A decoding of ours takes milliseconds: the quickest of a few is the least disturbed by the machine's other work.
DECODINGS = 3


@dataclass(frozen=True, slots=True)
class Row:
    """One scenario. ``codings``: by input: ours, exact (ours, float32 kept), and the tools on float16, float32, content.

    ``accuracy``: top-1 by set of pictures, for a first version; ``delivered``: on held-out pictures, for an update;
    ``lost_said``: what the artifact's own recipe says. ``failed``: what could not be coded, and why.
    """

    scenario: Scenario
    codings: Mapping[str, tuple[Coding, ...]]
    failed: tuple[str, ...]
    setting: Mapping[str, object]
    lost_said: float | None
    curve: tuple[Mapping[str, object], ...]
    compress_cpu_s: float
    accuracy: Mapping[str, Accuracy]
    delivered: Delivered | None

    def best(self, of: str) -> Coding | None:
        """What would travel: the smallest delta of an update or the smallest full artifact; of the tools, the smallest."""
        wanted = "full" if isinstance(self.scenario, FirstVersion) else "delta "
        found = self.codings.get(of, ())
        fitting = [
            coding for coding in found if coding.decodes and (of not in (OURS, EXACT) or coding.coder.startswith(wanted))
        ]
        return min(fitting, key=lambda coding: coding.bytes, default=None)

    def ours(self, of: str, coder: str) -> Coding | None:
        return next((coding for coding in self.codings.get(of, ()) if coding.coder == coder), None)

    @property
    def broken(self) -> list[str]:
        """Codings of ours that failed or did not give their content back."""
        wrong = [f"{of}: {c.coder} does not decode" for of in (OURS, EXACT) for c in self.codings.get(of, ()) if not c.decodes]
        return wrong + [reason for reason in self.failed if reason.startswith((OURS, EXACT))]


def peer_versions(peers: Sequence[Coder] = PEERS) -> dict[str, str | None]:
    """Every peer with its version, None for one that is missing."""
    return {peer.name: _version(peer) for peer in peers}


def _version(peer: Coder) -> str | None:
    try:
        return peer.version()
    except CoderMissing:
        return None


class Comparison:
    """Makes rows; artifacts are made once and lie in ``workspace`` while it lives."""

    def __init__(
        self,
        networks: Mapping[str, Path],
        splits: Callable[[Pictures], Split],
        workspace: Path,
        *,
        peers: Sequence[Coder],
        trainings: Mapping[str, Training] = TRAININGS,
        progress: Progress = lambda *_: None,
    ) -> None:
        self._networks, self._splits, self._trainings = networks, splits, trainings
        self._workspace, self._progress = workspace, progress
        self._peers = [peer for peer in peers if _version(peer) is not None]
        self._made: dict[tuple[str | Path, ...], Made] = {}
        self._folders: dict[str, Path] = {}
        self._judges: dict[str, Judge] = {}

    def row(self, scenario: Scenario) -> Row:
        """Raises CompressionFailed when there is no artifact to measure."""
        if isinstance(scenario, FirstVersion):
            return self._first_version(scenario)
        return self._update(scenario)

    def _first_version(self, scenario: FirstVersion) -> Row:
        self._progress(scenario.name, 0.0, "compressing")
        made, pictures = self._first(scenario), self._pictures(scenario.network)
        pairs = [_Pair(OURS, (FULL,), None, made.content().data)]
        if scenario.max_drop is None:
            exact = self._exact(scenario.network).content().data
            pairs += [_Pair(EXACT, (FULL,), None, exact), *self._peer_pairs(None, scenario.network, None, made)]
        codings, failed = self._code(scenario.name, pairs)
        float_content = self._float(scenario.network)
        self._progress(scenario.name, 0.9, "asking")
        # What was searched with all labelled pictures has none held out.
        sets = ("held out", "all pictures") if scenario.max_drop is None else ("all pictures",)
        accuracy = {name: self._judge(pictures, name).accuracy(float_content, made.content()) for name in sets}
        return _row(scenario, codings, failed, made, accuracy=accuracy)

    def _update(self, scenario: Update) -> Row:
        self._progress(scenario.name, 0.0, "compressing")
        # By default settings: what errs less than a small update lets it be told whether that arrives.
        base = self._compressed(scenario.base)
        made = self._successor(scenario, base)
        before, after = base.content(), made.content()
        exact_before, exact_after = (self._exact(name).content() for name in (scenario.base, scenario.network))
        pairs = [
            _Pair(OURS, (FULL, *DELTAS), before.data, after.data),
            _Pair(EXACT, (FULL, *DELTAS), exact_before.data, exact_after.data),
            *self._peer_pairs(scenario.base, scenario.network, base, made),
        ]
        codings, failed = self._code(scenario.name, pairs)
        self._progress(scenario.name, 0.9, "asking")
        judge = self._judge(self._pictures(scenario.network), "held out")
        delivered = judge.delivered(self._float(scenario.base), before, self._float(scenario.network), after)
        return _row(scenario, codings, failed, made, delivered=delivered)

    def _peer_pairs(self, base: str | None, new: str, base_made: Made | None, new_made: Made) -> list[_Pair]:
        peers = tuple(self._peers)
        old = self._floats(base) if base else {}
        pairs = [_Pair(kind, peers, old.get(kind), data) for kind, data in self._floats(new).items()]
        before = base_made.content().data if base_made else None
        return [_Pair(CONTENT, peers, before, new_made.content().data), *pairs]

    def _code(self, name: str, pairs: Sequence[_Pair]) -> tuple[dict[str, tuple[Coding, ...]], tuple[str, ...]]:
        folder = self._workspace / "coding"
        total, done = sum(len(pair.coders) for pair in pairs), 0
        codings: dict[str, tuple[Coding, ...]] = {}
        failed: list[str] = []
        for pair in pairs:
            folder.mkdir(exist_ok=True)
            base, new = pair.write(folder)
            for coder in pair.coders:
                self._progress(name, 0.3 + 0.6 * done / total, f"{coder.name} on {pair.kind}")
                done += 1
                try:
                    coding = measure(coder, base, new, folder, decodings=DECODINGS if pair.ours else 1)
                    codings[pair.kind] = (*codings.get(pair.kind, ()), coding)
                except CodingFailed as exc:
                    failed.append(f"{pair.kind}: {exc.message}")
            shutil.rmtree(folder)
        return codings, tuple(failed)

    def _first(self, scenario: FirstVersion) -> Made:
        pictures = self._pictures(scenario.network)
        if scenario.max_drop is None:
            return self._compressed(scenario.network, "--calibrate", self._folder(pictures, "teaching"))
        labelled = self._folder(pictures, "all pictures")
        return self._compressed(scenario.network, "--calibrate", labelled, "--max-drop", str(scenario.max_drop))

    def _compressed(self, name: str, *options: str | Path) -> Made:
        """The network's artifact without a base, made once."""
        key = (name, *options)
        if key not in self._made:
            path = self._workspace / f"{len(self._made)}-{name}.dfm"
            self._made[key] = compress(self._networks[name], path, *options)
        return self._made[key]

    def _successor(self, scenario: Update, base: Made) -> Made:
        calibrate = self._folder(self._pictures(scenario.network), "teaching")
        options = ("--base", base.path, "--calibrate", calibrate, "--max-lost", str(100 * scenario.max_lost))
        return compress(self._networks[scenario.network], self._workspace / f"update-{scenario.name}.dfm", *options)

    def _exact(self, name: str) -> Made:
        return self._compressed(name, "--lossless")

    def _float(self, name: str) -> Content:
        return content_of(self._networks[name], Recipe())[0]

    def _floats(self, name: str) -> dict[str, bytes]:
        weights = list(self._float(name).weights().values())
        halves = b"".join(value.astype("<f2").tobytes() for value in weights)
        return {FLOAT16: halves, FLOAT32: b"".join(np.asarray(value, "<f4").tobytes() for value in weights)}

    def _pictures(self, name: str) -> Pictures:
        """Those that the network is for: the published one is ImageNet's, whatever is made of it later."""
        return self._trainings[name].pictures

    def _folder(self, pictures: Pictures, part: str) -> Path:
        key = f"{pictures}-{part}".replace(" ", "-")
        if key not in self._folders:
            split = self._splits(pictures)
            samples = split.teaching if part == "teaching" else split.everything
            self._folders[key] = lay_out(samples, self._workspace / "pictures" / key)
        return self._folders[key]

    def _judge(self, pictures: Pictures, part: str) -> Judge:
        key = f"{pictures}-{part}"
        if key not in self._judges:
            split = self._splits(pictures)
            self._judges[key] = Judge(split.held_out if part == "held out" else split.everything, split.preprocessing)
        return self._judges[key]


@dataclass(frozen=True, slots=True, eq=False)
class _Pair:
    """What some coders are measured on."""

    kind: str
    coders: tuple[Coder, ...]
    base: bytes | None
    new: bytes

    @property
    def ours(self) -> bool:
        return self.kind in (OURS, EXACT)

    def write(self, folder: Path) -> tuple[Path | None, Path]:
        (folder / "new").write_bytes(self.new)
        if self.base is None:
            return None, folder / "new"
        (folder / "base").write_bytes(self.base)
        return folder / "base", folder / "new"


def _row(
    scenario: Scenario,
    codings: Mapping[str, tuple[Coding, ...]],
    failed: tuple[str, ...],
    made: Made,
    *,
    accuracy: Mapping[str, Accuracy] | None = None,
    delivered: Delivered | None = None,
) -> Row:
    said = made.said
    setting = {key: value for key, value in said["recipe"].items() if key not in ("sources", "lost")}
    curve = tuple(said.get("curve", ()))
    return Row(scenario, codings, failed, setting, said.get("lost"), curve, made.cpu_s, accuracy or {}, delivered)
