"""Checkpoint -> content: read, describe, quantize, prove.

The order: (1) read the checkpoint, (2) find its graph and its interface, (3) encode tensor by tensor, (4) load the result
as a vehicle will, make golden vectors and compare with an independent engine. What comes out is a function of the checkpoint,
the recipe and the base alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from model_registry.architectures import Architecture, architecture, matching, recognise
from model_registry.compression.quantization import Setting, keep_exactly, quantize
from model_registry.compression.recipe import Recipe
from model_registry.compression.rounding import Compensated
from model_registry.compression.sources import KEY, Sources, unchanged
from model_registry.compression.updates import Update, deliver, lost_share, update_tensor
from model_registry.contract import golden
from model_registry.contract.content import Content
from model_registry.contract.errors import ManifestRefused, ModelUnusable, UnsupportedArtifact
from model_registry.contract.full import MAGIC, begins_full, decode_full
from model_registry.contract.limits import DEFAULT_LIMITS
from model_registry.contract.manifest import GoldenVector, Lineage, Manifest
from model_registry.contract.session import Session, self_test
from model_registry.contract.tensors import EncodedTensor, Encoding, float32_tensor
from model_registry.models import graphs
from model_registry.models.checkpoints import Checkpoint, Weights
from model_registry.models.files import read_file
from model_registry.models.importing import read_checkpoint

Progress = Callable[[float, str], None]
# Golden vectors are the first of these inputs to which the answers spread half as much as they do to any: a network whose
# head ends in a ReLU may answer nothing but zeros, as a broken one would.
GOLDEN_SEEDS, GOLDEN_VECTORS, TELLING = range(1, 17), 2, 0.5
# Two float32 engines on the same weights differ by rounding alone; measured below 1e-6 of the largest output.
ENGINE_TOLERANCE = 1e-3


def compress_checkpoint(
    path: Path, recipe: Recipe, *, base: Content | None = None, progress: Progress = lambda *_: None
) -> Content:
    """Turn a .safetensors, .onnx or .dfm file into a content; a .dfm is taken as it is.

    ``progress`` hears shares from 0 to 1 and what is done. The recipe's outcome, with ``lost`` when there is a base, is in the
    manifest's lineage. Raises ArtifactRefused, ManifestRefused, ModelUnusable or SelfTestFailed.
    """
    progress(0.0, "reading")
    if _is_full_artifact(path):
        return _as_it_is(path, recipe)
    network = read_network(path, recipe)
    if recipe.lossless:
        return compress(network, None, base=base, progress=progress)
    setting = Setting() if recipe.step is None else Setting(recipe.step, keep_codebooks=False)
    return compress(network, setting, base=base, progress=progress)


def content_of(path: Path, recipe: Recipe) -> tuple[Content, bool]:
    """What a .dfm holds (and True), or a checkpoint's exact weights (and False). Raises as ``compress_checkpoint``."""
    if _is_full_artifact(path):
        return _as_it_is(path, recipe), True
    return read_network(path, recipe).exact(), False


@dataclass(frozen=True, slots=True, eq=False)
class SourceNetwork:
    """A float network ready to be encoded: graph, weights in their final order, and a manifest without golden vectors."""

    graph: bytes
    weights: Weights
    biases: frozenset[str]
    manifest: Manifest

    def exact(self) -> Content:
        """Every weight as float32: what the compressed network is measured against."""
        return Content(self.manifest, self.graph, tuple(float32_tensor(name, value) for name, value in self.weights.items()))


def read_network(path: Path, recipe: Recipe) -> SourceNetwork:
    """Steps 1 and 2. Raises ArtifactRefused, ManifestRefused or ModelUnusable."""
    if _is_full_artifact(path):
        raise UnsupportedArtifact(f"{path.name} is compressed already", remedy="export it to .safetensors first")
    checkpoint = read_checkpoint(path, preprocessing=recipe.preprocessing)
    known = _architecture(checkpoint, recipe.architecture)
    preprocessing = checkpoint.description.preprocessing
    if known is not None:
        graph = graphs.build_graph(known, preprocessing.size if preprocessing else known.input_size)
        name, order = known.name, list(known.shapes)
    else:
        graph, name = checkpoint.description.graph or b"", "onnx"
        order = list(graphs.declared_weights(graph))
        if graphs.declared_weights(graph) != checkpoint.shapes:
            raise ModelUnusable("the weights are not those that the graph beside them declares")
    inputs, outputs = graphs.interface(graph)
    weights = {key: checkpoint.weights[key] for key in order}
    manifest = Manifest(
        architecture=name,
        parameters=graphs.parameters(weights),
        inputs=inputs,
        outputs=outputs,
        preprocessing=preprocessing,
        labels=_labels(recipe.labels or checkpoint.description.labels, graphs.output_classes(graph)),
        lineage=Lineage(source_sha256=checkpoint.sha256),
    )
    return SourceNetwork(graph, weights, graphs.bias_names(graph), manifest)


