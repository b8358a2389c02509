"""Rows of the tiers: merge deltas into them, and expire old ones, inside the caller's transaction.

A base row that may still grow is *open*: it is listed in ``open`` (at most one per series) and in
no coarser tier yet, so that a commit a second rewrites one row per series instead of three.  Every
other record is in base, hourly and daily alike.  Whoever reads a coarser tier adds the open rows.
"""

import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any

from aggregator import histogram
from aggregator.interval import DAY_S, HOUR_S, Rollup, absorb, coarsen
from aggregator.store.schema import COLUMNS, DAILY, HOURLY, QUANTILES, clean

_COLUMNS = f"{COLUMNS}, buckets"
_MARKS = ", ".join("?" * len(_COLUMNS.split(",")))
_BOOK_LOST = """
    INSERT INTO lost (start, engine, lost, unknown) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE
    SET lost = lost + excluded.lost, unknown = max(unknown, excluded.unknown)"""
_QUIET_INTERVALS = 2
_FIRST_QUANTILE = 9  # of the columns
_BUCKETS = -1

Row = tuple[Any, ...]


def row_of(rollup: Rollup) -> Row:
    """A rollup as the columns of a row, in plain Python numbers whatever it was given."""
    numbers = sorted(rollup.buckets)
    counts = list(map(rollup.buckets.__getitem__, numbers))
    minimum, maximum = float(rollup.minimum), float(rollup.maximum)
    return (
        int(rollup.start_s),
        int(rollup.count),
        float(rollup.total),
        minimum,
        maximum,
        float(rollup.first),
        int(rollup.first_ns),
        float(rollup.last),
        int(rollup.last_ns),
        *histogram.ranked(numbers, counts, QUANTILES, minimum, maximum),
        histogram.encode_sorted(numbers, counts),
    )


def rollup_of(series: int, row: Row) -> Rollup:
    """The rollup of a row's columns."""
    fields: Row = (series, *row[:_FIRST_QUANTILE], histogram.decode(row[_BUCKETS]))
    return Rollup(*fields)


def add(db: sqlite3.Connection, rollups: Iterable[Rollup], base_s: int) -> None:
    """Merge base rollups, of intervals of *base_s* and in order of arrival, into all tiers.

    A row of another base interval at the same start takes them in and keeps the longer of the two
    intervals: counts stay exact, only that one interval gets coarser.
    """
    opened: dict[int, int] = dict(db.execute("SELECT series, start FROM open"))
    closed: list[Rollup] = []
    for delta in coarsen(rollups, base_s):
        delta.series, delta.start_s = int(delta.series), int(delta.start_s)
        open_s = opened.get(delta.series)
        found = _base_row(db, delta.series, delta.start_s)
        if found:
            if delta.start_s != open_s:
                closed.append(delta)  # late: that row is in the coarser tiers already
            _put_base(db, _merged(found[1:], delta), max(base_s, found[0]))
            continue
        _put_base(db, delta, base_s)
        if open_s is not None and delta.start_s < open_s:
            closed.append(delta)
            continue
        if open_s is not None:
            closed += _close(db, delta.series, open_s)
        opened[delta.series] = delta.start_s
        db.execute(
            "INSERT OR REPLACE INTO open (series, start) VALUES (?, ?)",
            (delta.series, delta.start_s),
        )
    if closed:
        # Whenever intervals end: series that have gone quiet must not stay open for ever.
        newest_s = max(opened.values(), default=0)
        closed += _close_before(db, newest_s - _QUIET_INTERVALS * base_s)
    add_coarse(db, closed)


def add_coarse(db: sqlite3.Connection, rollups: Iterable[Rollup]) -> None:
    """Merge rollups into the hourly and daily rows."""
    for tier in (HOURLY, DAILY):
        for delta in coarsen(rollups, tier.interval_s):
            found = db.execute(
                f"SELECT {_COLUMNS} FROM {tier.table} WHERE series = ? AND start = ?",
                (delta.series, delta.start_s),
            ).fetchone()
            if found:
                delta = _merged(found, delta)
            db.execute(
                f"INSERT OR REPLACE INTO {tier.table} (series, {_COLUMNS}) VALUES (?, {_MARKS})",
                (delta.series, *row_of(delta)),
            )


