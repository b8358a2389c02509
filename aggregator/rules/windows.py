"""Sliding windows over the records of a series, made of slices.

The window of second T is (T - window, T], T a whole second.  Slices are whole seconds wide, at most
300 to a window, and exist only where records do, so memory is bounded whatever the rate and the
length.  A slice counts as long as any of it is inside: a window over more than 300 seconds reaches
back up to one slice further.  Sums are taken record by record in order: adding a batch or its
records one by one gives the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgpack
import numpy as np

from aggregator import histogram
from aggregator.binning import FloatArray, IntArray, bucket_numbers, tally
from aggregator.rules.levels import EVIDENCE, worst_of
from aggregator.rules.rule import QUANTILES
from aggregator.rules.units import NS_PER_S

SLICES = 300
_NONE_NS = 1 << 63  # beyond every second


def whole_second(at_ns: int) -> int:
    """The second, in ns, whose evaluation is the first to see a record of *at_ns*."""
    return -(-at_ns // NS_PER_S) * NS_PER_S


def worst_in(
    sign: float, times: IntArray, values: FloatArray, known: Sequence[tuple[int, float]]
) -> tuple[tuple[int, float], ...]:
    """The worst few of *known* and of the records, which are later than those.

    Args:
        times, values: shape (n,), n >= 1, in time order.
        known: worst first.
    """
    turned = values if sign > 0 else -values
    if len(known) == EVIDENCE:
        least = sign * known[-1][1]
        if not turned.max() > least:  # of equal ones the earliest stay
            return tuple(known)
        better = np.flatnonzero(turned > least)
        turned, times, values = turned[better], times[better], values[better]
    if len(turned) > EVIDENCE:
        cut = np.partition(turned, len(turned) - EVIDENCE)[len(turned) - EVIDENCE]
        over = np.flatnonzero(turned > cut)
        equal = np.flatnonzero(turned == cut)[:EVIDENCE]
        picked = np.concatenate((over, equal))
        times, values = times[picked], values[picked]
    found = zip(times.tolist(), values.tolist(), strict=True)
    return worst_of(sign, (*known, *found))


@dataclass(slots=True)
class _Slice:
    count: int = 0
    total: float = 0.0
    low: float = np.inf
    high: float = -np.inf
    newest_ns: int = 0  # the second that first saw its newest record
    worst: tuple[tuple[int, float], ...] = ()
    buckets: dict[int, int] = field(default_factory=dict)


class Window:
    """The records of one series, or of several taken together, over one sliding window."""

    def __init__(self, window_s: int, sign: float, stats: Sequence[str]) -> None:
        """An empty window.

        Args:
            window_s: its length in whole seconds.
            sign: 1.0 if high values are the bad ones, -1.0 if low ones are.
            stats: which of rule.STATS it will be asked for.
        """
        self._window_ns = window_s * NS_PER_S
        self._width_ns = -(-window_s // SLICES) * NS_PER_S
        self._sign = sign
        self._stats = tuple(stats)
        self._window_s = window_s
        self._sums = bool({"avg", "sum"} & set(stats))
        self._quantiles = {stat: QUANTILES[stat] for stat in stats if stat in QUANTILES}
        self._slices: dict[int, _Slice] = {}
        self._buckets: dict[int, int] = {}
        self._changed: set[int] = set()
        self.count = 0
        self.leaves_ns = _NONE_NS

    def add_one(self, at_ns: int, value: float) -> None:
        """Add a record; none may be older than those there are."""
        piece = self._at(at_ns)
        piece.count += 1
        self.count += 1
        piece.total += value
        piece.low = min(piece.low, value)
        piece.high = max(piece.high, value)
        worst = piece.worst
        if len(worst) < EVIDENCE or self._sign * value > self._sign * worst[-1][1]:
            piece.worst = worst_of(self._sign, (*worst, (at_ns, value)))
        if self._quantiles:
            number = histogram.bucket(value)
            piece.buckets[number] = piece.buckets.get(number, 0) + 1
            self._buckets[number] = self._buckets.get(number, 0) + 1

    @property
    def wants_buckets(self) -> bool:
        """Whether it uses bucket numbers."""
        return bool(self._quantiles)

    def add(self, times: IntArray, values: FloatArray, buckets: IntArray | None = None) -> None:
        """Add records of one and the same second, T - 1 s < time <= T, in order; n >= 1.

        Args:
            times, values: shape (n,).
            buckets: shape (n,), the values' bucket numbers, from who has them.
        """
        piece = self._at(int(times[0]))
        piece.count += len(values)
        self.count += len(values)
        if self._sums:
            piece.total = _added(piece.total, values)
        piece.low = min(piece.low, float(values.min()))
        piece.high = max(piece.high, float(values.max()))
        piece.worst = worst_in(self._sign, times, values, piece.worst)
        if self._quantiles:
            numbers = bucket_numbers(values) if buckets is None else buckets
            least = int(numbers.min())
            found, counts = tally(numbers - least, int(numbers.max()) - least + 1)
            more = dict(zip((found + least).tolist(), counts.tolist(), strict=True))
            histogram.add_into(piece.buckets, more)
            histogram.add_into(self._buckets, more)

    def _at(self, at_ns: int) -> _Slice:
        number = (at_ns - 1) // self._width_ns
        piece = self._slices.get(number)
        if piece is None:
            piece = self._slices[number] = _Slice()
            if len(self._slices) == 1:
                self._set_leaves()
        piece.newest_ns = whole_second(at_ns)
        self._changed.add(number)
        return piece

    def drop(self, second_ns: int) -> None:
        """Forget the slices that the window of *second_ns* doesn't reach any more."""
        while self.leaves_ns <= second_ns:
            number = next(iter(self._slices))
            piece = self._slices.pop(number)
            self._changed.add(number)
            self.count -= piece.count
            for bucket, count in piece.buckets.items():
                if (left := self._buckets[bucket] - count) > 0:
                    self._buckets[bucket] = left
                else:
                    del self._buckets[bucket]
            self._set_leaves()

    def _set_leaves(self) -> None:
        """The first second whose window doesn't reach the oldest slice."""
        oldest = next(iter(self._slices), None)
        self.leaves_ns = (
            _NONE_NS if oldest is None else (oldest + 1) * self._width_ns + self._window_ns
        )

    @property
    def newest_ns(self) -> int:
        """The second that first sees the newest record; only if there are any."""
        return next(reversed(self._slices.values())).newest_ns

    @property
    def total(self) -> float:
        """The sum of the values, oldest slice first."""
        total = 0.0
        for piece in self._slices.values():
            total += piece.total
        return total

    def values(self) -> dict[str, float]:
        """Each stat's value; there must be records, unless all stats are additive."""
        values: dict[str, float] = {}
        low = min((piece.low for piece in self._slices.values()), default=0.0)
        high = max((piece.high for piece in self._slices.values()), default=0.0)
        total = self.total
        for stat in self._stats:
            if stat in self._quantiles:
                q = self._quantiles[stat]
                values[stat] = histogram.quantile(self._buckets, q, low, high)
            elif stat == "rate":
                values[stat] = self.count / self._window_s
            elif stat == "avg":
                values[stat] = min(max(total / self.count, low), high)
            else:
                values[stat] = {"sum": total, "count": float(self.count), "min": low, "max": high}[
                    stat
                ]
        return values

    def worst(self) -> tuple[tuple[int, float], ...]:
        """Its worst records, at most five, worst first."""
        return worst_of(
            self._sign, (each for piece in self._slices.values() for each in piece.worst)
        )

    # checkpoint

    def saved(self) -> dict[int, bytes | None]:
        """The slices that changed since the last call, None for those that are gone."""
        blobs: dict[int, bytes | None] = {}
        for number in sorted(self._changed):
            piece = self._slices.get(number)
            blobs[number] = None if piece is None else _packed(piece)
        self._changed.clear()
        return blobs

    def touch(self) -> None:
        """Let every slice count as changed."""
        self._changed.update(self._slices)

    def restore(self, blobs: Mapping[int, bytes]) -> None:
        """Become what was saved, if it is a window of the same slices."""
        for number in sorted(blobs):
            piece = _unpacked(blobs[number])
            self._slices[number] = piece
            self.count += piece.count
            histogram.add_into(self._buckets, piece.buckets)
        self._set_leaves()


def _added(total: float, values: FloatArray) -> float:
    """*total* plus the values one after the other; numpy's own sum would add them pairwise."""
    row = values.copy()
    row[0] += total
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.add.accumulate(row)[-1])


def _packed(piece: _Slice) -> bytes:
    fields = [
        piece.count, piece.total, piece.low, piece.high, piece.newest_ns, piece.worst,
        histogram.encode(piece.buckets),
    ]  # fmt: skip
    packed: bytes = msgpack.packb(fields)
    return packed


def _unpacked(blob: bytes) -> _Slice:
    count, total, low, high, newest_ns, worst, buckets = msgpack.unpackb(blob)
    records: list[Any] = worst
    return _Slice(
        count, total, low, high, newest_ns, tuple((at, value) for at, value in records),
        histogram.decode(buckets),
    )  # fmt: skip
