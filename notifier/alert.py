"""What the notifier accepts: transitions of alerts, and the alerts that they add up to.

The aggregator emits facts of four kinds and nothing else; who was told, who acknowledged and what
is silenced is known on this side alone.  An alert's identity is its rule and labels: severity,
value and text may change while it lives.  Times are wall-clock nanoseconds since the epoch, UTC,
kept to the microsecond on disk.
"""

import enum
import hashlib
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Severity(enum.IntEnum):
    """How bad it is; ordered, so that "at least warning" is a comparison."""

    INFO = 1
    WARNING = 2
    CRITICAL = 3

    @property
    def word(self) -> str:
        """The lower-case word used in JSON, settings and commands."""
        return self.name.lower()

    @classmethod
    def parse(cls, word: str) -> "Severity":
        """The severity called *word*, in any case.

        Raises:
            ValueError: naming the word and what is allowed.
        """
        try:
            return cls[word.strip().upper()]
        except KeyError:
            raise ValueError(f"severity {word!r}: use info, warning or critical") from None


class Kind(enum.StrEnum):
    """What a transition says."""

    FIRED = "fired"
    SEVERITY = "severity"  # rose or fell while firing
    UPDATE = "update"  # value and count moved; at most one per 10 s
    RESOLVED = "resolved"


def fingerprint(rule: str, labels: Mapping[str, str]) -> str:
    """Identity of the alerts of one rule on one series.

    16 hex digits of SHA-256 over the rule and the sorted labels.
    """
    canonical = json.dumps([rule, sorted(labels.items())], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:16]


def transition_id(installation: uuid.UUID, of: str, kind: Kind, source: str, occasion: int) -> str:
    """A transition's id, the same however often the transition is derived.

    Args:
        installation: the namespace of this installation.
        of: the alert's fingerprint.
        source: ring uuid, or the name of an evaluator that has no ring.
        occasion: the record's sequence number, or the evaluation second for windowed rules.
    """
    return str(uuid.uuid5(installation, f"{of}/{kind}/{source}/{occasion}"))


@dataclass(frozen=True, slots=True)
class Transition:
    """One fact about one alert, one line of the alert log.

    ``number`` is the line's contiguous number, given by the alert log when it is appended (0
    before). ``value`` is None for free-text alerts.  ``announce`` is False for a resolution nobody
    is told about (the quiet end of a free-text alert).  ``again`` is True for a free-text emission
    that must notify even inside the reopen window.  ``evidence`` holds the series' worst recent
    records, worst first, as (time_ns, value), bounded.
    """

    id: str
    kind: Kind
    at_ns: int
    rule: str
    labels: Mapping[str, str]
    severity: Severity
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    message: str = ""
    count: int = 1
    free_text: bool = False
    announce: bool = True
    again: bool = False
    reason: str = ""
    evidence: tuple[tuple[int, float], ...] = ()
    number: int = 0

    @property
    def fingerprint(self) -> str:
        """Identity of the alert that this transition belongs to."""
        return fingerprint(self.rule, self.labels)


@dataclass(frozen=True, slots=True)
class Ack:
    """An acknowledgement that holds now."""

    by: str
    at_ns: int
    expires_at_ns: int | None  # None: until the alert is resolved
    reason: str = ""


@dataclass(slots=True)
class Alert:
    """One episode of one rule on one series, from firing to resolved, or later if it reopens.

    ``id`` is that of its first transition.  ``last_seen_ns`` is the newest transition's time.
    """

    id: str
    rule: str
    labels: dict[str, str]
    severity: Severity
    state: str  # "pending", "firing" or "resolved"
    started_ns: int
    last_seen_ns: int
    resolved_ns: int | None = None
    value: float | None = None
    threshold: float | None = None
    unit: str = ""
    message: str = ""
    count: int = 1
    free_text: bool = False
    evidence: tuple[tuple[int, float], ...] = field(default=())

    @property
    def fingerprint(self) -> str:
        """Identity across episodes."""
        return fingerprint(self.rule, self.labels)

    def row(self, ack: Ack | None = None) -> dict[str, Any]:
        """The alert as its JSON row (the contract's field names, RFC 3339 UTC times)."""
        return {
            "id": self.id,
            "rule": self.rule,
            "labels": dict(self.labels),
            "severity": self.severity.word,
            "state": self.state,
            "message": self.message,
            "value": finite(self.value),
            "threshold": finite(self.threshold),
            "unit": self.unit,
            "started_at": rfc3339(self.started_ns),
            "last_seen_at": rfc3339(self.last_seen_ns),
            "resolved_at": rfc3339(self.resolved_ns),
            "count": self.count,
            "ack": None
            if ack is None
            else {
                "by": ack.by,
                "at": rfc3339(ack.at_ns),
                "expires_at": rfc3339(ack.expires_at_ns),
                "reason": ack.reason,
            },
        }


