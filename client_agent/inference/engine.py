"""From a content to answers: tensors in and out, or a picture in and labels out, as the manifest says."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable, Refusal
from model_registry.contract.manifest import InputSpec, Manifest
from model_registry.contract.session import Session

PICTURE_FORMATS = ("BMP", "JPEG", "PNG", "PPM", "WEBP")
# 4,000 x 3,000: as pixels 36 MB, as floats on the way to the network 144 MB.
MAX_PIXELS = 12_000_000
MAX_TOP = 1000


class RequestRefused(Refusal):
    """A question that this model cannot be asked: a wrong shape, a wrong type, no picture."""

    code = "request_invalid"


@dataclass(frozen=True, slots=True)
class Guess:
    """One class of a classification; ``score`` is the network's own output for it."""

    index: int
    label: str
    score: float


class Engine:
    """One loaded model. Thread-safe. Raises ModelUnusable when the content does not make a model that runs."""

    def __init__(self, content: Content) -> None:
        self.session = Session(content)
        self.sha256 = content.sha256

    @property
    def manifest(self) -> Manifest:
        return self.session.manifest

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Outputs in the manifest's order, all finite. Raises RequestRefused for inputs other than declared, ModelUnusable."""
        declared = {spec.name: spec for spec in self.manifest.inputs}
        if set(inputs) != set(declared):
            raise RequestRefused(f"the model takes {sorted(declared)}, the request has {sorted(inputs)}")
        for name, value in inputs.items():
            _require(declared[name], value)
        outputs = self.session.run(inputs)
        if not all(np.isfinite(output).all() for output in outputs if output.dtype.kind == "f"):
            raise ModelUnusable("the model answers with numbers that are not finite")
        return outputs

    def classify(self, picture: bytes | npt.NDArray[np.uint8], *, top: int = 5) -> list[Guess]:
        """The ``top`` best classes, best first, of an encoded picture or of RGB pixels (height, width, 3).

        Raises RequestRefused when it is no picture or this model takes none, ModelUnusable.
        """
        preprocessing = self.manifest.preprocessing
        if preprocessing is None or len(self.manifest.inputs) != 1:
            raise RequestRefused("this model does not take pictures", remedy="send tensors")
        pixels = decode_picture(picture) if isinstance(picture, bytes) else picture
        scores = self.run({self.manifest.inputs[0].name: preprocessing.apply(pixels)})[0].reshape(-1)
        best = np.argsort(-scores, kind="stable")[: min(max(top, 1), MAX_TOP)]
        return [Guess(int(i), self._label(int(i)), float(scores[i])) for i in best]

    def _label(self, index: int) -> str:
        labels = self.manifest.labels
        return labels[index] if index < len(labels) else str(index)


def decode_picture(data: bytes) -> npt.NDArray[np.uint8]:
    """RGB pixels (height, width, 3). Raises RequestRefused; the size is checked before pixels are decoded."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of sizes that it finds suspicious; the bound here is lower, and firm.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            picture = Image.open(io.BytesIO(data), formats=PICTURE_FORMATS)
        if picture.width * picture.height > MAX_PIXELS:
            raise RequestRefused(f"a picture of {picture.width} x {picture.height} has more than {MAX_PIXELS} pixels")
        return np.asarray(picture.convert("RGB"), np.uint8)
    except UnidentifiedImageError as exc:
        raise RequestRefused("not a picture", remedy=f"send one of {', '.join(PICTURE_FORMATS)}") from exc
    except (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError) as exc:
        raise RequestRefused(f"the picture is damaged: {exc}") from exc


def _require(spec: InputSpec, value: npt.NDArray[Any]) -> None:
    if value.shape != spec.shape or value.dtype != np.dtype(spec.dtype):
        raise RequestRefused(
            f"input {spec.name!r} is {value.dtype} {list(value.shape)}, the model takes {spec.dtype} {list(spec.shape)}"
        )
    # Else a client's NaN would look like a model's, and bring a good model into disrepute.
    if value.dtype.kind == "f" and not np.isfinite(value).all():
        raise RequestRefused(f"input {spec.name!r} has values that are not finite numbers")
