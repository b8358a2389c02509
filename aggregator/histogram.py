"""Exponential histograms: one integer bucket per value, merged by adding counts.

The layout is OpenTelemetry's base-2 exponential histogram at scale 5 (Prometheus' native histogram
schema 5): 32 buckets per factor of two, each (lower, upper], mirrored for negative values, one
bucket for zero.  A bucket's number rises with the values in it and must keep its meaning for ever,
since stored histograms are merged with new ones.  Numbers are never interpolated: every answer is a
property of the merged counts, so merging early or late is the same.

Source: OpenTelemetry metrics data model, "Exponential scale"; the bucket of OpenTelemetry index i
has the number ``i + OFFSET`` here, its mirror image the negated number, and zero the number 0.
"""

import math
import sys
from array import array
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from operator import sub

SCALE = 5
PER_OCTAVE = 1 << SCALE
# The smallest double, 2**-1074, has OpenTelemetry index -1074 * 32 - 1; it gets number 1.
OFFSET = 1074 * PER_OCTAVE + 2
LARGEST = 1024 * PER_OCTAVE - 1 + OFFSET
_MANTISSA_BITS = 53
_PER_MILLION = 1_000_000


def _edge(step: int) -> int:
    """The largest M with M / 2**53 <= 2**(step / 32 - 1): five square roots in whole numbers."""
    power = 1 << (_MANTISSA_BITS * PER_OCTAVE + step - PER_OCTAVE)
    for _ in range(SCALE):
        power = math.isqrt(power)
    return power


# Upper edges of an octave's buckets as mantissas of frexp, rounded down: a double is at or below
# the true edge exactly if it is at or below this one.  The first is the octave's open lower edge.
EDGES: tuple[int, ...] = tuple(_edge(step) for step in range(PER_OCTAVE + 1))
_MANTISSAS: tuple[float, ...] = tuple(edge / (1 << _MANTISSA_BITS) for edge in EDGES)
# 2 * lower * upper / (lower + upper) is off by the same share of either end of a bucket.
_BASE = 2.0 ** (1 / PER_OCTAVE)
_MIDDLES: tuple[float, ...] = tuple(
    2.0 ** (step / PER_OCTAVE - 1) * 2 * _BASE / (1 + _BASE) for step in range(PER_OCTAVE)
)
RELATIVE_ERROR = (_BASE - 1) / (_BASE + 1)


def bucket(value: float) -> int:
    """The number of the bucket that holds *value*; exact on every edge.

    Raises:
        ValueError: *value* isn't finite.
    """
    if not math.isfinite(value):
        raise ValueError(f"value {value}: only finite numbers have a bucket")
    if value == 0:
        return 0
    mantissa, exponent = math.frexp(abs(value))
    step = bisect_left(_MANTISSAS, mantissa) - 1
    number = (exponent - 1) * PER_OCTAVE + step + OFFSET
    return number if value > 0 else -number


def bounds(number: int) -> tuple[float, float]:
    """Lower and upper end of a bucket, ``lower <= upper``, as the nearest doubles.

    The end nearer to zero is not in the bucket, the other one is; zero's bucket is (0.0, 0.0).  The
    outermost bucket ends at the largest double.

    Raises:
        ValueError: there is no such bucket.
    """
    if not -LARGEST <= number <= LARGEST:
        raise ValueError(f"bucket {number}: must be {-LARGEST}..{LARGEST}")
    if number == 0:
        return 0.0, 0.0
    octave, step = divmod(abs(number) - OFFSET, PER_OCTAVE)
    near = math.ldexp(_MANTISSAS[step], octave + 1)
    if abs(number) == LARGEST:
        far = sys.float_info.max
    else:
        far = math.ldexp(_MANTISSAS[step + 1], octave + 1)
    return (near, far) if number > 0 else (-far, -near)


@lru_cache(maxsize=8192)
def middle(number: int) -> float:
    """The value that stands for a bucket: within RELATIVE_ERROR of every normal double in it."""
    if number == 0:
        return 0.0
    octave, step = divmod(abs(number) - OFFSET, PER_OCTAVE)
    value = math.ldexp(_MIDDLES[step], octave + 1)
    return value if number > 0 else -value


def merge(first: Mapping[int, int], second: Mapping[int, int]) -> dict[int, int]:
    """The counts of both together."""
    merged = dict(first)
    add_into(merged, second)
    return merged


def add_into(counts: dict[int, int], more: Mapping[int, int]) -> None:
    """Add *more* to *counts* in place."""
    get = counts.get
    for number, count in more.items():
        counts[number] = get(number, 0) + count


