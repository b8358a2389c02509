"""One alert: from pending to firing to resolved, and again.

A deterministic machine in rule time.  It takes samples in time order and has timers; a timer at D
runs when its source has passed D, after every sample at or before D.  So transitions, ids included,
depend on the samples alone, never on how they were batched or when the program was restarted.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from aggregator.emitted import (
    BY_RECORD,
    BY_TIMER,
    LOG_PRECISION_NS,
    NEVER_NS,
    Emitted,
    Expected,
    Identity,
    row_of,
)
from aggregator.levels import CLEAR, FIRST, CompiledLevels
from aggregator.rule import Rule
from aggregator.sessions import Session
from aggregator.units import NS_PER_S
from aggregator.wording import alert_text
from notifier.alert import Kind, Severity, Transition

UPDATE_NS = 10 * NS_PER_S
# So many changes in one stretch of UPDATE_NS are told as they come; then getting better waits for
# the stretch to end, so that a value that trembles around a level can't fill the disk.
MOST_CHANGES = 20
OK, PENDING, FIRING = "ok", "pending", "firing"
Worst = Sequence[tuple[int, float]]


class Episode:
    """The alert of one rule on one series.

    ``due_ns`` is the next timer.  ``source`` names the ring whose samples it takes.  ``changed`` is
    set when the checkpoint must have it again.
    """

    def __init__(
        self,
        rule: Rule,
        levels: CompiledLevels,
        identity: Identity,
        session: Session | None,
        out: list[Emitted],
    ) -> None:
        self._rule = rule
        self._levels = levels
        self._identity = identity
        self._session = session
        self._out = out
        self.source = ""
        self.note = ""
        self.stat = rule.stat[0]
        self.expected = Expected()
        self.changed = False
        self.skip_ns = self._flip_stretch = -1
        self._flips = 0
        self._message = ""
        self._rest()

    def _rest(self) -> None:
        self.status = OK
        self.code = CLEAR
        self.count = 0
        self.value = 0.0
        self.values: dict[str, float] = {}
        self.evidence: tuple[tuple[int, float], ...] = ()
        self._since_ns = self._fired_ns = self._occasion = 0
        self._update_ns = self._hold_ns = self.close_ns = NEVER_NS
        self._relief: int | None = None
        self._schedule()

    # samples

    def eases(self, code: int) -> bool:
        """Whether a sample with this code would end it or lower its severity."""
        if self.status == FIRING:
            return _target(code) < self.code
        return self.status == PENDING and code < FIRST

    def turns(self, code: int) -> bool:
        """Whether a sample with this code changes more than count and value.

        It must then be taken by itself.
        """
        if self.status == OK:
            return code >= FIRST
        if self.status == PENDING:
            return code < FIRST
        if self._update_ns == NEVER_NS:
            return True
        return _target(code) != (self.code if self._relief is None else self._relief)

    def take(
        self,
        code: int,
        at_ns: int,
        occasion: int,
        value: float,
        *,
        count: int = 1,
        worst: Worst = (),
        stat: str = "",
        values: Mapping[str, float] | None = None,
    ) -> None:
        """Take a sample, or *count* equal ones of which none :meth:`turns`.

        Args:
            code: where the value lies, see :mod:`aggregator.levels`.
            at_ns, occasion: time of the first of them, and what names it in an id.
            value: the last one's.
            worst: the evidence as it is now, worst first.
            stat, values: which of the rule's stats *value* is, and all of them.
        """
        if at_ns <= self.skip_ns or (self.status == OK and code < FIRST):
            return
        self.changed = True
        if self.status == PENDING and code < FIRST:
            self._rest()
            return
        self._absorb(code, value, count, worst, stat, values)
        if self.status == OK:
            self._begin(code, at_ns, occasion)
        elif self.status == PENDING:
            self.code = code
        else:
            self._judge(_target(code), at_ns, occasion)
        self._schedule()

    def _absorb(
        self,
        code: int,
        value: float,
        count: int,
        worst: Worst,
        stat: str,
        values: Mapping[str, float] | None,
    ) -> None:
        self.value = value
        if stat:
            self.stat = stat
        if values is not None:
            self.values = dict(values)
        if code >= FIRST:
            self.count += count
            self.evidence = tuple(worst)

    def _begin(self, code: int, at_ns: int, occasion: int) -> None:
        self.status = PENDING
        self.code = code
        self._since_ns, self._occasion = at_ns, occasion
        if self._session is not None:
            self.close_ns = self._session.span(at_ns).end_ns
        if not self._rule.for_s:
            self._fire(at_ns, BY_RECORD)

    def _fire(self, at_ns: int, phase: int) -> None:
        self.status = FIRING
        self._fired_ns = at_ns
        self._say(Kind.FIRED, at_ns, self._occasion, phase)

    def _judge(self, target: int, at_ns: int, occasion: int) -> None:
        if target < self.code and self._trembles(at_ns):
            self._relief = target
            self._hold_ns = (at_ns // UPDATE_NS + 1) * UPDATE_NS
        else:
            self._relief, self._hold_ns = None, NEVER_NS
            if target != self.code:
                self._turn(target, at_ns, occasion, BY_RECORD)
                return
        if self._update_ns == NEVER_NS:
            steps = max(1, -(-(at_ns - self._fired_ns) // UPDATE_NS))
            self._update_ns = self._fired_ns + steps * UPDATE_NS

    def _turn(self, target: int, at_ns: int, occasion: int, phase: int, reason: str = "") -> None:
        """Change severity, or resolve."""
        if target == CLEAR:
            self._say(Kind.RESOLVED, at_ns, occasion, phase, reason)
            self._rest()
        else:
            self.code = target
            self._say(Kind.SEVERITY, at_ns, occasion, phase)

    def _trembles(self, at_ns: int) -> bool:
        return self._flip_stretch == at_ns // UPDATE_NS and self._flips >= MOST_CHANGES

    def held_until_ns(self, at_ns: int) -> int:
        """Until when it is held back for trembling, 0 if it isn't.

        Samples until then that aren't worse than its code can be taken by :meth:`take_held`.
        """
        if self.status != FIRING or self._update_ns == NEVER_NS or not self._trembles(at_ns):
            return 0
        return (at_ns // UPDATE_NS + 1) * UPDATE_NS

    def take_held(self, code: int, value: float, count: int, worst: Worst, held_ns: int) -> None:
        """Take samples while held: the last one's code and value, how many reached a level."""
        self.changed = True
        self._absorb(FIRST if count else CLEAR, value, count, worst, "", None)
        self._relief, self._hold_ns = None, NEVER_NS
        if _target(code) < self.code:
            self._relief, self._hold_ns = _target(code), held_ns
        self._schedule()

    # timers

    def run(self, clock_ns: int) -> None:
        """Run the timers before *clock_ns*: every sample before it has been taken."""
        while self.due_ns < clock_ns:
            self.changed = True
            self._tick(self.due_ns)
            self._schedule()

    def _tick(self, at_ns: int) -> None:
        if self.status == PENDING and self._pending_until_ns <= at_ns:
            self._fire(at_ns, BY_TIMER)
        elif self._update_ns <= at_ns:
            self._say(Kind.UPDATE, at_ns, at_ns, BY_TIMER)
        elif self._hold_ns <= at_ns:
            target, self._relief, self._hold_ns = self._relief, None, NEVER_NS
            self._turn(CLEAR if target is None else target, at_ns, at_ns, BY_TIMER)
        elif self.close_ns <= at_ns:
            self._close(at_ns)
        else:
            self._take_over(self.expected.give_up())

    def _close(self, at_ns: int) -> None:
        span = self._session.span(at_ns) if self._session is not None else None
        if span is not None and span.is_open:  # the calendar was changed meanwhile
            self.close_ns = span.end_ns
        elif self.status == FIRING:
            self._turn(CLEAR, at_ns, at_ns, BY_TIMER, "session closed")
        else:
            self._rest()

    @property
    def _pending_until_ns(self) -> int:
        return self._since_ns + round(self._rule.for_s * NS_PER_S)

    def _schedule(self) -> None:
        self.due_ns = min(
            self._pending_until_ns if self.status == PENDING else NEVER_NS,
            self._update_ns,
            self._hold_ns,
            self.close_ns,
            self.expected.due_ns,
        )

    def end(self, at_ns: int, reason: str) -> None:
        """Resolve for a reason that isn't in the samples: the rule or the engine is gone."""
        if self.expected.lines:
            self._take_over(self.expected.give_up())
        if self.status == FIRING:
            # Named by its start, so that a restart in between derives the same id.
            self._turn(CLEAR, at_ns, self._fired_ns, BY_TIMER, reason)
        else:
            self._rest()
        self._flip_stretch = self.skip_ns = -1
        self.changed = True

    # transitions

    def _say(self, kind: Kind, at_ns: int, occasion: int, phase: int, reason: str = "") -> None:
        self._update_ns = NEVER_NS
        if kind is not Kind.UPDATE:
            stretch = at_ns // UPDATE_NS
            self._flips = self._flips + 1 if stretch == self._flip_stretch else 1
            self._flip_stretch = stretch
        if kind is not Kind.RESOLVED:  # which keeps the text of what is over
            self._message = self._text()
        identity = self._identity.transition(kind, self.source, occasion)
        if self.expected.has(identity):
            return
        transition = Transition(
            id=identity,
            kind=kind,
            at_ns=at_ns,
            rule=self._identity.rule,
            labels=self._identity.labels,
            severity=self.severity,
            value=self.value,
            threshold=self._levels.threshold(self.code),
            unit=self._levels.unit,
            message=self._message,
            count=self.count,
            reason=reason,
            evidence=self.evidence,
        )
        self._out.append(self._identity.emit(transition, phase, occasion))

    @property
    def severity(self) -> Severity:
        """That of the level it is at; only while pending or firing."""
        return self._levels.severity(self.code)

    def _text(self) -> str:
        return alert_text(
            self._rule,
            self._levels,
            self._identity,
            self.code,
            self.value,
            stat=self.stat,
            values=self.values,
            note=self.note,
        )

    def row(self) -> dict[str, Any] | None:
        """What `status` shows of it; None unless it is pending or firing."""
        if self.expected.lines:
            return row_of(self.expected.lines[-1])
        if self.status == OK:
            return None
        return {
            "rule": self._identity.rule,
            "labels": dict(self._identity.labels),
            "severity": self.severity.word,
            "state": self.status,
            "message": self._message if self.status == FIRING else self._text(),
            "value": self.value,
            "threshold": self._levels.threshold(self.code),
            "unit": self._levels.unit,
            "since_ns": self._since_ns,
            "count": self.count,
        }

    # checkpoint and restart

    def expect(self, line: Transition) -> None:
        """The log has this transition and the checkpoint hasn't."""
        self.expected.lines.append(line)
        self.changed = True
        self._schedule()

    def _take_over(self, line: Transition) -> None:
        """Adopt the state after *line*; samples up to it are part of it."""
        self._rest()
        self.skip_ns = line.at_ns + LOG_PRECISION_NS
        if line.kind is Kind.RESOLVED:
            return
        self.status = FIRING
        self.code = self._levels.nearest(line.severity)
        self._since_ns = self._fired_ns = line.at_ns
        self.count, self.value = line.count, line.value or 0.0
        self._message, self.evidence = line.message, line.evidence
        if self._session is not None:
            self.close_ns = self._session.span(line.at_ns).end_ns

    def state(self) -> dict[str, Any] | None:
        """All of it as plain data; None if there is nothing to remember."""
        expected = self.expected.encoded()
        if self.status == OK and not expected and max(self._flip_stretch, self.skip_ns) < 0:
            return None
        whole = {name: getattr(self, name) for name in _SAVED}
        severity = 0 if self.status == OK else int(self.severity)
        relief = None if not self._relief else int(self._levels.severity(self._relief))
        return whole | {
            "severity": severity,
            "relief": relief if self._relief else self._relief,
            "expected": expected,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` described; the rule's levels may have changed since."""
        for name in _SAVED:
            setattr(self, name, state.get(name, getattr(self, name)))
        self.evidence = tuple((at_ns, value) for at_ns, value in self.evidence)
        if self.stat not in self._rule.stat:
            self.stat = self._rule.stat[0]
        if self.status != OK:
            self.code = self._levels.nearest(state["severity"])
            if self._session is not None and self.close_ns == NEVER_NS:
                self.close_ns = self._session.span(self._since_ns).end_ns
            elif self._session is None:
                self.close_ns = NEVER_NS
        relief = state["relief"]
        self._relief = self._levels.nearest(relief) if relief else relief
        self.expected = Expected.decoded(state["expected"])
        self._schedule()


# What is saved as it is; codes are saved as severities, since a rule's levels may change between
# two runs.
_SAVED = (
    "status", "count", "value", "stat", "values", "evidence", "note", "close_ns",
    "_since_ns", "_fired_ns", "_occasion", "_update_ns", "_hold_ns",
    "_flip_stretch", "_flips", "skip_ns", "_message",
)  # fmt: skip


def _target(code: int) -> int:
    """Where a firing alert goes: between clear and the first level it stays at the first."""
    return CLEAR if code == CLEAR else max(code, FIRST)
