"""Settings chosen on pictures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from model_registry.compression import pictures, pipeline, search
from model_registry.compression.calibration import joined
from model_registry.compression.divergence import mean_divergence
from model_registry.compression.judges import Judges
from model_registry.compression.pictures import Parted, calibrated_on
from model_registry.compression.pipeline import SourceNetwork, read_network
from model_registry.compression.quantization import Setting
from model_registry.compression.recipe import Recipe
from model_registry.compression.rounding import Compensated
from model_registry.compression.trials import Trials, Untempered, settings_row
from model_registry.compression.updates import LOST_LIMIT
from model_registry.contract.content import Content
from model_registry.contract.delta import Codec, apply_delta
from model_registry.contract.errors import MalformedArtifact, ManifestRefused, ModelUnusable
from model_registry.contract.full import encode_full
from model_registry.contract.tensors import EncodedTensor, Encoding
from model_registry.deltas import make_delta
from model_registry.models.evaluation import all_logits, content_engine
from tests.registry.compression.conftest import SIXTEEN, quiet
from tests.registry.networks import foreign_onnx


def test_calibration_takes_as_coarse_a_setting_as_the_bound_allows_and_ships_it_calibrated_on_all_pictures(
    network: SourceNetwork, folder: Path
) -> None:
    found = search.calibrate(network, folder, base=None, progress=quiet)
    assert found.points[0].setting == "lossless"
    sizes = [point.bytes for point in found.points if point.setting.startswith("price")]
    assert len(sizes) > 2
    assert sizes == sorted(sizes, reverse=True)
    price = found.content.manifest.lineage.recipe["price"]
    [taken] = [point for point in found.points if point.setting == f"price {price:g}"]
    assert taken.damage <= search.MAX_DIVERGENCE
    assert max(point.damage for point in found.points if point.bytes < taken.bytes) > search.MAX_DIVERGENCE
    assert len(encode_full(found.content)) == found.bytes
    paths = sorted(folder.iterdir())
    judges = paths[1::2]
    parts = [calibrated_on(network, part) for part in ([path for path in paths if path not in judges], judges)]
    again = pipeline.compress(network, Compensated(joined(parts), price))
    assert found.content.sha256 == again.sha256


def test_pictures_and_preprocessing_are_needed(tmp_path: Path, network: SourceNetwork, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(MalformedArtifact, match="no pictures"):
        search.calibrate(network, tmp_path / "empty", base=None, progress=quiet)
    foreign = read_network(foreign_onnx(tmp_path / "f.onnx"), Recipe())
    with pytest.raises(ManifestRefused, match="--preprocess"):
        search.calibrate(foreign, folder, base=None, progress=quiet)


def test_a_network_that_answers_with_no_numbers_is_refused(network: SourceNetwork, folder: Path) -> None:
    broken = replace(network, weights={name: np.float32(1e30) * value for name, value in network.weights.items()})
    with pytest.raises(ModelUnusable, match="not finite"):
        search.calibrate(broken, folder, base=None, progress=quiet)


def retrained(network: SourceNetwork, by: float) -> SourceNetwork:
    """The network after a training that moved every weight a little."""
    rng = np.random.default_rng(1)
    moved = {
        name: (value + by * float(np.abs(value).mean()) * rng.standard_normal(value.shape)).astype(np.float32)
        for name, value in network.weights.items()
    }
    return replace(network, weights=moved)


def test_an_update_is_delivered_and_its_loss_is_told(network: SourceNetwork, folder: Path) -> None:
    base = search.calibrate(network, folder, base=None, progress=quiet).content
    new = retrained(network, 0.2)
    found = search.calibrate(new, folder, base=base, progress=quiet)
    recipe = found.content.manifest.lineage.recipe
    told = recipe["lost"]
    assert 0 <= told - recipe["noise"] <= LOST_LIMIT
    # Of the pictures that were not calibrated on.
    paths = sorted(folder.iterdir())[1::2]
    preprocessing = new.manifest.preprocessing
    assert preprocessing is not None
    wanted, shipped, before = (
        all_logits(content_engine(content), preprocessing, paths) for content in (new.exact(), found.content, base)
    )
    assert told == pytest.approx(mean_divergence(wanted, shipped) / mean_divergence(wanted, before), abs=1e-3)
    closer = search.calibrate(new, folder, base=base, progress=quiet, max_lost=0.005).content.manifest.lineage.recipe
    assert closer["lost"] - closer["noise"] <= 0.005
    exact = next(point for point in found.points if point.setting == "lossless")
    assert len(make_delta(base, found.content).data) < exact.bytes / 2


def test_more_is_kept_in_reserve_where_a_network_is_sure_of_its_pictures() -> None:
    undecided, sure = search.reserved(0.05, 1.0), search.reserved(0.05, 10.0)
    # Up to 2.8 times as much was lost of such networks on pictures that nobody saw.
    assert 2.8 * sure < 0.05
    assert sure < undecided < 0.05


def test_what_is_reserved_is_not_lost(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = read_network(foreign_onnx(tmp_path / "network.onnx", classes=40), SIXTEEN)
    base, new = pipeline.compress(network, Setting()), retrained(network, 0.2)

    def lost(share: float) -> tuple[float, int]:
        monkeypatch.setattr(search, "reserved", lambda max_lost, _: share * max_lost)
        found = search.calibrate(new, folder, base=base, progress=quiet, max_lost=0.01)
        return found.content.manifest.lineage.recipe["lost"], found.bytes

    (most, small), (least, large) = lost(1.0), lost(0.05)
    assert least < most
    assert large > small


def test_an_update_that_no_answer_shows_is_delivered_all_the_same(tmp_path: Path, folder: Path) -> None:
    """Where answers are certain before and after, only the telling temperature tells."""
    network = read_network(foreign_onnx(tmp_path / "network.onnx", classes=40), SIXTEEN)
    last = list(network.weights)[-2:]
    certain = replace(network, weights={n: v * np.float32(200 if n in last else 1) for n, v in network.weights.items()})
    base = pipeline.compress(certain, Setting())
    found = search.calibrate(retrained(certain, 0.1), folder, base=base, progress=quiet)
    assert found.content.manifest.lineage.recipe["lost"] <= LOST_LIMIT
    assert found.untempered == Untempered(0.0, 0.0)


def test_pictures_beyond_those_that_judge_tell_whether_the_update_arrives(
    network: SourceNetwork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MAX_PICTURES", 4)
    monkeypatch.setattr(pictures, "MAX_WITNESSES", 6)
    base = pipeline.compress(network, Setting())
    new, steps = retrained(network, 0.2), set[str]()
    found = search.calibrate(new, folder, base=base, progress=lambda _, step: steps.add(step))
    assert any(step.startswith("checking on more pictures") for step in steps)
    recipe = found.content.manifest.lineage.recipe
    assert recipe["lost"] - recipe["noise"] <= LOST_LIMIT
    assert new.manifest.preprocessing is not None
    paths = sorted(folder.iterdir())
    parts = Parted.of(paths)
    assert (len(parts.calibrate), len(parts.judge), len(parts.more)) == (2, 2, 6)
    assert len({*parts.calibrate, *parts.judge, *parts.more}) == 10
    answers = [
        all_logits(content_engine(content), new.manifest.preprocessing, [*parts.judge, *parts.more])
        for content in (new.exact(), found.content, base)
    ]
    telling = Judges(new.exact(), new.manifest.preprocessing, parts.judge).temperature

    def lost(temperature: float) -> float:
        missing, update = (mean_divergence(*pair, temperature=temperature) for pair in (answers[:2], answers[::2]))
        return missing / update

    assert recipe["lost"] == pytest.approx(lost(telling), abs=1e-3)
    assert found.untempered is not None
    assert found.untempered.lost == pytest.approx(lost(1.0), abs=1e-3)


def test_where_many_see_more_than_the_judges_a_finer_setting_is_taken(network: SourceNetwork, folder: Path) -> None:
    preprocessing = network.manifest.preprocessing
    assert preprocessing is not None
    parts = Parted.of(sorted(folder.iterdir()))
    judges = Judges(network.exact(), preprocessing, parts.judge)

    def found(times: float) -> tuple[float, int]:
        trials = Trials(network, None, settings_row(calibrated_on(network, parts.calibrate)), quiet)
        chosen = search._smallest(
            trials, judges.divergences, lambda content: times * judges.divergences(content), bound=0.005, limit=0.01
        )
        return float(judges.divergences(chosen.content).max()), chosen.bytes

    (alike, small), (more, large) = found(1), found(9)
    assert 0.01 / 9 < alike <= 0.01
    assert more <= 0.01 / 9
    assert large > small


COARSE = Setting(step=1.2, keep_codebooks=False)
LIKE_COARSE = {"step": 1.2, "codebooks": False}


def repair_whatever_it_costs(patch: pytest.MonkeyPatch) -> None:
    """So small a network is mostly head, and its delta never far below the full artifact."""
    patch.setattr(search, "REPAIRS", 100)


@pytest.fixture
def repairs(monkeypatch: pytest.MonkeyPatch) -> None:
    repair_whatever_it_costs(monkeypatch)


@pytest.fixture(scope="module")
def second_release(network: SourceNetwork, folder: Path) -> Content:
    """An update that is small beside what compression did to its base."""
    base = pipeline.compress(network, COARSE)
    with pytest.MonkeyPatch.context() as patch:
        repair_whatever_it_costs(patch)
        return search.calibrate(retrained(network, 0.02), folder, base=base, progress=quiet).content


@pytest.mark.usefixtures("repairs")
def test_a_coarse_base_is_not_mended_by_the_delta_and_the_next_release_knows_how_coarse_it_was(
    network: SourceNetwork, folder: Path, second_release: Content
) -> None:
    recipe = second_release.manifest.lineage.recipe
    assert 0 < recipe["noise"] <= recipe["lost"]
    assert recipe["lost"] - recipe["noise"] <= LOST_LIMIT
    # Errors do not build up: the second release after it is measured like the first.
    new = retrained(retrained(network, 0.02), 0.02)
    after = search.calibrate(new, folder, base=second_release, progress=quiet)
    told = after.content.manifest.lineage.recipe
    assert told["like"] == recipe["like"] == LIKE_COARSE
    assert after.noise >= told["noise"], "what the line errs is known, also where the delta happens to err less"


@pytest.mark.usefixtures("repairs")
def test_a_release_whose_grids_moved_like_codebooks_still_knows_how_coarse_its_line_is(
    network: SourceNetwork, folder: Path, second_release: Content
) -> None:
    moved = tuple(as_codebook(tensor) for tensor in second_release.tensors)
    assert any(tensor.encoding is Encoding.CODEBOOK for tensor in moved)
    base = Content(second_release.manifest, second_release.graph, moved)
    third = search.calibrate(retrained(network, 0.04), folder, base=base, progress=quiet)
    assert third.content.manifest.lineage.recipe["like"] == LIKE_COARSE


def as_codebook(tensor: EncodedTensor) -> EncodedTensor:
    """The same weights, told by an index."""
    entries = np.unique(tensor.dequantize())
    if len(tensor.shape) < 2 or entries.size > 256:
        return tensor
    indices = np.searchsorted(entries, tensor.dequantize()).astype(np.uint8)
    return EncodedTensor(tensor.name, Encoding.CODEBOOK, indices, entries)


def test_where_classes_are_added_the_update_is_delivered_and_its_loss_told_of_those_that_both_have(
    tmp_path: Path, network: SourceNetwork, folder: Path
) -> None:
    base = pipeline.compress(read_network(foreign_onnx(tmp_path / "fewer.onnx", classes=390), SIXTEEN), Setting())
    found = search.calibrate(network, folder, base=base, progress=quiet)
    delta = make_delta(base, found.content, Codec.MODEL)
    assert apply_delta(base, delta.data).sha256 == found.content.sha256
    preprocessing, paths = network.manifest.preprocessing, sorted(folder.iterdir())[1::2]
    assert preprocessing is not None
    wanted, shipped, before = (
        all_logits(content_engine(content), preprocessing, paths) for content in (network.exact(), found.content, base)
    )
    recipe = found.content.manifest.lineage.recipe
    assert recipe["lost"] <= LOST_LIMIT
    assert recipe["lost"] == pytest.approx(
        mean_divergence(wanted, shipped) / mean_divergence(wanted[:, :390], before), abs=1e-3
    )


def test_a_base_whose_classes_stand_in_another_order_is_no_measure_of_loss(
    tmp_path: Path, network: SourceNetwork, folder: Path
) -> None:
    def labelled(labels: tuple[str, ...]) -> SourceNetwork:
        fresh = read_network(foreign_onnx(tmp_path / "network.onnx", classes=len(labels)), SIXTEEN)
        return replace(fresh, manifest=replace(fresh.manifest, labels=labels))

    base = pipeline.compress(labelled(("stop", "yield", "bend")), Setting())
    found = search.calibrate(labelled(("bend", "stop", "yield", "tram")), folder, base=base, progress=quiet)
    price = found.content.manifest.lineage.recipe["price"]
    [taken] = [point for point in found.points if point.setting == f"price {price:g}"]
    assert taken.damage <= search.MAX_DIVERGENCE
    delta = make_delta(base, found.content, Codec.MODEL)
    assert apply_delta(base, delta.data).sha256 == found.content.sha256
    assert len(delta.data) == taken.bytes
    # What is told is of the weights then, and not of biases, which move to make up for them.
    assert 0 <= found.content.manifest.lineage.recipe["lost"] < 2
    assert "like" not in found.content.manifest.lineage.recipe
    more = search.calibrate(labelled(("stop", "yield", "bend", "tram")), folder, base=base, progress=quiet)
    assert "like" in more.content.manifest.lineage.recipe


@pytest.mark.parametrize(
    ("missing", "error"),
    [([0.1, 0.2, 0.3, 0.4], 0.0), ([0.0, 0.0, 0.0, 1.0], 0.071), ([1.0, 0.0, 0.0, 0.0], 0.105)],
    ids=["of all alike", "of the picture that moved most", "of the one that moved least"],
)
def test_what_hangs_on_one_picture_may_be_chance(missing: list[float], error: float) -> None:
    assert search.standard_error(np.array(missing), np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(error, abs=1e-3)
