"""The networks that the registry knows by name, as data: metaparameters -> a flat list of layers.

Both the torch module and the ONNX graph are built from the same list, so they cannot drift apart. A layer names the values
it reads and the value it makes; keys of weights are torchvision's state-dict keys. No torch here.

Sources: SqueezeNet and its metaparameters, Iandola et al. 2016 (arXiv 1602.07360), sections 3 and 6; AlexNet in the
single-tower form of Krizhevsky 2014 (arXiv 1404.5997).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType

from model_registry.contract.errors import UnsupportedArtifact

INPUT, OUTPUT = "input", "output"
IMAGENET_CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Convolution:
    """Two-dimensional, square kernel; ``key`` is the prefix of its weight (out, in, kernel, kernel) and bias (out)."""

    key: str
    in_channels: int
    out_channels: int
    kernel: int
    stride: int = 1
    padding: int = 0

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        weight = (self.out_channels, self.in_channels, self.kernel, self.kernel)
        return {f"{self.key}.weight": weight, f"{self.key}.bias": (self.out_channels,)}


@dataclass(frozen=True, slots=True)
class Linear:
    """Fully connected; weight (out, in) and bias (out)."""

    key: str
    in_features: int
    out_features: int

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {f"{self.key}.weight": (self.out_features, self.in_features), f"{self.key}.bias": (self.out_features,)}


@dataclass(frozen=True, slots=True)
class MaxPool:
    """Square window; with ``ceil`` a window may hang over the lower and right edge."""

    kernel: int
    stride: int
    ceil: bool = False


@dataclass(frozen=True, slots=True)
class Dropout:
    """Only while training."""

    probability: float = 0.5


class Plain(StrEnum):
    """Operations without settings."""

    RELU = "relu"
    CONCATENATE = "concatenate"  # along channels
    ADD = "add"
    AVERAGE = "average"  # over all positions
    FLATTEN = "flatten"


Operation = Convolution | Linear | MaxPool | Dropout | Plain


@dataclass(frozen=True, slots=True)
class Layer:
    """``name`` is the value that ``operation`` makes of the values ``inputs``."""

    name: str
    operation: Operation
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Architecture:
    """Layers in order of execution: the first reads "input" (1, 3, height, width), the last makes "output" (1, classes)."""

    name: str
    classes: int
    input_size: tuple[int, int]
    layers: tuple[Layer, ...]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of every weight by key, in state-dict order."""
        weighted = (layer.operation for layer in self.layers if isinstance(layer.operation, Convolution | Linear))
        return {key: shape for operation in weighted for key, shape in operation.shapes.items()}

    @property
    def parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


class Bypass(StrEnum):
    """Connections around fire modules (section 6 of the paper)."""

    NONE = "none"
    SIMPLE = "simple"  # the sum of input and output where their channels agree
    COMPLEX = "complex"  # and a 1x1 convolution on the way where they do not


