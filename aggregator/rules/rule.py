"""A rule: what to watch, when it is bad, and how to say so.  Data, without numpy, clock or file.

Built-in rules and those of a file are the same kind of data.  ``Rule.problems`` is the one place
that says which combinations make sense, so that a rule that was accepted can be evaluated.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from itertools import pairwise

from aggregator.rules import message
from aggregator.rules.units import PLAIN, Level
from notifier.alert import Severity

LAST, ABSENT = "last", "absent"
QUANTILES: Mapping[str, float] = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p999": 0.999}
# Stats that add something up: without records they are 0, where others are unknown.
ADDITIVE = frozenset({"sum", "count", "rate"})
RATIOS = frozenset({"sum", "count", "rate", "avg", "min", "max"})
STATS = (LAST, "avg", "min", "max", "sum", "count", "rate", *QUANTILES, ABSENT)

LONGEST_WINDOW_S = 7 * 86_400
LONGEST_FOR_S = 86_400.0
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,99}")
_WILD = re.compile(r"[*?\[]")
Levels = Mapping[Severity, Level]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule; the fields are the keys of a ``[[rule]]`` table.

    A level is reached at it, or beyond it with ``strict``.  ``match`` maps a label to patterns, one
    of which must fit.  ``by`` makes one alert of all series that agree in these labels (and the
    engine).  ``when`` names a metric that must not be zero, such as ``connected``, for silence to
    count.
    """

    name: str
    metric: str
    above: Levels = field(default_factory=dict)
    below: Levels = field(default_factory=dict)
    match: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    per: str = ""
    by: tuple[str, ...] = ()
    stat: tuple[str, ...] = (LAST,)
    window_s: int = 0
    min_count: int = 1
    clear: Level | None = None
    for_s: float = 0.0
    session: str = ""
    when: str = ""
    message: str = ""
    strict: bool = False

    @property
    def wild(self) -> bool:
        """Whether several metrics can match, so that alerts need the metric's name as a label."""
        return _WILD.search(self.metric) is not None

    @property
    def levels(self) -> list[tuple[Severity, Level]]:
        """Severity and level, from least to most severe."""
        return sorted((self.above or self.below).items())

    def fits(self, metric: str, labels: Mapping[str, str]) -> bool:
        """Whether a series is one that this rule is about."""
        return fnmatchcase(metric, self.metric) and all(
            any(fnmatchcase(labels.get(label, ""), pattern) for pattern in patterns)
            for label, patterns in self.match.items()
        )

    def problems(self) -> Iterator[str]:
        """What is wrong with it, a line each; nothing if it can be evaluated."""
        if not _NAME.fullmatch(self.name):
            yield f"name {self.name!r}: use letters, digits and _ . : -, at most 100"
        if not self.metric:
            yield "metric is missing: name the metric, or a pattern such as *_latency"
        yield from self._stat_problems()
        yield from self._level_problems()
        yield from self._clear_problems()
        if not 0 <= self.for_s <= LONGEST_FOR_S:
            yield "for: must be 0..1d"
        known = {*self.match, *self.by, "engine", *self.stat}
        yield from message.problems(self.message, known)

    def _stat_problems(self) -> Iterator[str]:
        windowed = [stat for stat in self.stat if stat not in (LAST, ABSENT)]
        alone = {LAST, ABSENT, "count", "rate"}
        if not self.stat or (len(self.stat) > 1 and alone & set(self.stat)):
            yield "stat: last, absent, count and rate stand alone; others can be a list"
        if windowed and not 1 <= self.window_s <= LONGEST_WINDOW_S:
            yield f'stat {self.stat[0]} needs a window of 1s..7d, such as window = "5m"'
        if self.stat == (LAST,):
            if self.window_s:
                yield "window: stat last looks at each record by itself; name another stat"
            if self.by:
                yield "by: stat last looks at each series by itself; name another stat"
        if self.stat == (ABSENT,) and self.window_s and not 1 <= self.window_s <= LONGEST_WINDOW_S:
            yield "window: must be 1s..7d"
        if self.min_count != 1 and not windowed:
            yield f"min_count: stat {self.stat[0]} doesn't count records"
        if self.min_count < 1:
            yield "min_count: must be at least 1"
        if self.per and not set(self.stat) <= RATIOS:
            yield f"per: a ratio needs stat {', '.join(sorted(RATIOS))}"
        if self.when and self.stat != (ABSENT,):
            yield f"when: only with stat {ABSENT}"

    def _level_problems(self) -> Iterator[str]:
        if bool(self.above) == bool(self.below):
            yield "levels: give either above or below, such as above = {warning = 5, critical = 10}"
            return
        if self.stat == (ABSENT,) and self.below:
            yield f'below: stat {ABSENT} is a time: use above = {{critical = "30s"}}'
            return
        key, sign = ("above", 1.0) if self.above else ("below", -1.0)
        for severity, level in self.levels:
            if (problem := self._unit_problem(level)) is not None:
                yield f"{key}.{severity.word}: {problem}"
                return
        if self.stat == (ABSENT,) and self.window_s < 1 and self.levels[0][1].to("s") < 1:
            yield f"above: {self.levels[0][1]}: silence is noticed from 1s on"
        for (mild, least), (bad, level) in pairwise(self.levels):
            try:
                ordered = sign * least.to(level.unit) < sign * level.value
            except ValueError:
                yield f"{key}: {least} and {level} can't be compared"
                return
            if not ordered:
                yield f"{key}: {bad.word} ({level}) must be {key} {mild.word} ({least})"

    def _unit_problem(self, level: Level) -> str | None:
        """What is wrong with a level's unit, if the stat has a unit of its own."""
        unit = value_unit(self)
        if unit is None or not level.unit:
            return None
        try:
            level.to(unit)
        except ValueError:
            spoken = "a time" if unit == "s" else "a plain number"
            return f"{level}: the value of stat {self.stat[0]} is {spoken}"
        return None

    def _clear_problems(self) -> Iterator[str]:
        if self.clear is None or not (self.above or self.below):
            return
        if self.stat == (ABSENT,):
            yield f"clear: stat {ABSENT} is over with the next record"
            return
        severity, level = self.levels[0]
        sign = 1.0 if self.above else -1.0
        try:
            good = sign * self.clear.to(level.unit) < sign * level.value
        except ValueError:
            yield f"clear: {self.clear} and {level} can't be compared"
            return
        if not good:
            side = "below" if self.above else "above"
            yield f"clear ({self.clear}) must be {side} the level of {severity.word} ({level})"


def value_unit(rule: Rule) -> str | None:
    """The unit that a rule's value has whatever the series' unit; None: the series' own."""
    if rule.stat == (ABSENT,):
        return "s"
    if rule.per or rule.stat[:1] in (("count",), ("rate",)):
        return PLAIN
    return None