def finite(value: float | None) -> float | None:
    """*value*, or None where JSON has no number for it."""
    return value if value is not None and math.isfinite(value) else None


def rfc3339(at_ns: int | None) -> str | None:
    """Nanoseconds since the epoch as RFC 3339 in UTC, such as 2026-01-31T09:15:00.000250Z.

    Always with microseconds; the nanoseconds below are cut off.

    Raises:
        ValueError: a time outside the years 1 to 9999.
    """
    if at_ns is None:
        return None
    try:
        stamp = _EPOCH + timedelta(microseconds=at_ns // 1000)
    except OverflowError:
        raise ValueError(f"{at_ns} ns is no time of the years 1 to 9999") from None
    return f"{stamp.replace(tzinfo=None).isoformat(timespec='microseconds')}Z"


def parse_rfc3339(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time with an offset, exact to the microsecond.

    Raises:
        ValueError: not such a time, or without an offset.
    """
    stamp = datetime.fromisoformat(text)
    if stamp.tzinfo is None:
        raise ValueError(f"time {text!r} has no offset: add Z or +05:30")
    try:
        stamp = stamp.astimezone(UTC)
    except OverflowError:
        raise ValueError(f"time {text!r} is outside the years 1 to 9999") from None
    return (stamp - _EPOCH) // timedelta(microseconds=1) * 1000


def encode(transition: Transition) -> bytes:
    """*transition* as one line of JSON without its newline; ASCII, so no cut splits a character."""
    fields: dict[str, Any] = {
        "n": transition.number,
        "id": transition.id,
        "kind": transition.kind.value,
        "at": rfc3339(transition.at_ns),
        "rule": transition.rule,
        "labels": dict(transition.labels),
        "severity": transition.severity.word,
        "value": finite(transition.value),
        "threshold": finite(transition.threshold),
        "unit": transition.unit,
        "message": transition.message,
        "count": transition.count,
    }
    if transition.free_text:
        fields["free_text"] = True
    if not transition.announce:
        fields["announce"] = False
    if transition.again:
        fields["again"] = True
    if transition.reason:
        fields["reason"] = transition.reason
    if transition.evidence:
        fields["evidence"] = [[rfc3339(at), v] for at, v in transition.evidence if math.isfinite(v)]
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()


def decode(line: bytes) -> Transition:
    """The transition in *line*; unknown fields are ignored, so older readers survive newer writers.

    Raises:
        ValueError: the line is no JSON object, or a field is missing or isn't what it should be.
    """
    try:
        fields = json.loads(line)
        return Transition(
            id=_text(fields["id"]),
            kind=Kind(fields["kind"]),
            at_ns=parse_rfc3339(fields["at"]),
            rule=_text(fields["rule"]),
            labels={name: _text(value) for name, value in fields["labels"].items()},
            severity=Severity.parse(fields["severity"]),
            value=_number(fields.get("value")),
            threshold=_number(fields.get("threshold")),
            unit=_text(fields.get("unit", "")),
            message=_text(fields.get("message", "")),
            count=_whole(fields.get("count", 1)),
            free_text=fields.get("free_text", False) is True,
            announce=fields.get("announce", True) is not False,  # in doubt somebody is told
            again=fields.get("again", False) is True,
            reason=_text(fields.get("reason", "")),
            evidence=tuple(_record(at, value) for at, value in fields.get("evidence", ())),
            number=_whole(fields["n"]),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a transition: {problem}") from problem


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _whole(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value


def _number(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is not a number")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError("a number is not finite")
    return number


def _record(at: str, value: object) -> tuple[int, float]:
    number = _number(value)
    if number is None:
        raise TypeError("evidence without a value")
    return parse_rfc3339(at), number
