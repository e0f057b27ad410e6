"""The Open Inference Protocol (KServe v2), REST part: JSON to tensors and back.

Names and shapes of the fields: the "Open Inference Protocol Specification" of the KServe project, sections "Inference" and
"Model Metadata".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from client_agent.inference.engine import Engine, Guess, RequestRefused
from model_registry.contract.fields import Fields

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    **{f"UINT{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    **{f"INT{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"FP{bits}": np.dtype(f"float{bits}") for bits in (16, 32, 64)},
}
DATATYPE_NAMES = {dtype: name for name, dtype in DATATYPES.items()}
MAX_VALUES = 16_000_000


@dataclass(frozen=True, slots=True)
class InferRequest:
    """Tensors by name, and the client's own id for the question."""

    inputs: dict[str, npt.NDArray[Any]]
    request_id: str | None


def parse_infer(body: bytes) -> InferRequest:
    """Raises RequestRefused."""
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as exc:
        raise RequestRefused(f"the body is not JSON: {exc}") from exc
    fields = Fields(value, RequestRefused, "request")
    inputs = dict(_tensor(tensor) for tensor in fields.objects("inputs", max_length=16))
    return InferRequest(inputs, fields.optional_text("id", max_length=256))


def _tensor(fields: Fields) -> tuple[str, npt.NDArray[Any]]:
    name, datatype = fields.text("name", max_length=256), fields.text("datatype", max_length=16)
    if datatype not in DATATYPES:
        raise RequestRefused(f"datatype {datatype!r} is not one of {', '.join(DATATYPES)}")
    shape = fields.integers("shape", low=1, high=MAX_VALUES, max_length=8)
    data, dtype = fields.items("data", max_length=MAX_VALUES), DATATYPES[datatype]
    try:
        # "same_kind" keeps fractions out of integers; the explicit type lets numpy refuse what does not fit.
        found = np.asarray(data)
        if not np.can_cast(found.dtype, dtype, "same_kind") and found.dtype.kind not in "iu":
            raise RequestRefused(f"the data of input {name!r} are not {datatype}")
        return name, np.asarray(data, dtype).reshape(shape)
    except (ValueError, TypeError, OverflowError) as exc:
        raise RequestRefused(f"the data of input {name!r} are not {datatype} of shape {list(shape)}: {exc}") from exc


def infer_answer(engine: Engine, outputs: list[npt.NDArray[Any]], request_id: str | None) -> dict[str, Any]:
    """The answer to ``infer``; it names the version that gave it."""
    tensors = [
        {"name": name, "datatype": DATATYPE_NAMES[array.dtype], "shape": list(array.shape), "data": array.ravel().tolist()}
        for name, array in zip(engine.manifest.outputs, outputs, strict=True)
    ]
    answer = {**_model(engine), "outputs": tensors}
    return answer if request_id is None else {**answer, "id": request_id}


def classify_answer(engine: Engine, guesses: list[Guess]) -> dict[str, Any]:
    """The answer to ``classify``, an extension of this program."""
    classes = [{"index": guess.index, "label": guess.label, "score": guess.score} for guess in guesses]
    return {**_model(engine), "classes": classes}


def model_metadata(engine: Engine) -> dict[str, Any]:
    """What the protocol says of a model. Output shapes are the graph's affair: -1."""
    manifest = engine.manifest
    inputs = [
        {"name": spec.name, "datatype": DATATYPE_NAMES[np.dtype(spec.dtype)], "shape": list(spec.shape)}
        for spec in manifest.inputs
    ]
    outputs = [{"name": name, "datatype": "FP32", "shape": [-1]} for name in manifest.outputs]
    named = {"name": manifest.family, "versions": [manifest.version], "platform": "onnxruntime"}
    return {**named, "inputs": inputs, "outputs": outputs, "properties": {"content_sha256": engine.sha256}}


def _model(engine: Engine) -> dict[str, Any]:
    return {
        "model_name": engine.manifest.family,
        "model_version": engine.manifest.version,
        "parameters": {"content_sha256": engine.sha256},
    }
