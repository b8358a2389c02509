"""The decisions journal: what operators decided (acks, silences, retries), one decision a line.

A line never changes and none is taken back but by another line.  What follows from them is computed
by whoever asks.  Commands write here, so only the standard library is used.
"""

import fcntl
import json
import os
import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Literal, get_args

from notifier import journal
from notifier.alert import Alert, Severity, parse_rfc3339, rfc3339

DecisionKind = Literal["ack", "clear", "expired", "silence", "unsilence", "retry"]
Scope = Literal["active", "future", "all"]

_SECOND_NS = 1_000_000_000
_LOCK_TIMEOUT_S = 10.0
_CLOCK_STEP_NS = _SECOND_NS  # clocks that drift apart by less than this agree


@dataclass(frozen=True, slots=True)
class Cover:
    """One alert that an ack (or clear) was about when it was given, and how bad it was then."""

    alert: str
    fingerprint: str
    severity: Severity


@dataclass(frozen=True, slots=True)
class Decision:
    """One line of the journal.

    Targets: ``covers`` are the alerts meant when it was given; ``rule`` with scope "future" also
    means those to come until the TTL; ``alert`` is one full id, ``delivery`` that of a retry,
    ``of`` the id of the ack or silence that an expired or unsilence line is about.  ``severity`` is
    the acked level of alerts that aren't in ``covers``.  ``matchers`` are glob patterns per label
    ("rule" and "severity" work as labels), all of which must match.
    """

    kind: DecisionKind
    id: str
    at_ns: int
    by: str
    rule: str = ""
    alert: str = ""
    delivery: str = ""
    of: str = ""
    scope: Scope = "active"
    covers: tuple[Cover, ...] = ()
    ttl_s: int | None = None
    until_resolved: bool = False
    reason: str = ""
    severity: Severity | None = None
    matchers: Mapping[str, str] = field(default_factory=dict)
    starts_ns: int | None = None
    ends_ns: int | None = None
    boot_id: str = ""
    mono_ns: int = 0

    def ends_at(self, now_ns: int, mono_ns: int, boot_id: str) -> int | None:
        """Wall time at which this ends or ended; None for an ack until its alert is resolved.

        The time that passed is measured by both clocks while the machine hasn't restarted, and the
        one that says earlier wins, whichever way the wall clock was set.
        """
        ends_ns = self.ends_ns
        if ends_ns is None and self.ttl_s is not None:
            ends_ns = self.at_ns + self.ttl_s * _SECOND_NS
        if ends_ns is None:
            return None if self.until_resolved else self.at_ns
        if boot_id and boot_id == self.boot_id:
            left_ns = self.mono_ns + (ends_ns - self.at_ns) - mono_ns
            if left_ns <= 0 or now_ns + left_ns < ends_ns - _CLOCK_STEP_NS:
                return min(ends_ns, now_ns + max(0, left_ns))
        return ends_ns

    def has_ended(self, now_ns: int, mono_ns: int, boot_id: str) -> bool:
        """Whether its time is over."""
        ends_ns = self.ends_at(now_ns, mono_ns, boot_id)
        return ends_ns is not None and now_ns >= ends_ns


def decide(kind: DecisionKind, by: str, **fields: Any) -> Decision:
    """A decision made now by *by*; id, times and boot are filled in, *fields* say the rest."""
    stamp: dict[str, Any] = {
        "id": str(uuid.uuid4()),
        "at_ns": time.time_ns(),
        "mono_ns": time.monotonic_ns(),
        "boot_id": boot_id(),
    }
    return Decision(kind=kind, by=by, **(stamp | fields))


def covering(alerts: Iterable[Alert]) -> tuple[Cover, ...]:
    """What an ack or clear of *alerts* covers."""
    return tuple(Cover(alert.id, alert.fingerprint, alert.severity) for alert in alerts)


def boot_id() -> str:
    """The kernel's id of this boot; empty where it has none: then only the wall clock counts."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def matches(patterns: Mapping[str, str], alert: Alert) -> bool:
    """Whether every pattern matches *alert*'s label of that name; a missing label is empty."""
    known = {**alert.labels, "rule": alert.rule, "severity": alert.severity.word}
    return all(fnmatchcase(known.get(label, ""), glob) for label, glob in patterns.items())


