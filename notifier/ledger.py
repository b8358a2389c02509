"""alerts.db: its tables, and what commands read from it.

The notifier's one thread is the only writer (see ``keeper``); everyone else opens it read-only and
only for a moment, because a long reader lets the write-ahead log grow.  Whether an alert is
acknowledged is not in here: it is computed from the decisions journal each time.  This module loads
nothing heavy, so that commands start fast.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from notifier.alert import Alert, Severity, finite, rfc3339
from notifier.alertlog import Position
from notifier.delivery import DEAD, DELIVERED, PENDING, SKIPPED, Delivery, delivery_from

VERSION = 1

# live: 1 while the notifier still has the alert in memory.  life: what the alert's row doesn't
# show, as JSON. told: what the people behind each plugin were told.  first: 1 on the one row of
# each (alert, plugin) that stands for the first message, which is what conservation counts.  open:
# 1 while an attempt is under way; found at start, its outcome is unknown.
SCHEMA = """
CREATE TABLE alerts (
    id TEXT PRIMARY KEY, fingerprint TEXT NOT NULL, rule TEXT NOT NULL, labels TEXT NOT NULL,
    severity INTEGER NOT NULL, state TEXT NOT NULL, started_ns INTEGER NOT NULL,
    last_seen_ns INTEGER NOT NULL, resolved_ns INTEGER, value REAL, threshold REAL,
    unit TEXT NOT NULL, message TEXT NOT NULL, count INTEGER NOT NULL, free_text INTEGER NOT NULL,
    evidence TEXT NOT NULL, live INTEGER NOT NULL, life TEXT NOT NULL
) STRICT;
CREATE INDEX alerts_of ON alerts (fingerprint, started_ns);
CREATE INDEX alerts_firing ON alerts (state) WHERE state != 'resolved';
CREATE INDEX alerts_live ON alerts (live) WHERE live = 1;
CREATE INDEX alerts_seen ON alerts (last_seen_ns);
CREATE TABLE told (
    alert TEXT NOT NULL, plugin TEXT NOT NULL, state TEXT NOT NULL, severity INTEGER NOT NULL,
    fires INTEGER NOT NULL, since_ns INTEGER NOT NULL, at_ns INTEGER NOT NULL,
    repeat INTEGER NOT NULL, number INTEGER NOT NULL, held TEXT NOT NULL, failed INTEGER NOT NULL,
    PRIMARY KEY (alert, plugin)
) STRICT, WITHOUT ROWID;
CREATE TABLE deliveries (
    id TEXT PRIMARY KEY, alert TEXT NOT NULL, plugin TEXT NOT NULL, kind TEXT NOT NULL,
    why TEXT NOT NULL, severity INTEGER NOT NULL, fires INTEGER NOT NULL, first INTEGER NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL, attempt INTEGER NOT NULL, open INTEGER NOT NULL,
    created_ns INTEGER NOT NULL, next_ns INTEGER NOT NULL, deadline_ns INTEGER NOT NULL,
    finished_ns INTEGER, digest TEXT NOT NULL, error TEXT NOT NULL, remaining TEXT,
    reached INTEGER NOT NULL, payload TEXT NOT NULL
) STRICT;
CREATE INDEX deliveries_of ON deliveries (alert);
CREATE INDEX deliveries_in ON deliveries (digest) WHERE digest != '';
CREATE INDEX deliveries_pending ON deliveries (plugin) WHERE state = 'pending';
CREATE INDEX deliveries_finished ON deliveries (finished_ns) WHERE finished_ns IS NOT NULL;
CREATE TABLE transitions (
    id TEXT PRIMARY KEY, alert TEXT NOT NULL, number INTEGER NOT NULL, kind TEXT NOT NULL,
    at_ns INTEGER NOT NULL, severity INTEGER NOT NULL, value REAL, message TEXT NOT NULL,
    reason TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX transitions_of ON transitions (alert);
CREATE INDEX transitions_updates ON transitions (at_ns) WHERE kind = 'update';
CREATE TABLE counts (name TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
"""


class LedgerError(Exception):
    """alerts.db can't be read; the text is one line that says what to do."""


def alert_values(alert: Alert, fingerprint: str, live: bool, life: str) -> tuple[Any, ...]:
    """The alert as a row of ``alerts``."""
    return (
        alert.id,
        fingerprint,
        alert.rule,
        json.dumps(alert.labels),
        int(alert.severity),
        alert.state,
        alert.started_ns,
        alert.last_seen_ns,
        alert.resolved_ns,
        finite(alert.value),
        finite(alert.threshold),
        alert.unit,
        alert.message,
        alert.count,
        alert.free_text,
        json.dumps(alert.evidence),
        live,
        life,
    )


def alert_from(row: sqlite3.Row) -> Alert:
    """The alert in a row of ``alerts``."""
    return Alert(
        id=row["id"],
        rule=row["rule"],
        labels=json.loads(row["labels"]),
        severity=Severity(row["severity"]),
        state=row["state"],
        started_ns=row["started_ns"],
        last_seen_ns=row["last_seen_ns"],
        resolved_ns=row["resolved_ns"],
        value=row["value"],
        threshold=row["threshold"],
        unit=row["unit"],
        message=row["message"],
        count=row["count"],
        free_text=bool(row["free_text"]),
        evidence=tuple((at, value) for at, value in json.loads(row["evidence"])),
    )


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open alerts.db to read.

    Raises:
        LedgerError: there is none, or it can't be read.
    """
    if not path.exists():
        raise LedgerError(f"{path}: no such file: no service has run with this data directory")
    db = None
    try:
        db = sqlite3.connect(
            f"file:{quote(str(path))}?mode=ro", uri=True, isolation_level=None, timeout=2
        )
        db.row_factory = sqlite3.Row
        version = db.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as problem:
        if db is not None:
            db.close()
        raise LedgerError(
            f"{path}: can't be read ({problem}): run the command as the service's user"
        ) from None
    if version == 0:
        db.close()
        raise LedgerError(f"{path} is empty: the service is starting, or never got so far")
    if version != VERSION:
        db.close()
        raise LedgerError(
            f"{path} has schema version {version}, this program reads {VERSION}: "
            "use the service's version"
        )
    return db


def alerts(
    db: sqlite3.Connection,
    *,
    active: bool = True,
    severity: Severity | None = None,
    since_ns: int | None = None,
    rule: str | None = None,
) -> list[Alert]:
    """Alerts, the latest started first.

    Args:
        active: only those that are firing.
        severity: only those of exactly this severity.
        since_ns: only those seen at or after this time.
        rule: only those of this rule.
    """
    clauses, values = ["1"], []
    if active:
        clauses.append("state != 'resolved'")
    for clause, value in (
        ("severity = ?", severity),
        ("last_seen_ns >= ?", since_ns),
        ("rule = ?", rule),
    ):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    where = " AND ".join(clauses)
    rows = db.execute(f"SELECT * FROM alerts WHERE {where} ORDER BY started_ns DESC, id", values)
    return [alert_from(row) for row in rows]


def find_alerts(db: sqlite3.Connection, prefix: str) -> list[Alert]:
    """Alerts whose id begins with *prefix*, the latest started first."""
    rows = db.execute(
        "SELECT * FROM alerts WHERE id >= ? AND id < ? ORDER BY started_ns DESC",
        (prefix.lower(), prefix.lower() + "~"),
    )
    return [alert_from(row) for row in rows]


def deliveries(
    db: sqlite3.Connection,
    *,
    alert: str | None = None,
    state: str | None = None,
    plugin: str | None = None,
    prefix: str = "",
    limit: int = 1000,
) -> list[Delivery]:
    """Deliveries, newest first, at most *limit*; ``Delivery.row()`` is the JSON of one."""
    clauses, values = ["id >= ? AND id < ?"], [prefix.lower(), prefix.lower() + "~"]
    for clause, value in (("alert = ?", alert), ("state = ?", state), ("plugin = ?", plugin)):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    rows = db.execute(
        f"SELECT * FROM deliveries WHERE {' AND '.join(clauses)} ORDER BY created_ns DESC LIMIT ?",
        [*values, limit],
    )
    return [delivery_from(row) for row in rows]


def timeline(db: sqlite3.Connection, alert: str) -> list[dict[str, Any]]:
    """What happened to one alert, oldest first: transitions, and deliveries at their creation."""
    events: list[tuple[int, dict[str, Any]]] = []
    for row in db.execute("SELECT * FROM transitions WHERE alert = ?", (alert,)):
        fact = {
            "at": rfc3339(row["at_ns"]),
            "transition": row["kind"],
            "severity": Severity(row["severity"]).word,
            "value": row["value"],
            "message": row["message"],
            "reason": row["reason"],
        }
        events.append((row["at_ns"], fact))
    for one in deliveries(db, alert=alert, limit=10_000):
        events.append((one.created_ns, {"at": rfc3339(one.created_ns), "delivery": one.row()}))
    return [event for _, event in sorted(events, key=lambda pair: pair[0])]


def position(db: sqlite3.Connection) -> Position:
    """How far the notifier has read the alert log; the beginning if it can't be told."""
    row = db.execute("SELECT value FROM meta WHERE key = 'position'").fetchone()
    try:
        return Position.decode(row["value"]) if row is not None else Position()
    except ValueError:
        return Position()  # the notifier reads from the beginning then, too


def counts(db: sqlite3.Connection) -> dict[str, int]:
    """The counters that outlive the rows they count."""
    return {row["name"]: row["value"] for row in db.execute("SELECT name, value FROM counts")}


def conservation(db: sqlite3.Connection) -> dict[str, Any]:
    """Whether nothing was lost: each routed alert has its message, each line of the log was taken.

    ``routed`` is the number of (alert, plugin) pairs that were to hear of an alert; the four states
    count the deliveries that stand for the first message of each.  ``lines`` of the alert log, and
    ``copies`` that came ahead of their line, are ``stored`` transitions, ``duplicates`` or ``bad``.
    """
    db.execute("BEGIN")
    try:
        kept = counts(db)
        fired = db.execute("SELECT count(*) FROM alerts").fetchone()[0]
        routed = db.execute("SELECT count(*) FROM told WHERE number > 0").fetchone()[0]
        stored = db.execute("SELECT count(*) FROM transitions").fetchone()[0]
        states = dict(
            tuple(row)
            for row in db.execute("SELECT state, count(*) FROM deliveries WHERE first GROUP BY 1")
        )
    finally:
        db.execute("COMMIT")
    ledger: dict[str, Any] = {
        "fired": fired + kept.get("removed_alerts", 0),
        "routed": routed + kept.get("removed_told", 0),
    }
    for state in (DELIVERED, DEAD, SKIPPED, PENDING):
        ledger[state] = states.get(state, 0) + kept.get(f"removed_{state}", 0)
    ledger |= {name: kept.get(name, 0) for name in ("lines", "copies", "duplicates", "bad", "gaps")}
    ledger["stored"] = stored + kept.get("removed_transitions", 0)
    ended = sum(ledger[state] for state in (DELIVERED, DEAD, SKIPPED, PENDING))
    taken = ledger["stored"] + ledger["duplicates"] + ledger["bad"]
    ledger["holds"] = ledger["routed"] == ended and ledger["lines"] + ledger["copies"] == taken
    return ledger


def health(db: sqlite3.Connection) -> dict[str, Any]:
    """What the notifier last said of itself, empty before the first time.

    ``at`` is when.  ``plugins`` is a list with

    - ``plugin``: its name; ``failing``: told to be in trouble, which an aggregator samples into the
      rule delivery_failing, because only that process writes transitions; ``last_error``;
    - ``delivered``, ``failed`` (attempts), ``dead``: since ever; ``hour``: attempts ``accepted``
      and ``failed`` in the last hour, and ``rate``, the share accepted (None without any);
    - ``pending``, ``oldest_pending_at``, ``last_delivered_at``, ``held_until``, ``stuck``;
    - ``resent`` and ``resends_failed`` where the plugin is told again what is so.

    ``oldest_pending_at`` is since when the oldest undelivered alert waits, None if none does.
    ``missing`` has ``lines``, how many numbers were found missing in the alert log within the last
    hour (each an alert that may be lost: the aggregator samples it), and ``newest``, such as
    ``5..7``. ``ping`` is None without a dead-man service, else ``last_at``, ``sent`` and
    ``problem``. ``problems`` are lines about files that can't be read or written.
    """
    row = db.execute("SELECT value FROM meta WHERE key = 'health'").fetchone()
    found = json.loads(row["value"]) if row is not None else {}
    return found if isinstance(found, dict) else {}


def pending(path: Path) -> int:
    """How many deliveries wait in the alerts.db at *path*; 0 without one.

    Raises:
        LedgerError: it can't be read.
    """
    if not path.exists():
        return 0
    with contextlib.closing(open_readonly(path)) as db:
        row = db.execute("SELECT count(*) FROM deliveries WHERE state = 'pending'").fetchone()
        return int(row[0])


def told(db: sqlite3.Connection, alert: str) -> Iterator[Mapping[str, Any]]:
    """What the people behind each plugin were last told of one alert."""
    for row in db.execute("SELECT * FROM told WHERE alert = ? ORDER BY plugin", (alert,)):
        yield {
            "plugin": row["plugin"],
            "state": row["state"] or None,
            "severity": Severity(row["severity"]).word if row["severity"] else None,
            "at": rfc3339(row["at_ns"]) if row["at_ns"] else None,
            "held": row["held"] or None,
        }
