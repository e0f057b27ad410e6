"""Committed artifacts decode to the committed contents, by the product and by the second decoder."""

from __future__ import annotations

import pytest

from model_registry.contract.content import Content
from model_registry.contract.delta import apply_delta
from model_registry.contract.full import decode_full
from tests.contract import second_decoder
from tests.contract.golden_files import CHANGES, DELTAS, FOLDER, FORMS


def golden(name: str) -> bytes:
    return (FOLDER / name).read_bytes()


def test_contents_read_and_write_the_same_bytes() -> None:
    for name in ("base.dfc", "new.dfc"):
        assert Content.from_data(golden(name)).data == golden(name)
        assert second_decoder.read_content(golden(name)).to_bytes() == golden(name)


@pytest.mark.parametrize("form", FORMS)
def test_the_full_artifact(form: str) -> None:
    full = golden(f"base{form}.dfm")
    assert decode_full(full).data == golden("base.dfc")
    assert second_decoder.decode_full(full) == golden("base.dfc")


@pytest.mark.parametrize("form", FORMS)
def test_offsets(form: str) -> None:
    base, new = golden("shifted-base.dfc"), golden("shifted-new.dfc")
    full, delta = golden(f"shifted{form}.dfm"), golden(f"shifted{form}.dfd")
    assert Content.from_data(base).data == base
    assert decode_full(full).data == new
    assert second_decoder.decode_full(full) == new
    assert apply_delta(Content.from_data(base), delta).data == new
    assert second_decoder.decode_delta(delta, base) == new


@pytest.mark.parametrize(("name", "form"), CHANGES)
def test_every_coder_of_some_changes(name: str, form: str) -> None:
    base, new, delta = (golden(file) for file in (f"{name}-base.dfc", f"{name}-new.dfc", f"every-{name}{form}.dfd"))
    assert apply_delta(Content.from_data(base), delta).data == new
    assert second_decoder.decode_delta(delta, base) == new


@pytest.mark.parametrize("name", DELTAS)
def test_the_deltas(name: str) -> None:
    base = Content.from_data(golden("base.dfc"))
    assert apply_delta(base, golden(name)).data == golden("new.dfc")
    assert second_decoder.decode_delta(golden(name), golden("base.dfc")) == golden("new.dfc")