def _base_row(db: sqlite3.Connection, series: int, start_s: int) -> Row | None:
    found: Row | None = db.execute(
        f"SELECT interval_s, {_COLUMNS} FROM base WHERE start = ? AND series = ?",
        (start_s, series),
    ).fetchone()
    return found


def _put_base(db: sqlite3.Connection, rollup: Rollup, interval_s: int) -> None:
    db.execute(
        f"INSERT OR REPLACE INTO base (series, interval_s, {_COLUMNS}) VALUES (?, ?, {_MARKS})",
        (rollup.series, interval_s, *row_of(rollup)),
    )


def _close(db: sqlite3.Connection, series: int, start_s: int) -> list[Rollup]:
    """Take a row off the list of open ones; the caller adds it to the coarser tiers."""
    db.execute("DELETE FROM open WHERE series = ?", (series,))
    found = _base_row(db, series, start_s)
    return [rollup_of(series, found[1:])] if found else []


def _close_before(db: sqlite3.Connection, before_s: int) -> list[Rollup]:
    quiet = db.execute("SELECT series, start FROM open WHERE start < ?", (before_s,)).fetchall()
    return [rollup for series, start_s in quiet for rollup in _close(db, series, start_s)]


def _merged(row: Row, delta: Rollup) -> Rollup:
    stored = rollup_of(delta.series, row)
    absorb(stored, delta)
    return stored


def add_lost(db: sqlite3.Connection, lost: Mapping[tuple[str, int], int | None]) -> None:
    """Book lost records per engine and interval; None marks an unknown number."""
    db.executemany(
        _BOOK_LOST,
        [
            (int(start), clean(engine), int(count or 0), int(count is None))
            for (engine, start), count in lost.items()
        ],
    )


def begin_expiry(
    db: sqlite3.Connection, base_before_s: int, hourly_before_s: int
) -> tuple[int, int]:
    """Settle from when on base and hourly rollups are complete, before any of them is deleted.

    What was lost before those times is kept, booked per hour and day from now on.

    Returns:
        the two times, moved back to a whole hour and day, never behind an earlier expiry.
    """
    settled = dict(db.execute("SELECT key, value FROM settled"))
    base_from_s = max(base_before_s - base_before_s % HOUR_S, settled.get("base_from_s", 0))
    hourly_from_s = max(hourly_before_s - hourly_before_s % DAY_S, settled.get("hourly_from_s", 0))
    db.executemany(
        "INSERT OR REPLACE INTO settled (key, value) VALUES (?, ?)",
        [("base_from_s", base_from_s), ("hourly_from_s", hourly_from_s)],
    )
    add_coarse(db, _close_before(db, base_from_s))
    _coarsen_lost(db, base_from_s, HOUR_S)
    _coarsen_lost(db, hourly_from_s, DAY_S)
    return base_from_s, hourly_from_s


def _coarsen_lost(db: sqlite3.Connection, before_s: int, interval_s: int) -> None:
    old = f"FROM lost WHERE start < {before_s:d} AND start % {interval_s:d} <> 0"
    rows = db.execute(
        f"SELECT start - start % {interval_s:d}, engine, lost, unknown {old}"
    ).fetchall()
    db.execute(f"DELETE {old}")
    db.executemany(_BOOK_LOST, rows)


def expire_base(db: sqlite3.Connection, before_s: int) -> int:
    """Delete the oldest hour of base rows that began before *before_s*; 0 when there is none."""
    (oldest_s,) = db.execute("SELECT min(start) FROM base").fetchone()
    if oldest_s is None or oldest_s >= before_s:
        return 0
    until_s = min(oldest_s + HOUR_S, before_s)
    return db.execute("DELETE FROM base WHERE start < ?", (until_s,)).rowcount


def expire_hourly(db: sqlite3.Connection, before_s: int) -> int:
    """Delete the oldest week of hourly rows that began before *before_s*; 0 when there is none."""
    (oldest_s,) = db.execute(
        "SELECT min((SELECT min(start) FROM hourly WHERE series = id)) FROM series"
    ).fetchone()
    if oldest_s is None or oldest_s >= before_s:
        return 0
    until_s = min(oldest_s + 7 * DAY_S, before_s)
    return db.execute(
        "DELETE FROM hourly WHERE series IN (SELECT id FROM series) AND start < ?", (until_s,)
    ).rowcount
