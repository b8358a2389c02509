"""Compare the levels of rules with what was recorded lately: too low, too high, or about right.

A level far above anything that ever happens notices nothing, one that an ordinary day reaches wakes
people for nothing.  Only rules on the values themselves are compared; what a rule on sums, counts,
ratios or silence would have done is what `rules replay` shows.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from aggregator.rules.levels import FIRST, compile_levels
from aggregator.rules.rule import LAST, QUANTILES, Rule
from aggregator.rules.sessions import Session
from aggregator.store import query
from cli import render, times
from cli.times import NS

# A level that is so many times what an ordinary value is at most would sleep through a disaster.
FAR = 100.0
# Fewer records than this tell nothing about the next session.
FEW = 100
_OF_VALUES = frozenset({LAST, "avg", "min", "max", *QUANTILES})

Row = dict[str, Any]


@dataclass(frozen=True)
class Comparison:
    """The first level of one rule against one series.

    ``ordinary`` is the series' p99, or its lowest value where low ones are bad; ``worst`` the worst
    value there was; ``ratio`` is level / ordinary, None where that says nothing.  ``period`` has {}
    where the name of a value goes.
    """

    rule: str
    metric: str
    labels: dict[str, str]
    unit: str
    above: bool
    level: float
    ordinary: float
    worst: float
    count: int
    ratio: float | None
    reached: bool
    period: str

    @property
    def telling(self) -> bool:
        """Whether there were enough records to judge by."""
        return self.count >= FEW

    @property
    def text(self) -> str:
        """Such as ``1,000 ms is 2,400 times last session's p99 (0.412 ms)``."""
        level = render.quantity(self.level, self.unit)
        name = self.period.format("p99" if self.above else "lowest")
        if self.reached:
            name = self.period.format("highest" if self.above else "lowest")
            worst = render.quantity(self.worst, self.unit)
            return f"{level} was reached: {name} is {worst}"
        ordinary = render.quantity(self.ordinary, self.unit)
        if self.ratio is None:
            return f"{level}, {name} is {ordinary}"
        return f"{level} is {_times(self.ratio)} {name} ({ordinary})"

    def row(self) -> Row:
        """As JSON."""
        return {
            "metric": self.metric,
            "labels": self.labels,
            "unit": self.unit,
            "level": self.level,
            "ordinary": self.ordinary,
            "worst": self.worst,
            "count": self.count,
            "ratio": self.ratio,
            "reached": self.reached,
            "text": self.text,
        }


def compare(
    rules: Sequence[Rule], sessions: Sequence[Session], db: sqlite3.Connection, now_ns: int
) -> dict[str, list[Comparison]]:
    """What each rule's level is to the values of its last session, by the rule's name.

    The session is the rule's own, else the one that closed last; without one, or without records in
    it, it is the 24 h that end at the newest record.
    """
    newest_s = query.newest_s(db)
    if newest_s is None:
        return {}
    summaries = _Summaries(db, newest_s)
    found: dict[str, list[Comparison]] = {}
    for rule in rules:
        if not set(rule.stat) <= _OF_VALUES or rule.per or not rule.levels:
            continue
        session = _session(rule, sessions, now_ns)
        period, rows = summaries.of(session, now_ns)
        found.setdefault(rule.name, []).extend(_compared(rule, rows, period))
    return found


class _Summaries:
    """Merged statistics per series of the periods asked for, each read once."""

    def __init__(self, db: sqlite3.Connection, newest_s: int) -> None:
        self._db = db
        self._newest_s = newest_s
        self._known: dict[tuple[int, int], list[Row]] = {}

    def of(self, session: Session | None, now_ns: int) -> tuple[str, list[Row]]:
        """What the period is called, such as "last session's {}", and its rows."""
        span = _last_span(session, now_ns) if session is not None else None
        if span is not None and (rows := self._between(*span)):
            return "last session's {}", rows
        end_s = self._newest_s
        return "the {} of the last 24 h", self._between(end_s - times.DEFAULT_RANGE_S, end_s)

    def _between(self, start_s: int, end_s: int) -> list[Row]:
        key = (start_s, end_s)
        if key not in self._known:
            self._known[key] = list(query.summary(self._db, start_s=start_s, end_s=end_s))
        return self._known[key]


def _session(rule: Rule, sessions: Sequence[Session], now_ns: int) -> Session | None:
    own = [session for session in sessions if session.name == rule.session]
    ended = [(session.last_close(now_ns) or 0, session) for session in own or sessions]
    return max(ended, key=lambda each: each[0])[1] if ended else None


def _last_span(session: Session, now_ns: int) -> tuple[int, int] | None:
    """The last stretch of *session* that is over, in whole seconds."""
    close_ns = session.last_close(now_ns)
    if close_ns is None:
        return None
    return session.span(close_ns - 1).start_ns // NS, close_ns // NS


def _compared(rule: Rule, rows: Sequence[Row], period: str) -> Iterator[Comparison]:
    above = bool(rule.above)
    extreme = "max" if above else "min"
    ordinary = "p99" if above else "min"
    every_record = {LAST, extreme} & set(rule.stat)
    for row in rows:
        if not rule.fits(row["metric"], row["labels"]):
            continue
        try:
            levels = compile_levels(rule, row["unit"])
        except ValueError:
            continue  # the service says so when the series appears
        level = levels.thresholds[0]
        decisive = row[extreme] if every_record else row[ordinary]
        yield Comparison(
            rule=rule.name,
            metric=row["metric"],
            labels=row["labels"],
            unit=levels.unit,
            above=above,
            level=level,
            ordinary=row[ordinary],
            worst=row[extreme],
            count=row["count"],
            ratio=_ratio(level, row[ordinary]),
            reached=levels.code(decisive) >= FIRST,
            period=period,
        )


def _ratio(level: float, ordinary: float) -> float | None:
    """How many times *ordinary* the level is; None unless both lie on the same side of zero."""
    if level * ordinary <= 0:
        return None
    ratio = level / ordinary
    return ratio if ratio < 1e12 else None


def _times(ratio: float) -> str:
    """*ratio* in two digits, such as ``2,400 times`` or ``1.3 times``."""
    rounded = float(f"{ratio:.2g}")
    return f"{rounded:,.0f} times" if rounded >= 10 else f"{rounded:g} times"
