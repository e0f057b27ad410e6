"""Geometry of the charts: figures in, positions out; the templates write the SVG.

Horizontal positions are percentages of the drawing's width and vertical ones are pixels, so that a chart fits a telephone
and a wide screen while its text keeps its size. Everything is drawn on the server: a page works without scripts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from model_registry.contract.messages import BytesReceived, DeploymentState
from server.dashboard.figures import Alternatives, FamilyLine, Minute, Progress
from server.dashboard.formatting import count, exact_size, plural, short_moment, size
from server.tables import VersionState

PLOT_TOP_PX, PLOT_HEIGHT_PX = 10, 176
MIN_COLUMNS, MAX_COLUMNS = 12, 90
BIN_MINUTES = (1, 2, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440)
TICK_MINUTES = (*BIN_MINUTES, 2880, 10_080, 43_200)
LAST_TICK_PERCENT = 90
COLUMN_SHARE = 0.84
MIN_WIDTH_PERCENT, MIN_HEIGHT_PX = 0.5, 1.0
# From done to not begun, so that a progress bar fills from the left; failures stand out at the right end.
STATES = (
    (DeploymentState.SUCCEEDED, "Succeeded"),
    (DeploymentState.PROBATION, "On probation"),
    (DeploymentState.TESTING, "Testing"),
    (DeploymentState.REBUILDING, "Rebuilding"),
    (DeploymentState.DOWNLOADING, "Downloading"),
    (DeploymentState.PENDING, "Pending"),
    (DeploymentState.ABORTED, "Aborted"),
    (DeploymentState.FAILED, "Failed"),
)
STATE_NAMES: Mapping[DeploymentState, str] = dict(STATES)
VERSION_SHADES = 5
"""The newest versions have a shade each; older ones share the last."""


@dataclass(frozen=True, slots=True)
class Segment:
    """A piece of a horizontal bar; ``style`` is a CSS class, ``text`` what it says when pointed at."""

    style: str
    name: str
    value: int
    text: str
    x_percent: float
    width_percent: float


@dataclass(frozen=True, slots=True)
class Piece:
    """A coloured piece of a column."""

    style: str
    x_percent: float
    width_percent: float
    y_px: float
    height_px: float


@dataclass(frozen=True, slots=True)
class Column:
    """The bytes of one span of time, stacked by kind."""

    start: datetime
    received: BytesReceived
    x_percent: float
    width_percent: float
    pieces: tuple[Piece, ...]
    text: str


@dataclass(frozen=True, slots=True)
class Line:
    """A labelled horizontal line of the scale."""

    y_px: float
    label: str


@dataclass(frozen=True, slots=True)
class Tick:
    """A time below the plot, where its column begins."""

    x_percent: float
    label: str


@dataclass(frozen=True, slots=True)
class BandwidthChart:
    """Bytes over time. ``bin_minutes`` is the width of a column; ``busy`` are the columns that hold bytes."""

    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    ticks: tuple[Tick, ...]
    bin_minutes: int
    summary: str

    @property
    def busy(self) -> tuple[Column, ...]:
        return tuple(column for column in self.columns if column.received.total)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A way to ship the same update, drawn against the dearest one."""

    style: str
    name: str
    size_bytes: int
    segments: tuple[Segment, ...]


def stack(parts: Sequence[tuple[str, str, int, str]], whole: int) -> tuple[Segment, ...]:
    """Lay (style, name, value, text) side by side; ``whole`` is the value that fills the width."""
    segments, x = [], 0.0
    for style, name, value, text in parts:
        if value > 0 and whole > 0:
            # Thin, but there: a share that is not nothing can be seen.
            width = max(100 * value / whole, MIN_WIDTH_PERCENT)
            segments.append(Segment(style, name, value, text, round(x, 3), round(width, 3)))
            x += width
    return tuple(segments)


def progress_bar(progress: Progress) -> tuple[Segment, ...]:
    """Deployments by state, in the order of ``STATES``."""
    parts = [(f"s-{state}", name, progress.get(state, 0)) for state, name in STATES]
    texts = [(style, name, value, f"{name}: {plural(value, 'vehicle')}") for style, name, value in parts]
    return stack(texts, sum(progress.values()))


def by_kind(received: BytesReceived) -> tuple[tuple[str, str, int], ...]:
    """(kind, name, bytes) in the order of a legend."""
    return (
        ("full", "Full models", received.full),
        ("delta", "Deltas", received.delta),
        ("metadata", "Signed metadata", received.metadata),
    )


def kinds_bar(received: BytesReceived, whole: int | None = None) -> tuple[Segment, ...]:
    """Received bytes by kind."""
    parts = [(f"k-{kind}", name, value, f"{name}: {exact_size(value)}") for kind, name, value in reversed(by_kind(received))]
    return stack(parts, received.total if whole is None else whole)


def versions_bar(family: FamilyLine) -> tuple[Segment, ...]:
    """Vehicles of a family by the version that they run, newest first."""
    shades = version_shades(family)
    parts = [(shades[line.version], line.version, line.vehicles) for line in family.versions if line.version in shades]
    parts += [("v-none", "No model yet", family.without_model), ("v-other", "Another model", family.unknown)]
    texts = [(style, name, value, f"{name}: {plural(value, 'vehicle')}") for style, name, value in parts]
    return stack(texts, family.vehicles)


def version_shades(family: FamilyLine) -> Mapping[str, str]:
    """A CSS class for each published version; the newest have one of their own."""
    published = [line.version for line in family.versions if line.state == VersionState.PUBLISHED]
    return {version: f"v-{min(index, VERSION_SHADES - 1)}" for index, version in enumerate(published)}


