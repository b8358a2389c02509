"""How what the notifier has in memory becomes rows of alerts.db, and told rows become it again.

The tables are ``ledger``'s; only ``keeper`` executes what is made here.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from notifier.alert import Transition, finite
from notifier.book import Changes, Entry
from notifier.delivery import Delivery
from notifier.expiry import COUNT
from notifier.ledger import alert_values
from notifier.lifecycle import Told

Statement = tuple[str, list[tuple[Any, ...]]]

_COLUMNS = tuple(field.name for field in fields(Delivery))
_TOLD = tuple(field.name for field in fields(Told))


def statements(changes: Changes, live: Mapping[str, Entry]) -> Iterator[Statement]:
    """What ``save`` executes, each with its rows."""
    yield (
        f"INSERT OR REPLACE INTO alerts VALUES ({_marks(18)})",
        [
            alert_values(entry.life.alert, entry.fingerprint, id in live, entry.memo())
            for id, entry in changes.alerts.items()
        ],
    )
    columns = ", ".join(("alert", *_TOLD))
    yield (
        f"INSERT OR REPLACE INTO told ({columns}) VALUES ({_marks(len(_TOLD) + 1)})",
        [(alert, *_plain(told)) for (alert, _), told in changes.told.items()],
    )
    updates = ", ".join(f"{name} = excluded.{name}" for name in _COLUMNS if name != "payload")
    columns = ", ".join(_COLUMNS)
    yield (
        f"""INSERT INTO deliveries ({columns}) VALUES ({_marks(len(_COLUMNS))})
        ON CONFLICT (id) DO UPDATE SET {updates}""",
        [_delivery_values(delivery) for delivery in changes.deliveries.values()],
    )
    yield (
        f"INSERT OR IGNORE INTO transitions VALUES ({_marks(9)})",
        [_transition_values(alert, one) for alert, one in changes.transitions.values()],
    )
    yield (
        COUNT,
        list(changes.counts.items()),
    )
    yield "INSERT OR REPLACE INTO meta VALUES (?, ?)", list(changes.meta.items())


def _marks(number: int) -> str:
    return ", ".join("?" * number)


def told_from(row: sqlite3.Row) -> Told:
    fields = {name: row[name] for name in _TOLD}
    fields["failed"] = bool(fields["failed"])
    return Told(**fields)


def _plain(told: Told) -> tuple[object, ...]:
    return tuple(getattr(told, name) for name in _TOLD)


def _delivery_values(delivery: Delivery) -> tuple[object, ...]:
    values = {name: getattr(delivery, name) for name in _COLUMNS}
    values["severity"] = int(delivery.severity)
    if delivery.remaining is not None:
        values["remaining"] = json.dumps(delivery.remaining)
    return tuple(values.values())


def _transition_values(alert: str, one: Transition) -> tuple[object, ...]:
    return (
        one.id,
        alert,
        one.number,
        one.kind.value,
        one.at_ns,
        int(one.severity),
        finite(one.value),
        one.message,
        one.reason,
    )
