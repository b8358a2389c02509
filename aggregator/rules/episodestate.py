"""What one alert remembers: its state, how it is shown, saved and restored.

How it changes is in :mod:`aggregator.rules.episode`.  Every field that decides about a later
transition is saved, or a restart would change something.
"""

from collections.abc import Mapping
from typing import Any

from aggregator.rules.emitted import (
    LOG_PRECISION_NS,
    NEVER_NS,
    Emitted,
    Expected,
    Identity,
    row_of,
)
from aggregator.rules.levels import CLEAR, CompiledLevels
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import NS_PER_S
from aggregator.rules.wording import alert_text
from notifier.alert import Kind, Severity, Transition

OK, PENDING, FIRING = "ok", "pending", "firing"
# What is saved as it is; codes are saved as severities, since a rule's levels may change between
# two runs.
_SAVED = (
    "status", "count", "value", "stat", "values", "evidence", "note", "close_ns",
    "_since_ns", "_fired_ns", "_occasion", "_update_ns", "_hold_ns",
    "_flip_stretch", "_flips", "skip_ns", "_message",
)  # fmt: skip


class EpisodeState:
    """The state of the alert of one rule on one series.

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
        self._strayed = False
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