def quantile(counts: Mapping[int, int], q: float, minimum: float, maximum: float) -> float:
    """The value of rank ``ceil(q * n)`` of n (of the first for q = 0), within RELATIVE_ERROR.

    Args:
        counts: bucket number -> count, not empty.
        q: 0..1, taken to six decimals so that ranks are exact whole numbers.
        minimum, maximum: the exact extremes of the values.  They bound the answer, and they are
            it for the first and the last rank.

    Raises:
        ValueError: there are no values, or *q* is out of range.
    """
    return quantiles(counts, (q,), minimum, maximum)[0]


def quantiles(
    counts: Mapping[int, int], qs: Sequence[float], minimum: float, maximum: float
) -> list[float]:
    """Several quantiles for the price of one sorting; see quantile()."""
    numbers = sorted(counts)
    return ranked(numbers, list(map(counts.__getitem__, numbers)), qs, minimum, maximum)


def ranked(
    numbers: Sequence[int],
    counts: Iterable[int],
    qs: Sequence[float],
    minimum: float,
    maximum: float,
) -> list[float]:
    """Quantiles of a histogram given as ascending numbers and their counts; see quantile()."""
    reached = list(accumulate(counts))
    if not reached or reached[-1] < 1:
        raise ValueError("a histogram without values has no quantiles")
    total = reached[-1]
    answers = []
    for q in qs:
        if not 0 <= q <= 1:
            raise ValueError(f"quantile {q}: must be 0..1")
        rank = -(-round(q * _PER_MILLION) * total // _PER_MILLION)
        if rank <= 1:
            answers.append(minimum)
        elif rank >= total:
            answers.append(maximum)
        else:
            value = middle(numbers[bisect_left(reached, rank)])
            answers.append(min(max(value, minimum), maximum))
    return answers


# Stored form: one byte (version, width of gaps, width of counts), then little-endian columns: the
# first bucket number (4 bytes), the gaps to each next number, the counts.  Columns, because the
# array module decodes them at C speed.
_VERSION = 1
_TYPES = ("B", "H", "I", "Q")
_SIZES = tuple(array(code).itemsize for code in _TYPES)
_FIRST_BYTES = 4
_SWAP = sys.byteorder == "big"


def encode(counts: Mapping[int, int]) -> bytes:
    """*counts* in their stored form; empty for an empty histogram."""
    numbers = sorted(counts)
    return encode_sorted(numbers, list(map(counts.__getitem__, numbers)))


def encode_sorted(numbers: list[int], counts: list[int]) -> bytes:
    """The stored form of a histogram given as ascending bucket numbers and their counts."""
    if not numbers:
        return b""
    gaps = list(map(sub, numbers[1:], numbers))
    gap_width = _width(max(gaps, default=0))
    count_width = _width(max(counts))
    return b"".join(
        (
            bytes((_VERSION << 4 | gap_width << 2 | count_width,)),
            int(numbers[0]).to_bytes(_FIRST_BYTES, "little", signed=True),
            _column(gap_width, gaps),
            _column(count_width, counts),
        )
    )


def decode(blob: bytes) -> dict[int, int]:
    """Bucket number -> count from the stored form.

    Raises:
        ValueError: *blob* isn't such a form, or of a later version.
    """
    if not blob:
        return {}
    head = blob[0]
    if head >> 4 != _VERSION:
        raise ValueError(f"histogram of version {head >> 4}: this program reads {_VERSION}")
    gap_type, count_type = _TYPES[head >> 2 & 3], _TYPES[head & 3]
    gap_size, count_size = _SIZES[head >> 2 & 3], _SIZES[head & 3]
    start = 1 + _FIRST_BYTES
    number, rest = divmod(len(blob) - start + gap_size, gap_size + count_size)
    if rest or number < 1:
        raise ValueError(f"histogram of {len(blob)} bytes: not a whole number of buckets")
    first = int.from_bytes(blob[1:start], "little", signed=True)
    split = start + (number - 1) * gap_size
    gaps = array(gap_type, blob[start:split])
    counts = array(count_type, blob[split:])
    if _SWAP:
        gaps.byteswap()
        counts.byteswap()
    return dict(zip(accumulate(gaps, initial=first), counts, strict=True))


def _width(largest: int) -> int:
    return next(width for width, size in enumerate(_SIZES) if largest < 1 << 8 * size)


def _column(width: int, values: list[int]) -> bytes:
    column = array(_TYPES[width], values)
    if _SWAP:
        column.byteswap()
    return column.tobytes()
