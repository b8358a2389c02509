"""What happens to alerts, as lines for people and rows for programs: transitions and decisions.

`watch` and `alerts show` tell the same story; here is how one event of it reads.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cli import render, times
from cli.render import Cell, Look, Styled
from notifier.alert import Kind, Severity, Transition, finite, rfc3339
from notifier.decisions import Decision

_DECIDED = {
    "ack": "acked",
    "clear": "cleared",
    "expired": "ack ended",
    "silence": "silenced",
    "unsilence": "unsilenced",
    "retry": "retried",
}


@dataclass(frozen=True)
class Event:
    """One event: ``name`` is a word for people, ``row`` its JSON (``event``, ``at`` and the rest).

    ``rules`` and ``severity`` are what it is about, for filters; a severity of None is any.
    """

    id: str
    at_ns: int
    name: str
    rules: tuple[str, ...]
    severity: Severity | None
    subject: str
    detail: str
    row: Mapping[str, Any]

    def cells(self, how: Look) -> list[Cell]:
        """Time, severity, name, what it is about, detail."""
        word = self.severity.word if self.severity is not None else ""
        style = "ok" if self.name == Kind.RESOLVED else word or "dim"
        return [
            times.show_ns(self.at_ns, utc=how.utc),
            Styled(f"{word or '-':8}", style),
            Styled(f"{self.name:10}", "ok" if self.name == Kind.RESOLVED else "bold"),
            self.subject,
            self.detail,
        ]


def of_transition(transition: Transition, alert: str) -> Event:
    """A transition of the alert whose id is *alert*."""
    name = "changed" if transition.kind == Kind.SEVERITY else transition.kind.value
    return Event(
        id=transition.id,
        at_ns=transition.at_ns,
        name=name,
        rules=(transition.rule,),
        severity=transition.severity,
        subject=f"{transition.rule} {render.labels(transition.labels)}".rstrip(),
        detail=_measured(transition),
        row={
            "event": transition.kind.value,
            "at": rfc3339(transition.at_ns),
            "id": alert,
            "rule": transition.rule,
            "labels": dict(transition.labels),
            "severity": transition.severity.word,
            "state": "resolved" if transition.kind == Kind.RESOLVED else "firing",
            "message": transition.message,
            "value": finite(transition.value),
            "threshold": finite(transition.threshold),
            "unit": transition.unit,
            "count": transition.count,
            "reason": transition.reason,
        },
    )


def _measured(transition: Transition) -> str:
    parts = []
    if transition.value is not None:
        parts.append(render.quantity(transition.value, transition.unit))
    if transition.threshold is not None:
        parts.append(f"(limit {render.number(transition.threshold)})")
    # A built-in rule's message may be its name in words, which stands there already.
    said = transition.message.replace(" ", "_") != transition.rule
    message = transition.message if said else ""
    return " ".join(part for part in (*parts, message, transition.reason) if part)


def of_decision(decision: Decision, rules: Mapping[str, str]) -> Event:
    """A decision; *rules* are the known alerts' rules by fingerprint."""
    about = [rules[c.fingerprint] for c in decision.covers if c.fingerprint in rules]
    names = tuple(dict.fromkeys([*filter(None, [decision.rule]), *about]))
    ends_ns = decision.ends_at(decision.at_ns, 0, "")
    return Event(
        id=decision.id,
        at_ns=decision.at_ns,
        name=_DECIDED[decision.kind],
        rules=names,
        severity=max((cover.severity for cover in decision.covers), default=None),
        subject=_subject(decision, names),
        detail=_detail(decision, ends_ns),
        row={
            "event": decision.kind,
            "at": rfc3339(decision.at_ns),
            "by": decision.by,
            "reason": decision.reason,
            "rules": list(names),
            "alerts": [cover.alert for cover in decision.covers],
            "matchers": dict(decision.matchers),
            "expires_at": rfc3339(ends_ns) if decision.kind in ("ack", "silence") else None,
            "until_resolved": decision.until_resolved,
        },
    )


def _subject(decision: Decision, rules: Iterable[str]) -> str:
    patterns = " ".join(f"{label}={glob}" for label, glob in decision.matchers.items())
    named = ", ".join(rules) or patterns or (decision.delivery or decision.alert)[:8]
    return f"{named} (future ones too)" if decision.scope == "future" else named


def _detail(decision: Decision, ends_ns: int | None) -> str:
    parts = [f"by {decision.by}"]
    if decision.kind in ("ack", "silence"):
        if decision.until_resolved:
            parts.append("until resolved")
        if ends_ns is not None:
            parts.append(f"for {times.spoken((ends_ns - decision.at_ns) / times.NS)}")
    if decision.reason:
        parts.append(f"({decision.reason})")
    return " ".join(parts)
