"""The messages that transitions would have led to, had nobody acknowledged or silenced anything.

The notifier's own functions decide, for one imaginary plugin that takes everything: first messages,
rises, repeats, the reopen window and ends are as they would have been.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli.times import NS
from notifier.alert import Severity, Transition, finite, rfc3339
from notifier.lifecycle import Life, Pace, Told, Why, after_delivery, apply, decide
from notifier.plugin import Message
from notifier.text import subject

_EVERYBODY = "everybody"


@dataclass(frozen=True)
class Telling:
    """How often the same is told: the reopen window, and repeats by severity."""

    reopen_s: float
    repeats_s: Mapping[Severity, Sequence[float]]


@dataclass(frozen=True)
class Sent:
    """One message."""

    at_ns: int
    why: str
    text: str
    rule: str
    labels: Mapping[str, str]
    severity: Severity
    state: str
    value: float | None
    threshold: float | None
    unit: str
    fingerprint: str

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "at": rfc3339(self.at_ns),
            "why": self.why,
            "rule": self.rule,
            "labels": dict(self.labels),
            "severity": self.severity.word,
            "state": self.state,
            "message": self.text,
            "value": finite(self.value),
            "threshold": finite(self.threshold),
            "unit": self.unit,
        }


def messages(transitions: Sequence[Transition], telling: Telling, end_ns: int) -> list[Sent]:
    """All messages up to *end_ns*, in order of time.

    Args:
        transitions: those of one alert in order of time; alerts may be mixed.
    """
    alerts: dict[str, list[Transition]] = {}
    for transition in transitions:
        alerts.setdefault(transition.fingerprint, []).append(transition)
    found = [
        one
        for fingerprint, several in alerts.items()
        for one in _of_alert(fingerprint, several, telling, end_ns)
    ]
    return sorted(found, key=lambda one: (one.at_ns, one.rule, one.fingerprint))


def _of_alert(
    fingerprint: str, transitions: Sequence[Transition], telling: Telling, end_ns: int
) -> Iterator[Sent]:
    reopen_ns = round(telling.reopen_s * NS)
    life: Life | None = None
    told = Told(_EVERYBODY)
    due_ns: int | None = None
    for transition in transitions:
        while life is not None and due_ns is not None and due_ns < transition.at_ns:
            sent, told, due_ns = _look(fingerprint, life, told, telling, due_ns)
            yield from sent
        before, life = life, apply(life, transition, reopen_ns)
        if life is None:
            continue
        if before is None or before.alert.id != life.alert.id:
            told = Told(_EVERYBODY)
        sent, told, due_ns = _look(fingerprint, life, told, telling, transition.at_ns)
        yield from sent
    while life is not None and due_ns is not None and due_ns < end_ns:
        sent, told, due_ns = _look(fingerprint, life, told, telling, due_ns)
        yield from sent


def _look(
    fingerprint: str, life: Life, told: Told, telling: Telling, now_ns: int
) -> tuple[list[Sent], Told, int | None]:
    """What is sent now, what is told then, and when to look again."""
    repeats_s = telling.repeats_s.get(life.alert.severity, ())
    pace = Pace(repeats_s, round(telling.reopen_s * NS))
    sent: list[Sent] = []
    while True:
        verdict = decide(
            life, told, None, targeted=True, hold=None, broken="", pace=pace, now_ns=now_ns
        )
        want = verdict.want
        if want is None:
            return sent, told, verdict.due_ns
        repeat = told.repeat + 1 if want.why == Why.REPEAT else 0
        sent.append(_sent(fingerprint, life, want.state, want.why, repeat, now_ns))
        told = after_delivery(told, want, life.fires, now_ns)


def _sent(fingerprint: str, life: Life, state: str, why: Why, repeat: int, at_ns: int) -> Sent:
    alert = life.alert
    row = alert.row() | {"state": state}
    message = Message(state, row, delivery="", repeat=repeat, evidence=alert.evidence)
    return Sent(
        at_ns=at_ns,
        why=str(why),
        text=subject(message),
        rule=alert.rule,
        labels=dict(alert.labels),
        severity=alert.severity,
        state=state,
        value=alert.value,
        threshold=alert.threshold,
        unit=alert.unit,
        fingerprint=fingerprint,
    )
