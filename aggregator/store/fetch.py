"""Read rows of the tiers, a short window of time at a go.

Each window is one read transaction that ends before anything is handed on: a reader that pauses, or
is piped into a pager, never keeps the writer's log from shrinking.  Plain Python: no numpy.
"""

import json
import sqlite3
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from operator import itemgetter
from typing import Any

from aggregator.interval import DAY_S, HOUR_S
from aggregator.store import gaps
from aggregator.store.gaps import Gap
from aggregator.store.schema import DAILY, HOURLY, StoreError, Tier, canonical, clean

# start, interval_s, series, count, skipped, first, last, total, minimum, maximum, p50, p90, p99,
# p999, buckets.  Of the count, those skipped are in no other number: day files may be thinned,
# rollups aren't.
Row = tuple[Any, ...]
COUNT, SKIPPED, FIRST, LAST, MINIMUM = 3, 4, 5, 6, 8
_MERGED = "series, count, 0, first, last, total, minimum, maximum, p50, p90, p99, p999, buckets"
# start, series, count, total, minimum, maximum, p50, p90, p99, p999: nothing that a million rows
# would say a million times.
Single = tuple[Any, ...]
_SINGLE = "start, series, count, total, minimum, maximum, p50, p90, p99, p999"
# With fewer than one series in so many wanted, single rows are looked up instead of a range read.
_SPARSE = 8


@dataclass(frozen=True, slots=True)
class Named:
    """A series as it is called; ``labels`` is shared by all rows of the series."""

    metric: str
    unit: str
    labels: dict[str, str]
    engine: str | None


@dataclass(frozen=True, slots=True)
class Settled:
    """What the store says about itself: base interval, and from when on finer tiers are kept."""

    base_s: int
    mixed: bool  # rows of other base intervals may be there
    base_from_s: int
    hourly_from_s: int
    gaps: tuple[Gap, ...] = ()  # when not all was rolled up

    @property
    def base(self) -> Tier:
        """The finest tier."""
        return Tier("base", self.base_s)


class Wanted:
    """The series that a reader asked for, in the order of its answers: by metric, then labels."""

    def __init__(self, db: sqlite3.Connection, metric: str, match: Mapping[str, str]) -> None:
        rows = fetch(db, "SELECT id, metric, labels, unit FROM series ORDER BY 2, 3, 4")
        self.metric, self.match = metric, match
        self.series: dict[int, Named] = {}
        self._numbers: dict[tuple[str, str, str], int] = {}
        decoded: list[dict[str, str]] = json.loads(f"[{','.join(row[2] for row in rows)}]")
        for (number, name, _, unit), labels in zip(rows, decoded, strict=True):
            if metric != "*" and not fnmatchcase(name, metric):
                continue
            if all(
                label in labels and fnmatchcase(labels[label], pattern)
                for label, pattern in match.items()
            ):
                self.series[number] = Named(name, unit, labels, labels.get("engine"))
        self._order = {number: place for place, number in enumerate(self.series)}
        self.everything = len(self.series) == len(rows)
        self.sparse = len(self.series) * _SPARSE < len(rows)
        self.listed = ", ".join(map(str, self.series))  # whole numbers: safe inside a statement
        self.last = max(self.series, default=0)

    def number(self, metric: str, unit: str, labels: Mapping[str, str]) -> int:
        """The number of a wanted series; the store may not know it, then it gets a negative one."""
        if not self._numbers:
            for number, each in self.series.items():
                self._numbers[each.metric, canonical(each.labels), each.unit] = number
        key = (clean(metric), canonical(labels), clean(unit))
        known = self._numbers.get(key)
        if known is None:
            known = self._numbers[key] = min(-1, min(self.series, default=0) - 1)
            self.series[known] = Named(key[0], key[2], dict(labels), labels.get("engine"))
        return known

    @property
    def order(self) -> dict[int, int]:
        """The place of each series' number among the answers, in that order."""
        if len(self._order) != len(self.series):
            numbers = [self._numbers[each] for each in sorted(self._numbers)]
            self._order = {number: place for place, number in enumerate(numbers)}
        return self._order


