"""How alerts stand now: the notifier's ledger, and what the alert log says beyond it.

Readers must be right also while the notifier is dead or behind, so lines that it hasn't taken in
yet are folded here, by the very function that it uses itself.  Whether an alert is acknowledged is
asked of the decisions journal each time.  Reading writes nothing; a decision is on disk when
``acknowledge`` or ``clear`` returns.
"""

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notifier import alertlog, ledger
from notifier.alert import Ack, Alert, Severity, Transition
from notifier.alertlog import Position
from notifier.decisions import Decision, Decisions, Journal, boot_id, covering, decide
from notifier.lifecycle import RESOLVED, Life, apply

_SECOND_NS = 1_000_000_000
REOPEN_S = 600.0
# A ledger that its owner is just creating looks like one of another version for a moment.
_CREATION_S = 5.0
_RETRY_S = 0.05


@dataclass
class Known:
    """Alerts and decisions at one moment.

    ``alerts`` are the newest started first.  ``fresh`` are the transitions that the ledger doesn't
    have yet.  ``bad`` counts lines of the alert log that are no transition, beyond the ledger's
    position.
    """

    journal: Journal
    reopen_ns: int
    alerts: list[Alert] = field(default_factory=list)
    decisions: Decisions = field(default_factory=Decisions)
    fresh: list[Transition] = field(default_factory=list)
    bad: int = 0
    now_ns: int = field(default_factory=time.time_ns)
    mono_ns: int = field(default_factory=time.monotonic_ns)
    boot_id: str = field(default_factory=boot_id)

    @property
    def active(self) -> list[Alert]:
        """Those that are firing."""
        return [alert for alert in self.alerts if alert.state != RESOLVED]

    @property
    def reachable(self) -> list[Alert]:
        """Those that an acknowledgement can mean: active, or resolved within the reopen window."""
        return [
            alert
            for alert in self.alerts
            if alert.state != RESOLVED or self.now_ns - (alert.resolved_ns or 0) <= self.reopen_ns
        ]

    def ack(self, alert: Alert) -> Ack | None:
        """The acknowledgement that holds for *alert* now."""
        return self.decisions.ack_for(alert, self.now_ns, self.mono_ns, self.boot_id)

    def standing_ack(self, alert: Alert) -> Ack | None:
        """The acknowledgement that holds, or would if the alert hadn't become worse than that."""
        ack = self.ack(alert)
        if ack is not None or alert.state == RESOLVED:
            return ack
        ack = self.decisions.was_acked(alert, self.now_ns, self.mono_ns, self.boot_id)
        ends_ns = ack.expires_at_ns if ack is not None else 0
        return ack if ends_ns is None or ends_ns > self.now_ns else None

    def future_ack(self, rule: str) -> Ack | None:
        """The acknowledgement that an alert of *rule* on any series would meet."""
        return self.ack(Alert("", rule, {}, Severity.INFO, "firing", self.now_ns, self.now_ns))

    def silence(self, alert: Alert) -> Decision | None:
        """The silence that holds for *alert* now."""
        return self.decisions.silenced_by(alert, self.now_ns, self.mono_ns, self.boot_id)

    def row(self, alert: Alert) -> dict[str, Any]:
        """*alert* as its JSON row, with its acknowledgement."""
        return alert.row(self.ack(alert))

    def acked(self) -> list[Alert]:
        """The newest alert of each series that is acknowledged: it stands for the series."""
        newest: dict[str, Alert] = {}
        for alert in self.alerts:
            newest.setdefault(alert.fingerprint, alert)
        return [alert for alert in newest.values() if self.standing_ack(alert) is not None]


