"""What a network's layers see, and how much its answers suffer when one of them errs: measured on unlabelled pictures.

For every linear layer two things are measured by running the float network on ONNX Runtime, without gradients, so that any
network can be calibrated:

- the *moments* E[x x^T] of the columns that its rows multiply, a constant 1 appended for the bias if there is one, shrunk
  where samples are few. An error E of the rows disturbs the layer's outputs by the energy tr(E M E^T) (Optimal Brain Surgeon,
  Hassibi and Stork 1993);
- its *sensitivity*: divergence of the network's answers, in nats, for a unit of that energy, found by adding noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.divergence import telling_temperature, total_divergence
from model_registry.contract.content import Content
from model_registry.contract.errors import ModelUnusable
from model_registry.contract.session import Session
from model_registry.contract.tensors import float32_tensor
from model_registry.models.evaluation import answers_to
from model_registry.models.linear_layers import LinearLayer, linear_layers, with_inputs_shown

Doubles = npt.NDArray[np.floating[Any]]
Inputs = Mapping[str, npt.NDArray[Any]]
Progress = Callable[[float, str], None]
# Positions of one picture that enter the moments: neighbours say nearly the same, and pictures differ.
POSITIONS = 160
# Directions that few samples showed look weaker than they are elsewhere: this part of inputs / samples of the mean strength is
# added to each (shrinkage: Ledoit and Wolf 2004).
SHRINKAGE = 0.1
# Noise is sized until it costs about this many nats: far above the engine's rounding, still in the quadratic range.
AIM, LOW, HIGH = 0.012, 0.004, 0.04
FIRST_NOISE, TRIES = 0.003, 3
# Pictures for the sensitivities: each layer takes two or three passes over them.
NOISE_PICTURES = 50


@dataclass(frozen=True, slots=True, eq=False)
class Calibrated:
    """One layer's ``moments`` (groups, n + 1, n + 1) for n inputs of an output, and ``sensitivity`` in nats per energy.

    ``samples``: how many of its inputs the moments are worth.
    """

    layer: LinearLayer
    moments: Doubles
    sensitivity: float
    samples: int = POSITIONS


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Every calibrated layer of ``graph`` by the name of its weight, in its order, and the ``requests`` that told."""

    layers: Mapping[str, Calibrated]
    graph: bytes
    requests: tuple[Inputs, ...]