def comparisons(sent: BytesReceived, alternatives: Alternatives) -> tuple[Comparison, ...]:
    """What was sent against the three other ways, cheapest first; all on one linear scale."""
    others = (
        ("Compressed full models", alternatives.compressed_full),
        ("bsdiff4 on float16 weights", alternatives.bsdiff4_float16),
        ("Float32 full models", alternatives.float32_full),
    )
    whole = max(sent.total, *(value for _, value in others))
    rows = [Comparison("sent", "Sent by Deltafleet", sent.total, kinds_bar(sent, whole))]
    for name, value in others:
        rows.append(Comparison("other", name, value, stack([("k-other", name, value, f"{name}: {exact_size(value)}")], whole)))
    return tuple(rows)


def bandwidth(minutes: Sequence[Minute], *, until: datetime | None = None) -> BandwidthChart | None:
    """Columns over time from the first minute to the last (or ``until``); None while nothing was sent."""
    if not minutes:
        return None
    first, last = minutes[0].start, max(minutes[-1].start, until or minutes[-1].start)
    width = bin_width(first, last)
    bins = _bins(minutes, _floor(first, width), _floor(last, width), width)
    top = nice_ceiling(max(received.total for _, received in bins))
    columns = tuple(_column(index, bins, width, top) for index in range(len(bins)))
    return BandwidthChart(columns, _scale(top), _ticks(columns), width, _summary(columns, width))


def bin_width(first: datetime, last: datetime) -> int:
    """Minutes per column so that there are at most ``MAX_COLUMNS``; whole days beyond the longest of ``BIN_MINUTES``."""
    span = (last - first) / timedelta(minutes=1) + 1
    for minutes in BIN_MINUTES:
        if span <= minutes * (MAX_COLUMNS - 1):
            return minutes
    days = -(-span // (1440 * (MAX_COLUMNS - 1)))
    return 1440 * int(days)


def nice_ceiling(value: int) -> int:
    """The next number from above that reads well, and whose half does."""
    power = int(10 ** (len(str(max(value, 1))) - 1))
    return next(top for top in (step * power // 10 for step in (10, 12, 16, 20, 30, 40, 50, 60, 80, 100)) if value <= top)


def _floor(moment: datetime, minutes: int) -> datetime:
    midnight = moment.replace(hour=0, minute=0, second=0, microsecond=0)
    within = (moment - midnight) // timedelta(minutes=1)
    return midnight + timedelta(minutes=within - within % min(minutes, 1440))


def _bins(minutes: Sequence[Minute], start: datetime, last: datetime, width: int) -> list[tuple[datetime, BytesReceived]]:
    step = timedelta(minutes=width)
    sums = [BytesReceived()] * max(MIN_COLUMNS, (last - start) // step + 1)
    for minute in minutes:
        index = (minute.start - start) // step
        sums[index] = add(sums[index], minute.received)
    return [(start + index * step, received) for index, received in enumerate(sums)]


def add(one: BytesReceived, other: BytesReceived) -> BytesReceived:
    """The sum, kind by kind."""
    return BytesReceived(one.metadata + other.metadata, one.delta + other.delta, one.full + other.full)


def _column(index: int, bins: Sequence[tuple[datetime, BytesReceived]], width: int, top: int) -> Column:
    begins, received = bins[index]
    slot = 100 / len(bins)
    pieces, y = [], float(PLOT_HEIGHT_PX)
    for kind, _, value in reversed(by_kind(received)):
        if value:
            height = max(PLOT_HEIGHT_PX * value / top, MIN_HEIGHT_PX)
            y -= height
            x = slot * (index + (1 - COLUMN_SHARE) / 2)
            pieces.append(Piece(f"k-{kind}", round(x, 3), round(slot * COLUMN_SHARE, 3), round(y, 2), round(height, 2)))
    names = "\n".join(f"{name}: {exact_size(value)}" for _, name, value in by_kind(received) if value)
    text = f"{span_label(begins, width)}\n{names or 'nothing sent'}"
    return Column(begins, received, round(index * slot, 3), round(slot, 3), tuple(pieces), text)


def span_label(begins: datetime, minutes: int) -> str:
    """The span of time that a column stands for."""
    if minutes == 1:
        return f"{short_moment(begins)} UTC"
    ends = begins + timedelta(minutes=minutes)
    return (
        f"{short_moment(begins)} to {ends:%H:%M} UTC"
        if minutes < 1440
        else f"{short_moment(begins)} to {short_moment(ends)} UTC"
    )


def _scale(top: int) -> tuple[Line, ...]:
    return tuple(Line(PLOT_HEIGHT_PX * (1 - share), size(round(top * share)).replace(".0", "")) for share in (1, 0.5, 0))


def _ticks(columns: Sequence[Column]) -> tuple[Tick, ...]:
    span = (columns[-1].start - columns[0].start) / timedelta(minutes=1)
    most = 5 if span < 1440 else 4
    step = next((step for step in TICK_MINUTES if span <= step * most), TICK_MINUTES[-1])
    return tuple(
        Tick(column.x_percent, f"{column.start:%H:%M}" if step < 1440 else f"{column.start.day} {column.start:%b}")
        for column in columns
        # A label needs room to its right.
        if int(column.start.timestamp()) // 60 % step == 0 and column.x_percent <= LAST_TICK_PERCENT
    )


def _summary(columns: Sequence[Column], width: int) -> str:
    total = sum(column.received.total for column in columns)
    busiest = max(columns, key=lambda column: column.received.total)
    unit = "minute" if width == 1 else f"{count(width)} minutes"
    return (
        f"{exact_size(total)} in all. The busiest {unit} began {short_moment(busiest.start)} UTC "
        f"with {exact_size(busiest.received.total)}."
    )
