"""Transitions on their way out: whose they are, their ids, their order, and those already logged.

After a restart the alert log may know transitions that the checkpoint doesn't.  They are expected
again: the same id derived once more is dropped.  If another one is derived, or their time passes
without any, then records are gone: the log is right, and the state after its last line holds.
"""

import uuid
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from aggregator.rules.sessions import END_NS
from notifier.alert import Kind, Transition, decode, encode, fingerprint, transition_id

NEVER_NS = END_NS
# A log line keeps microseconds: what it tells happened up to so many ns after the time in it.
LOG_PRECISION_NS = 999
# The phase of a transition within its instant: those of records come before those of timers.
BY_RECORD, BY_TIMER = 0, 1
# Time, phase, sequence number, rule's place and fingerprint: the order in which transitions leave,
# whatever the batches.
Emitted = tuple[int, int, int, tuple[int, str], Transition]


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose alert it is and in which namespace its ids are; ``place`` is the rule's in the list."""

    installation: uuid.UUID
    place: int
    rule: str
    metric: str
    labels: Mapping[str, str]
    fingerprint: str

    @classmethod
    def of(
        cls, installation: uuid.UUID, place: int, rule: str, metric: str, labels: Mapping[str, str]
    ) -> "Identity":
        """With its fingerprint."""
        return cls(installation, place, rule, metric, labels, fingerprint(rule, labels))

    def transition(self, kind: Kind, source: str, occasion: int) -> str:
        """The id of a transition of this alert."""
        return transition_id(self.installation, self.fingerprint, kind, source, occasion)

    def emit(self, transition: Transition, phase: int, seq: int) -> Emitted:
        """*transition* with what orders it."""
        seq = seq if phase == BY_RECORD else 0
        return transition.at_ns, phase, seq, (self.place, self.fingerprint), transition


def in_order(emitted: list[Emitted]) -> list[Transition]:
    """The transitions of *emitted*, which is emptied, in their order."""
    emitted.sort(key=lambda each: each[:4])
    transitions = [each[4] for each in emitted]
    emitted.clear()
    return transitions


def row_of(line: Transition) -> dict[str, Any] | None:
    """What `status` shows of an alert whose last transition is *line*; None if it is over."""
    if line.kind is Kind.RESOLVED:
        return None
    return {
        "rule": line.rule,
        "labels": dict(line.labels),
        "severity": line.severity.word,
        "state": "firing",
        "message": line.message,
        "value": line.value,
        "threshold": line.threshold,
        "unit": line.unit,
        "since_ns": line.at_ns,
        "count": line.count,
    }


class Expected:
    """Transitions that the log already has and that replayed records will derive once more."""

    __slots__ = ("lines",)

    def __init__(self, lines: Iterable[Transition] = ()) -> None:
        self.lines = deque(lines)

    @property
    def due_ns(self) -> int:
        """When the first of them must have been derived."""
        return self.lines[0].at_ns + LOG_PRECISION_NS if self.lines else NEVER_NS

    def has(self, identity: str) -> bool:
        """Whether this transition is one of them; it and those before it are then done with."""
        if not any(line.id == identity for line in self.lines):
            return False
        while self.lines.popleft().id != identity:
            pass
        return True

    def give_up(self) -> Transition:
        """The last of them: its state holds."""
        last = self.lines[-1]
        self.lines.clear()
        return last

    def encoded(self) -> list[bytes]:
        """As lines, for the checkpoint."""
        return [encode(line) for line in self.lines]

    @classmethod
    def decoded(cls, lines: Iterable[bytes]) -> "Expected":
        """From the checkpoint."""
        return cls(map(decode, lines))
