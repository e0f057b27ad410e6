"""The torch module of an architecture: the reference engine, and what is trained.

It walks the architecture's list of layers; the names of its parameters are the architecture's keys.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional

from model_registry.architectures import INPUT, OUTPUT, Architecture, Convolution, Dropout, Layer, Linear, MaxPool, Plain


class Network(nn.Module):
    """Images (n, 3, height, width) to logits (n, classes)."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self._weighted: dict[str, nn.Module] = {}
        for layer in architecture.layers:
            if isinstance(layer.operation, Convolution | Linear):
                self._place(layer.operation.key, _weighted_module(layer.operation))
        self._initialise()

    def forward(self, images: Tensor) -> Tensor:
        values = {INPUT: images}
        for layer in self.architecture.layers:
            values[layer.name] = self._run_layer(layer, [values[name] for name in layer.inputs])
        return values[OUTPUT]

    def load_weights(self, weights: Mapping[str, npt.NDArray[np.float32]]) -> None:
        """Take every weight by key; the shapes must be the architecture's."""
        self.load_state_dict({key: torch.from_numpy(np.array(value)) for key, value in weights.items()})

    def weights(self) -> dict[str, npt.NDArray[np.float32]]:
        """Every weight by key, as float32 copies."""
        return {key: value.detach().cpu().numpy().astype(np.float32) for key, value in self.state_dict().items()}

    def _run_layer(self, layer: Layer, inputs: list[Tensor]) -> Tensor:
        operation = layer.operation
        if isinstance(operation, Convolution | Linear):
            result: Tensor = self._weighted[operation.key](inputs[0])
            return result
        if isinstance(operation, MaxPool):
            return functional.max_pool2d(inputs[0], operation.kernel, operation.stride, ceil_mode=operation.ceil)
        if isinstance(operation, Dropout):
            return functional.dropout(inputs[0], operation.probability, self.training)
        return _plain(operation, inputs)

    def _place(self, key: str, module: nn.Module) -> None:
        """Nest containers along the dots of ``key``, so that state-dict keys come out as the architecture names them."""
        parent: nn.Module = self
        *containers, last = key.split(".")
        for name in containers:
            if name not in dict(parent.named_children()):
                parent.add_module(name, nn.Module())
            parent = parent.get_submodule(name)
        parent.add_module(last, module)
        self._weighted[key] = module

    def _initialise(self) -> None:
        """He's initialisation; a narrow head, so that training starts from even odds."""
        modules = list(self._weighted.values())
        for module in modules:
            weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
            if module is modules[-1]:
                nn.init.normal_(weight, std=0.01)
            else:
                nn.init.kaiming_uniform_(weight, nonlinearity="relu")
            nn.init.zeros_(bias)


def _weighted_module(operation: Convolution | Linear) -> nn.Module:
    if isinstance(operation, Linear):
        return nn.Linear(operation.in_features, operation.out_features)
    return nn.Conv2d(operation.in_channels, operation.out_channels, operation.kernel, operation.stride, operation.padding)


def _plain(operation: Plain, inputs: list[Tensor]) -> Tensor:
    match operation:
        case Plain.RELU:
            return functional.relu(inputs[0])
        case Plain.CONCATENATE:
            return torch.cat(inputs, 1)
        case Plain.ADD:
            return inputs[0] + inputs[1]
        case Plain.AVERAGE:
            return inputs[0].mean((2, 3), keepdim=True)
        case Plain.FLATTEN:
            return inputs[0].flatten(1)
