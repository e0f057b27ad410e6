"""Training one network on pictures: seeded, resumable after any epoch, and sparse where it is told to be.

A run that was stopped and started again ends with the weights of one that was not: every epoch draws its order, its shifts and
its dropout from the seed and its own number, and the file of an epoch holds network and optimiser. On another number of
threads sums come in another order, so "the same" means: on the same number of threads.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from examples.signs.pictures import Pictures
from model_registry.contract.preprocessing import Preprocessing
from model_registry.models.network import Network

Report = Callable[[float, str], None]
LARGEST_SHIFT_PIXELS = 4
LARGEST_GAIN = 0.2
BATCH = 32
LABEL_SMOOTHING = 0.05
LARGEST_GRADIENT = 2.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """``rate`` is Adam's, warmed up over the first epoch and then a cosine down to nothing.

    ``trainable``: prefixes of the keys that may change. ``density``: the share of the weights of an inner convolution that
    stays; the smallest go, step by step, in the epochs from ``prune_from`` to ``prune_to``. Weights that are zero at the
    start of an epoch stay zero in it.
    """

    epochs: int
    rate: float
    trainable: tuple[str, ...] = ("",)
    density: float = 1.0
    prune_from: int = 0
    prune_to: int = 0

    def longer(self, factor: int) -> Schedule:
        """The same course in so many times as many epochs."""
        return replace(self, epochs=self.epochs * factor, prune_from=self.prune_from * factor, prune_to=self.prune_to * factor)

    def density_at(self, epoch: int) -> float:
        """Zhu and Gupta's cubic ramp (2017, arXiv 1710.01878)."""
        if epoch < self.prune_from or self.density >= 1:
            return 1.0
        left = max(0.0, 1 - (epoch - self.prune_from + 1) / max(1, self.prune_to - self.prune_from))
        return self.density + (1 - self.density) * left**3

    def rate_at(self, epoch: float) -> float:
        """``epoch`` counts parts of epochs, too."""
        warm = min(1.0, (epoch + 0.05) / min(1.0, self.epochs / 4))
        return self.rate * warm * 0.5 * (1 + math.cos(math.pi * epoch / self.epochs))


class Training:
    """One network being taught in place; ``report`` hears the share that is done and the loss."""

    def __init__(
        self, network: Network, pictures: Pictures, preprocessing: Preprocessing, schedule: Schedule, *, seed: int
    ) -> None:
        self._network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._pictures = pictures
        self._preprocessing = preprocessing
        self._schedule = schedule
        self._seed = seed
        for key, value in network.named_parameters():
            value.requires_grad_(key.startswith(schedule.trainable))
        self._parameters = [value for value in network.parameters() if value.requires_grad]
        self._optimiser = torch.optim.Adam(self._parameters, lr=schedule.rate)

    def run(self, checkpoint: Path, report: Report) -> None:
        """Train to the end of the schedule, going on from ``checkpoint`` where it exists."""
        for epoch in range(self._resume(checkpoint), self._schedule.epochs):
            torch.manual_seed(self._seed * 1000 + epoch)
            masks = prune(self._network, self._schedule.density_at(epoch))
            self._run_epoch(epoch, masks, report)
            self._save(checkpoint, epoch + 1)

    def _run_epoch(self, epoch: int, masks: dict[str, Tensor], report: Report) -> None:
        self._network.train()
        order = torch.randperm(len(self._pictures.classes)).numpy()
        for start in range(0, len(order), BATCH):
            self._set_rate(self._schedule.rate_at(epoch + start / len(order)))
            loss = self._step(order[start : start + BATCH])
            _apply(self._network, masks)
            done = min(1.0, (start + BATCH) / len(order))
            report((epoch + done) / self._schedule.epochs, f"loss {loss:.3f}")

    def _step(self, batch: npt.NDArray[np.int64]) -> float:
        images = augmented(as_input(self._pictures.pixels[batch], self._preprocessing))
        wanted = torch.from_numpy(self._pictures.classes[batch])
        loss = functional.cross_entropy(self._network(images), wanted, label_smoothing=LABEL_SMOOTHING)
        self._optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, LARGEST_GRADIENT)
        self._optimiser.step()
        return float(loss.item())

    def _set_rate(self, rate: float) -> None:
        for group in self._optimiser.param_groups:
            group["lr"] = rate

    def _save(self, path: Path, epochs: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".part")
        state = {"network": self._network.state_dict(), "optimiser": self._optimiser.state_dict(), "epochs": epochs}
        torch.save(state, partial)
        partial.replace(path)

    def _resume(self, path: Path) -> int:
        """The number of epochs that are done."""
        if not path.exists():
            return 0
        state = torch.load(path, weights_only=True)
        self._network.load_state_dict(state["network"])
        self._optimiser.load_state_dict(state["optimiser"])
        return int(state["epochs"])


def as_input(pixels: npt.NDArray[np.uint8], preprocessing: Preprocessing) -> Tensor:
    """Pictures that have the network's size, as the manifest's preprocessing will make them on the vehicle."""
    ordered = pixels if preprocessing.order == "RGB" else pixels[..., ::-1]
    centred = (ordered.astype(np.float32) - np.asarray(preprocessing.mean, np.float32)) * np.asarray(
        preprocessing.scale, np.float32
    )
    return torch.from_numpy(centred).permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)


def augmented(images: Tensor) -> Tensor:
    """Each picture moved by a few pixels, its rim repeated, and a little brighter or darker."""
    count, side = len(images), images.shape[-1]
    reach = LARGEST_SHIFT_PIXELS
    rows, columns = ((torch.randint(-reach, reach + 1, (count, 1)) + torch.arange(side)).clamp(0, side - 1) for _ in range(2))
    moved = images[torch.arange(count)[:, None, None], :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
    gain = 1 + (torch.rand(count, 3, 1, 1) * 2 - 1) * LARGEST_GAIN
    return (moved * gain).contiguous(memory_format=torch.channels_last)


def prune(network: Network, density: float) -> dict[str, Tensor]:
    """Zero the smallest weights of each inner convolution, and give the masks of what is left.

    The first convolution and the head stay whole: they are small and all of the network depends on them.
    """
    inner = [key for key in network.state_dict() if key.endswith(".weight") and (".squeeze" in key or ".expand" in key)]
    masks = {}
    for key, weight in network.state_dict().items():
        kept = weight != 0
        if key in inner and density < 1:
            threshold = weight.abs().flatten().kthvalue(max(1, round(weight.numel() * (1 - density)))).values
            kept &= weight.abs() > threshold
        if key in inner:
            masks[key] = kept
    _apply(network, masks)
    return masks


def _apply(network: Network, masks: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for key, mask in masks.items():
            network.get_parameter(key).mul_(mask)


def logits(network: Network, pictures: Pictures, preprocessing: Preprocessing) -> npt.NDArray[np.float32]:
    """The network's answers (n, classes)."""
    network.eval()
    with torch.no_grad():
        parts = [network(as_input(pictures.pixels[i : i + 256], preprocessing)) for i in range(0, len(pictures.classes), 256)]
    return np.asarray(torch.cat(parts).numpy(), dtype=np.float32)
