"""The course of series over time, and when engines wrote at all, from the rollup store.

What rows of statistics don't show: the first and the last value of each interval, which is what
counts of a running total such as PnL.  Read-only, without numpy.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from aggregator.store import fetch, query
from aggregator.store.fetch import Wanted

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


def courses(db: sqlite3.Connection, metric: str, *, start_s: int, end_s: int) -> list[Course]:
    """The course of each series of a metric, in intervals as fine as they are kept.

    Args:
        metric: pattern of the metric's name, with * ? [].

    Raises:
        StoreError: the store can't be read.
    """
    wanted = Wanted(db, metric, {})
    points: dict[int, list[Point]] = {number: [] for number in wanted.series}
    columns = "start, {interval}, series, first, minimum, maximum, last"
    for number, low_s, high_s, values in _rows(db, wanted, columns, start_s, end_s):
        points[number].append(Point(low_s, high_s, *values))
    return [
        Course(named.metric, named.unit, named.labels, points[number])
        for number, named in wanted.series.items()
        if points[number]
    ]


def written(
    db: sqlite3.Connection, *, start_s: int, end_s: int
) -> dict[str, list[tuple[int, int]]]:
    """By engine the intervals, [start, end) in epoch seconds, in which it wrote; ascending.

    Raises:
        StoreError: the store can't be read.
    """
    wanted = Wanted(db, "*", {})
    found: dict[str, dict[int, int]] = {}
    columns = "start, {interval}, series"
    for number, begins_s, ends_s, _ in _rows(db, wanted, columns, start_s, end_s):
        engine = wanted.series[number].engine
        if engine is not None:
            known = found.setdefault(engine, {})
            known[begins_s] = max(ends_s, known.get(begins_s, 0))
    return {engine: sorted(known.items()) for engine, known in found.items()}


def _rows(
    db: sqlite3.Connection, wanted: Wanted, columns: str, start_s: int, end_s: int
) -> Iterator[tuple[int, int, int, tuple[float, ...]]]:
    """Series, start, end and the rest of *columns* of each row, by time."""
    known = fetch.settled(db)
    if not wanted.series:
        return
    oldest_s, newest_s = fetch.oldest_s(db), query.newest_s(db)
    if oldest_s is None or newest_s is None:
        return
    start_s, end_s = fetch.down(max(start_s, oldest_s), known.base_s), min(end_s, newest_s)
    for tier, _, low_s, high_s in fetch.segments(known.base, known.base_s, start_s, end_s, known):
        interval = "interval_s" if tier.table == "base" else str(tier.interval_s)
        for from_s in range(low_s, high_s, _WINDOW_S):
            rows = fetch.fetch(
                db,
                f"SELECT {columns.format(interval=interval)} FROM {tier.table}"
                f" WHERE start >= ? AND start < ? AND series IN ({wanted.listed}) ORDER BY start",
                (from_s, min(from_s + _WINDOW_S, high_s)),
            )
            for begins_s, step_s, number, *rest in rows:
                yield number, begins_s, begins_s + step_s, tuple(rest)
