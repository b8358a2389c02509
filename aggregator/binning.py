"""Bucket numbers and dense ranks of whole arrays: the vectorised half of grouping.

``bucket_numbers`` must equal ``histogram.bucket`` for every double, edges included, because
histograms of both merge.  No logarithm is taken: a double's bits rise with its size, so exponent
and a 4,096-entry table of mantissas give the bucket, and one comparison with the only edge inside a
table cell makes it exact.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator import histogram

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

_FRACTION_BITS = 52
_CELL_BITS = 12
_CELL_SHIFT = _FRACTION_BITS - _CELL_BITS
_FRACTION_MASK = np.int64((1 << _FRACTION_BITS) - 1)
_MAGNITUDE_MASK = np.int64((1 << 63) - 1)
_LEAST_NORMAL = 1 << _FRACTION_BITS
# Number of the bucket just above 2**-1023, the power of two that exponent field 0 would stand for.
_BASE = -1023 * histogram.PER_OCTAVE + histogram.OFFSET
_SUBNORMAL_LIFT = 64  # multiplying by 2**64 makes every subnormal normal, exactly
# A lookup table may be this much longer than the array it ranks; beyond that sorting is cheaper.
_TABLE_PER_VALUE = 4
_TABLE_SPARE = 1 << 16


def _tables() -> tuple[IntArray, IntArray]:
    """Per mantissa cell: the step of the octave at its start, and where the next step begins.

    An edge belongs to the lower bucket: look up bits taken one lower, and compare with
    ``fraction >= next step``.
    """
    # Fractions of 2**(step / 32) for the steps 0..32.
    fractions = np.array(histogram.EDGES, dtype=np.int64) - _LEAST_NORMAL
    starts = np.arange(1 << _CELL_BITS, dtype=np.int64) << _CELL_SHIFT
    steps = np.searchsorted(fractions, starts, side="right") - 1
    return steps.astype(np.int64), fractions[steps + 1]


_STEPS, _NEXT_EDGES = _tables()


def bucket_numbers(values: FloatArray) -> IntArray:
    """The bucket of each value, as ``histogram.bucket`` numbers them.

    Args:
        values: shape (n,), float64, finite, contiguous.

    Returns:
        shape (n,), int64.
    """
    bits = values.view(np.int64) & _MAGNITUDE_MASK
    small = bits < _LEAST_NORMAL
    numbers = _numbers(bits)
    if small.any():
        lifted = (np.abs(values[small]) * 2.0**_SUBNORMAL_LIFT).view(np.int64)
        numbers[small] = _numbers(lifted) - _SUBNORMAL_LIFT * histogram.PER_OCTAVE
        numbers[bits == 0] = 0
    np.negative(numbers, out=numbers, where=values < 0)
    return numbers


def _numbers(bits: IntArray) -> IntArray:
    below: IntArray = bits - 1  # a bucket contains its upper edge, not its lower one
    cells = (below >> _CELL_SHIFT) & ((1 << _CELL_BITS) - 1)
    numbers: IntArray = _STEPS[cells]
    numbers += (below & _FRACTION_MASK) >= _NEXT_EDGES[cells]
    below >>= _FRACTION_BITS
    below <<= histogram.SCALE
    numbers += below
    numbers += _BASE
    return numbers


def ranks(values: IntArray) -> tuple[IntArray, IntArray]:
    """The distinct values, ascending, and each value's position among them.

    Args:
        values: shape (n,), int64, n >= 1.

    Returns:
        (distinct: shape (k,), rank: shape (n,)), so that ``distinct[rank] == values``.
    """
    low = int(values.min())
    span = int(values.max()) - low + 1
    if span == 1:
        return values[:1].copy(), np.zeros(len(values), dtype=np.int64)
    if span > _most_cells(len(values)):
        distinct, inverse = np.unique(values, return_inverse=True)
        return distinct, inverse.astype(np.int64, copy=False)
    shifted = values - low
    used = np.zeros(span, dtype=np.bool_)
    used[shifted] = True
    found = np.flatnonzero(used)
    table = np.empty(span, dtype=np.int64)
    table[found] = np.arange(len(found))
    return found + low, table[shifted]


def columns(values: IntArray, rows: int) -> tuple[IntArray, IntArray]:
    """What the columns of a table stand for that has *rows* rows, and each value's column.

    All numbers from the least to the greatest value if ``tally`` can then still count in a plain
    array, which saves looking for the distinct ones; otherwise these.

    Args:
        values: shape (n,), int64, n >= 1.
    """
    low = int(values.min())
    span = int(values.max()) - low + 1
    if rows * span > _most_cells(len(values)):
        return ranks(values)
    return np.arange(low, low + span), values - low


def _most_cells(n: int) -> int:
    return _TABLE_PER_VALUE * n + _TABLE_SPARE


def tally(cells: IntArray, size: int) -> tuple[IntArray, IntArray]:
    """The distinct cells, ascending, and how often each occurs.

    Args:
        cells: shape (n,), int64, each in 0..size-1.
        size: number of possible cells.
    """
    if size <= _most_cells(len(cells)):
        dense: NDArray[Any] = np.bincount(cells, minlength=size)
        found = np.flatnonzero(dense)
        return found, dense[found]
    distinct, counts = np.unique(cells, return_counts=True)
    return distinct, counts
