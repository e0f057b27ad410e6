"""How often a network is right on a folder of pictures, by ONNX Runtime as on a vehicle or by torch.

A folder holds either ``labels.csv`` (columns file, class_index) beside ``images/``, or one folder for each class, whose
sorted names count the classes.
"""

from __future__ import annotations

import csv
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from model_registry.architectures import architecture
from model_registry.contract.content import Content
from model_registry.contract.errors import MalformedArtifact, ModelUnusable
from model_registry.contract.limits import MIB
from model_registry.contract.manifest import Manifest
from model_registry.contract.preprocessing import Preprocessing
from model_registry.contract.session import Session
from model_registry.models.files import read_file

Floats = npt.NDArray[np.float32]
# From one network input (1, 3, height, width) to its logits (classes).
Engine = Callable[[Floats], Floats]
Progress = Callable[[float, str], None]
SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".ppm", ".webp"})
MAX_PICTURE_PIXELS = 64 * MIB
MAX_LABELS_BYTES = 16 * MIB


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture."""

    path: Path
    label: int


@dataclass(frozen=True, slots=True)
class Accuracy:
    """Shares of the pictures whose class was the first answer, and among the first five."""

    images: int
    top1: float
    top5: float


def labelled(folder: Path) -> list[Sample]:
    """Every labelled picture of ``folder`` in a fixed order. Raises MalformedArtifact when it has neither form."""
    table = folder / "labels.csv"
    samples = _from_table(table, folder / "images") if table.is_file() else _from_folders(folder)
    if not samples:
        raise MalformedArtifact(
            f"{folder} has no labelled pictures",
            remedy="give labels.csv (file,class_index) with images/, or a folder for each class",
        )
    return samples


def pictures(folder: Path) -> list[Path]:
    """Every picture below ``folder``, in a fixed order. Raises MalformedArtifact when there is none."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not found:
        raise MalformedArtifact(f"{folder} holds no pictures", remedy=f"give a folder with {', '.join(sorted(SUFFIXES))} files")
    return found


