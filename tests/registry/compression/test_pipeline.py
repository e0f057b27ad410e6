"""From a checkpoint to a content that is proven to run."""

from __future__ import annotations

import base64
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from model_registry.compression.pipeline import GOLDEN_SEEDS, compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.contract.errors import ManifestRefused, ModelUnusable, Refusal, SelfTestFailed, UnsupportedArtifact
from model_registry.contract.full import decode_full, encode_full
from model_registry.contract.golden import golden_inputs
from model_registry.contract.session import Session, self_test
from model_registry.models.exporting import to_onnx, to_safetensors
from model_registry.models.importing import read_checkpoint
from tests.registry.networks import SMALL, foreign_onnx, random_weights, save


def test_a_content_decodes_runs_and_passes_its_own_golden_vectors(checkpoint: Path) -> None:
    steps: list[float] = []
    content = compress_checkpoint(checkpoint, Recipe(), progress=lambda share, _: steps.append(share))
    decoded = decode_full(encode_full(content))
    assert decoded.sha256 == content.sha256
    self_test(Session(decoded))
    manifest = decoded.manifest
    assert (manifest.architecture, manifest.parameters) == ("squeezenet1_1", sum(v.size for v in random_weights().values()))
    assert manifest.preprocessing == SMALL
    assert manifest.inputs[0].shape == (1, 3, 48, 48)
    assert len(manifest.golden) == 2
    assert steps == sorted(steps)


def test_the_same_input_gives_the_same_bytes_in_another_process(tmp_path: Path) -> None:
    # A network that brings its own graph: the other process need not wait for torch.
    path = foreign_onnx(tmp_path / "f.onnx", classes=50)
    program = (
        "import sys; from pathlib import Path\n"
        "from model_registry.compression.pipeline import compress_checkpoint\n"
        "from model_registry.compression.recipe import Recipe\n"
        "print(compress_checkpoint(Path(sys.argv[1]), Recipe()).sha256)"
    )
    command = [sys.executable, "-c", program, str(path)]
    other = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout.strip()
    assert other == compress_checkpoint(path, Recipe()).sha256


def test_golden_vectors_fail_on_a_damaged_weight(checkpoint: Path) -> None:
    content = compress_checkpoint(checkpoint, Recipe(lossless=True))
    broken = list(content.tensors)
    values = broken[0].values.copy()
    values[0] = 50
    broken[0] = replace(broken[0], values=values)
    with pytest.raises(SelfTestFailed):
        self_test(Session(type(content)(content.manifest, content.graph, tuple(broken))))


def test_golden_vectors_are_those_that_tell_something(tmp_path: Path) -> None:
    """The head ends in a ReLU: the lower its biases, the more pictures it answers with nothing but zeros."""
    weights = random_weights()
    *_, head = weights

    def spreads(lower: float) -> dict[int, float]:
        """How far the answers to golden inputs spread, by seed."""
        path = save(tmp_path / "n.safetensors", weights | {head: weights[head] - np.float32(lower)})
        content = compress_checkpoint(path, Recipe(lossless=True))
        session = Session(content)
        answered = {seed: session.run(golden_inputs(content.manifest, seed)) for seed in GOLDEN_SEEDS}
        chosen.append([vector.seed for vector in content.manifest.golden])
        return {seed: float(np.std(answer[0])) for seed, answer in answered.items()}

    chosen: list[list[int]] = []
    silent = next(found for found in map(spreads, np.arange(0.0, 8.0, 0.25)) if found[1] == 0)
    telling = [seed for seed, spread in silent.items() if spread > 0.5 * max(silent.values())]
    assert chosen[-1] == telling[:2]
    assert 1 not in chosen[-1]


def test_lossless_is_bit_for_bit_and_default_is_close(checkpoint: Path) -> None:
    weights = random_weights()
    exact = compress_checkpoint(checkpoint, Recipe(lossless=True))
    assert {k: v.tobytes() for k, v in exact.weights().items()} == {k: v.tobytes() for k, v in weights.items()}
    close = compress_checkpoint(checkpoint, Recipe())
    for key, value in close.weights().items():
        assert np.linalg.norm(value - weights[key]) < 0.06 * np.linalg.norm(weights[key])
    assert len(encode_full(close)) < 0.25 * 4 * close.manifest.parameters


