"""`deliveries list` and `deliveries retry`."""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from cli import deciding, known, place, render, times
from cli.place import Place
from cli.problems import Failed, UsageError, suggestion
from cli.render import Cell, Column, Look, Styled
from notifier import ledger, standing
from notifier.alert import Alert
from notifier.delivery import DEAD, DELIVERED, PENDING, SKIPPED, Delivery

_STATES = (PENDING, DELIVERED, DEAD, SKIPPED)
_STYLES = {DEAD: "critical", PENDING: "warning", DELIVERED: "ok"}
_DEFAULT_LIMIT = 50
_MAX_LIMIT = 100_000

_COLUMNS = (
    Column("id", whole=True),
    Column("created", whole=True),
    Column("plugin", whole=True),
    Column("state", whole=True),
    Column("attempts", right=True),
    Column("severity", whole=True),
    Column("rule"),
    Column("labels"),
    Column("why"),
    Column("result"),
)


@contextmanager
def opened(where: Place) -> Iterator[sqlite3.Connection]:
    """The ledger, open to read.

    Raises:
        Failed: there is none, or it can't be read.
    """
    known.require(where)
    try:
        db = standing.open_ledger(where.ledger)
    except ledger.LedgerError as error:
        raise Failed(str(error)) from None
    try:
        yield db
    finally:
        db.close()


def list_deliveries(args: Mapping[str, Any]) -> int:
    """Print deliveries, newest first."""
    how = render.look(args)
    state = _state(args["--state"])
    limit = count(args["--limit"], "--limit", _DEFAULT_LIMIT, _MAX_LIMIT)
    where = place.find(args)
    known.require(where)
    rows: list[Delivery] = []
    alerts: dict[str, Alert] = {}
    if where.ledger.exists():
        with opened(where) as db:
            rows = ledger.deliveries(db, state=state, limit=limit)
            wanted = {one.alert for one in rows}
            found = (ledger.find_alerts(db, alert) for alert in wanted)
            alerts = {alert.id: alert for several in found for alert in several}
    if how.json:
        render.json_rows(one.row() for one in rows)
    elif rows:
        render.table(how, _COLUMNS, [_cells(one, alerts.get(one.alert), how) for one in rows])
    else:
        render.note(f"no {state or ''} delivery yet".replace("  ", " "))
    return 0


def retry(args: Mapping[str, Any]) -> int:
    """Ask the notifier to send a dead delivery again.

    Raises:
        Failed: no such delivery, more than one, or one that isn't dead.
    """
    how = render.look(args)
    where = place.find(args)
    word = args["<id>"].lower()
    with opened(where) as db:
        found = ledger.deliveries(db, prefix=word) if len(word) >= known.ID_DIGITS else []
        dead = ledger.deliveries(db, state=DEAD, limit=5)
    if len(found) != 1:
        problem = f"{len(found)} deliveries begin like this" if found else "no such delivery"
        ids = ", ".join(f"{one.id[:8]} ({one.plugin})" for one in found[:5] or dead) or "none"
        raise Failed(f"{word}: {problem} ({'found' if found else 'dead ones'}: {ids})")
    one = found[0]
    if one.state != DEAD:
        raise Failed(f"{word}: this delivery is {one.state}: only a dead one can be sent again")
    decision = deciding.write(where, "retry", args, delivery=one.id, alert=one.alert)
    if how.json:
        render.json_rows([one.row()])
    else:
        render.line(how, f"{one.plugin} will be tried again: {one.id[:8]}, asked by {decision.by}")
    return 0


def count(text: str | None, option: str, default: int, most: int) -> int:
    """A number of things.

    Raises:
        UsageError: not a whole number in the allowed range.
    """
    if text is None:
        return default
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= most:
        raise UsageError(f"{option}={text}: use a whole number, 1 to {most:,}")
    return int(text)


def _state(word: str | None) -> str | None:
    if word is None or word in _STATES:
        return word
    raise UsageError(f"--state={word}: use {', '.join(_STATES)}{suggestion(word, _STATES)}")


def _cells(one: Delivery, alert: Alert | None, how: Look) -> list[Cell]:
    return [
        one.id[:8],
        times.show_ns(one.created_ns, utc=how.utc),
        one.plugin,
        Styled(one.state, _STYLES.get(one.state, "dim")),
        str(one.attempt),
        Styled(one.severity.word, one.severity.word),
        alert.rule if alert else "",
        render.labels(alert.labels) if alert else "",
        one.why,
        result(one, how),
    ]


def result(one: Delivery, how: Look) -> str:
    """How a delivery ended, or what it waits for."""
    if one.state == PENDING:
        waits = f"next try {times.show_ns(one.next_ns, utc=how.utc)}" if one.attempt else "waiting"
        return f"{waits}: {one.error}" if one.error else waits
    return ": ".join(part for part in (one.reason, one.error) if part)
