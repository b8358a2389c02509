"""Leave raw records out, and let those that stay say how many they stand for.

Pure functions over rows.  Whatever is left out is added to ``skipped`` of a row of the same series
that stays, so that per series the sum of ``1 + skipped`` never changes; no series loses its last
row.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.binning import FloatArray, IntArray

ROW = np.dtype(
    [
        ("ring", "<i8"),
        ("series", "<i8"),
        ("seq", "<i8"),
        ("time_ns", "<i8"),
        ("value", "<f8"),
        ("skipped", "<i8"),
    ]
)
"""One raw record on its way to the disk; of one ring in the order of seq."""

Rows = NDArray[Any]  # of ROW, shape (n,)
Mask = NDArray[np.bool_]
Levels = Mapping[int, tuple[float, float]]
"""series -> (low, high): a value at or beyond either is worth keeping."""

_NO_LEVELS = (-math.inf, math.inf)
_FEW = 1 << 16


def joined(parts: Sequence[Rows]) -> Rows:
    """All rows, in order."""
    return np.concatenate(parts) if parts else np.empty(0, ROW)


def newest(rows: Rows, per_series: int) -> Rows:
    """The last *per_series* rows of each series, in their order; per_series >= 1."""
    order, starts = _by_series(rows)
    ends = np.append(starts[1:], len(rows))
    group = np.repeat(np.arange(len(starts)), ends - starts)
    kept = np.zeros(len(rows), np.bool_)
    kept[order] = np.arange(len(rows)) >= ends[group] - per_series
    return _fold(rows, kept, order, starts)


def every_nth(rows: Rows, nth: int, keep: Mask) -> Rows:
    """Of each series its first row, every *nth* after it, and all rows in *keep*, in their order.

    Args:
        keep: shape (n,).
    """
    order, starts = _by_series(rows)
    rank = np.arange(len(rows))
    if len(starts):
        rank -= np.repeat(starts, np.diff(starts, append=len(rows)))
    kept = keep.copy()
    kept[order[rank % nth == 0]] = True
    return _fold(rows, kept, order, starts)


def beyond(rows: Rows, levels: Levels) -> Mask:
    """Which rows are at or beyond a level of their series, shape (n,)."""
    if not levels:
        return np.zeros(len(rows), np.bool_)
    series, place = np.unique(rows["series"], return_inverse=True)
    bounds = np.array([levels.get(each, _NO_LEVELS) for each in series.tolist()], np.float64)
    bounds = bounds.reshape(-1, 2)[place]
    values: FloatArray = rows["value"]
    mask: Mask = (values <= bounds[:, 0]) | (values >= bounds[:, 1])
    return mask


def _by_series(rows: Rows) -> tuple[IntArray, IntArray]:
    """Places of the rows, sorted by series and in their order within each; where each begins."""
    series = np.ascontiguousarray(rows["series"])
    if len(series) and series.min() >= 0 and series.max() < _FEW:
        series = series.astype(np.uint16)  # sorted by radix: several times faster
    order = np.argsort(series, kind="stable")
    series = series[order]
    changes = np.ones(len(rows), np.bool_)
    changes[1:] = series[1:] != series[:-1]
    return order, np.flatnonzero(changes)


def _fold(rows: Rows, kept: Mask, order: IntArray, starts: IntArray) -> Rows:
    """The *kept* rows, the others counted on the kept one before them in their series, or on the
    first kept one of it.

    Args:
        kept: shape (n,), at least one of each series.
        order, starts: as of _by_series.
    """
    if kept.all():
        return rows
    stays = kept[order]
    heirs = np.flatnonzero(stays)
    # Number, among all that stay, of the one at or before each row; not below its series' first.
    before = np.cumsum(stays) - 1
    first = np.searchsorted(heirs, starts)
    before = np.maximum(before, np.repeat(first, np.diff(starts, append=len(rows))))
    leaving = ~stays
    weights = 1 + rows["skipped"][order[leaving]]
    # Counts stay far below 2**53, where adding them as floats would stop being exact.
    inherited = np.bincount(before[leaving], weights, len(heirs)).astype(np.int64)
    result = rows[kept]
    result["skipped"][(np.cumsum(kept) - 1)[order[heirs]]] += inherited
    return result