class Journal:
    """The decisions journal at *path*; any number of processes and threads may append to it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.restarts = 0  # how often read() had to start over, because the file was another one
        self._inode = 0

    def append(self, decision: Decision) -> Decision:
        """Append *decision* and return it once it is on disk.

        Raises:
            OSError: it may not be on disk; a TimeoutError when another process keeps the lock.
        """
        descriptor = self._locked()
        try:
            journal.append(descriptor, [encode(decision)])
        finally:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # a child forked meanwhile would keep it locked
            os.close(descriptor)
        return decision

    def read(self, offset: int = 0) -> tuple[list[Decision], int, int]:
        """Decisions behind *offset*, the offset to read on from, and the bad lines passed.

        When the file was replaced or truncated it is read from its beginning, and ``restarts``
        counts one more.  One reader follows a journal through one instance.

        Raises:
            OSError: the file can't be read; a missing one is simply empty.
        """
        decisions: list[Decision] = []
        bad = 0
        try:
            status = self.path.stat()
            if offset and self._inode not in (0, status.st_ino):
                offset = 0
                self.restarts += 1
            self._inode = status.st_ino
            if status.st_size == offset:
                return [], offset, 0
            for line, start, end in journal.lines(self.path, offset):
                self.restarts += start == 0 and offset > 0
                offset = end
                try:
                    decisions.append(decode(line))
                except ValueError:
                    bad += 1
        except FileNotFoundError:
            self.restarts += offset > 0
            offset = 0
        return decisions, offset, bad

    def read_all(self) -> list[Decision]:
        """All decisions, oldest first."""
        return Journal(self.path).read()[0]

    def _locked(self) -> int:
        """The journal's descriptor, locked; by flock, which threads of one process obey as well."""
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            descriptor = journal.open_append(self.path)
            try:
                while not _try_lock(descriptor):
                    if time.monotonic() > deadline:
                        raise TimeoutError(f"{self.path} stays locked by another process")
                    time.sleep(0.005)
                if journal.is_at(descriptor, self.path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            os.close(descriptor)  # another file took its place while we waited


def encode(decision: Decision) -> bytes:
    """*decision* as one line of ASCII JSON without its newline; defaults are left out."""
    severity = decision.severity
    optional = {
        "rule": decision.rule,
        "alert": decision.alert,
        "delivery": decision.delivery,
        "of": decision.of,
        "scope": "" if decision.scope == "active" else decision.scope,
        "covers": [[c.alert, c.fingerprint, c.severity.word] for c in decision.covers],
        "ttl_s": decision.ttl_s,
        "until_resolved": decision.until_resolved,
        "reason": decision.reason,
        "severity": severity and severity.word,
        "matchers": dict(decision.matchers),
        "starts": rfc3339(decision.starts_ns),
        "ends": rfc3339(decision.ends_ns),
        "boot_id": decision.boot_id,
        "mono_ns": decision.mono_ns,
    }
    fields: dict[str, Any] = {
        "kind": decision.kind,
        "id": decision.id,
        "at": rfc3339(decision.at_ns),
        "by": decision.by,
    }
    fields |= {name: value for name, value in optional.items() if value}
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode()


def decode(line: bytes) -> Decision:
    """The decision in *line*; unknown fields are ignored, so older readers survive newer writers.

    Raises:
        ValueError: the line is no decision, or one without an end.
    """
    try:
        fields = json.loads(line)
        decision = Decision(
            kind=_one_of(DecisionKind, fields["kind"]),
            id=_text(fields["id"]),
            at_ns=parse_rfc3339(fields["at"]),
            by=_text(fields["by"]),
            rule=_text(fields.get("rule", "")),
            alert=_text(fields.get("alert", "")),
            delivery=_text(fields.get("delivery", "")),
            of=_text(fields.get("of", "")),
            scope=_one_of(Scope, fields.get("scope", "active")),
            covers=tuple(
                Cover(_text(alert), _text(series), Severity.parse(word))
                for alert, series, word in fields.get("covers", ())
            ),
            ttl_s=_whole(fields.get("ttl_s")),
            until_resolved=fields.get("until_resolved", False) is True,
            reason=_text(fields.get("reason", "")),
            severity=Severity.parse(fields["severity"]) if "severity" in fields else None,
            matchers={str(k): _text(v) for k, v in fields.get("matchers", {}).items()},
            starts_ns=parse_rfc3339(fields["starts"]) if "starts" in fields else None,
            ends_ns=parse_rfc3339(fields["ends"]) if "ends" in fields else None,
            boot_id=_text(fields.get("boot_id", "")),
            mono_ns=_whole(fields.get("mono_ns")) or 0,
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a decision: {problem}") from problem
    ends_ns = decision.ends_at(0, 0, "")
    if decision.kind in ("ack", "silence") and ends_ns == decision.at_ns:
        raise ValueError(f"not a decision: {decision.kind} without an end")
    rfc3339(ends_ns)  # an end that no calendar has would stop whoever shows it
    return decision


def _one_of(allowed: Any, word: object) -> Any:
    if word not in get_args(allowed):
        raise ValueError(f"{word!r} is not one of {', '.join(get_args(allowed))}")
    return word


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _whole(value: object) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number")
    return value


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
