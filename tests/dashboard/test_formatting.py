"""Numbers and times as people read them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from server.dashboard import formatting

START = datetime(2026, 11, 21, 12, 4, 31, tzinfo=UTC)


def plain(text: str) -> str:
    return text.replace(formatting.NO_BREAK, " ")


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1, "1 B"),
        (999, "999 B"),
        (1_000, "1.00 kB"),
        (9_994, "9.99 kB"),
        (9_996, "10.0 kB"),
        (31_842, "31.8 kB"),
        (99_949, "99.9 kB"),
        (99_960, "100 kB"),
        (999_400, "999 kB"),
        (999_600, "1.00 MB"),
        (240_000_000, "240 MB"),
        (1_234_567_890_123, "1.23 TB"),
        (5 * 10**18, "5000 PB"),
    ],
)
def test_sizes_have_three_digits_and_a_decimal_unit(size_bytes: int, text: str) -> None:
    assert plain(formatting.size(size_bytes)) == text


def test_exact_sizes_keep_every_byte() -> None:
    assert plain(formatting.exact_size(412_384)) == "412,384 bytes"
    assert plain(formatting.exact_size(1)) == "1 byte"


@pytest.mark.parametrize(
    ("part", "whole", "text"),
    [(0, 0, "–"), (0, 5, "0 %"), (5, 5, "100 %"), (1, 3, "33.3 %"), (1, 4_000, "<0.1 %"), (3_999, 4_000, ">99.9 %")],  # noqa: RUF001
)
def test_a_share_is_all_or_nothing_only_when_it_is(part: int, whole: int, text: str) -> None:
    assert plain(formatting.percent(part, whole)) == text


@pytest.mark.parametrize(
    ("alternative", "sent", "text"),
    [(760, 10, "76x"), (97, 10, "9.7x"), (5, 10, "0.50x"), (12_345_600, 10, "1,234,560x"), (0, 10, None), (10, 0, None)],
)
def test_a_factor_needs_both_sides(alternative: int, sent: int, text: str | None) -> None:
    factor = formatting.times(alternative, sent)
    assert factor == (text.replace("x", formatting.TIMES) if text else None)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-4, "0 s"), (0, "0 s"), (59, "59 s"), (60, "1 min"), (131, "2 min 11 s"), (11_100, "3 h 5 min"), (353_000, "4 d 2 h")],
)
def test_durations_have_two_units_at_most(seconds: int, text: str) -> None:
    assert plain(formatting.duration(START, START + timedelta(seconds=seconds))) == text


def test_times_say_that_they_are_utc() -> None:
    assert formatting.moment(START) == "21 Nov 2026, 12:04:31 UTC"
    assert formatting.short_moment(START) == "21 Nov, 12:04"
    assert formatting.machine_time(START) == "2026-11-21T12:04:31Z"


def test_words_for_numbers() -> None:
    assert plain(formatting.plural(1, "vehicle")) == "1 vehicle"
    assert plain(formatting.plural(1_200, "vehicle")) == "1,200 vehicles"
    assert [formatting.number(25.0), formatting.number(12.5)] == ["25", "12.5"]
    assert [plain(formatting.span(m)) for m in (5, 60, 360, 2880)] == ["5 minutes", "1 hour", "6 hours", "2 days"]