def test_a_smaller_step_is_larger_and_closer(checkpoint: Path) -> None:
    sizes = [len(encode_full(compress_checkpoint(checkpoint, Recipe(step=step)))) for step in (0.05, 0.2, 0.8)]
    assert sizes == sorted(sizes, reverse=True)


def test_any_onnx_network_is_compressed_and_exported(tmp_path: Path) -> None:
    path = foreign_onnx(tmp_path / "foreign.onnx")
    content = compress_checkpoint(path, Recipe(lossless=True))
    decoded = decode_full(encode_full(content))
    self_test(Session(decoded))
    assert decoded.manifest.architecture == "onnx"
    picture = np.random.default_rng(0).normal(size=(1, 3, 16, 16)).astype(np.float32)
    import onnxruntime as ort

    expected = ort.InferenceSession(path.read_bytes(), providers=["CPUExecutionProvider"]).run(None, {"x": picture})[0]
    exported = ort.InferenceSession(to_onnx(decoded), providers=["CPUExecutionProvider"]).run(None, {"x": picture})[0]
    np.testing.assert_allclose(Session(decoded).run({"x": picture})[0], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(exported, expected, rtol=1e-5, atol=1e-6)
    self_test(Session(compress_checkpoint(path, Recipe())))


def test_what_is_exported_comes_back_as_it_was(tmp_path: Path, checkpoint: Path) -> None:
    content = compress_checkpoint(checkpoint, Recipe(labels=("a", "b", "c", "d", "e")))
    for name, data in (("e.safetensors", to_safetensors(content)), ("e.onnx", to_onnx(content))):
        (tmp_path / name).write_bytes(data)
        again = read_checkpoint(tmp_path / name)
        assert again.description.preprocessing == SMALL
        assert again.description.labels == ("a", "b", "c", "d", "e")
        assert {k: v.tobytes() for k, v in again.weights.items()} == {k: v.tobytes() for k, v in content.weights().items()}


def test_a_foreign_network_survives_safetensors(tmp_path: Path) -> None:
    content = compress_checkpoint(foreign_onnx(tmp_path / "f.onnx"), Recipe(lossless=True))
    (tmp_path / "f.safetensors").write_bytes(to_safetensors(content))
    again = compress_checkpoint(tmp_path / "f.safetensors", Recipe(lossless=True))
    assert again.graph == content.graph
    assert [t.values.tobytes() for t in again.tensors] == [t.values.tobytes() for t in content.tensors]


def test_a_full_artifact_is_taken_as_it_is(tmp_path: Path, checkpoint: Path) -> None:
    content = compress_checkpoint(checkpoint, Recipe())
    (tmp_path / "m.dfm").write_bytes(encode_full(content))
    assert compress_checkpoint(tmp_path / "m.dfm", Recipe()).sha256 == content.sha256
    with pytest.raises(UnsupportedArtifact, match="as it is"):
        compress_checkpoint(tmp_path / "m.dfm", Recipe(lossless=True))


def test_an_artifact_that_fails_its_own_test_is_refused(tmp_path: Path, checkpoint: Path) -> None:
    content = compress_checkpoint(checkpoint, Recipe())
    lying = replace(content.manifest, golden=tuple(replace(g, mean=g.mean + 1) for g in content.manifest.golden))
    (tmp_path / "m.dfm").write_bytes(encode_full(type(content)(lying, content.graph, content.tensors)))
    with pytest.raises(SelfTestFailed):
        compress_checkpoint(tmp_path / "m.dfm", Recipe())


def test_bypass_has_to_be_named(tmp_path: Path) -> None:
    path = save(tmp_path / "n.safetensors", random_weights(), None)
    assert compress_checkpoint(path, Recipe()).manifest.architecture == "squeezenet1_1"
    named = compress_checkpoint(path, Recipe(architecture="squeezenet1_1_simple_bypass"))
    assert named.manifest.architecture == "squeezenet1_1_simple_bypass"


def test_weights_that_do_not_fit_are_refused_with_the_first_difference(tmp_path: Path, checkpoint: Path) -> None:
    with pytest.raises(ModelUnusable, match=r"features\.0\.weight is \(64, 3, 3, 3\), expected is \(96, 3, 7, 7\)"):
        compress_checkpoint(checkpoint, Recipe(architecture="squeezenet1_0"))
    unknown = save(tmp_path / "u.safetensors", {"layer": np.ones((2, 2), np.float32)}, None)
    with pytest.raises(UnsupportedArtifact, match="ONNX"):
        compress_checkpoint(unknown, Recipe())


def test_labels_must_match_the_classes(checkpoint: Path) -> None:
    with pytest.raises(ManifestRefused, match="2 labels for 5 classes"):
        compress_checkpoint(checkpoint, Recipe(labels=("a", "b")))


def test_a_network_that_answers_nan_is_refused(tmp_path: Path) -> None:
    weights = random_weights()
    weights["classifier.1.bias"][2] = np.nan
    with pytest.raises(SelfTestFailed, match="finite"):
        compress_checkpoint(save(tmp_path / "nan.safetensors", weights), Recipe())


def test_a_graph_that_the_engine_cannot_run_is_refused(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "f.onnx"))
    model.graph.node[0].op_type = "NoSuchOperator"
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelUnusable, match="NoSuchOperator"):
        compress_checkpoint(tmp_path / "f.onnx", Recipe())