@dataclass(frozen=True, slots=True)
class SqueezeNet:
    """The paper's metaparameters. The defaults are SqueezeNet 1.0.

    Fire module i (from 0) has base_e + incr_e * floor(i / freq) expand filters, the share pct3x3 of them 3x3, and
    squeeze_ratio times as many squeeze filters. ``pools``: a max-pool follows these layers; 1 is the first
    convolution, fire modules are 2 to 9.
    """

    base_e: int = 128
    incr_e: int = 128
    pct3x3: float = 0.5
    freq: int = 2
    squeeze_ratio: float = 0.125
    fires: int = 8
    pools: tuple[int, ...] = (1, 4, 8)
    conv1_channels: int = 96
    conv1_kernel: int = 7
    conv1_padding: int = 0
    bypass: Bypass = Bypass.NONE
    input_size: tuple[int, int] = (224, 224)

    def expand_filters(self, fire: int) -> int:
        return self.base_e + self.incr_e * (fire // self.freq)

    def build(self, name: str, classes: int) -> Architecture:
        """The layers, with keys counted as torchvision's ``features`` and ``classifier`` count them."""
        stack = _Stack()
        stack.add(Convolution("features.0", 3, self.conv1_channels, self.conv1_kernel, 2, self.conv1_padding))
        stack.add(Plain.RELU)
        index, channels = 2, self.conv1_channels
        for number in range(1, self.fires + 2):
            if number > 1:
                channels = self._fire(stack, f"features.{index}", channels, number - 2)
                index += 1
            if number in self.pools:
                stack.add(MaxPool(3, 2, ceil=True))
                index += 1
        stack.add(Dropout())
        stack.add(Convolution("classifier.1", channels, classes, 1))
        for operation in (Plain.RELU, Plain.AVERAGE, Plain.FLATTEN):
            stack.add(operation)
        return Architecture(name, classes, self.input_size, stack.finished())

    def _fire(self, stack: _Stack, key: str, channels: int, fire: int) -> int:
        expand = self.expand_filters(fire)
        expand3x3 = round(expand * self.pct3x3)
        squeeze = round(expand * self.squeeze_ratio)
        entry = stack.last
        stack.add(Convolution(f"{key}.squeeze", channels, squeeze, 1))
        squeezed = stack.add(Plain.RELU)
        stack.add(Convolution(f"{key}.expand1x1", squeeze, expand - expand3x3, 1))
        left = stack.add(Plain.RELU)
        stack.add(Convolution(f"{key}.expand3x3", squeeze, expand3x3, 3, padding=1), squeezed)
        right = stack.add(Plain.RELU)
        joined = stack.add(Plain.CONCATENATE, left, right)
        if self.bypass is not Bypass.NONE and channels == expand:
            stack.add(Plain.ADD, joined, entry)
        elif self.bypass is Bypass.COMPLEX:
            projected = stack.add(Convolution(f"{key}.bypass", channels, expand, 1), entry)
            stack.add(Plain.ADD, joined, projected)
        return expand


def _alexnet(name: str, classes: int) -> Architecture:
    stack = _Stack()
    convolutions = (
        (Convolution("features.0", 3, 64, 11, 4, 2), True),
        (Convolution("features.3", 64, 192, 5, padding=2), True),
        (Convolution("features.6", 192, 384, 3, padding=1), False),
        (Convolution("features.8", 384, 256, 3, padding=1), False),
        (Convolution("features.10", 256, 256, 3, padding=1), True),
    )
    for convolution, pooled in convolutions:
        stack.add(convolution)
        stack.add(Plain.RELU)
        if pooled:
            stack.add(MaxPool(3, 2))
    stack.add(Plain.FLATTEN)
    for key, inputs in (("classifier.1", 256 * 6 * 6), ("classifier.4", 4096)):
        stack.add(Dropout())
        stack.add(Linear(key, inputs, 4096))
        stack.add(Plain.RELU)
    stack.add(Linear("classifier.6", 4096, classes))
    return Architecture(name, classes, (224, 224), stack.finished())


class _Stack:
    """Layers being written down; each reads the one before unless told otherwise."""

    def __init__(self) -> None:
        self._layers: list[Layer] = []
        self.last = INPUT

    def add(self, operation: Operation, *inputs: str) -> str:
        name = f"v{len(self._layers)}"
        self._layers.append(Layer(name, operation, inputs or (self.last,)))
        self.last = name
        return name

    def finished(self) -> tuple[Layer, ...]:
        return (*self._layers[:-1], replace(self._layers[-1], name=OUTPUT))


_V1_0 = SqueezeNet()
_V1_1 = SqueezeNet(pools=(1, 3, 5), conv1_channels=64, conv1_kernel=3)

ARCHITECTURES: Mapping[str, Callable[[str, int], Architecture]] = MappingProxyType(
    {
        "squeezenet1_0": _V1_0.build,
        "squeezenet1_1": _V1_1.build,
        "squeezenet1_0_simple_bypass": replace(_V1_0, bypass=Bypass.SIMPLE).build,
        "squeezenet1_0_complex_bypass": replace(_V1_0, bypass=Bypass.COMPLEX).build,
        "squeezenet1_1_simple_bypass": replace(_V1_1, bypass=Bypass.SIMPLE).build,
        "squeezenet1_1_complex_bypass": replace(_V1_1, bypass=Bypass.COMPLEX).build,
        "alexnet": _alexnet,
    }
)


def architecture(name: str, classes: int = IMAGENET_CLASSES) -> Architecture:
    """Look one up by name. Raises UnsupportedArtifact."""
    if name not in ARCHITECTURES:
        raise UnsupportedArtifact(
            f"{name!r} is not an architecture known here", remedy=f"use one of {', '.join(ARCHITECTURES)}"
        )
    return ARCHITECTURES[name](name, classes)


def recognise(shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """The first architecture with exactly these weights; bypass without weights cannot be seen and has to be named."""
    for name in ARCHITECTURES:
        found = matching(name, shapes)
        if found is not None:
            return found
    return None


def matching(name: str, shapes: Mapping[str, tuple[int, ...]]) -> Architecture | None:
    """The named architecture with as many classes as ``shapes`` has in its head, if all other shapes agree as well."""
    head = list(architecture(name).shapes)[-1]
    if not shapes.get(head):
        return None
    candidate = architecture(name, shapes[head][0])
    return candidate if candidate.shapes == dict(shapes) else None
