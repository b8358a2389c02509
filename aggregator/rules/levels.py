"""The levels of a rule in the unit of one series, ready for comparing.

Everything is turned so that larger is worse: values and levels of ``below`` are negated.  A code
says where a value lies: 0 = clear, 1 = neither clear nor at a level (hysteresis), 2 and more = at
the first, second, ... level.
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass

from aggregator.rules.rule import ABSENT, Rule, value_unit
from aggregator.rules.units import PLAIN
from notifier.alert import Severity

CLEAR, BETWEEN, FIRST = 0, 1, 2
# How many records back up an alert.
EVIDENCE = 5


@dataclass(frozen=True, slots=True)
class CompiledLevels:
    """Levels for one series.

    Attributes:
        sign: 1.0 for above, -1.0 for below.
        unit: of the value that is compared, as people see it.
        severities, thresholds: from least to most severe, thresholds as people see them.
        bounds: what ``sign * value`` must reach, ascending.
        clear: ``sign * value`` at or under it is clear; None: everything under the first bound is.
    """

    sign: float
    unit: str
    severities: tuple[Severity, ...]
    thresholds: tuple[float, ...]
    bounds: tuple[float, ...]
    clear: float | None

    def code(self, value: float) -> int:
        """Where *value* lies."""
        turned = self.sign * value
        if turned < self.bounds[0]:
            return CLEAR if self.clear is None or turned <= self.clear else BETWEEN
        return BETWEEN + bisect_right(self.bounds, turned)

    def severity(self, code: int) -> Severity:
        """The severity of a code at a level."""
        return self.severities[code - FIRST]

    def threshold(self, code: int) -> float:
        """The level of a code, as people see it."""
        return self.thresholds[code - FIRST]

    def nearest(self, severity: int) -> int:
        """The code of the most severe level that isn't above *severity*, or of the first."""
        reached = [i for i, each in enumerate(self.severities) if each <= severity]
        return FIRST + max(reached, default=0)


def compile_levels(rule: Rule, series_unit: str) -> CompiledLevels:
    """The levels of *rule* for a series in *series_unit*.

    Raises:
        ValueError: a level's unit measures something else than the series does.
    """
    fixed = value_unit(rule)
    unit = (series_unit or rule.levels[0][1].unit) if fixed is None else fixed
    sign = 1.0 if rule.above else -1.0
    thresholds = tuple(float(level.to(unit)) for _, level in rule.levels)
    if rule.stat == (ABSENT,):  # a silence shorter than the window isn't one
        thresholds = tuple(max(threshold, rule.window_s) for threshold in thresholds)
    bounds = tuple(sign * threshold for threshold in thresholds)
    if rule.strict:
        bounds = tuple(math.nextafter(bound, math.inf) for bound in bounds)
    return CompiledLevels(
        sign=sign,
        unit=_shown(rule, unit),
        severities=tuple(severity for severity, _ in rule.levels),
        thresholds=thresholds,
        bounds=bounds,
        clear=None if rule.clear is None else sign * rule.clear.to(unit),
    )


def _shown(rule: Rule, unit: str) -> str:
    if unit == PLAIN:
        return "/s" if rule.stat == ("rate",) and not rule.per else ""
    return unit


def worst_of(sign: float, records: Iterable[tuple[int, float]]) -> tuple[tuple[int, float], ...]:
    """The worst few of (time_ns, value), worst first, of equal ones the earliest."""
    return tuple(sorted(records, key=lambda each: (-sign * each[1], each[0]))[:EVIDENCE])
