"""From trained checkpoints to the artifacts that are bundled, and the figures that say what they are worth.

Version by version as a registry does it: compressed against the version before, then a delta between the two contents. What is
written to accuracies.json is measured here, on the decoded artifact and on the engine that vehicles run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from examples.signs.learning import Report, logits
from examples.signs.pictures import Pictures
from examples.signs.stages import ARCHITECTURE, FAMILY, PREPROCESSING
from examples.signs.workshop import read_network
from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.session import Session, self_test
from model_registry.deltas import counterfactuals, make_delta

Logits = npt.NDArray[np.float32]
FIGURES = "accuracies.json"


@dataclass(frozen=True, slots=True)
class Trained:
    """A version's checkpoint, the labels that it knows, and held-out pictures of them by disturbance."""

    version: str
    checkpoint: Path
    labels: tuple[str, ...]
    held_out: Mapping[str, Pictures]


@dataclass(frozen=True, slots=True)
class VersionFigures:
    """``float_top1`` and ``compressed_top1``: shares by disturbance; ``content_sha256`` is the version's identity."""

    version: str
    classes: int
    full_bytes: int
    content_sha256: str
    float_top1: dict[str, float]
    compressed_top1: dict[str, float]


@dataclass(frozen=True, slots=True)
class DeltaFigures:
    """What an update costs and how much of it arrives.

    ``lost_weights``: the pipeline's measure over the tensors that changed: energy of what was not delivered over energy of the
    update. ``lost_answers``: KL(trained || delivered) / KL(trained || what the vehicle ran before), over the labels that both
    know.
    """

    base: str
    version: str
    codec: str
    delta_bytes: int
    full_bytes: int
    float32_full_bytes: int
    bsdiff4_float16_bytes: int
    lost_weights: float
    lost_answers: dict[str, float]


def release(trained: Sequence[Trained], out: Path, report: Report) -> None:
    """Compress and write every version, and beside them accuracies.json."""
    out.mkdir(parents=True, exist_ok=True)
    versions: list[VersionFigures] = []
    deltas: list[DeltaFigures] = []
    base: Content | None = None
    for number, one in enumerate(trained):
        report(number / len(trained), one.version)
        data = encode_full(_compressed(one, base))
        (out / f"{FAMILY}-{one.version}.dfm").write_bytes(data)
        content = decode_full(data)
        versions.append(_version_figures(one, content, len(data)))
        if base is not None:
            deltas.append(_delta_figures(one, base, content))
        base = content
    report(1.0, "")
    figures = {"versions": [asdict(v) for v in versions], "deltas": [asdict(d) for d in deltas]}
    (out / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


def _compressed(one: Trained, base: Content | None) -> Content:
    recipe = Recipe(architecture=ARCHITECTURE, preprocessing=PREPROCESSING, labels=one.labels)
    return compress_checkpoint(one.checkpoint, recipe, base=base).named(FAMILY, one.version)


def content_logits(content: Content, pictures: Pictures) -> Logits:
    """What a vehicle answers to pictures that have the network's size (n, classes)."""
    session = Session(content)
    name, preprocessing = content.manifest.inputs[0].name, content.manifest.preprocessing
    if preprocessing is None:
        raise ValueError("the model does not say how its pictures are prepared")
    return np.concatenate([session.run({name: preprocessing.apply(pixels)})[0] for pixels in pictures.pixels])


def top1(answers: Logits, pictures: Pictures) -> float:
    """The share of pictures whose largest answer is the right class."""
    return round(float((answers.argmax(axis=1) == pictures.classes).mean()), 4)


def _version_figures(one: Trained, content: Content, full_bytes: int) -> VersionFigures:
    self_test(Session(content))
    network = read_network(one.checkpoint)
    return VersionFigures(
        version=one.version,
        classes=len(one.labels),
        full_bytes=full_bytes,
        content_sha256=content.sha256,
        float_top1={name: top1(logits(network, seen, PREPROCESSING), seen) for name, seen in one.held_out.items()},
        compressed_top1={name: top1(content_logits(content, seen), seen) for name, seen in one.held_out.items()},
    )


def _delta_figures(one: Trained, base: Content, content: Content) -> DeltaFigures:
    delta = make_delta(base, content)
    other = counterfactuals(base, content)
    network = read_network(one.checkpoint)
    return DeltaFigures(
        base=base.manifest.version,
        version=one.version,
        codec=str(delta.codec),
        delta_bytes=len(delta.data),
        full_bytes=other.compressed_full_bytes,
        float32_full_bytes=other.float32_full_bytes,
        bsdiff4_float16_bytes=other.bsdiff4_float16_bytes,
        lost_weights=float(content.manifest.lineage.recipe["lost"]),
        lost_answers={
            name: round(
                lost_answers(logits(network, seen, PREPROCESSING), content_logits(content, seen), content_logits(base, seen)), 4
            )
            for name, seen in one.held_out.items()
        },
    )


def lost_answers(trained: Logits, delivered: Logits, before: Logits) -> float:
    """The share of the change of the answers, as Kullback-Leibler divergence, that was not delivered."""
    classes = before.shape[1]
    wanted, got, old = (_log_softmax(answers[:, :classes]) for answers in (trained, delivered, before))
    weights = np.exp(wanted)
    return float((weights * (wanted - got)).sum() / (weights * (wanted - old)).sum())


def _log_softmax(answers: Logits) -> npt.NDArray[np.float64]:
    shifted = answers.astype(np.float64) - answers.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))