def compress(
    network: SourceNetwork,
    setting: Setting | Compensated | None,
    *,
    base: Content | None = None,
    progress: Progress = lambda *_: None,
) -> Content:
    """Steps 3 and 4; ``setting`` None keeps every weight bit for bit. Raises ModelUnusable or SelfTestFailed."""
    sources = Sources.of(network.weights, base)
    tensors, lost = _encode(network, setting, base, sources.unchanged, progress)
    outcome: dict[str, Any] = {KEY: sources.to_json()}
    outcome |= _outcome(setting)
    if base is not None:
        outcome["lost"] = round(lost, 4)
    lineage = replace(network.manifest.lineage, base_sha256=base.sha256 if base else None, recipe=outcome)
    content = Content(replace(network.manifest, lineage=lineage), network.graph, tensors)
    progress(0.9, "proving")
    return proven(content)


def _outcome(setting: Setting | Compensated | None) -> dict[str, Any]:
    match setting:
        case None:
            return {"lossless": True}
        case Setting():
            return {"step": setting.step, "codebooks": setting.keep_codebooks}
        case Compensated():
            return {"price": setting.price}


def _encode(
    network: SourceNetwork,
    setting: Setting | Compensated | None,
    base: Content | None,
    unchanged: frozenset[str],
    progress: Progress,
) -> tuple[tuple[EncodedTensor, ...], float]:
    """Every tensor's encoding, and the share of the update that is not delivered."""
    have = {tensor.name: tensor for tensor in base.tensors} if base else {}
    rounded: Mapping[str, EncodedTensor] = {}
    if isinstance(setting, Compensated):
        rounded = setting.round(network.weights, have, unchanged)
    nearest = base is not None and _rounds_to_nearest(base)
    # What no layer multiplies is encoded without data.
    plain = setting if isinstance(setting, Setting) else Setting()
    total = max(network.manifest.parameters, 1)
    updates: list[Update] = []
    done = 0
    for name, value in network.weights.items():
        progress(0.1 + 0.8 * done / total, name)
        done += value.size
        if setting is None:
            own = keep_exactly(name, value)
        else:
            own = rounded.get(name) or quantize(name, value, plain, bias=name in network.biases, share=value.size / total)
        if name in rounded:
            # A bias makes up for the errors of its weights: how far it is from its own floats tells nothing.
            updates.append(Update(own) if name in network.biases else deliver(value, own, have.get(name)))
        else:
            known = have.get(name)
            update = update_tensor(value, own, known, unchanged=name in unchanged, exact=setting is None, nearest=nearest)
            updates.append(update)
    return tuple(update.tensor for update in updates), lost_share(updates)


def line_of(base: Content) -> dict[str, Any]:
    """How coarse the line of models is: the setting of the release that had no base; nothing where codebooks were kept."""
    recipe = base.manifest.lineage.recipe
    # In a later release codebooks may be grids that moved: what the line was told to be like is in its lineage.
    if "like" not in recipe and any(tensor.encoding is Encoding.CODEBOOK for tensor in base.tensors):
        return {}
    like = recipe.get("like", recipe)
    return {key: like[key] for key in ("price", "step", "codebooks") if key in like} if isinstance(like, dict) else {}


def _rounds_to_nearest(base: Content) -> bool:
    """Whether its values are the nearest to what they came from: not where errors make up for each other."""
    return "price" not in {**base.manifest.lineage.recipe, **line_of(base)}


def untouched(network: SourceNetwork, base: Content | None) -> dict[str, EncodedTensor]:
    """The base's tensors that came from the same floats as the network's."""
    return unchanged(network.weights, base)


