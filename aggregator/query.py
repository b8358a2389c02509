"""Answers from the rollup store, for the commands and the facade.

Averages and quantiles always come from merged counts, sums and buckets, never from other averages
or quantiles; an interval without records has no row.  Reading changes nothing, and needs neither
numpy nor the service's settings.
"""

import re
import sqlite3
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aggregator import fetch, histogram, interval
from aggregator.fetch import Lost, Named, Row, Settled, Wanted, down, up
from aggregator.interval import DAY_S, HOUR_S, NS_PER_S
from aggregator.schema import (
    DAILY,
    HOURLY,
    QUANTILES,
    StoreError,
    StoreMissing,
    StoreNewer,
    open_readonly,
)

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
_BUCKETS = 11  # of a row's columns


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


def newest_s(db: sqlite3.Connection) -> int | None:
    """The whole second after the newest record, to end a range with; None without any record."""
    for table in ("base", "hourly", "daily"):  # coarser ones alone, when all else has expired
        (newest_ns,) = fetch.fetch(
            db,
            f"SELECT max(last_ns) FROM {table} WHERE start = (SELECT max(start) FROM {table})",
        )[0]
        if newest_ns is not None:
            return int(newest_ns) // NS_PER_S + 1
    return None


def metrics(
    db: sqlite3.Connection,
    *,
    interval_s: int,
    start_s: int,
    end_s: int,
    metric: str = "*",
    match: Mapping[str, str] | None = None,
    watermark_s: float | None = None,
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
    wanted = Wanted(db, metric, match or {})
    watermark_s = _watermark(db, watermark_s)
    start_s, end_s = _clipped(db, start_s, end_s)
    if not wanted.series or start_s >= end_s:
        return iter(())
    return _walk(db, known, wanted, interval_s, start_s, end_s, watermark_s)


def _walk(
    db: sqlite3.Connection,
    known: Settled,
    wanted: Wanted,
    interval_s: int,
    start_s: int,
    end_s: int,
    watermark_s: float,
) -> Iterator[dict[str, Any]]:
    coarsest = next(t for t in (DAILY, HOURLY, known.base) if interval_s % t.interval_s == 0)
    start_s, end_s = down(start_s, interval_s), up(end_s, interval_s)
    for tier, step_s, from_s, last_s in fetch.segments(coarsest, interval_s, start_s, end_s, known):
        per_interval = len(wanted.series) * (step_s // tier.interval_s)
        window_s = step_s * max(1, _ROWS_PER_WINDOW // per_interval)
        while from_s < last_s:
            to_s = min(down(from_s + window_s, step_s), last_s)
            with fetch.snapshot(db):
                rows = fetch.rows_between(
                    db, tier, wanted, known, from_s, to_s, merging=step_s != tier.interval_s
                )
                lost = Lost(db, from_s, to_s)
            yield from _by_interval(rows, wanted, step_s, lost, watermark_s)
            from_s = to_s


def summary(
    db: sqlite3.Connection,
    *,
    start_s: int,
    end_s: int,
    metric: str = "*",
    match: Mapping[str, str] | None = None,
    watermark_s: float | None = None,
) -> Iterator[dict[str, Any]]:
    """One row per series for the whole range, merged; like those of metrics().

    The range is grown to the next base interval (hour, day) that is still kept, as the row says.
    """
    known = fetch.settled(db)
    wanted = Wanted(db, metric, match or {})
    watermark_s = _watermark(db, watermark_s)
    low_s, high_s = fetch.outward(start_s, end_s, known)
    merged: dict[int, _Merged] = {}
    with fetch.snapshot(db):
        for tier, from_s, to_s in fetch.pieces(low_s, high_s, (DAILY, HOURLY, known.base)):
            for row in fetch.rows_between(db, tier, wanted, known, from_s, to_s, merging=True):
                known_row = merged.get(row[2])
                if known_row is None:
                    merged[row[2]] = _Merged(row)
                else:
                    known_row.add(row)
        lost = Lost(db, low_s, high_s)
    for number in wanted.series:
        if number in merged:
            numbers = merged[number].numbers()
            yield _answer(wanted.series[number], low_s, high_s - low_s, numbers, lost, watermark_s)


def _watermark(db: sqlite3.Connection, watermark_s: float | None) -> float:
    return (newest_s(db) or 0) if watermark_s is None else watermark_s


def _clipped(db: sqlite3.Connection, start_s: int, end_s: int) -> tuple[int, int]:
    """The part of a range in which there can be rows, so that nobody walks through empty years."""
    oldest, newest = fetch.oldest_s(db), newest_s(db)
    if oldest is None or newest is None:
        return 0, 0
    return max(start_s, oldest), min(end_s, newest)


class _Merged:
    """Rows of one series added up."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "total")

    def __init__(self, row: Row) -> None:
        _, _, _, self.count, self.total, self.minimum, self.maximum, *_, blob = row
        self.buckets = histogram.decode(blob)

    def add(self, row: Row) -> None:
        _, _, _, count, total, minimum, maximum, *_, blob = row
        self.count += count
        self.total = interval.add_totals(self.total, total)
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        histogram.add_into(self.buckets, histogram.decode(blob))

    def numbers(self) -> tuple[Any, ...]:
        """The columns of a row from the count on, without buckets."""
        quantiles = histogram.quantiles(self.buckets, QUANTILES, self.minimum, self.maximum)
        return (self.count, self.total, self.minimum, self.maximum, *quantiles)


def _by_interval(
    rows: list[Row], wanted: Wanted, interval_s: int, lost: Lost, watermark_s: float
) -> Iterator[dict[str, Any]]:
    """Merge rows into intervals; a row whose own interval doesn't divide that stays by itself."""
    order, named = wanted.order, wanted.series
    if all(row[_BUCKETS] is None for row in rows):  # rows that have their interval to themselves
        if len(named) > 1:
            rows.sort(key=lambda row: (row[0], order[row[2]]))
        for row in rows:
            yield _answer(named[row[2]], row[0], row[1], row[3:_BUCKETS], lost, watermark_s)
        return
    single: dict[tuple[int, int, int], Row] = {}
    merged: dict[tuple[int, int, int], _Merged] = {}
    for row in rows:
        step_s = row[1] if interval_s % row[1] else interval_s
        cell = (row[0] - row[0] % step_s, order[row[2]], step_s)
        if cell not in single:
            single[cell] = row
        elif cell in merged:
            merged[cell].add(row)
        else:
            merged[cell] = _Merged(single[cell])
            merged[cell].add(row)
    for cell, row in sorted(single.items()):
        numbers = merged[cell].numbers() if cell in merged else row[3:_BUCKETS]
        yield _answer(named[row[2]], cell[0], cell[2], numbers, lost, watermark_s)


def _answer(
    series: Named, start_s: int, step_s: int, numbers: Row, lost: Lost, watermark_s: float
) -> dict[str, Any]:
    count, total, minimum, maximum, p50, p90, p99, p999 = numbers
    end_s = start_s + step_s
    return {
        "metric": series.metric,
        "labels": series.labels,
        "unit": series.unit,
        "interval_start": _stamp(start_s),
        "interval_end": _stamp(end_s),
        "interval_seconds": step_s,
        "count": count,
        "min": minimum,
        "max": maximum,
        "avg": interval.average(total, count, minimum, maximum),
        "sum": total,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "p999": p999,
        "lost": lost.between(series.engine, start_s, end_s) if lost.booked else 0,
        "partial": end_s > watermark_s,
    }


def _stamp(at_s: int) -> str:
    """Whole seconds as RFC 3339 in UTC, such as 2026-01-31T09:15:00Z."""
    return _day(at_s // DAY_S) + _clock(at_s % DAY_S)


@lru_cache(maxsize=512)
def _day(days: int) -> str:
    return f"{datetime.fromtimestamp(days * DAY_S, UTC):%Y-%m-%d}T"


@lru_cache(maxsize=2048)
def _clock(rest_s: int) -> str:
    minutes, seconds = divmod(rest_s, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}Z"


def _spoken(seconds: int) -> str:
    unit = next(u for u in ("d", "h", "m", "s") if seconds % _UNITS_S[u] == 0)
    return f"{seconds // _UNITS_S[unit]}{unit}"