def fetch(db: sqlite3.Connection, sql: str, values: Sequence[object] = ()) -> list[Any]:
    """All rows of one statement.

    Raises:
        StoreError: the store can't be read.
    """
    try:
        return db.execute(sql, values).fetchall()
    except sqlite3.Error as error:
        raise StoreError(f"rollups can't be read: {error}") from error


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Several reads as of one moment."""
    fetch(db, "BEGIN")
    try:
        yield
    finally:
        fetch(db, "COMMIT")


def settled(db: sqlite3.Connection) -> Settled:
    """What the store says about itself."""
    found = dict(fetch(db, "SELECT key, value FROM settled"))
    return Settled(
        base_s=found.get("base_s", 300),  # a crash in the very first second
        mixed=bool(found.get("base_mixed", 0)),
        base_from_s=found.get("base_from_s", 0),
        hourly_from_s=found.get("hourly_from_s", 0),
        gaps=gaps.of(found),
    )


def oldest_s(db: sqlite3.Connection) -> int | None:
    """Start of the oldest rollup of any tier; None if there is none."""
    (day_s,) = fetch(
        db, "SELECT min((SELECT min(start) FROM daily WHERE daily.series = series.id)) FROM series"
    )[0]
    (base_s,) = fetch(db, "SELECT min(start) FROM base")[0]
    return min((start for start in (day_s, base_s) if start is not None), default=None)


def rows_between(
    db: sqlite3.Connection, tier: Tier, wanted: Wanted, known: Settled, start_s: int, end_s: int
) -> list[Row]:
    """Rows of one tier that begin in [start_s, end_s), to be merged; call it inside a snapshot.

    Args:
        start_s: aligned to the tier's interval.
    """
    if not wanted.series or start_s >= end_s:
        return []
    if tier.table == "base":
        return _base_rows(db, wanted, known, start_s, end_s, f"start, interval_s, {_MERGED}")
    return [
        *_coarse_rows(db, tier, wanted, start_s, end_s, f"start, {tier.interval_s}, {_MERGED}"),
        *fetch(
            db,
            f"SELECT start, interval_s, {_MERGED} FROM open JOIN base USING (start, series)"
            f" WHERE start >= ? AND start < ? AND series IN ({wanted.listed})",
            (start_s, end_s),
        ),
    ]


def singles(
    db: sqlite3.Connection, tier: Tier, wanted: Wanted, known: Settled, start_s: int, end_s: int
) -> tuple[list[Single], int]:
    """Rows of one tier that have their series and interval to themselves, by time; and until when
    all are such rows.  From then on see rows_between().  Call both inside one snapshot.

    Args:
        start_s: aligned to the tier's interval.
    """
    if tier.table == "base":
        until_s = start_s if known.mixed else end_s
    else:
        # What is still open is in no coarse tier yet and must be merged with it.
        (open_s,) = fetch(
            db,
            "SELECT min(start) FROM open"
            f" WHERE start >= ? AND start < ? AND series IN ({wanted.listed})",
            (start_s, end_s),
        )[0]
        until_s = end_s if open_s is None else down(open_s, tier.interval_s)
    if not wanted.series or start_s >= until_s:
        return [], until_s
    if tier.table == "base":
        rows = _base_rows(db, wanted, known, start_s, until_s, _SINGLE)
    else:
        rows = _coarse_rows(db, tier, wanted, start_s, until_s, _SINGLE)
    order = wanted.order
    if len(order) > 1:
        rows.sort(key=lambda row: order[row[1]])
        rows.sort(key=itemgetter(0))
    return rows, until_s


def _base_rows(
    db: sqlite3.Connection, wanted: Wanted, known: Settled, start_s: int, end_s: int, columns: str
) -> list[Any]:
    if wanted.sparse and not known.mixed:
        return fetch(
            db,
            f"WITH RECURSIVE grid (at) AS (SELECT ? UNION ALL SELECT at + {known.base_s}"
            f" FROM grid WHERE at + {known.base_s} < ?) SELECT {columns} FROM grid CROSS JOIN base"
            f" ON start = at AND series IN ({wanted.listed})",
            (start_s, end_s),
        )
    # Of everything, not series that were named only after the reader asked which there are.
    chosen = f"series <= {wanted.last}" if wanted.everything else f"series IN ({wanted.listed})"
    return fetch(
        db,
        f"SELECT {columns} FROM base WHERE start >= ? AND start < ? AND {chosen}",
        (start_s, end_s),
    )


def _coarse_rows(
    db: sqlite3.Connection, tier: Tier, wanted: Wanted, start_s: int, end_s: int, columns: str
) -> list[Any]:
    return fetch(
        db,
        f"SELECT {columns} FROM {tier.table}"
        f" WHERE series IN ({wanted.listed}) AND start >= ? AND start < ?",
        (start_s, end_s),
    )


class Lost:
    """What was lost per engine in a window of time."""

    def __init__(self, db: sqlite3.Connection, start_s: int, end_s: int) -> None:
        self.booked: dict[str, list[tuple[int, int, int]]] = {}
        for engine, at_s, count, unknown in fetch(
            db,
            "SELECT engine, start, lost, unknown FROM lost WHERE start >= ? AND start < ?"
            " ORDER BY start",
            (start_s, end_s),
        ):
            self.booked.setdefault(engine, []).append((at_s, count, unknown))

    def between(self, engine: str | None, start_s: int, end_s: int) -> int | None:
        """Records of *engine* lost in [start_s, end_s); None if that isn't known."""
        booked = self.booked.get(engine or "", [])
        found = booked[bisect_left(booked, (start_s,)) : bisect_left(booked, (end_s,))]
        if any(unknown for _, _, unknown in found):
            return None
        return sum(count for _, count, _ in found)


