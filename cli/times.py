"""Durations, points in time and ranges as operators write and read them.

Everything inside is nanoseconds or seconds since the epoch in UTC; the local zone appears only
here, on the way in (a time without an offset) and on the way out (shown with its offset).
"""

import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from cli.problems import UsageError

NS = 1_000_000_000
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?[smhd])+")
_PART = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
_MAX_HOURS = 100 * 365 * 24  # a century: anything longer is a slip of the keyboard
DEFAULT_RANGE_S = 24 * 3600


def duration_s(text: str, option: str) -> float:
    """Seconds of *text*, such as 90s, 5m, 1h30m or 2d.

    Raises:
        UsageError: naming *option* and what is allowed.
    """
    if not _DURATION.fullmatch(text):
        raise UsageError(f"{option}={text}: use a number and s, m, h or d, such as 5m or 1h")
    return sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(text))


def hours_s(text: str, option: str = "--hours") -> float:
    """Seconds of a number of hours.

    Raises:
        UsageError: not a positive number.
    """
    try:
        hours = float(text)
    except ValueError:
        hours = math.nan
    if not 0 < hours <= _MAX_HOURS:
        raise UsageError(f"{option}={text}: use a positive number of hours, such as 8 or 0.5")
    return hours * 3600


def time_ns(text: str, option: str, *, utc: bool = False) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time or date.

    Without an offset it is local time, or UTC when *utc*.

    Raises:
        UsageError: not such a time.
    """
    try:
        stamp = datetime.fromisoformat(text)
        if stamp.tzinfo is None:
            stamp = stamp.replace(tzinfo=UTC) if utc else stamp.astimezone()
        seconds = int(stamp.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError, OSError):
        raise UsageError(
            f"{option}={text}: use a time such as 2026-01-31T09:15:00+05:30 or 2026-01-31"
        ) from None
    return seconds * NS + stamp.microsecond * 1000


def span_s(args: Mapping[str, Any], newest_s: int) -> tuple[int, int]:
    """The half-open range [start, end) in epoch seconds that --hours, --from and --to ask for.

    Without any of them: the 24 hours that end at *newest_s*, the second after the newest record.

    Raises:
        UsageError: a bad value, or options that contradict each other.
    """
    since, until, hours = args.get("--from"), args.get("--to"), args.get("--hours")
    if hours is not None and (since is not None or until is not None):
        raise UsageError("--hours can't be combined with --from and --to: use one or the other")
    utc = bool(args.get("--utc"))
    end = newest_s if until is None else -(-time_ns(until, "--to", utc=utc) // NS)
    if since is not None:
        start = time_ns(since, "--from", utc=utc) // NS
    else:
        start = end - math.ceil(DEFAULT_RANGE_S if hours is None else hours_s(hours))
    if start >= end:
        seen = "the newest record" if until is None else f"--to={until}"
        raise UsageError(f"--from={since}: must be before {seen}")
    return start, end


def show_ns(at_ns: int | None, *, utc: bool = False, precision: str = "seconds") -> str:
    """*at_ns* in local time with its offset, such as ``2026-01-31 14:45:03+05:30``, or in UTC.

    Args:
        at_ns: None shows as "-".
        precision: "minutes", "seconds" or "milliseconds".
    """
    if at_ns is None:
        return "-"
    seconds, rest_ns = divmod(at_ns, NS)
    stamp = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=rest_ns // 1000)
    text = (stamp if utc else stamp.astimezone()).isoformat(" ", timespec=precision)
    return text.removesuffix("+00:00") + "Z" if utc else text


def show_s(at_s: float, *, utc: bool = False, precision: str = "seconds") -> str:
    """Like :func:`show_ns` for seconds since the epoch."""
    return show_ns(int(at_s * NS), utc=utc, precision=precision)


def spoken(seconds: float) -> str:
    """A duration in at most two units, such as ``4 h 12 min``, ``3 s`` or ``12 ms``."""
    if seconds < 0:
        return "-" + spoken(-seconds)
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{int(seconds)} s"
    whole = round(seconds)
    for size, unit, smaller, name in (
        (86_400, "d", 3600, "h"),
        (3600, "h", 60, "min"),
        (60, "min", 1, "s"),
    ):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


def now_ns() -> int:
    """The wall clock, in one place so that tests can stop it."""
    return time.time_ns()