def read(
    ledger_path: Path,
    alerts_dir: Path,
    *,
    reopen_s: float = REOPEN_S,
    everything: bool = False,
) -> Known:
    """How alerts stand now.

    Args:
        alerts_dir: with the alert log and the decisions journal.
        everything: resolved alerts as well, however old; otherwise only those resolved recently.

    Raises:
        LedgerError: the ledger is there and can't be read.
        OSError: the alert log or the decisions journal can't be read.
    """
    journal = Journal(alerts_dir / "acknowledgements.jsonl")
    known = Known(journal, int(reopen_s * _SECOND_NS))
    known.decisions.refresh(journal)
    stored: list[Alert] = []
    if ledger_path.exists():
        with closing(open_ledger(ledger_path)) as db:
            stored = _read_ledger(db, alerts_dir, known, everything)
    else:
        _read_log(alerts_dir, Position(), known)
    folded = fold(stored, known.fresh, known.reopen_ns)
    known.alerts = sorted(folded, key=lambda alert: (-alert.started_ns, alert.id))
    return known


def acknowledge(known: Known, alerts: Sequence[Alert], by: str, **fields: Any) -> Decision:
    """Acknowledge *alerts*; *fields* are those of the decision, such as rule, scope, ttl_s, reason.

    Raises:
        OSError: it may not be on disk.
    """
    worst = max(alert.severity for alert in alerts)
    covers = covering(alerts)
    return _write(known, decide("ack", by, covers=covers, severity=worst, **fields))


def clear(known: Known, alerts: Sequence[Alert], by: str, **fields: Any) -> Decision:
    """Take the acknowledgements of *alerts* back; *fields* name the rule or alert, and the reason.

    Raises:
        OSError: it may not be on disk.
    """
    return _write(known, decide("clear", by, covers=covering(alerts), **fields))


def _write(known: Known, decision: Decision) -> Decision:
    known.journal.append(decision)
    known.decisions.add(decision)
    return decision


def fold(stored: Iterable[Alert], fresh: Iterable[Transition], reopen_ns: int) -> list[Alert]:
    """*stored* alerts after the *fresh* transitions."""
    lives: dict[str, Life] = {alert.id: Life(alert) for alert in stored}
    newest: dict[str, Life] = {}
    for life in sorted(lives.values(), key=lambda one: one.alert.started_ns):
        newest[life.alert.fingerprint] = life
    seen: set[str] = set()
    for transition in fresh:
        if transition.id in seen:  # after trouble with the disk a line may stand there twice
            continue
        seen.add(transition.id)
        after = apply(newest.get(transition.fingerprint), transition, reopen_ns)
        if after is not None:
            newest[transition.fingerprint] = after
            lives[after.alert.id] = after
    return [life.alert for life in lives.values()]


def open_ledger(path: Path, wait: Callable[[float], None] = time.sleep) -> sqlite3.Connection:
    """The ledger, open to read; one that is just being created is waited for.

    Raises:
        LedgerError: there is none, or it can't be read.
    """
    while True:
        try:
            return ledger.open_readonly(path)
        except ledger.LedgerError:
            if not path.exists() or time.time() - path.stat().st_mtime > _CREATION_S:
                raise
            wait(_RETRY_S)


def _read_ledger(
    db: sqlite3.Connection, alerts_dir: Path, known: Known, everything: bool
) -> list[Alert]:
    """The ledger's alerts; sets what is fresh.  One snapshot: position and alerts go together."""
    db.execute("BEGIN")
    _read_log(alerts_dir, ledger.position(db), known)
    if everything:
        return ledger.alerts(db, active=False)
    since_ns = min([known.now_ns, *(each.at_ns for each in known.fresh)]) - 2 * known.reopen_ns
    recent = ledger.alerts(db, active=False, since_ns=since_ns)
    listed = {alert.id for alert in recent}
    return recent + [alert for alert in ledger.alerts(db) if alert.id not in listed]


def _read_log(alerts_dir: Path, position: Position, known: Known) -> None:
    while True:
        transitions, position, bad = alertlog.read(alerts_dir, position)
        known.fresh += transitions
        known.bad += bad
        if not transitions and not bad:
            return
