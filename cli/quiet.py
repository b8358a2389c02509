"""When nothing that a series recorded can matter to any rule, as its rollups tell.

A rule on the values themselves notices nothing while no value comes near its level, so the records
of such hours needn't be evaluated one by one: that makes a month as quick as its incidents are
few.  What counts, sums, compares or waits for silence needs every record; those rules are left
alone.  In doubt a series is loud.
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from aggregator.rules.levels import compile_levels
from aggregator.rules.rule import LAST, QUANTILES, Rule
from cli.times import NS

_OF_VALUES = frozenset({LAST, "avg", "min", "max", *QUANTILES})
# Rounding may lift a mean above the values it is of, by a hair.
_HAIR = 1e-9
# An alert that trembles is held for a while before it is told.
_HELD_S = 30


@dataclass(slots=True)
class _Bound:
    """A value whose sign * value reaches *at* may be noticed up to *reach_s* before and after."""

    sign: float
    at: float
    reach_s: int


@dataclass(slots=True)
class _Series:
    """``bounds`` None: always loud.  Spans, in ns, are ascending and don't overlap."""

    bounds: list[_Bound] | None
    starts: list[int] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    unfinished: bool = False  # the next records, however late, may end an alert

    def add(self, start_s: int, end_s: int) -> None:
        start_ns, end_ns = start_s * NS, end_s * NS
        while self.starts and start_ns <= self.ends[-1]:
            start_ns, end_ns = min(start_ns, self.starts.pop()), max(end_ns, self.ends.pop())
        self.starts.append(start_ns)
        self.ends.append(end_ns)


class Quiet:
    """Says for each series when it is loud.

    Args:
        rules: all that will see its records.
    """

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = rules
        self._series: dict[int, _Series] = {}
        self._unknown: list[tuple[int, int]] = []

    def see(self, number: int, row: Mapping[str, Any], start_s: int) -> None:
        """Take note of a rollup of the series *number*; those of one series in order of time."""
        series = self._series.get(number)
        if series is None:
            series = self._series[number] = _Series(self._bounds(row))
        if series.bounds is None:
            return
        end_s = start_s + row["interval_seconds"]
        if series.unfinished:
            series.add(start_s, end_s)
            series.unfinished = False
        for bound in series.bounds:
            worst = row["max"] if bound.sign > 0 else -row["min"]
            if worst >= bound.at:
                series.add(start_s - bound.reach_s, end_s + bound.reach_s)
                series.unfinished = True

    def know_nothing(self, start_s: int, end_s: int) -> None:
        """The rollups of [start, end) don't cover what was recorded in it."""
        self._unknown.append((start_s * NS, end_s * NS))

    def is_loud(self, number: int, at_ns: int) -> bool:
        """Whether a record of that series and time may matter."""
        series = self._series.get(number)
        if series is None or series.bounds is None:
            return True
        place = bisect_right(series.starts, at_ns) - 1
        if place >= 0 and at_ns < series.ends[place]:
            return True
        return any(start_ns <= at_ns < end_ns for start_ns, end_ns in self._unknown)

    def _bounds(self, row: Mapping[str, Any]) -> list[_Bound] | None:
        found = []
        for rule in self._rules:
            if row["metric"] in (rule.per, rule.when):
                return None
            if not rule.fits(row["metric"], row["labels"]):
                continue
            if not _is_plain(rule):
                return None
            try:
                levels = compile_levels(rule, row["unit"])
            except ValueError:
                continue  # the evaluator leaves it out, too
            at = levels.bounds[0] if levels.clear is None else min(levels.bounds[0], levels.clear)
            slice_s = -(-rule.window_s // 300)  # of a window that is made of slices
            reach_s = rule.window_s + slice_s + int(rule.for_s) + _HELD_S
            found.append(_Bound(levels.sign, at - abs(at) * _HAIR, reach_s))
        return found


def _is_plain(rule: Rule) -> bool:
    """Whether each series, each stretch of it and each value is all that the rule looks at."""
    whole = rule.per or rule.by or rule.session or rule.min_count > 1
    return not whole and set(rule.stat) <= _OF_VALUES
