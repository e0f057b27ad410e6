"""A content made runnable: ONNX Runtime on the shipped graph, with the decoded weights injected into it.

The publisher makes golden vectors with this code and the vehicle checks them with it. It is the one file of the contract that
needs onnxruntime, and only those who run models import it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from model_registry.contract import golden
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable
from model_registry.contract.manifest import Manifest

# Errors reach the caller as exceptions; the engine shall not also print them over the program's own output.
FATAL_ONLY = 4


class Session:
    """One loaded model. Thread-safe, as ONNX Runtime's sessions are.

    Raises ModelUnusable when the graph, the weights and the manifest do not make a model that runs.
    """

    def __init__(self, content: Content, *, threads: int = 1) -> None:
        self.manifest: Manifest = content.manifest
        # ONNX Runtime reads these arrays in place for as long as the session lives.
        self._weights = {name: ort.OrtValue.ortvalue_from_numpy(value) for name, value in content.weights().items()}
        try:
            self._session = ort.InferenceSession(
                content.graph,
                _options(self._weights, threads),
                providers=["CPUExecutionProvider"],
                # Retrying on the same provider only prints.
                enable_fallback=0,
            )
        # ONNX Runtime's exceptions share no base class below Exception.
        except Exception as exc:
            raise ModelUnusable(f"the model does not load: {_first_line(exc)}") from exc
        self._check_interface()

    def _check_interface(self) -> None:
        found = {(i.name, tuple(i.shape)) for i in self._session.get_inputs()}
        declared = {(i.name, i.shape) for i in self.manifest.inputs}
        if found != declared:
            raise ModelUnusable(f"the graph takes {sorted(found)}, the manifest declares {sorted(declared)}")
        if tuple(o.name for o in self._session.get_outputs()) != self.manifest.outputs:
            raise ModelUnusable("the graph's outputs are not those that the manifest declares")

    def run(self, inputs: Mapping[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        """Answer one request: arrays by input name, shapes and types as the manifest declares; outputs in its order.

        Raises ModelUnusable.
        """
        try:
            outputs = self._session.run(list(self.manifest.outputs), dict(inputs))
        except Exception as exc:
            raise ModelUnusable(f"the model does not run: {_first_line(exc)}") from exc
        return [np.asarray(output) for output in outputs]


def self_test(session: Session) -> None:
    """Run every golden vector of the manifest. Raises SelfTestFailed or ModelUnusable."""
    for vector in session.manifest.golden:
        golden.check(vector, session.run(golden.golden_inputs(session.manifest, vector.seed)))


def _options(weights: Mapping[str, ort.OrtValue], threads: int) -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = FATAL_ONLY
    # A waiting thread must not burn the core that the camera pipeline runs on.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if weights:
        options.add_external_initializers(list(weights), list(weights.values()))
    return options


def _first_line(exc: Exception) -> str:
    return str(exc).strip().split("\n", 1)[0][:300]
