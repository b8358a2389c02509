"""The facts of one period for a report: alerts, PnL, latency, deliveries, gaps.

A part that can't be read is named in ``missing`` and hides no other.
"""

import sqlite3
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import Any

from aggregator.store import course, query
from aggregator.store.course import Course
from aggregator.store.dayrows import DayRows
from aggregator.store.fetch import Lost
from cli import known, rollups, times
from cli.deliveries import opened as opened_ledger
from cli.known import Known
from cli.place import Place
from cli.problems import Failed
from cli.times import NS
from notifier.alert import Alert
from notifier.decisions import Decision, Decisions, Journal
from notifier.lifecycle import FIRING, RESOLVED
from notifier.tally import Tally, tallies

LATENCY = "*_latency"
PNL = "pnl"
_MOST_GAPS = 200
_MOST_STEPS = 120
_STEPS_S = (60, 120, 300, 600, 900, 1800, 3600, 7200, 10_800, 21_600, 43_200, 86_400)

Row = dict[str, Any]


@dataclass(frozen=True)
class Answered:
    """An alert, and who acknowledged it first; both empty if nobody did."""

    alert: Alert
    by: str = ""
    at_ns: int | None = None

    @property
    def after_s(self) -> float | None:
        """Seconds from its beginning to the acknowledgement; 0 if that was given in advance."""
        if self.at_ns is None:
            return None
        return max(0.0, (self.at_ns - self.alert.started_ns) / NS)


@dataclass(frozen=True)
class Gap:
    """Records that were lost, or time in which an engine wrote nothing though it had before.

    ``lost`` is None where nobody knows how many, and 0 for silence.
    """

    engine: str
    start_s: int
    end_s: int
    lost: int | None

    @property
    def silent(self) -> bool:
        return self.lost == 0


@dataclass
class Facts:
    """Everything about one period.

    ``over_time`` has the rows of each latency series per *step_s*, by its key.
    """

    where: Place
    start_s: int
    end_s: int
    at_ns: int = field(default_factory=times.now_ns)
    records: int = 0
    lost: int | None = 0
    alerts: list[Answered] = field(default_factory=list)
    pnl: list[Course] = field(default_factory=list)
    latency: list[Row] = field(default_factory=list)
    deliveries: list[Tally] = field(default_factory=list)
    gaps: list[Gap] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    step_s: int = 0
    over_time: dict[tuple[Any, ...], list[Row]] = field(default_factory=dict)


def gather(where: Place, start_s: int, end_s: int, days: DayRows) -> Facts:
    """The facts of [start, end) in epoch seconds; never raises for a part that can't be read.

    Args:
        days: the day files, for times of which the store hasn't all; notes what they left out.
    """
    facts = Facts(where, start_s, end_s)
    with _part(facts, "rollups"), rollups.opened(where) as db:
        _recorded(facts, db, days)
    with _part(facts, "alerts"):
        now = known.load(where, everything=True)
        facts.alerts = _answered(where, now, start_s * NS, end_s * NS)
    if where.ledger.exists():
        with _part(facts, "deliveries"), opened_ledger(where) as db:
            facts.deliveries = list(tallies(db, start_s * NS, end_s * NS))
    return facts


@contextmanager
def _part(facts: Facts, name: str) -> Iterator[None]:
    try:
        yield
    except (OSError, sqlite3.Error, Failed) as error:
        facts.missing.append(f"{name}: {error}")


def _recorded(facts: Facts, db: sqlite3.Connection, days: DayRows) -> None:
    start_s, end_s = facts.start_s, facts.end_s
    rows = list(query.summary(db, start_s=start_s, end_s=end_s, days=days))
    days = DayRows(days.directory)  # what the summary passed over is counted once, not again
    facts.records = sum(row["count"] for row in rows)
    facts.latency = [row for row in rows if fnmatchcase(row["metric"], LATENCY)]
    facts.step_s = step_s(facts.end_s - facts.start_s, query.base_s(db))
    for row in query.metrics(
        db, interval_s=facts.step_s, metric=LATENCY, start_s=start_s, end_s=end_s, days=days
    ):
        facts.over_time.setdefault(rollups.series_key(row), []).append(row)
    facts.pnl = course.courses(db, PNL, start_s=start_s, end_s=end_s, days=days)
    booked = Lost(db, facts.start_s, facts.end_s).booked
    counts = [(count, unknown) for several in booked.values() for _, count, unknown in several]
    unknown = any(each[1] for each in counts)
    facts.lost = None if unknown else sum(each[0] for each in counts)
    base_s = query.base_s(db)
    losses = [
        Gap(engine, at_s, at_s + base_s, None if unknown else count)
        for engine, several in booked.items()
        for at_s, count, unknown in several
        if count or unknown
    ]
    silences = _silences(course.written(db, start_s=start_s, end_s=end_s, days=days))
    found = sorted([*losses, *silences], key=lambda gap: gap.start_s)
    facts.gaps = found[:_MOST_GAPS]


def step_s(length_s: int, base_s: int) -> int:
    """A width of intervals, a multiple of the base one, that leaves a readable number of them."""
    wanted = length_s / _MOST_STEPS
    return next((step for step in _STEPS_S if step >= wanted and step % base_s == 0), _STEPS_S[-1])


def _silences(written: Mapping[str, Sequence[tuple[int, int]]]) -> Iterator[Gap]:
    """Time between two intervals in which an engine wrote."""
    for engine, intervals in written.items():
        for (_, before_s), (after_s, _) in pairwise(intervals):
            if after_s > before_s:
                yield Gap(engine, before_s, after_s, 0)


def _answered(where: Place, now: Known, start_ns: int, end_ns: int) -> list[Answered]:
    """Alerts that were firing at some time in [start, end), the oldest first."""
    inside = [
        alert
        for alert in now.alerts
        if alert.started_ns < end_ns and (ended_ns(alert) or now.now_ns) >= start_ns
    ]
    waiting = deque(Journal(where.decisions).read_all())
    acks: dict[str, Decision] = {}
    for decision in waiting:
        if decision.kind == "ack":
            for alert_id in (decision.alert, *(cover.alert for cover in decision.covers)):
                acks.setdefault(alert_id, decision)
    standing = Decisions()
    found = []
    for alert in sorted(inside, key=lambda one: one.started_ns):
        while waiting and waiting[0].at_ns <= alert.started_ns:
            standing.add(waiting.popleft())
        found.append(_answer(alert, standing, acks.get(alert.id)))
    return found


def _answer(alert: Alert, standing: Decisions, later: Decision | None) -> Answered:
    """Who acknowledged *alert* first: in advance, as *standing* knows, or *later*."""
    early = standing.ack_for(replace(alert, state=FIRING), alert.started_ns, 0, "")
    if early is not None:
        return Answered(alert, early.by, early.at_ns)
    return Answered(alert) if later is None else Answered(alert, later.by, later.at_ns)


def ended_ns(alert: Alert) -> int | None:
    """When it was resolved; None while it fires."""
    return alert.resolved_ns if alert.state == RESOLVED else None
