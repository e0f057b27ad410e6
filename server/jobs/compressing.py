"""In the child: an uploaded file becomes a version's full artifact, proven to decode and to answer its golden vectors."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.content import Content
from model_registry.contract.errors import ContentMismatch
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.manifest import Lineage
from model_registry.contract.session import Session, self_test
from model_registry.deltas import counterfactuals
from server.jobs import BASE_FILE, FULL_FILE

# Far above any that makes sense: a release that ends nowhere near its goal loses about 1.
MOST_LOST = 1000


def compress(folder: Path, task: dict[str, Any], progress: Callable[[float, str], None]) -> dict[str, Any]:
    """Turn ``folder/<upload>`` into ``folder/full.dfm``, close to ``folder/base.dfm`` if there is one. Raises Refusal."""

    def compressing(share: float, step: str) -> None:
        progress(0.8 * share, step)

    recipe = Recipe.from_json(task["recipe"])
    base = decode_full((folder / BASE_FILE).read_bytes()) if task["has_base"] else None
    content = compress_checkpoint(folder / task["upload"], recipe, base=base, progress=compressing)
    given_sha256 = content.sha256
    content = content.named(task["family"], task["version"])
    progress(0.8, "encode")
    data = proven_full(content)
    progress(0.9, "run golden vectors")
    self_test(Session(content))
    (folder / FULL_FILE).write_bytes(data)
    progress(0.95, "compare costs")
    costs = counterfactuals(None, content)
    return {
        "content_sha256": content.sha256,
        "content_bytes": len(content.data),
        "float32_bytes": costs.float32_full_bytes,
        "bsdiff4_float16_bytes": costs.bsdiff4_float16_bytes,
        "given_sha256": given_sha256,
        **what_is_lost(content.manifest.lineage),
    }


def what_is_lost(lineage: Lineage) -> dict[str, Any]:
    """The share of the update that was not delivered, against which content, and whether every weight is exact.

    The lineage of an uploaded artifact is its sender's word: what is no share counts as unknown.
    """
    lost: Any = lineage.recipe.get("lost")
    is_share = isinstance(lost, int | float) and not isinstance(lost, bool) and 0 <= lost <= MOST_LOST
    told = float(lost) if is_share and lineage.base_sha256 else None
    return {
        "lost": told,
        "lost_base_sha256": lineage.base_sha256 if told is not None else None,
        "lossless": lineage.recipe.get("lossless") is True,
    }


def proven_full(content: Content) -> bytes:
    """The full artifact, after it was decoded and compared. Raises ContentMismatch."""
    data = encode_full(content)
    if decode_full(data).data != content.data:
        raise ContentMismatch("the artifact does not decode to its content", remedy="report this, with the model")
    return data
