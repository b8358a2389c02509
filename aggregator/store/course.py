"""The course of series over time, and when engines wrote at all.

What rows of statistics don't show: the first and the last value of each interval, which is what
counts of a running total such as PnL.  Read-only; without numpy, unless day files must be read.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.store import fetch, gaps, query, source
from aggregator.store.fetch import FIRST, LAST, MINIMUM, Wanted
from aggregator.store.schema import Tier
from aggregator.store.source import Source

if TYPE_CHECKING:
    from aggregator.store.dayrows import DayRows

# Rows are read a day at a go: a reader must not keep the writer's log from shrinking.
_WINDOW_S = 86_400


@dataclass(frozen=True, slots=True)
class Point:
    """One series in one interval, [start, end) in epoch seconds."""

    start_s: int
    end_s: int
    first: float
    minimum: float
    maximum: float
    last: float


@dataclass(frozen=True, slots=True)
class Course:
    """A series and its intervals with records, in order of time."""

    metric: str
    unit: str
    labels: dict[str, str]
    points: list[Point]


def courses(
    db: sqlite3.Connection,
    metric: str,
    *,
    start_s: int,
    end_s: int,
    days: "DayRows | None" = None,
) -> list[Course]:
    """The course of each series of a metric, in intervals as fine as they are kept.

    Args:
        metric: pattern of the metric's name, with * ? [].
        days: the day files; None: the answer is the store's alone.

    Raises:
        StoreError: the store can't be read.
    """
    wanted = Wanted(db, metric, {})
    points: dict[int, list[Point]] = {}
    columns = ("first", "minimum", "maximum", "last")
    for number, low_s, high_s, values in _rows(db, wanted, columns, start_s, end_s, days):
        points.setdefault(number, []).append(Point(low_s, high_s, *values))
    return [
        Course(
            wanted.series[number].metric,
            wanted.series[number].unit,
            wanted.series[number].labels,
            sorted(points[number], key=lambda point: point.start_s),
        )
        for number in wanted.order
        if number in points
    ]


def written(
    db: sqlite3.Connection, *, start_s: int, end_s: int, days: "DayRows | None" = None
) -> dict[str, list[tuple[int, int]]]:
    """By engine the intervals, [start, end) in epoch seconds, in which it wrote; ascending.

    Raises:
        StoreError: the store can't be read.
    """
    wanted = Wanted(db, "*", {})
    found: dict[str, dict[int, int]] = {}
    for number, begins_s, ends_s, _ in _rows(db, wanted, (), start_s, end_s, days):
        engine = wanted.series[number].engine
        if engine is not None:
            known = found.setdefault(engine, {})
            known[begins_s] = max(ends_s, known.get(begins_s, 0))
    return {engine: sorted(known.items()) for engine, known in found.items()}


def _rows(
    db: sqlite3.Connection,
    wanted: Wanted,
    columns: tuple[str, ...],
    start_s: int,
    end_s: int,
    days: "DayRows | None",
) -> Iterator[tuple[int, int, int, tuple[float, ...]]]:
    """Series, start, end and *columns* of each row, nearly by time."""
    known = fetch.settled(db)
    newest_s = query.newest_s(db, days)
    if newest_s is None:
        return
    start_s, end_s = fetch.down(start_s, known.base_s), min(end_s, newest_s)
    both = Source(db, known, wanted, days, source.ranges(known, days, start_s, end_s))
    start_s = max(start_s, source.oldest_s(db, both.ranges, newest_s))
    with both.reader() as reader:
        for tier, step_s, low_s, high_s in fetch.segments(
            known.base, known.base_s, start_s, end_s, known
        ):
            for ends, is_lacking in gaps.split(low_s, high_s, step_s, both.ranges):
                if reader is not None and is_lacking:
                    for row in reader.whole(db, known, *ends):
                        values = (row[FIRST], *row[MINIMUM : MINIMUM + 2], row[LAST])
                        yield row[2], row[0], row[0] + row[1], values
                else:
                    yield from _stored(db, wanted, columns, tier, *ends)


def _stored(
    db: sqlite3.Connection,
    wanted: Wanted,
    columns: tuple[str, ...],
    tier: Tier,
    start_s: int,
    end_s: int,
) -> Iterator[tuple[int, int, int, tuple[float, ...]]]:
    interval = "interval_s" if tier.table == "base" else str(tier.interval_s)
    chosen = ", ".join(("start", interval, "series", *columns))
    for from_s in range(start_s, end_s, _WINDOW_S):
        rows = fetch.fetch(
            db,
            f"SELECT {chosen} FROM {tier.table}"
            f" WHERE start >= ? AND start < ? AND series IN ({wanted.listed}) ORDER BY start",
            (from_s, min(from_s + _WINDOW_S, end_s)),
        )
        for begins_s, step_s, number, *rest in rows:
            yield number, begins_s, begins_s + step_s, tuple(rest)
