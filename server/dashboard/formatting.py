"""Numbers and times as people read them. Decimal units: a kB is 1,000 bytes, as networks are billed."""

from __future__ import annotations

from datetime import UTC, datetime

UNITS = ("B", "kB", "MB", "GB", "TB", "PB")
NO_BREAK, TIMES, NOTHING = "\N{NO-BREAK SPACE}", "\N{MULTIPLICATION SIGN}", "\N{EN DASH}"


def size(size_bytes: int) -> str:
    """Three significant digits and a unit: 946 B, 31.2 kB, 1.24 MB."""
    value, unit = float(size_bytes), 0
    # 999.5 would round to "1000": the next unit starts there.
    while value >= 999.5 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    digits = 0 if unit == 0 or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{digits}f}{NO_BREAK}{UNITS[unit]}"


def exact_size(size_bytes: int) -> str:
    """Every byte: "412,345 bytes"."""
    return f"{size_bytes:,}{NO_BREAK}{'byte' if size_bytes == 1 else 'bytes'}"


def count(number: int) -> str:
    """A number with thousands separated."""
    return f"{number:,}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """ "1 vehicle", "1,200 vehicles"."""
    return f"{number:,}{NO_BREAK}{one if number == 1 else many or one + 's'}"


def percent(part: int, whole: int) -> str:
    """A share that is never rounded up to "100 %" nor down to "0 %" when it is not."""
    if not whole:
        return NOTHING
    share = 100 * part / whole
    if 0 < share < 0.1:
        text = "<0.1"
    elif 99.9 < share < 100:
        text = ">99.9"
    else:
        text = f"{share:.1f}".removesuffix(".0")
    return f"{text}{NO_BREAK}%"


def share(value: float) -> str:
    """A measured share in two digits: "3.1 %"."""
    return f"{100 * value:.2g}{NO_BREAK}%"


def times(alternative: int, sent: int) -> str | None:
    """How many times more the alternative costs: "76×"; None while there is nothing to compare."""
    if not sent or not alternative:
        return None
    ratio = alternative / sent
    digits = 0 if ratio >= 10 else 1 if ratio >= 1 else 2
    return f"{ratio:,.{digits}f}{TIMES}"


def moment(value: datetime) -> str:
    """A time of day in UTC, with its date: "21 Nov 2026, 12:04:31 UTC"."""
    return f"{value.day} {value:%b %Y, %H:%M:%S} UTC"


def short_moment(value: datetime) -> str:
    """ "21 Nov, 12:04"."""
    return f"{value.day} {value:%b, %H:%M}"


def duration(start: datetime, end: datetime) -> str:
    """ "2 min 11 s", "3 h 5 min", "4 d 2 h"."""
    seconds = max(0, round((end - start).total_seconds()))
    for size_s, unit, smaller_s, smaller in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if seconds >= size_s:
            whole, rest = divmod(seconds, size_s)
            return (
                f"{whole}{NO_BREAK}{unit} {rest // smaller_s}{NO_BREAK}{smaller}"
                if rest // smaller_s
                else f"{whole}{NO_BREAK}{unit}"
            )
    return f"{seconds}{NO_BREAK}s"


def machine_time(value: datetime) -> str:
    """The ``datetime`` attribute of a ``time`` element."""
    return value.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def number(value: float) -> str:
    """A setting as it was typed: 25, 12.5."""
    return f"{value:g}"


def span(minutes: int) -> str:
    """ "15 minutes", "6 hours", "2 days"."""
    for size_minutes, unit in ((1440, "day"), (60, "hour")):
        if minutes % size_minutes == 0:
            return plural(minutes // size_minutes, unit)
    return plural(minutes, "minute")
