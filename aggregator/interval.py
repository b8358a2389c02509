"""A rollup: everything that is kept of one series in one interval, and how two of them add up.

Only what merges exactly is in it: counts, sums, extremes, the first and last record by time, a
histogram.  Averages and quantiles are derived when asked for, so that twelve 5-minute rollups give
the same answers as the hour rolled up at once.  Plain Python: the commands read rollups without
numpy.
"""

import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace

from aggregator import histogram

HOUR_S = 3600
DAY_S = 86_400
NS_PER_S = 1_000_000_000
_LARGEST = sys.float_info.max


@dataclass(slots=True)
class Rollup:
    """One series in one interval, with at least one value.

    ``start_s`` is the interval's begin in seconds since the epoch, UTC.  Values are in the series'
    own unit and finite; ``total`` stops at the largest double instead of overflowing.  ``first``
    and ``last`` are the values of the earliest and the latest record, at ``first_ns`` and
    ``last_ns`` (wall clock, nanoseconds since the epoch); of equal times, of the record that
    arrived first or last.  ``buckets`` is a histogram, see ``aggregator.histogram``.
    """

    series: int
    start_s: int
    count: int
    total: float
    minimum: float
    maximum: float
    first: float
    first_ns: int
    last: float
    last_ns: int
    buckets: dict[int, int]

    @property
    def average(self) -> float:
        """The mean; never outside the extremes, whatever the rounding of the sum."""
        return average(self.total, self.count, self.minimum, self.maximum)


def average(total: float, count: int, minimum: float, maximum: float) -> float:
    """The mean of *count* values; kept inside the extremes, which rounding may leave by a hair."""
    mean = total / count
    if mean < minimum:
        return minimum
    return maximum if mean > maximum else mean


def add_totals(first: float, second: float) -> float:
    """The sum of two sums; it stops at the largest double, since infinity minus itself is NaN."""
    return min(max(first + second, -_LARGEST), _LARGEST)


def merge(earlier: Rollup, later: Rollup) -> Rollup:
    """Both together.  Their order matters for records of equal time alone: *later* came later.

    Raises:
        ValueError: they are of two series.
    """
    merged = replace(earlier, buckets=dict(earlier.buckets))
    absorb(merged, later)
    return merged


def absorb(into: Rollup, later: Rollup) -> None:
    """Merge *later* into *into* in place; see merge()."""
    if into.series != later.series:
        raise ValueError(f"rollups of series {into.series} and {later.series} don't merge")
    into.start_s = min(into.start_s, later.start_s)
    into.count += later.count
    into.total = add_totals(into.total, later.total)
    into.minimum = min(into.minimum, later.minimum)
    into.maximum = max(into.maximum, later.maximum)
    if later.first_ns < into.first_ns:
        into.first, into.first_ns = later.first, later.first_ns
    if later.last_ns >= into.last_ns:
        into.last, into.last_ns = later.last, later.last_ns
    histogram.add_into(into.buckets, later.buckets)


def coarsen(rollups: Iterable[Rollup], interval_s: int) -> list[Rollup]:
    """One rollup per series and interval of *interval_s*, ascending by start, then series.

    Args:
        rollups: in order of arrival, of intervals that lie inside those asked for; not changed.
        interval_s: length of the intervals, which are aligned to the epoch.
    """
    coarse: dict[tuple[int, int], Rollup] = {}
    for rollup in rollups:
        start_s = rollup.start_s - rollup.start_s % interval_s
        known = coarse.get((start_s, rollup.series))
        if known is None:
            coarse[start_s, rollup.series] = replace(
                rollup, start_s=start_s, buckets=dict(rollup.buckets)
            )
        else:
            absorb(known, rollup)
    return [coarse[key] for key in sorted(coarse)]
