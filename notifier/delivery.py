"""A delivery: one message for one plugin, and its row in alerts.db."""

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from notifier.alert import Severity, rfc3339

PENDING, DELIVERED, DEAD, SKIPPED = "pending", "delivered", "dead", "skipped"


@dataclass(slots=True)
class Delivery:
    """One message for one plugin, from the decision to send it to its end.

    ``why`` is the reason for it, ``reason`` how it ended.  ``fires`` is the firing that it tells
    of.  ``remaining`` are the recipients still to be served, None for all of them; ``reached`` is
    True when some others have it.  ``digest`` is the delivery that carries this one, ``payload``
    the frozen message as JSON.
    """

    id: str
    alert: str
    plugin: str
    kind: str
    why: str
    severity: Severity
    fires: int
    first: bool
    created_ns: int
    next_ns: int
    deadline_ns: int
    payload: str
    state: str = PENDING
    reason: str = ""
    attempt: int = 0
    open: bool = False
    finished_ns: int | None = None
    digest: str = ""
    error: str = ""
    remaining: tuple[str, ...] | None = None
    reached: bool = False

    def row(self) -> dict[str, Any]:
        """The delivery as its JSON row; the message itself isn't in it."""
        return {
            "id": self.id,
            "alert": self.alert,
            "plugin": self.plugin,
            "kind": self.kind,
            "why": self.why,
            "severity": self.severity.word,
            "state": self.state,
            "reason": self.reason,
            "attempt": self.attempt,
            "created_at": rfc3339(self.created_ns),
            "next_at": rfc3339(self.next_ns) if self.state == PENDING else None,
            "finished_at": rfc3339(self.finished_ns),
            "digest": self.digest or None,
            "error": self.error,
        }


def delivery_from(row: sqlite3.Row) -> Delivery:
    """The delivery in a row of ``deliveries``."""
    fields = {name: row[name] for name in row.keys()}  # noqa: SIM118 - a Row iterates over values
    fields["severity"] = Severity(fields["severity"])
    for flag in ("first", "open", "reached"):
        fields[flag] = bool(fields[flag])
    if fields["remaining"] is not None:
        fields["remaining"] = tuple(json.loads(fields["remaining"]))
    return Delivery(**fields)
