"""Merge rows into the intervals that were asked for, and say them as people and programs read them.

Averages and quantiles come from merged counts, sums and buckets, never from other averages or
quantiles.
"""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import islice
from operator import lt
from typing import Any

from aggregator import histogram, interval
from aggregator.interval import DAY_S
from aggregator.store.fetch import BUCKETS, COUNT, Lost, Named, Row, Wanted
from aggregator.store.schema import QUANTILES


class Merged:
    """Rows of one series added up."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "skipped", "total")

    def __init__(self, row: Row) -> None:
        _, _, _, self.count, self.skipped, self.total, self.minimum, self.maximum, *_, blob = row
        self.buckets = histogram.decode(blob)

    def add(self, row: Row) -> None:
        """Take in another row."""
        _, _, _, count, skipped, total, minimum, maximum, *_, blob = row
        self.count += count
        self.skipped += skipped
        self.total = interval.add_totals(self.total, total)
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        histogram.add_into(self.buckets, histogram.decode(blob))

    def numbers(self) -> tuple[Any, ...]:
        """The columns of a row from the count on; there are no buckets in it."""
        quantiles = histogram.quantiles(self.buckets, QUANTILES, self.minimum, self.maximum)
        return (self.count, self.skipped, self.total, self.minimum, self.maximum, *quantiles, None)


def by_interval(
    rows: list[Row], wanted: Wanted, interval_s: int, lost: Lost, watermark_s: float
) -> Iterator[dict[str, Any]]:
    """Merge rows into intervals; a row whose own interval doesn't divide that stays by itself."""
    if any(row[BUCKETS] is not None for row in rows):
        return merged(rows, wanted, interval_s, lost, watermark_s)
    order = wanted.order  # rows that have their interval to themselves
    if len(order) > 1:
        if all(map(lt, order, islice(order, 1, None))):  # named in the order of their names
            rows.sort()
        else:
            rows.sort(key=lambda row: (row[0], order[row[2]]))
    return answers(rows, wanted.series, lost, watermark_s)


def merged(
    rows: Iterable[Row], wanted: Wanted, interval_s: int, lost: Lost, watermark_s: float
) -> Iterator[dict[str, Any]]:
    """The same of rows with buckets, which are taken one by one."""
    single: dict[tuple[int, int, int], Row] = {}
    several: dict[tuple[int, int, int], Merged] = {}
    for row in rows:
        step_s = row[1] if interval_s % row[1] else interval_s
        cell = (row[0] - row[0] % step_s, row[2], step_s)
        if cell not in single:
            single[cell] = row
        elif cell in several:
            several[cell].add(row)
        else:
            several[cell] = Merged(single[cell])
            several[cell].add(row)
    order, named = wanted.order, wanted.series
    for cell in sorted(single, key=lambda cell: (cell[0], order[cell[1]], cell[2])):
        start_s, number, step_s = cell
        row = single[cell]
        if cell in several:
            row = (*row[:COUNT], *several[cell].numbers())
        yield answer(named[number], (start_s, step_s, *row[2:]), lost, watermark_s)


def answers(
    rows: Iterable[Row], named: dict[int, Named], lost: Lost, watermark_s: float
) -> Iterator[dict[str, Any]]:
    """One answer a row, as it is."""
    for row in rows:
        yield answer(named[row[2]], row, lost, watermark_s)


def answer(series: Named, row: Row, lost: Lost, watermark_s: float) -> dict[str, Any]:
    """A row with the fields of the contract."""
    start_s, step_s, _, count, skipped, total, minimum, maximum, p50, p90, p99, p999, _ = row
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
        "avg": interval.average(total, count - skipped, minimum, maximum),
        "sum": total,
        "p50": p50,
        "p90": p90,
        "p99": p99,
        "p999": p999,
        "lost": lost.between(series.engine, start_s, end_s) if lost.booked else 0,
        "partial": end_s > watermark_s,
    }


@lru_cache(maxsize=2048)
def _stamp(at_s: int) -> str:
    """Whole seconds as RFC 3339 in UTC, such as 2026-01-31T09:15:00Z."""
    return _day(at_s // DAY_S) + _clock(at_s % DAY_S)


@lru_cache(maxsize=2048)
def _clock(rest_s: int) -> str:
    minutes, seconds = divmod(rest_s, 60)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{seconds:02d}Z"


@lru_cache(maxsize=512)
def _day(days: int) -> str:
    return f"{datetime.fromtimestamp(days * DAY_S, UTC):%Y-%m-%d}T"