def spread(items: Sequence[Path], limit: int) -> list[Path]:
    """At most ``limit`` of the items, evenly over all: sorted pictures stand class by class."""
    return [items[index * len(items) // limit] for index in range(limit)] if len(items) > limit else list(items)


def evaluate(
    engine: Engine, preprocessing: Preprocessing, samples: Sequence[Sample], progress: Progress = lambda *_: None
) -> Accuracy:
    """Run every sample. Raises MalformedArtifact for an unreadable picture, ModelUnusable for a label without output."""
    first = among_five = 0
    for done, sample in enumerate(samples):
        logits = engine(preprocessing.apply(read_picture(sample.path)))
        _require_output(sample, logits.size)
        best = np.argsort(-logits, kind="stable")[:5]
        first += int(best[0] == sample.label)
        among_five += int(sample.label in best)
        progress((done + 1) / len(samples), sample.path.name)
    return Accuracy(len(samples), first / len(samples), among_five / len(samples))


def all_logits(
    engine: Engine, preprocessing: Preprocessing, paths: Sequence[Path], progress: Progress = lambda *_: None
) -> Floats:
    """Logits (pictures, classes). Raises MalformedArtifact for a picture that cannot be read."""
    return np.stack([engine(picture) for picture in prepared(preprocessing, paths, progress)])


def prepared(preprocessing: Preprocessing, paths: Sequence[Path], progress: Progress = lambda *_: None) -> Iterator[Floats]:
    """Pictures as a network takes them, read one after the other. Raises MalformedArtifact for one that cannot be read."""
    for done, path in enumerate(paths):
        yield preprocessing.apply(read_picture(path))
        progress((done + 1) / len(paths), path.name)


def answers_to(session: Session, requests: Iterable[Mapping[str, npt.NDArray[Any]]]) -> tuple[Floats, ...]:
    """Every output of the network, (requests, ...) without axes of size 1. Raises ModelUnusable when sizes differ."""
    rows = [[np.asarray(output, np.float32).squeeze() for output in session.run(request)] for request in requests]
    if any(len({output.shape for output in outputs}) > 1 for outputs in zip(*rows, strict=True)):
        raise ModelUnusable("the network's answers to different pictures differ in size", remedy="compress it with --step")
    return tuple(np.stack(outputs) for outputs in zip(*rows, strict=True))


def labelled_logits(
    engine: Engine, preprocessing: Preprocessing, samples: Sequence[Sample]
) -> tuple[Floats, npt.NDArray[np.intp]]:
    """Logits (samples, classes) and labels (samples). Raises as ``evaluate``."""
    logits = all_logits(engine, preprocessing, [sample.path for sample in samples])
    for sample in samples:
        _require_output(sample, logits.shape[1])
    return logits, np.array([sample.label for sample in samples], np.intp)


def session_engine(session: Session) -> Engine:
    """A content on ONNX Runtime, as on a vehicle. Raises ModelUnusable for a network that does not take one picture."""
    name = picture_input(session.manifest)
    return lambda picture: np.asarray(session.run({name: picture})[0], np.float32).reshape(-1)


def picture_input(manifest: Manifest) -> str:
    """The name of the only input. Raises ModelUnusable when there are several."""
    if len(manifest.inputs) != 1:
        raise ModelUnusable("the network does not take one picture and cannot be evaluated on pictures")
    return manifest.inputs[0].name


def torch_engine(name: str, weights: dict[str, Floats]) -> Engine:
    """Weights in the torch module of a known architecture. Raises UnsupportedArtifact or ModelUnusable."""
    # Torch takes seconds to load; only this engine needs it.
    import torch  # noqa: PLC0415

    from model_registry.models.network import Network  # noqa: PLC0415

    head = weights.get(list(architecture(name).shapes)[-1])
    described = architecture(name, head.shape[0] if head is not None and head.ndim else 1)
    if described.shapes != {key: value.shape for key, value in weights.items()}:
        raise ModelUnusable(f"the weights are not those of {name}", remedy="name the right one with --arch")
    network = Network(described).eval()
    network.load_weights(weights)

    def run(picture: Floats) -> Floats:
        with torch.inference_mode():
            return np.asarray(network(torch.from_numpy(picture)).numpy(), np.float32).reshape(-1)

    return run


def content_engine(content: Content, *, threads: int = 1) -> Engine:
    """A content on ONNX Runtime."""
    return session_engine(Session(content, threads=threads))


def read_picture(path: Path) -> npt.NDArray[np.uint8]:
    """RGB pixels (height, width, 3). Raises MalformedArtifact, also for a picture of more than 64 million pixels."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its own limit; ours is checked below.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                if image.width * image.height > MAX_PICTURE_PIXELS:
                    raise MalformedArtifact(f"{path.name} has more than {MAX_PICTURE_PIXELS} pixels")
                return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as exc:
        raise MalformedArtifact(f"{path.name} is not a picture that can be read") from exc


def _require_output(sample: Sample, classes: int) -> None:
    if not 0 <= sample.label < classes:
        raise ModelUnusable(f"{sample.path.name} has class {sample.label}, the network has {classes} classes")


def _from_table(table: Path, folder: Path) -> list[Sample]:
    text = read_file(table, max_bytes=MAX_LABELS_BYTES).decode(errors="replace")
    rows = csv.DictReader(text.splitlines())
    if not {"file", "class_index"} <= set(rows.fieldnames or ()):
        raise MalformedArtifact(f"{table} has no columns file and class_index")
    try:
        return [Sample(folder / str(row["file"]), int(row["class_index"])) for row in rows]
    except (TypeError, ValueError) as exc:
        raise MalformedArtifact(f"{table} has a class_index that is not a number") from exc


def _from_folders(folder: Path) -> list[Sample]:
    classes = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    files = ((label, path) for label, place in enumerate(classes) for path in sorted(place.iterdir()))
    return [Sample(path, label) for label, path in files if path.suffix.lower() in SUFFIXES]
