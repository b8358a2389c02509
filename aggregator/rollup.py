"""Roll records up into fixed intervals, in batches.

Arithmetic over numpy arrays: no clock, no files, no settings.  Everything that can be merged is
kept; averages and quantiles are derived later.  What is held between two drains is bounded by the
series and buckets in use, not by the records.
"""

from typing import Any

import numpy as np

from aggregator.binning import FloatArray, IntArray, bucket_numbers, columns, ranks, tally
from aggregator.interval import NS_PER_S, Rollup, coarsen, merge

__all__ = ["Rollup", "RollupBuffer", "coarsen", "merge"]

# Smaller batches wait for each other: a few records cost a copy then, not forty array operations.
WORTHWHILE = 4096
_WAITING = 4 * WORTHWHILE
_PAIRS = 1 << 18  # (rollup, bucket) counts kept before equal ones are added up
_BUCKET_BITS = 18
_BUCKET_MIDDLE = 1 << (_BUCKET_BITS - 1)
_LARGEST = np.finfo(np.float64).max
# Records a group, in and after which a group's first record is looked for.
_SOON = 8


class RollupBuffer:
    """Rollups of the records added since the last drain.

    ``nonfinite`` counts the values left out so far; it is complete after a drain.
    """

    def __init__(self, interval_s: int = 300) -> None:
        if interval_s < 1:
            raise ValueError(f"interval of {interval_s} s: must be at least 1 second")
        self.interval_s = interval_s
        self.nonfinite = 0
        self._series = np.empty(_WAITING, dtype=np.int64)
        self._wall_ns = np.empty(_WAITING, dtype=np.int64)
        self._values = np.empty(_WAITING, dtype=np.float64)
        self._waiting = 0
        self._open = _Open()
        self._pairs = _Pairs()

    def add(
        self,
        series: IntArray,
        wall_ns: IntArray,
        values: FloatArray,
        buckets: IntArray | None = None,
    ) -> None:
        """Take records in, in their order of arrival; the arrays are the caller's own again after.

        Args:
            series: shape (n,), int64, ids of series.
            wall_ns: shape (n,), int64, wall-clock nanoseconds since the epoch, in any order.
            values: shape (n,), float64; values that aren't finite are counted and left out.
            buckets: shape (n,), the values' bucket numbers, from who has them; all are finite then.
        """
        n = len(values)
        if n != len(series) or n != len(wall_ns):
            raise ValueError(
                f"{len(series)} series, {len(wall_ns)} times, {n} values: must be one of each"
            )
        if n >= WORTHWHILE:
            self._flush()
            self._absorb(
                np.ascontiguousarray(series, dtype=np.int64),
                np.ascontiguousarray(wall_ns, dtype=np.int64),
                np.ascontiguousarray(values, dtype=np.float64),
                buckets,
            )
            return
        if self._waiting + n > _WAITING:
            self._flush()
        start, end = self._waiting, self._waiting + n
        self._series[start:end] = series
        self._wall_ns[start:end] = wall_ns
        self._values[start:end] = values
        self._waiting = end

    def drain(self) -> list[Rollup]:
        """The rollups of everything added since the last call, ascending by start, then series."""
        self._flush()
        keys, counts = self._pairs.take()
        rollups = self._open.take(keys, counts, self.interval_s)
        rollups.sort(key=lambda rollup: (rollup.start_s, rollup.series))
        return rollups

    def _flush(self) -> None:
        n, self._waiting = self._waiting, 0
        if n:
            self._absorb(self._series[:n], self._wall_ns[:n], self._values[:n], None)

    def _absorb(
        self, series: IntArray, wall_ns: IntArray, values: FloatArray, buckets: IntArray | None
    ) -> None:
        if buckets is None:
            finite = np.isfinite(values)
            if not finite.all():
                series, wall_ns, values = series[finite], wall_ns[finite], values[finite]
                self.nonfinite += len(finite) - len(values)
                if not len(values):
                    return
            buckets = bucket_numbers(values)
        ids, group = ranks(series)
        starts, interval = _intervals(wall_ns, self.interval_s * NS_PER_S)
        if interval is None:
            starts = np.broadcast_to(starts, ids.shape)
        else:
            present, group = ranks(group * len(starts) + interval)
            ids, starts = ids[present // len(starts)], starts[present % len(starts)]
        slots = self._open.absorb(ids, starts, group, wall_ns, values)
        distinct, bucket = columns(buckets, len(ids))
        cells, counts = tally(group * len(distinct) + bucket, len(ids) * len(distinct))
        owners, places = np.divmod(cells, len(distinct))
        self._pairs.add((slots[owners] << _BUCKET_BITS) + distinct[places] + _BUCKET_MIDDLE, counts)


def _intervals(wall_ns: IntArray, interval_ns: int) -> tuple[IntArray, IntArray | None]:
    """The distinct interval numbers (time // length), and each record's position among them.

    With a single interval there is nothing to look up: None instead of positions.
    """
    first, last = int(wall_ns.min()) // interval_ns, int(wall_ns.max()) // interval_ns
    if first == last:
        return np.array([first], dtype=np.int64), None
    return ranks(wall_ns // interval_ns)


def _ends(group: IntArray, wall_ns: IntArray, groups: int) -> tuple[IntArray, IntArray]:
    """Index of the first and the last record of each group: by time, then by arrival."""
    if (wall_ns[1:] >= wall_ns[:-1]).all():
        return _first(group, groups), len(group) - 1 - _first(group[::-1], groups)
    order = np.argsort(wall_ns, kind="stable")
    group = group[order]
    return order[_first(group, groups)], order[len(group) - 1 - _first(group[::-1], groups)]


def _first(group: IntArray, groups: int) -> IntArray:
    """Where each group comes first; none is missing, and most are there soon."""
    found = np.full(groups, -1)
    size = min(len(group), _SOON * groups)
    while True:
        # of repeated indices the last assignment stays
        found[group[:size][::-1]] = np.arange(size)[::-1]
        if size == len(group) or (found >= 0).all():
            return found
        size = min(len(group), _SOON * size)


class _Pairs:
    """Counts per (rollup, bucket) in two columns that grow, and are added up now and then."""

    def __init__(self) -> None:
        self._keys: list[IntArray] = []
        self._counts: list[IntArray] = []
        self._held = 0
        self._limit = _PAIRS

    def add(self, keys: IntArray, counts: IntArray) -> None:
        self._keys.append(keys)
        self._counts.append(counts)
        self._held += len(keys)
        if self._held > self._limit:
            keys, counts = self._sums()
            self._keys, self._counts, self._held = [keys], [counts], len(keys)
            # Twice what is in use, so that adding up stays a fixed share of the work.
            self._limit = max(_PAIRS, 2 * self._held)

    def take(self) -> tuple[IntArray, IntArray]:
        keys, counts = self._sums()
        self._keys, self._counts, self._held, self._limit = [], [], 0, _PAIRS
        return keys, counts

    def _sums(self) -> tuple[IntArray, IntArray]:
        if not self._keys:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        keys = np.concatenate(self._keys)
        order = np.argsort(keys, kind="stable")
        keys = keys[order]
        firsts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
        return keys[firsts], np.add.reduceat(np.concatenate(self._counts)[order], firsts)


_ROW = np.dtype(
    [
        ("count", np.int64),
        ("total", np.float64),
        ("minimum", np.float64),
        ("maximum", np.float64),
        ("first", np.float64),
        ("first_ns", np.int64),
        ("last", np.float64),
        ("last_ns", np.int64),
    ]
)


class _Open:
    """The open rollups as columns, one row (slot) per series and interval."""

    def __init__(self) -> None:
        self._slots: dict[tuple[int, int], int] = {}
        self._rows = np.zeros(64, dtype=_ROW)

    def absorb(
        self,
        ids: IntArray,
        starts: IntArray,
        group: IntArray,
        wall_ns: IntArray,
        values: FloatArray,
    ) -> IntArray:
        """Merge records into their rows.

        Args:
            ids, starts: shape (g,), series and interval number of each group; none is empty.
            group: shape (n,), each record's group.

        Returns:
            shape (g,), the slot of each group.
        """
        groups = len(ids)
        slots = self._slots_of(ids, starts)
        minimum, maximum = np.full(groups, np.inf), np.full(groups, -np.inf)
        np.minimum.at(minimum, group, values)
        np.maximum.at(maximum, group, values)
        first, last = _ends(group, wall_ns, groups)
        rows = self._rows[slots]
        fresh = rows["count"] == 0
        rows["minimum"] = np.where(fresh, minimum, np.minimum(rows["minimum"], minimum))
        rows["maximum"] = np.where(fresh, maximum, np.maximum(rows["maximum"], maximum))
        rows["count"] += np.bincount(group, minlength=groups)
        with np.errstate(over="ignore"):
            rows["total"] += np.bincount(group, weights=values, minlength=groups)
        rows["total"] = np.clip(rows["total"], -_LARGEST, _LARGEST)
        earlier = fresh | (wall_ns[first] < rows["first_ns"])
        rows["first"] = np.where(earlier, values[first], rows["first"])
        rows["first_ns"] = np.where(earlier, wall_ns[first], rows["first_ns"])
        later = fresh | (wall_ns[last] >= rows["last_ns"])
        rows["last"] = np.where(later, values[last], rows["last"])
        rows["last_ns"] = np.where(later, wall_ns[last], rows["last_ns"])
        self._rows[slots] = rows
        return slots

    def take(self, keys: IntArray, counts: IntArray, interval_s: int) -> list[Rollup]:
        """All rollups, with *counts* per (slot, bucket) in the ascending *keys*; none is left."""
        owners = keys >> _BUCKET_BITS
        ends: list[int] = np.searchsorted(
            owners, np.arange(len(self._slots)), side="right"
        ).tolist()
        numbers: list[int] = ((keys & ((1 << _BUCKET_BITS) - 1)) - _BUCKET_MIDDLE).tolist()
        amounts: list[int] = counts.tolist()
        rows: list[Any] = self._rows.tolist()
        rollups, begin = [], 0
        for (series, interval), row, end in zip(self._slots, rows, ends, strict=False):
            buckets = dict(zip(numbers[begin:end], amounts[begin:end], strict=True))
            fields: tuple[Any, ...] = (series, interval * interval_s, *row, buckets)
            rollups.append(Rollup(*fields))
            begin = end
        self._slots = {}
        self._rows = np.zeros(64, dtype=_ROW)
        return rollups

    def _slots_of(self, ids: IntArray, starts: IntArray) -> IntArray:
        known = self._slots
        found = [
            known.setdefault(pair, len(known))
            for pair in zip(ids.tolist(), starts.tolist(), strict=True)
        ]
        if len(known) > len(self._rows):
            wider = np.zeros(2 * len(known), dtype=_ROW)
            wider[: len(self._rows)] = self._rows
            self._rows = wider
        return np.array(found, dtype=np.int64)
