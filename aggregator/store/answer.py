"""Merge rows into the intervals that were asked for, and say them as people and programs read them.

Averages and quantiles come from merged counts, sums and buckets, never from other averages or
quantiles.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from aggregator import histogram, interval
from aggregator.interval import DAY_S
from aggregator.store.fetch import COUNT, Lost, Named, Row, Single, Wanted
from aggregator.store.schema import QUANTILES


class Merged:
    """Rows of one series added up."""

    __slots__ = ("buckets", "count", "maximum", "minimum", "skipped", "total")

    def __init__(self, row: Row) -> None:
        self.count, self.skipped, _, _, self.total, self.minimum, self.maximum, *_ = row[COUNT:]
        self.buckets = histogram.decode(row[-1])

    def add(self, row: Row) -> None:
        """Take in another row."""
        count, skipped, _, _, total, minimum, maximum, *_, blob = row[COUNT:]
        self.count += count
        self.skipped += skipped
        self.total = interval.add_totals(self.total, total)
        self.minimum = min(self.minimum, minimum)
        self.maximum = max(self.maximum, maximum)
        histogram.add_into(self.buckets, histogram.decode(blob))

    def numbers(self) -> tuple[Any, ...]:
        """The columns of a row from the count on, without the buckets."""
        quantiles = histogram.quantiles(self.buckets, QUANTILES, self.minimum, self.maximum)
        return (self.count, self.skipped, self.total, self.minimum, self.maximum, *quantiles)


def merged(
    rows: Iterable[Row], wanted: Wanted, interval_s: int, lost: Lost, watermark_s: float
) -> Iterator[dict[str, Any]]:
    """Merge rows into intervals; a row whose own interval doesn't divide that stays by itself."""
    first: dict[tuple[int, int, int], Row] = {}
    several: dict[tuple[int, int, int], Merged] = {}
    for row in rows:
        step_s = row[1] if interval_s % row[1] else interval_s
        cell = (row[0] - row[0] % step_s, row[2], step_s)
        if cell not in first:
            first[cell] = row
        elif cell in several:
            several[cell].add(row)
        else:
            several[cell] = Merged(first[cell])
            several[cell].add(row)
    order, named = wanted.order, wanted.series
    for cell in sorted(first, key=lambda cell: (cell[0], order[cell[1]], cell[2])):
        start_s, number, step_s = cell
        count, skipped, _, _, *numbers = first[cell][COUNT:-1]
        if cell in several:
            count, skipped, *numbers = several[cell].numbers()
        row = (start_s, number, count, *numbers)
        yield from answers((row,), named, step_s, lost, watermark_s, skipped=skipped)


def answers(
    rows: Iterable[Single],
    named: Mapping[int, Named],
    interval_s: int,
    lost: Lost,
    watermark_s: float,
    *,
    skipped: int = 0,
) -> Iterator[dict[str, Any]]:
    """Each row with the fields of the contract.

    Args:
        rows: by time, of intervals of *interval_s*.
        skipped: of each row's count those that are in no other number.
    """
    at_s, end_s, begins, ends, partial = -1, -1, "", "", False
    for start_s, number, count, total, minimum, maximum, p50, p90, p99, p999 in rows:
        if start_s != at_s:
            begins = ends if start_s == end_s else _stamp(start_s)
            at_s, end_s = start_s, start_s + interval_s
            ends, partial = _stamp(end_s), end_s > watermark_s
        series = named[number]
        yield {
            "metric": series.metric,
            "labels": series.labels,
            "unit": series.unit,
            "interval_start": begins,
            "interval_end": ends,
            "interval_seconds": interval_s,
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
            "partial": partial,
        }


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