def _architecture(checkpoint: Checkpoint, wanted: str | None) -> Architecture | None:
    """The architecture by name, or None for a network that brings its own graph."""
    description = checkpoint.description
    if wanted is not None and wanted != "onnx":
        found = matching(wanted, checkpoint.shapes)
        if found is None:
            raise ModelUnusable(f"the weights are not those of {wanted}", remedy=_difference(wanted, checkpoint))
        return found
    if description.graph is not None:
        return None
    named = description.architecture
    found = matching(named, checkpoint.shapes) if named and named != "onnx" else recognise(checkpoint.shapes)
    if found is None:
        raise UnsupportedArtifact(
            "the weights belong to no architecture known here",
            remedy="export the network to ONNX and compress that, or name it with --arch",
        )
    return found


def _difference(name: str, checkpoint: Checkpoint) -> str:
    """The first key that tells why, as advice."""
    expected = architecture(name).shapes
    for key in [*expected, *checkpoint.shapes]:
        if expected.get(key) != checkpoint.shapes.get(key):
            return f"{key} is {checkpoint.shapes.get(key, 'missing')}, expected is {expected.get(key, 'nothing')}"
    return "check the number of classes"


def _labels(labels: Sequence[str], classes: int | None) -> tuple[str, ...]:
    if labels and classes is not None and len(labels) != classes:
        raise ManifestRefused(f"there are {len(labels)} labels for {classes} classes", remedy="give one row for each class")
    return tuple(labels)


def proven(content: Content) -> Content:
    """The content with its golden vectors: run as a vehicle does, and confirmed with another engine.

    Raises ModelUnusable or SelfTestFailed.
    """
    session = Session(content)
    answered = {seed: session.run(golden.golden_inputs(content.manifest, seed)) for seed in GOLDEN_SEEDS}
    vectors = _telling([golden.summarise(seed, answer) for seed, answer in answered.items()])
    inputs = [golden.golden_inputs(content.manifest, vector.seed) for vector in vectors]
    for vector, other in zip(vectors, _second_opinion(content, inputs), strict=True):
        answer = answered[vector.seed]
        spread = max(float(np.abs(a).max()) for a in answer)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(answer, other, strict=True))
        if not worst <= ENGINE_TOLERANCE * max(spread, 1e-6):
            raise ModelUnusable(
                f"two engines disagree by {worst:.3g} on golden input {vector.seed}; the model is not safe to ship"
            )
    return Content(replace(content.manifest, golden=vectors), content.graph, content.tensors)


def _telling(vectors: Sequence[GoldenVector]) -> tuple[GoldenVector, ...]:
    least = TELLING * max(vector.deviation for vector in vectors)
    return tuple(sorted(vectors, key=lambda vector: (vector.deviation < least, vector.seed))[:GOLDEN_VECTORS])


def _second_opinion(content: Content, inputs: Sequence[Mapping[str, npt.NDArray[Any]]]) -> list[list[npt.NDArray[Any]]]:
    """The answers of torch for a known architecture, else of ONNX Runtime on a self-contained file."""
    if content.manifest.architecture == "onnx":
        filled = Content(content.manifest, graphs.fill_graph(content.graph, content.weights()), ())
        session = Session(filled)
        return [session.run(values) for values in inputs]
    # Torch takes seconds to load; networks that bring their own graph do without.
    from model_registry.models.evaluation import torch_engine  # noqa: PLC0415

    engine = torch_engine(content.manifest.architecture, content.weights())
    return [[engine(np.asarray(next(iter(values.values())), np.float32))[np.newaxis]] for values in inputs]


def _is_full_artifact(path: Path) -> bool:
    try:
        with path.open("rb") as source:
            return begins_full(source.read(len(MAGIC)))
    except OSError:
        # The reader that comes next says what is wrong with the file.
        return False


def _as_it_is(path: Path, recipe: Recipe) -> Content:
    if recipe != replace(Recipe(), architecture=recipe.architecture):
        raise UnsupportedArtifact("a .dfm is taken as it is", remedy="compress the checkpoint again to change anything in it")
    content = decode_full(read_file(path, max_bytes=DEFAULT_LIMITS.max_artifact_bytes))
    if recipe.architecture not in (None, content.manifest.architecture):
        raise UnsupportedArtifact(f"this .dfm holds {content.manifest.architecture}, not {recipe.architecture}")
    self_test(Session(content))
    return content
