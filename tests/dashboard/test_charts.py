"""Where charts put things: nothing lost, nothing outside, small shares still visible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_registry.contract.messages import BytesReceived, DeploymentState
from server.dashboard import charts
from server.dashboard.figures import Alternatives, FamilyLine, Minute, VersionLine

START = datetime(2026, 11, 21, 12, 2, tzinfo=UTC)


def minute(after_minutes: int, metadata: int = 0, delta: int = 0, full: int = 0) -> Minute:
    return Minute(START + timedelta(minutes=after_minutes), BytesReceived(metadata, delta, full))


def version(number: str, vehicles: int, state: str = "published") -> VersionLine:
    return VersionLine("signs", number, state, None, 0.0, "", vehicles, 1, 1, None, None)


def test_nothing_sent_is_no_chart() -> None:
    assert charts.bandwidth([]) is None


def test_one_minute_still_has_a_time_axis() -> None:
    chart = charts.bandwidth([minute(0, 9, 100, 0)])
    assert chart is not None
    assert len(chart.columns) == charts.MIN_COLUMNS
    assert [column.start for column in chart.busy] == [START]
    assert chart.bin_minutes == 1
    assert "109" in chart.summary


def test_columns_are_stacked_from_the_base_line_without_gaps() -> None:
    chart = charts.bandwidth([minute(0, 100, 300, 600)])
    assert chart is not None
    pieces = chart.busy[0].pieces
    assert [piece.style for piece in pieces] == ["k-metadata", "k-delta", "k-full"]
    assert pieces[0].y_px + pieces[0].height_px == charts.PLOT_HEIGHT_PX
    for lower, upper in pairwise(pieces):
        assert upper.y_px + upper.height_px == pytest.approx(lower.y_px, abs=0.02)
    assert pieces[-1].y_px == pytest.approx(0)


@given(
    st.lists(
        st.tuples(st.integers(0, 60_000), st.integers(0, 10**12), st.integers(0, 10**12)),
        min_size=1,
        max_size=30,
        unique_by=lambda t: t[0],
    )
)
def test_no_byte_is_lost_and_nothing_is_drawn_outside(points: list[tuple[int, int, int]]) -> None:
    minutes = [minute(after, metadata, delta, 1) for after, metadata, delta in sorted(points)]
    chart = charts.bandwidth(minutes)
    assert chart is not None
    assert charts.MIN_COLUMNS <= len(chart.columns) <= charts.MAX_COLUMNS + 1
    assert sum(column.received.total for column in chart.columns) == sum(m.received.total for m in minutes)
    for column in chart.columns:
        assert 0 <= column.x_percent <= column.x_percent + column.width_percent <= 100.1
        # Pieces that would be thinner than a pixel get one.
        assert all(piece.y_px >= -3 * charts.MIN_HEIGHT_PX for piece in column.pieces)
    assert len(chart.ticks) <= 6


def test_long_rollouts_get_wider_columns() -> None:
    chart = charts.bandwidth([minute(0, delta=1), minute(3 * 1440, delta=1)])
    assert chart is not None
    assert chart.bin_minutes == 60
    assert chart.columns[0].start.minute == 0
    assert charts.bin_width(START, START + timedelta(days=400)) == 5 * 1440


@pytest.mark.parametrize(
    ("value", "top"), [(0, 1), (1, 1), (11, 12), (119_000, 120_000), (120_001, 160_000), (81, 100), (100, 100)]
)
def test_scales_end_on_numbers_that_read_well(value: int, top: int) -> None:
    assert charts.nice_ceiling(value) == top


@given(st.integers(1, 10**15))
def test_scales_never_cut_and_never_waste_half(value: int) -> None:
    assert value <= charts.nice_ceiling(value) <= 2 * value


def test_bars_fill_their_width_in_order() -> None:
    progress = {DeploymentState.SUCCEEDED: 3, DeploymentState.FAILED: 1, DeploymentState.PENDING: 4}
    segments = charts.progress_bar(progress)
    assert [s.style for s in segments] == ["s-succeeded", "s-pending", "s-failed"]
    assert [s.x_percent for s in segments] == [0, 37.5, 87.5]
    assert sum(s.width_percent for s in segments) == 100


def test_every_state_has_a_name_and_a_place() -> None:
    assert {state for state, _ in charts.STATES} == set(DeploymentState)


def test_a_small_share_can_still_be_seen() -> None:
    sent = charts.comparisons(BytesReceived(1, 1, 0), Alternatives(10**9, 10**8, 10**7))[0]
    assert all(segment.width_percent >= charts.MIN_WIDTH_PERCENT for segment in sent.segments)


def test_comparisons_share_one_scale() -> None:
    rows = charts.comparisons(BytesReceived(10, 40, 0), Alternatives(1000, 100, 500))
    assert [row.size_bytes for row in rows] == [50, 100, 500, 1000]
    assert [sum(s.width_percent for s in row.segments) for row in rows] == [5, 10, 50, 100]


def test_nothing_delivered_draws_only_what_was_sent() -> None:
    rows = charts.comparisons(BytesReceived(10, 0, 0), Alternatives())
    assert [len(row.segments) for row in rows] == [1, 0, 0, 0]


def test_versions_are_shaded_from_the_newest_published_one() -> None:
    lines = (version("1.9.0", 0, "processing"), *(version(f"1.{n}.0", 1) for n in range(8, 0, -1)))
    family = FamilyLine("signs", "camera-v2", lines, without_model=2, unknown=1)
    shades = charts.version_shades(family)
    assert "1.9.0" not in shades
    assert (shades["1.8.0"], shades["1.1.0"]) == ("v-0", "v-4")
    assert family.vehicles == 11
    assert [s.name for s in charts.versions_bar(family)][-2:] == ["No model yet", "Another model"]
