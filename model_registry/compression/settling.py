"""The last biases settled on labelled pictures: answers that rounding turned are turned back where little does it.

Some pictures lie so near the border of two classes that any rounding turns a few of them, however fine it is; which few is
chance. A class's bias moves its border, and here by no more than rounding moves answers anyway, so that on other pictures as
much is won as is lost.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.compression.pipeline import proven
from model_registry.contract.content import Content
from model_registry.contract.tensors import EncodedTensor, Encoding

Floats = npt.NDArray[np.floating[Any]]
Labels = npt.NDArray[np.intp]
# A head may pass on only part of what its bias does (a ReLU, a mean over positions): what is still owed is asked for again.
ROUNDS = 4
# How far a bias may go, in what rounding does to an answer (rms).
REACH = 3.0


def settle(
    content: Content, bias: str, answer: Callable[[Content], Floats], *, exact: Floats, labels: Labels, allowed: float
) -> Content:
    """``content`` with the levels of its ``bias`` raised for some classes, until no more than ``allowed`` pictures are lost.

    ``answer`` tells logits (pictures, classes); ``exact``: those of the float network. The best that was found is returned,
    which is ``content`` itself where the bias is not on a grid of one step for all classes.
    """
    goal = _right(exact, labels).sum() - allowed
    logits = answer(content)
    start, best, most = content, content, _right(logits, labels).sum()
    for _ in range(ROUNDS):
        tensor = next(tensor for tensor in content.tensors if tensor.name == bias)
        if most >= goal or not _is_settleable(tensor, exact.shape[1]):
            break
        step = float(tensor.scale[0])
        limit = int(REACH * float(np.sqrt(np.mean(np.square(logits - exact)))) / step)
        levels = raised(logits, labels, _right(exact, labels), step=step, limit=limit, goal=goal)
        if not levels.any():
            break
        content = _with(content, _shifted(tensor, levels))
        logits = answer(content)
        if _right(logits, labels).sum() > most:
            best, most = content, _right(logits, labels).sum()
    return best if best is start else proven(best)


def raised(
    logits: Floats, labels: Labels, wanted: npt.NDArray[np.bool_], *, step: float, limit: int, goal: float
) -> npt.NDArray[np.int64]:
    """By how many steps to raise each class (classes), at most ``limit``, so that ``goal`` pictures are right.

    Those of ``wanted`` that lack least are helped first, each only if more are right then than before.
    """
    moved, levels = logits.astype(np.float64), np.zeros(logits.shape[1], np.int64)
    count = _right(moved, labels).sum()
    for picture in np.argsort(_lacking(moved, labels), kind="stable"):
        label, lacking = labels[picture], _lacking(moved, labels)[picture]
        more = int(lacking / step) + 1
        if count >= goal or not wanted[picture] or lacking <= 0 or levels[label] + more > limit:
            continue
        tried = moved.copy()
        tried[:, label] += more * step
        if _right(tried, labels).sum() > count:
            moved, count = tried, _right(tried, labels).sum()
            levels[label] += more
    return levels


def _right(logits: Floats, labels: Labels) -> npt.NDArray[np.bool_]:
    return np.asarray(logits.argmax(axis=1) == labels)


def _lacking(logits: Floats, labels: Labels) -> Floats:
    """How far each picture's class is behind the first answer."""
    return np.asarray(logits.max(axis=1) - logits[np.arange(labels.size), labels])


def _is_settleable(tensor: EncodedTensor, classes: int) -> bool:
    return tensor.encoding in (Encoding.GRID8, Encoding.GRID16) and tensor.scale.size == 1 and tensor.values.size == classes


def _shifted(tensor: EncodedTensor, levels: npt.NDArray[np.int64]) -> EncodedTensor:
    largest = int(np.iinfo(tensor.values.dtype).max)
    values = np.clip(tensor.values.ravel().astype(np.int64) + levels, -largest, largest)
    return replace(tensor, values=values.astype(tensor.values.dtype).reshape(tensor.values.shape))


def _with(content: Content, changed: EncodedTensor) -> Content:
    tensors = tuple(changed if tensor.name == changed.name else tensor for tensor in content.tensors)
    return Content(content.manifest, content.graph, tensors)
