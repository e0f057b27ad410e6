"""What the publisher asks of compression, as a value that travels in JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from model_registry.contract.errors import ManifestRefused
from model_registry.contract.fields import NAME, Fields
from model_registry.contract.preprocessing import Preprocessing


@dataclass(frozen=True, slots=True)
class Recipe:
    """``architecture``: None recognises it. ``lossless`` keeps float32 bit for bit.

    ``step`` puts every weight tensor, codebooks too, on a grid of this step (in units of ``quantization``, rule 4); None is the
    default. ``preprocessing`` and ``labels`` override what the checkpoint says of itself.
    """

    architecture: str | None = None
    lossless: bool = False
    step: float | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture,
            "lossless": self.lossless,
            "step": self.step,
            "preprocessing": self.preprocessing.to_json() if self.preprocessing else None,
            "labels": list(self.labels),
        }

    @classmethod
    def from_json(cls, value: Any) -> Recipe:
        """Every field may be left out. Raises ManifestRefused."""
        given = value if isinstance(value, dict) else {"recipe": None}
        fields = Fields({**cls().to_json(), **given}, ManifestRefused, "recipe").only(*cls().to_json())
        preprocessing = fields.optional_object("preprocessing")
        step = None if fields.plain()["step"] is None else fields.number("step")
        if step is not None and not 1e-4 <= step <= 10:
            raise ManifestRefused("recipe.step is not between 0.0001 and 10")
        if step is not None and fields.boolean("lossless"):
            raise ManifestRefused("recipe.step and recipe.lossless exclude each other")
        return cls(
            architecture=fields.optional_text("architecture", pattern=NAME),
            lossless=fields.boolean("lossless"),
            step=step,
            preprocessing=Preprocessing.from_json(preprocessing.plain()) if preprocessing else None,
            labels=fields.texts("labels", max_length=100_000, max_item=256),
        )