def test_weights_that_contradict_the_graph_beside_them_are_refused(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(foreign_onnx(tmp_path / "f.onnx"))
    from model_registry.models.safetensors_file import write_safetensors

    weights = checkpoint.weights | {"head": np.zeros((6, 4), np.float32)}
    (tmp_path / "f.safetensors").write_bytes(write_safetensors(weights, checkpoint.description))
    with pytest.raises(ModelUnusable, match="declares"):
        compress_checkpoint(tmp_path / "f.safetensors", Recipe())


def test_a_graph_in_metadata_cannot_smuggle_files_in(tmp_path: Path) -> None:
    from model_registry.models.checkpoints import Description
    from model_registry.models.safetensors_file import write_safetensors

    graph = b"\x00" + base64.b64encode(b"no graph")
    (tmp_path / "f.safetensors").write_bytes(write_safetensors({}, Description("onnx", None, (), graph)))
    with pytest.raises(Refusal):
        compress_checkpoint(tmp_path / "f.safetensors", Recipe())


def test_half_precision_initializers_stay_in_the_graph(tmp_path: Path) -> None:
    model = onnx.load(foreign_onnx(tmp_path / "f.onnx"))
    head = next(t for t in model.graph.initializer if t.name == "head")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head).astype(np.float16), "head16"))
    cast = onnx.helper.make_node("Cast", ["head16"], ["head"], to=onnx.TensorProto.FLOAT)
    model.graph.node.insert(0, cast)
    (tmp_path / "f.onnx").write_bytes(model.SerializeToString())
    content = compress_checkpoint(tmp_path / "f.onnx", Recipe())
    assert "head" not in content.weights()
    self_test(Session(decode_full(encode_full(content))))


def test_recipes_travel_as_json_and_are_read_strictly() -> None:
    recipe = Recipe("squeezenet1_1", step=0.2, preprocessing=SMALL, labels=("a",))
    assert Recipe.from_json(recipe.to_json()) == recipe
    assert Recipe.from_json({}) == Recipe()
    bad_recipes: list[Any] = [{"quality": 3}, {"lossless": "yes"}, {"step": 0}, [], None, {"labels": "a"}]
    for bad in [*bad_recipes, {"step": 0.1, "lossless": True}]:
        with pytest.raises(ManifestRefused):
            Recipe.from_json(bad)
