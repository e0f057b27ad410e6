"""The publisher's commands keep their contract with scripts: names, JSON, exit codes, whole files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from PIL import Image

from model_registry.cli import _report, app, run
from model_registry.compression.pipeline import compress_checkpoint
from model_registry.compression.recipe import Recipe
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.full import encode_full
from tests.registry.cli.conftest import Command, Outcome
from tests.registry.networks import CLASSES, changed, foreign_onnx, random_weights, save


@pytest.fixture(scope="module")
def versions(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, bytes]:
    """Two versions of one network, made once."""
    folder = tmp_path_factory.mktemp("versions")
    first = compress_checkpoint(save(folder / "one.safetensors", random_weights()), Recipe()).named("signs", "1.0.0")
    newer = save(folder / "two.safetensors", changed(random_weights(), "classifier", by=0.1))
    return encode_full(first), encode_full(compress_checkpoint(newer, Recipe(), base=first).named("signs", "2.0.0"))


@pytest.fixture
def artifact(tmp_path: Path, versions: tuple[bytes, bytes]) -> Path:
    (tmp_path / "one.dfm").write_bytes(versions[0])
    return tmp_path / "one.dfm"


@pytest.fixture
def successor(tmp_path: Path, versions: tuple[bytes, bytes]) -> Path:
    (tmp_path / "two.dfm").write_bytes(versions[1])
    return tmp_path / "two.dfm"


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for index in range(6):
        place = tmp_path / "pictures" / f"class{index % CLASSES}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(place / f"{index}.png")
    return tmp_path / "pictures"


def refused(outcome: Outcome) -> str:
    """A refusal is exit code 1 and one line on standard error, nothing else."""
    assert outcome.code == 1, outcome
    assert outcome.out == ""
    assert outcome.err.startswith("deltafleet: ")
    assert outcome.err.count("\n") == 1
    return outcome.err


def test_a_torch_checkpoint_becomes_safetensors_with_everything_inside(deltafleet: Command, tmp_path: Path) -> None:
    torch.save({k: torch.from_numpy(v) for k, v in random_weights().items()}, tmp_path / "m.pt")
    (tmp_path / "p.json").write_text('{"resize":[48,48],"crop":null,"order":"RGB","mean":[0,0,0],"scale":0.5}')
    (tmp_path / "l.csv").write_text("class_index,name\n" + "".join(f"{i},sign {i}\n" for i in range(CLASSES)))
    given = ("--preprocess", tmp_path / "p.json", "--labels", tmp_path / "l.csv", "--json")
    done = deltafleet("import", tmp_path / "m.pt", "--format", "torch", "-o", tmp_path / "m.safetensors", *given)
    assert done.json()["architecture"] == "squeezenet1_1"
    made = deltafleet("compress", tmp_path / "m.safetensors", "-o", tmp_path / "m.dfm", "--json").json()
    assert made["classes"] == CLASSES
    assert made["preprocessing"]["scale"] == [0.5, 0.5, 0.5]


def test_inspect_names_everything_that_scripts_rely_on(deltafleet: Command, artifact: Path) -> None:
    shown = deltafleet("inspect", artifact, "--json").json()
    assert shown["kind"] == "full"
    assert (shown["family"], shown["version"]) == ("signs", "1.0.0")
    assert shown["bytes"] == artifact.stat().st_size
    assert (shown["architecture"], shown["classes"]) == ("squeezenet1_1", CLASSES)
    assert shown["parameters"] == sum(value.size for value in random_weights().values())
    assert len(shown["content_sha256"]) == 64
    assert shown["tensors"][0] == {"name": "features.0.weight", "shape": [64, 3, 3, 3], "encoding": "grid", "offsets": 0}
    assert "features.0.weight" in deltafleet("inspect", artifact).out


def test_a_delta_rebuilds_byte_for_byte_what_compress_wrote(
    deltafleet: Command, tmp_path: Path, artifact: Path, successor: Path
) -> None:
    for codec in ("auto", "model", "bsdiff4", "zstd"):
        made = deltafleet("diff", artifact, successor, "-o", tmp_path / "d.dfd", "--codec", codec, "--json").json()
        assert made["bytes"] == (tmp_path / "d.dfd").stat().st_size
        assert deltafleet("patch", artifact, tmp_path / "d.dfd", "-o", tmp_path / "again.dfm").code == 0
        assert (tmp_path / "again.dfm").read_bytes() == successor.read_bytes()
    shown = deltafleet("inspect", tmp_path / "d.dfd", "--json").json()
    assert shown["kind"] == "delta"
    assert shown["base_sha256"] == deltafleet("inspect", artifact, "--json").json()["content_sha256"]
    assert shown["content_sha256"] == deltafleet("inspect", successor, "--json").json()["content_sha256"]
    assert deltafleet("inspect", tmp_path / "d.dfd", "--base", artifact, "--json").json()["version"] == "2.0.0"


def test_compress_writes_a_named_version_and_reports_what_was_lost(
    deltafleet: Command, tmp_path: Path, artifact: Path, successor: Path
) -> None:
    newer = save(tmp_path / "newer.safetensors", changed(random_weights(), "classifier", by=0.1))
    named = ("--family", "signs", "--version", "2.0.0")
    made = deltafleet("compress", newer, "-o", tmp_path / "n.dfm", "--base", artifact, *named, "--json").json()
    assert 0 < made["lost"] <= 0.05
    assert (tmp_path / "n.dfm").read_bytes() == successor.read_bytes()


def test_a_delta_on_the_wrong_base_is_refused(deltafleet: Command, tmp_path: Path, artifact: Path, successor: Path) -> None:
    assert deltafleet("diff", artifact, successor, "-o", tmp_path / "d.dfd").code == 0
    message = refused(deltafleet("patch", successor, tmp_path / "d.dfd", "-o", tmp_path / "x.dfm"))
    assert "delta" in message
    assert not (tmp_path / "x.dfm").exists()


def test_exports_compress_to_the_same_weights(deltafleet: Command, tmp_path: Path, artifact: Path) -> None:
    for name in ("e.onnx", "e.safetensors"):
        assert deltafleet("export", artifact, "-o", tmp_path / name).code == 0
        assert deltafleet("compress", tmp_path / name, "-o", tmp_path / "e.dfm", "--lossless").code == 0
    listed = deltafleet("inspect", tmp_path / "e.safetensors", "--json").json()
    assert listed["kind"] == "checkpoint"
    assert len(listed["tensors"]) == 52


def test_evaluate_counts_and_agrees_between_engines(
    deltafleet: Command, pictures: Path, artifact: Path, checkpoint: Path
) -> None:
    seen = [
        deltafleet("evaluate", artifact, "--data", pictures, "--engine", engine, "--json").json()
        for engine in ("torch", "onnxruntime")
    ]
    assert seen[0]["top1"] == seen[1]["top1"]
    assert (seen[0]["images"], seen[0]["top5"]) == (6, 1.0)
    assert deltafleet("evaluate", checkpoint, "--data", pictures, "--limit", "2", "--json").json()["images"] == 2


def test_calibration_reports_the_curve_it_saw(deltafleet: Command, tmp_path: Path, pictures: Path) -> None:
    foreign = foreign_onnx(tmp_path / "f.onnx", classes=500)
    (tmp_path / "p.json").write_text('{"resize":[16,16],"crop":null,"order":"RGB","mean":[128,128,128],"scale":0.01}')
    given = ("--preprocess", tmp_path / "p.json", "--json")
    made = deltafleet("compress", foreign, "-o", tmp_path / "f.dfm", "--calibrate", pictures, *given).json()
    assert {"setting", "bytes", "damage"} == set(made["curve"][0])
    dropped = deltafleet(
        "compress", foreign, "-o", tmp_path / "f.dfm", "--calibrate", pictures, "--max-drop", "100", *given
    ).json()
    on_halves = [point for point in dropped["curve"] if "expected" in point]
    assert on_halves
    assert {point["setting"].removesuffix(", halves") for point in on_halves} >= {
        point["setting"] for point in dropped["curve"][-1:]
    }


def test_a_table_has_a_heading_for_every_column(capsys: pytest.CaptureFixture[str]) -> None:
    points = [{"setting": "lossless", "damage": 0.0}, {"setting": "price 1e-07", "damage": 0.2, "expected": 0.3}]
    _report({"curve": points}, as_json=False)
    printed = capsys.readouterr().out
    assert "expected" in printed
    assert "0.3" in printed


def test_an_update_much_smaller_than_the_error_of_its_base_brings_advice(
    deltafleet: Command, tmp_path: Path, pictures: Path
) -> None:
    base = foreign_onnx(tmp_path / "base.onnx", classes=500)
    (tmp_path / "p.json").write_text('{"resize":[16,16],"crop":null,"order":"RGB","mean":[128,128,128],"scale":0.01}')
    given = ("--preprocess", tmp_path / "p.json", "--json")
    assert deltafleet("compress", base, "-o", tmp_path / "base.dfm", "--step", "0.2", *given).code == 0
    update = (
        "compress",
        tmp_path / "new.onnx",
        "-o",
        tmp_path / "new.dfm",
        "--calibrate",
        pictures,
        "--base",
        tmp_path / "base.dfm",
    )
    for by, advised in ((0.02, True), (2.0, False)):
        model = onnx.load(base)
        head = next(tensor for tensor in model.graph.initializer if tensor.name == "head_bias")
        moved = numpy_helper.to_array(head) + (by * (np.arange(500) % 3)).astype(np.float32)
        head.CopyFrom(numpy_helper.from_array(moved, "head_bias"))
        onnx.save(model, tmp_path / "new.onnx")
        made = deltafleet(*update, *given).json()
        assert (made["noise"] > LOST_LIMIT) == advised
        assert made["lost_untempered_error"] >= 0
        assert made["lost"] == pytest.approx(made["lost_untempered"], abs=0.05)
        assert ("--step" in made.get("advice", "")) == advised


def test_an_update_tells_its_delta_and_that_pictures_would_shrink_a_large_one(
    deltafleet: Command, tmp_path: Path, artifact: Path
) -> None:
    update, to = save(tmp_path / "new.safetensors", changed(random_weights(), "weight", by=0.002)), tmp_path / "new.dfm"
    made = deltafleet("compress", update, "-o", to, "--base", artifact, "--json").json()
    delta = deltafleet("diff", artifact, to, "-o", tmp_path / "new.dfd", "--codec", "model", "--json").json()
    assert made["delta_bytes"] == delta["bytes"]
    assert "--calibrate" in made["advice"]
    exact = deltafleet("compress", update, "-o", to, "--base", artifact, "--lossless", "--json").json()
    again = deltafleet(
        "compress", save(tmp_path / "same.safetensors", random_weights()), "-o", to, "--base", artifact, "--json"
    ).json()
    assert not {"advice"} & (exact.keys() | again.keys())
    assert again["delta_bytes"] < 2000 < exact["delta_bytes"]


def test_only_what_can_be_followed_is_advised(deltafleet: Command, tmp_path: Path, artifact: Path, successor: Path) -> None:
    """Not to calibrate what is compressed already, and takes no pictures; nor is told what was lost from another base."""
    other = tmp_path / "other.dfm"
    compressed = ("compress", save(tmp_path / "other.safetensors", changed(random_weights(), by=1.0)), "-o", other)
    assert deltafleet(*compressed).code == 0
    taken = deltafleet("compress", successor, "-o", tmp_path / "taken.dfm", "--base", other, "--json").json()
    assert taken["delta_bytes"] > 100_000
    assert not {"advice", "lost", "noise"} & taken.keys()
    blind = foreign_onnx(tmp_path / "blind.onnx", classes=500)
    assert deltafleet("compress", blind, "-o", tmp_path / "blind.dfm").code == 0
    model = onnx.load(blind)
    head = next(tensor for tensor in model.graph.initializer if tensor.name == "head_bias")
    head.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(head)[::-1].copy(), "head_bias"))
    onnx.save(model, blind)
    made = deltafleet("compress", blind, "-o", tmp_path / "new.dfm", "--base", tmp_path / "blind.dfm", "--json").json()
    assert 10 * made["delta_bytes"] > made["bytes"]
    assert "advice" not in made


def damaged(path: Path, target: Path) -> list[Path]:
    """The ways in which files arrive broken: cut short, one bit turned, too long, of another kind."""
    data = path.read_bytes()
    turned = bytearray(data)
    turned[len(data) * 2 // 3] ^= 1
    forms = {
        "cut": data[: len(data) // 2],
        "turned": bytes(turned),
        "long": data + b"\0",
        "text": b"no model\n" * 9,
        "empty": b"",
    }
    files = []
    for name, content in forms.items():
        files.append(target / f"{name}{path.suffix}")
        files[-1].write_bytes(content)
    return files


def test_broken_artifacts_are_refused_at_every_command(
    deltafleet: Command, tmp_path: Path, artifact: Path, successor: Path, pictures: Path
) -> None:
    assert deltafleet("diff", artifact, successor, "-o", tmp_path / "d.dfd").code == 0
    (tmp_path / "bad").mkdir()
    out = tmp_path / "bad" / "out.dfm"
    for bad in damaged(artifact, tmp_path / "bad"):
        refused(deltafleet("inspect", bad))
        refused(deltafleet("export", bad, "-o", out.with_suffix(".onnx")))
        assert bad.name in refused(deltafleet("diff", bad, successor, "-o", out.with_suffix(".dfd")))
        refused(deltafleet("patch", bad, tmp_path / "d.dfd", "-o", out))
        refused(deltafleet("evaluate", bad, "--data", pictures))
    for bad in damaged(tmp_path / "d.dfd", tmp_path / "bad"):
        assert bad.name in refused(deltafleet("patch", artifact, bad, "-o", out))
    assert not [path for path in (tmp_path / "bad").iterdir() if "out" in path.name]


def test_broken_checkpoints_are_refused_and_nothing_is_left(deltafleet: Command, tmp_path: Path, checkpoint: Path) -> None:
    (tmp_path / "bad").mkdir()
    for bad in damaged(checkpoint, tmp_path / "bad"):
        if "turned" in bad.name:
            # A turned bit of a weight is a weight like any other; what vouches for a checkpoint is its owner.
            continue
        refused(deltafleet("compress", bad, "-o", tmp_path / "bad" / "out.dfm"))
        for kind in ("onnx", "deep-compression"):
            refused(deltafleet("import", bad, "--format", kind, "-o", tmp_path / "bad" / "out.safetensors"))
    assert not [path for path in (tmp_path / "bad").iterdir() if "out" in path.name]


def test_a_refusal_leaves_an_existing_output_alone(deltafleet: Command, tmp_path: Path, artifact: Path) -> None:
    before = artifact.read_bytes()
    (tmp_path / "bad.safetensors").write_bytes(b"no model")
    refused(deltafleet("compress", tmp_path / "bad.safetensors", "-o", artifact))
    assert artifact.read_bytes() == before


def test_missing_files_and_places_are_refused(deltafleet: Command, tmp_path: Path, artifact: Path) -> None:
    assert "absent.dfm" in refused(deltafleet("inspect", tmp_path / "absent.dfm"))
    assert "folder exists" in refused(deltafleet("export", artifact, "-o", tmp_path / "no" / "e.onnx"))
    refused(deltafleet("evaluate", artifact, "--data", tmp_path / "absent"))


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"resize":[4]}', '{"resize":[4,4],"crop":[9,9],"order":"RGB","mean":[0,0,0],"scale":1}']
)
def test_bad_preprocessing_is_refused(deltafleet: Command, tmp_path: Path, checkpoint: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    refused(deltafleet("compress", checkpoint, "-o", tmp_path / "o.dfm", "--preprocess", tmp_path / "p.json"))


def test_wrong_usage_is_exit_code_2(deltafleet: Command, tmp_path: Path, checkpoint: Path) -> None:
    out = tmp_path / "o.dfm"
    for arguments in (
        ("compress", checkpoint),
        ("compress", checkpoint, "-o", tmp_path / "o.bin"),
        ("compress", checkpoint, "-o", out, "--lossless", "--step", "0.1"),
        ("compress", checkpoint, "-o", out, "--max-drop", "1"),
        ("compress", checkpoint, "-o", out, "--calibrate", tmp_path, "--max-lost", "1"),
        ("import", checkpoint, "-o", tmp_path / "x.safetensors", "--format", "tar"),
        ("import", checkpoint, "-o", checkpoint, "--format", "onnx"),
        ("diff", out, out, "-o", tmp_path / "d.dfd", "--codec", "magic"),
        ("nonsense",),
    ):
        assert deltafleet(*arguments).code == 2, arguments


def test_wrong_names_are_refused(deltafleet: Command, tmp_path: Path, checkpoint: Path) -> None:
    for option in (("--family", "Not A Name"), ("--version", "two"), ("--arch", "resnet50")):
        refused(deltafleet("compress", checkpoint, "-o", tmp_path / "o.dfm", *option))


def test_help_teaches_and_loads_nothing_heavy() -> None:
    program = (
        "import sys; from model_registry.cli import app, run\n"
        "try: run(app, ['compress', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'onnx', 'onnxruntime', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert "Example" in shown.stdout


def test_json_is_one_object_on_standard_output(deltafleet: Command, artifact: Path) -> None:
    shown = deltafleet("inspect", artifact, "--json")
    assert json.loads(shown.out)
    assert shown.out.count("\n") == 1


def test_the_engines_complaints_do_not_leak_into_the_refusal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    damaged = foreign_onnx(tmp_path / "f.onnx").read_bytes().replace(b"nearest", b"nonsens")
    (tmp_path / "f.onnx").write_bytes(damaged)
    with pytest.raises(SystemExit) as ended:
        run(app, ["compress", str(tmp_path / "f.onnx"), "-o", str(tmp_path / "f.dfm")])
    # The engine writes to the file descriptors themselves.
    streams = capfd.readouterr()
    assert ended.value.code == 1
    assert streams.out == ""
    assert streams.err.count("\n") == 1
    assert "nonsens" in streams.err
