"""Answers from history as a whole, for the commands and the facade.

One code path a question: rows come from the coarsest tier of the rollup store that fits, and for
times that the store is known not to have all of, from whichever of store and day files has more
records.  An interval without records has no row.  Reading changes nothing; it needs neither the
service's settings nor, unless day files must be read, numpy.
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from aggregator.interval import DAY_S, HOUR_S, NS_PER_S
from aggregator.store import answer, fetch, gaps, source
from aggregator.store.answer import Merged
from aggregator.store.fetch import Lost, Row, Single, Wanted, down, up
from aggregator.store.schema import (
    DAILY,
    HOURLY,
    StoreError,
    StoreMissing,
    StoreNewer,
    open_readonly,
)
from aggregator.store.source import Source

if TYPE_CHECKING:
    from aggregator.store.dayrows import DayRows

__all__ = [
    "StoreError",
    "StoreMissing",
    "StoreNewer",
    "base_s",
    "metrics",
    "newest_s",
    "open_readonly",
    "parse_interval",
    "summary",
    "value",
]

_UNITS_S = {"s": 1, "m": 60, "h": HOUR_S, "d": DAY_S, "w": 7 * DAY_S}
_LONGEST_S = 400 * DAY_S
_ROWS_PER_WINDOW = 10_000
_UNNAMED = 100  # series that the store may not know, when a window is chosen


def parse_interval(text: str, base_s: int = 300) -> int:
    """Seconds of an interval such as 5m, 1h or 1d.

    Raises:
        ValueError: saying what is allowed.
    """
    found = re.fullmatch(r"([0-9]{1,9})([smhdw])", text.strip().lower())
    seconds = int(found[1]) * _UNITS_S[found[2]] if found else 0
    if not found or not seconds:
        raise ValueError(f"interval {text!r}: use a number and s, m, h, d or w, such as 5m or 1h")
    if seconds % base_s:
        raise ValueError(
            f"interval {text!r}: must be a multiple of the base interval of {_spoken(base_s)}"
        )
    if seconds > _LONGEST_S:
        raise ValueError(f"interval {text!r}: must be at most {_spoken(_LONGEST_S)}")
    return seconds


def value(db: sqlite3.Connection, key: str) -> bytes | None:
    """A checkpoint value, such as "health" (JSON, written each second while the service runs)."""
    found = fetch.fetch(db, "SELECT value FROM checkpoint WHERE key = ?", (key,))
    return found[0][0] if found else None


def base_s(db: sqlite3.Connection) -> int:
    """The base interval; every other is a multiple of it."""
    return fetch.settled(db).base_s


def newest_s(db: sqlite3.Connection, days: "DayRows | None" = None) -> int | None:
    """The whole second after the newest record, to end a range with; None without any record.

    Args:
        days: where to look for records that were not rolled up; None: only the store counts.
    """
    newest_s = None
    for table in ("base", "hourly", "daily"):  # coarser ones alone, when all else has expired
        (newest_ns,) = fetch.fetch(
            db,
            f"SELECT max(last_ns) FROM {table} WHERE start = (SELECT max(start) FROM {table})",
        )[0]
        if newest_ns is not None:
            newest_s = int(newest_ns) // NS_PER_S + 1
            break
    if days is not None and any(end_s > (newest_s or 0) for _, end_s in fetch.settled(db).gaps):
        return max(filter(None, (newest_s, days.newest_s())), default=None)
    return newest_s


def lacking(db: sqlite3.Connection, days: "DayRows", start_s: int, end_s: int) -> bool:
    """Whether day files may have records of [start_s, end_s) that the store hasn't."""
    return bool(source.ranges(fetch.settled(db), days, start_s, end_s))


def metrics(
    db: sqlite3.Connection,
    *,
    interval_s: int,
    start_s: int,
    end_s: int,
    metric: str = "*",
    match: Mapping[str, str] | None = None,
    watermark_s: float | None = None,
    days: "DayRows | None" = None,
) -> Iterator[dict[str, Any]]:
    """One row per series and interval that overlaps [start_s, end_s), by time, metric and labels.

    Rows are whole intervals, aligned to the epoch, read from the coarsest tier that divides
    *interval_s*.  A row is coarser, as its ``interval_seconds`` says, where finer rollups have
    expired or were made with a longer base interval.

    Args:
        interval_s: a multiple of the base interval; see parse_interval().
        metric: pattern of the metric's name, with * ? [].
        match: label -> pattern; a series without the label doesn't match.
        watermark_s: how far the records have been seen; an interval that ends later is partial.
            Default: the newest record.
        days: the day files; None: the answer is the store's alone.

    Raises:
        ValueError: the interval isn't a multiple of the base interval.
        StoreError: the store can't be read.
    """
    known = fetch.settled(db)
    if interval_s < 1 or interval_s % known.base_s:
        raise ValueError(
            f"interval of {interval_s} s: must be a multiple of the base interval of "
            f"{_spoken(known.base_s)}"
        )
    newest = newest_s(db, days) or 0
    low_s, high_s = down(start_s, interval_s), up(min(end_s, newest), interval_s)
    ranges = source.ranges(known, days, low_s, high_s)
    start_s, end_s = max(start_s, source.oldest_s(db, ranges, newest)), min(end_s, newest)
    wanted = Wanted(db, metric, match or {})
    if start_s >= end_s or not (wanted.series or ranges):
        return iter(())
    both = Source(db, known, wanted, days, ranges)
    watermark_s = newest if watermark_s is None else watermark_s
    return _walk(both, interval_s, start_s, end_s, watermark_s)


