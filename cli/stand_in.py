"""Records that stand in for a rollup whose records aren't kept, so that rules can be tried on it.

They have the rollup's extremes, about its quantiles, and its mean; when within the interval each
came nobody knows.  For rules on single values the bad ones come in a row, which is the fewest
messages that fit; for rules on windows they are spread, so that each window is like the whole.
Pure functions.
"""

import enum
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from aggregator.binning import FloatArray, IntArray
from aggregator.rules.rule import ABSENT, ADDITIVE, LAST, Rule
from cli.times import NS

# Per 300 s.  Rules that count need as many as there were, as far as that is bearable.
_FEW, _MANY = 1_000, 20_000
_PER_S = 300
_MOST = 100_000
_KNOTS = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)
_STATS = ("min", "p50", "p90", "p99", "p999", "max")
_CLOSE = 0.011  # quantiles are off by up to 1.083 %
_GOLDEN = 0.6180339887498949


class Order(enum.Enum):
    """How values come within an interval."""

    SPREAD = "spread"
    PEAK = "peak"  # the highest in a row
    VALLEY = "valley"  # the lowest in a row


class Shape:
    """What the rules that watch one series ask of its stand-ins."""

    def __init__(self, rules: list[Rule]) -> None:
        single = [rule for rule in rules if rule.stat == (LAST,)]
        self.order = Order.SPREAD
        if single:
            self.order = Order.PEAK if single[0].above else Order.VALLEY
        self.counted = any(ADDITIVE & set(rule.stat) for rule in rules)
        self.steady = any(rule.stat == (ABSENT,) for rule in rules)


def records(
    row: Mapping[str, Any], start_s: int, end_s: int, shape: Shape
) -> tuple[IntArray, FloatArray]:
    """Times in ns, ascending, and values, shape (k,) each, for the rollup *row* of [start, end)."""
    length_s = end_s - start_s
    most = (_MANY if shape.counted else _FEW) * max(1, math.ceil(length_s / _PER_S))
    count = max(1, min(int(row["count"]), most, _MOST))
    if shape.steady:  # silence within an interval can't be known: let there be none
        count = max(count, length_s)
    values = arranged(_values(row, count), shape.order)
    step_ns = length_s * NS / count
    times = start_s * NS + ((np.arange(count) + 0.5) * step_ns).astype(np.int64)
    return times, values


def _values(row: Mapping[str, Any], count: int) -> FloatArray:
    """*count* values, ascending, whose distribution is about that of *row*."""
    low, high, mean = float(row["min"]), float(row["max"]), float(row["avg"])
    if low == high or count == 1:
        return np.full(count, high if count == 1 and mean >= 0 else low)
    if all(_is_one_of(row[stat], low, high) for stat in _STATS):
        highs = min(count - 1, max(1, round((mean - low) / (high - low) * count)))
        return np.repeat([low, high], [count - highs, highs])
    places = (np.arange(count) + 0.5) / count
    values: FloatArray = np.interp(places, _KNOTS, [float(row[stat]) for stat in _STATS])
    values[0], values[-1] = low, high
    for _ in range(3):  # what the ends cut off is left to the next round
        inner = values[1:-1]
        if len(inner):
            inner += (mean * count - values.sum()) / len(inner)
            np.clip(inner, low, high, out=inner)
    return values


def _is_one_of(value: float, low: float, high: float) -> bool:
    return any(math.isclose(value, end, rel_tol=_CLOSE, abs_tol=1e-12) for end in (low, high))


def arranged(values: FloatArray, order: Order) -> FloatArray:
    """Ascending *values* in the order in which they are to come."""
    if order is Order.SPREAD:
        rank = np.argsort(np.argsort(np.arange(len(values)) * _GOLDEN % 1.0))
        return values[rank]
    if order is Order.VALLEY:
        return -arranged(-values[::-1], Order.PEAK)
    return np.concatenate((values[::2], values[1::2][::-1]))