def calibrate_layers(exact: Content, requests: Sequence[Inputs], *, progress: Progress = lambda *_: None) -> Calibration:
    """Measure the float network ``exact`` on ``requests``. Deterministic.

    Raises ModelUnusable, also where there is no layer to calibrate.
    """
    weights = exact.weights()
    layers = linear_layers(exact.graph, weights)
    if not layers:
        raise ModelUnusable("the network has no layer that can be calibrated", remedy="compress it without pictures")
    moments = _moments(exact, layers, requests, progress)
    step = max(len(requests) // NOISE_PICTURES, 1)
    noise = _NoiseProbe(exact, requests[::step])
    found = {}
    for number, layer in enumerate(layers):
        progress(0.5 + 0.5 * number / len(layers), f"sensitivity of {layer.weight}")
        seen = moments[layer.weight]
        # All positions of the last layer end in one answer to a picture.
        samples = len(requests) * (1 if layer is layers[-1] else POSITIONS)
        found[layer.weight] = Calibrated(layer, shrunk(seen, samples), noise.sensitivity(layer, seen), samples)
    return Calibration(found, exact.graph, tuple(requests))


def joined(parts: Sequence[Calibration]) -> Calibration:
    """What several sets of requests told of one network, as one: each counts by its size."""
    total = sum(len(part.requests) for part in parts)
    shares = [len(part.requests) / total for part in parts]
    layers = {}
    for name, first in parts[0].layers.items():
        own = [part.layers[name] for part in parts]
        layers[name] = Calibrated(
            first.layer,
            np.sum([share * one.moments for share, one in zip(shares, own, strict=True)], axis=0),
            sum(share * one.sensitivity for share, one in zip(shares, own, strict=True)),
            sum(one.samples for one in own),
        )
    return Calibration(layers, parts[0].graph, tuple(request for part in parts for request in part.requests))


def _moments(
    exact: Content, layers: Sequence[LinearLayer], requests: Sequence[Inputs], progress: Progress
) -> dict[str, Doubles]:
    graph, outputs = with_inputs_shown(exact.graph, list(layers))
    session = Session(Content(replace(exact.manifest, outputs=outputs), graph, exact.tensors))
    sums: dict[str, Doubles] = {}
    for number, request in enumerate(requests):
        progress(0.5 * number / len(requests), "what the layers see")
        seen = dict(request) | dict(zip(outputs, session.run(request), strict=True))
        for layer in layers:
            columns = seen_by(layer, seen[layer.input], number)
            own = products(columns, columns) / len(requests)
            sums[layer.weight] = sums[layer.weight] + own if layer.weight in sums else own
    return sums


def seen_by(layer: LinearLayer, activation: npt.NDArray[Any], number: int) -> Doubles:
    """What ``layer`` multiplies at some positions of the picture ``number``, (groups, n + 1, positions).

    Last comes the 1 that its bias multiplies, or 0 where it has none. A picture's positions are always the same.
    """
    columns = layer.columns(activation, lambda count: _positions(count, number))
    constant = np.full((columns.shape[0], 1, columns.shape[2]), 0.0 if layer.bias is None else 1.0)
    return np.concatenate([columns.astype(np.float64), constant], axis=1)


def _positions(count: int, number: int) -> npt.NDArray[np.intp] | slice:
    if count <= POSITIONS:
        return slice(count)
    return np.sort(np.random.default_rng(number).choice(count, POSITIONS, replace=False))


def products(one: Doubles, other: Doubles) -> Doubles:
    """Mean over positions of x y^T, for every group."""
    return np.asarray(one @ other.transpose(0, 2, 1) / one.shape[-1])


def shrunk(moments: Doubles, samples: int) -> Doubles:
    """Moments (groups, n + 1, n + 1) drawn towards inputs that are alike and independent, the further the fewer ``samples``."""
    size = moments.shape[-1] - 1
    inputs = np.arange(size)
    drawn: Doubles = moments.copy()
    strength = moments[:, inputs, inputs]
    drawn[:, inputs, inputs] += SHRINKAGE * size / samples * strength.mean(axis=1, keepdims=True)
    # Without a bias nothing was seen there; 1 keeps the inverse what it is for all others.
    drawn[:, size, size] = np.where(drawn[:, size, size] > 0, drawn[:, size, size], 1)
    return drawn


class _NoiseProbe:
    """Runs the network with noise in one layer."""

    def __init__(self, exact: Content, requests: Sequence[Inputs]) -> None:
        self._exact, self._requests = exact, requests
        self._weights = exact.weights()
        self._reference = self._answers(exact)
        self._temperature = telling_temperature(self._reference)
        self._generator = np.random.default_rng(0)

    def sensitivity(self, layer: LinearLayer, moments: Doubles) -> float:
        rows = layer.rows(self._weights[layer.weight].astype(np.float64))
        core = moments[:, :-1, :-1]
        signal = energy(rows, core)
        # Pruned weights stay zero whatever the quantiser does, so they carry no noise.
        noise = self._generator.standard_normal(rows.shape) * (rows != 0)
        unit = energy(noise, core)
        if not signal > 0 or not unit > 0:
            return 0.0
        share, divergence = FIRST_NOISE, 0.0
        for _ in range(TRIES):
            noisy = rows + noise * np.sqrt(share * signal / unit)
            answers = self._answers(self._with(layer, noisy))
            divergence = total_divergence(self._reference, answers, temperature=self._temperature)
            if LOW < divergence < HIGH:
                break
            share *= min(max(AIM / max(divergence, 1e-6), 0.03), 30.0)
        return divergence / (share * signal)

    def _with(self, layer: LinearLayer, rows: Doubles) -> Content:
        shape = self._weights[layer.weight].shape
        changed = float32_tensor(layer.weight, layer.weight_of(rows, shape).astype(np.float32))
        tensors = tuple(changed if t.name == layer.weight else t for t in self._exact.tensors)
        return Content(self._exact.manifest, self._exact.graph, tensors)

    def _answers(self, content: Content) -> tuple[npt.NDArray[np.float32], ...]:
        return answers_to(Session(content), self._requests)


def energy(rows: Doubles, moments: Doubles) -> float:
    """tr(E M E^T), summed over groups: mean energy of the disturbance that an error ``rows`` makes at the outputs."""
    return float(np.einsum("gok,gkl,gol->", rows, moments, rows, optimize=True))