def _walk(
    both: Source, interval_s: int, start_s: int, end_s: int, watermark_s: float
) -> Iterator[dict[str, Any]]:
    db, known, wanted = both.db, both.known, both.wanted
    coarsest = next(t for t in (DAILY, HOURLY, known.base) if interval_s % t.interval_s == 0)
    start_s, end_s = down(start_s, interval_s), up(end_s, interval_s)
    with both.reader() as reader:
        for tier, step_s, low_s, high_s in fetch.segments(
            coarsest, interval_s, start_s, end_s, known
        ):
            for (from_s, last_s), is_lacking in gaps.split(low_s, high_s, step_s, both.ranges):
                series = max(len(wanted.series), _UNNAMED * is_lacking)
                rows_each = series * (1 if is_lacking else step_s // tier.interval_s)
                window_s = step_s * max(1, _ROWS_PER_WINDOW // rows_each)
                while from_s < last_s:
                    to_s = min(down(from_s + window_s, step_s), last_s)
                    if reader is not None and is_lacking:
                        fuller = reader.whole(db, known, from_s, to_s)
                        lost = Lost(db, from_s, to_s)
                        yield from answer.merged(fuller, wanted, step_s, lost, watermark_s)
                    else:
                        singles: list[Single] = []
                        until_s = from_s
                        with fetch.snapshot(db):
                            if step_s == tier.interval_s:
                                singles, until_s = fetch.singles(
                                    db, tier, wanted, known, from_s, to_s
                                )
                            rows = fetch.rows_between(db, tier, wanted, known, until_s, to_s)
                            lost = Lost(db, from_s, to_s)
                        yield from answer.answers(singles, wanted.series, step_s, lost, watermark_s)
                        yield from answer.merged(rows, wanted, step_s, lost, watermark_s)
                    from_s = to_s


def summary(
    db: sqlite3.Connection,
    *,
    start_s: int,
    end_s: int,
    metric: str = "*",
    match: Mapping[str, str] | None = None,
    watermark_s: float | None = None,
    days: "DayRows | None" = None,
) -> Iterator[dict[str, Any]]:
    """One row per series for the whole range, merged; like those of metrics().

    The range is grown to the next base interval (hour, day) that is still kept, as the row says.
    """
    known = fetch.settled(db)
    wanted = Wanted(db, metric, match or {})
    if watermark_s is None:
        watermark_s = newest_s(db, days) or 0
    low_s, high_s = fetch.outward(start_s, end_s, known)
    both = Source(db, known, wanted, days, source.ranges(known, days, low_s, high_s))
    pieces = gaps.split(low_s, high_s, known.base_s, both.ranges)
    merged: dict[int, Merged] = {}
    with fetch.snapshot(db):
        for ends, is_lacking in pieces:
            for tier, *part in fetch.pieces(*ends, (DAILY, HOURLY, known.base)):
                if not is_lacking:
                    rows = fetch.rows_between(db, tier, wanted, known, *part)
                    _add(merged, rows)
        lost = Lost(db, low_s, high_s)
    with both.reader() as reader:
        for ends, is_lacking in pieces:
            if reader is not None and is_lacking:
                _add(merged, reader.whole(db, known, *ends))
    for number in wanted.order:
        if number in merged:
            count, skipped, *numbers = merged[number].numbers()
            row = (low_s, number, count, *numbers)
            yield from answer.answers(
                (row,), wanted.series, high_s - low_s, lost, watermark_s, skipped=skipped
            )


def _add(merged: dict[int, Merged], rows: Iterable[Row]) -> None:
    for row in rows:
        known = merged.get(row[2])
        if known is None:
            merged[row[2]] = Merged(row)
        else:
            known.add(row)


def _spoken(seconds: int) -> str:
    unit = next(u for u in ("d", "h", "m", "s") if seconds % _UNITS_S[u] == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"