def segments(
    tier: Tier, interval_s: int, start_s: int, end_s: int, known: Settled
) -> list[tuple[Tier, int, int, int]]:
    """Split a range by what is still kept: (tier, interval, start, end), oldest first.

    Where the tier has expired, the next coarser one stands in with its own interval.
    """
    coarser = {"base": (HOURLY, known.base_from_s), "hourly": (DAILY, known.hourly_from_s)}
    if tier.table not in coarser:
        return [(tier, interval_s, start_s, end_s)]
    stand_in, from_s = coarser[tier.table]
    kept = [(tier, interval_s, max(start_s, from_s), end_s)] if end_s > from_s else []
    if start_s >= from_s:
        return kept
    start_s, end_s = down(start_s, stand_in.interval_s), min(end_s, from_s)
    return segments(stand_in, stand_in.interval_s, start_s, end_s, known) + kept


def pieces(start_s: int, end_s: int, tiers: Sequence[Tier]) -> Iterable[tuple[Tier, int, int]]:
    """Cover [start_s, end_s) with as much of the coarsest tier as fits, then the next, and so on.

    Args:
        tiers: coarsest first; both ends are aligned to the last one's interval.
    """
    tier, *finer = tiers
    if not finer:
        return [(tier, start_s, end_s)] if start_s < end_s else []
    low_s, high_s = up(start_s, tier.interval_s), down(end_s, tier.interval_s)
    if low_s >= high_s:
        return pieces(start_s, end_s, finer)
    return [*pieces(start_s, low_s, finer), (tier, low_s, high_s), *pieces(high_s, end_s, finer)]


def outward(start_s: int, end_s: int, known: Settled) -> tuple[int, int]:
    """A range grown to ends at which rows of a kept tier begin."""
    low_s, high_s = down(start_s, known.base_s), up(end_s, known.base_s)
    if low_s < known.base_from_s:
        low_s = down(start_s, HOUR_S if low_s >= known.hourly_from_s else DAY_S)
    if high_s < known.base_from_s:
        high_s = up(end_s, HOUR_S if high_s >= known.hourly_from_s else DAY_S)
    return low_s, high_s


def down(at_s: int, interval_s: int) -> int:
    """The last multiple of *interval_s* at or before *at_s*."""
    return at_s - at_s % interval_s


def up(at_s: int, interval_s: int) -> int:
    """The first multiple of *interval_s* at or after *at_s*."""
    return at_s + -at_s % interval_s
