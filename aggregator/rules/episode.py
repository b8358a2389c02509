"""One alert: from pending to firing to resolved, and again.

A deterministic machine in rule time.  It takes samples in time order and has timers; a timer at D
runs when its source has passed D, after every sample at or before D.  So transitions, ids included,
depend on the samples alone, never on how they were batched or when the program was restarted.
"""

from collections.abc import Mapping, Sequence

from aggregator.rules.emitted import (
    BY_RECORD,
    BY_TIMER,
    NEVER_NS,
)
from aggregator.rules.episodestate import FIRING, OK, PENDING, EpisodeState
from aggregator.rules.levels import CLEAR, FIRST
from aggregator.rules.units import NS_PER_S
from notifier.alert import Kind, Transition

UPDATE_NS = 10 * NS_PER_S
# So many changes in one stretch of UPDATE_NS are told as they come; then getting better waits for
# the stretch to end, so that a value that trembles around a level can't fill the disk.
MOST_CHANGES = 20
Worst = Sequence[tuple[int, float]]

__all__ = ["FIRING", "OK", "PENDING", "Episode"]


class Episode(EpisodeState):
    """The alert of one rule on one series."""

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
            code: where the value lies, see :mod:`aggregator.rules.levels`.
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
        self._come_back()
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
        self.value = value + 0.0  # no minus zero
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
            self._come_back()
            self._schedule()

    def _come_back(self) -> None:
        if self._strayed:
            self._strayed = False
            self._take_over(self.expected.give_up())

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
        if self.expected.lines:
            # Anything but what the log has next means that records are gone: the log is right.
            self._strayed = not self.expected.has(identity)
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


def _target(code: int) -> int:
    """Where a firing alert goes: between clear and the first level it stays at the first."""
    return CLEAR if code == CLEAR else max(code, FIRST)
