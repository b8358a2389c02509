"""`alerts show`: one alert from its first transition on, and what people were told of it."""

from collections.abc import Iterator, Mapping
from typing import Any

from cli import events, known, place, render, times
from cli.alerts import held, measured
from cli.deliveries import opened
from cli.known import Known
from cli.place import Place
from cli.problems import Failed
from cli.render import Cell, Column, Look, Styled
from notifier import ledger
from notifier.alert import Alert, finite, parse_rfc3339, rfc3339
from notifier.decisions import Decision, Journal, matches
from notifier.lifecycle import RESOLVED

_STORY = (Column("time", whole=True), Column("event", whole=True), Column("what"))
_TOLD = (Column("plugin"), Column("was told"), Column("at", whole=True), Column("held back"))
_EVIDENCE = (Column("worst records"), Column("value", right=True))

Row = dict[str, Any]


def main(args: Mapping[str, Any]) -> int:
    """Print everything about one alert.

    Raises:
        Failed: no alert's id begins like this, or more than one does.
    """
    how = render.look(args)
    where = place.find(args)
    now = known.load(where, everything=True)
    alert = _find(now, args["<id>"])
    told: list[Mapping[str, Any]] = []
    story: list[Row] = []
    if where.ledger.exists():
        with opened(where) as db:
            told = list(ledger.told(db, alert.id))
            story += map(_stored, ledger.timeline(db, alert.id))
    story += [*_fresh(now, alert), *_decided(where, now, alert)]
    story.sort(key=lambda row: parse_rfc3339(row["at"]))
    if how.json:
        evidence = [{"at": rfc3339(at_ns), "value": finite(v)} for at_ns, v in alert.evidence]
        render.json_rows([now.row(alert) | {"timeline": story, "told": told, "evidence": evidence}])
        return 0
    _head(alert, now, how)
    _section(how, _STORY, [_story_cells(row, how) for row in story])
    _section(how, _TOLD, [_told_cells(row, how) for row in told])
    _section(how, _EVIDENCE, _evidence_cells(alert, how))
    return 0


def _find(now: Known, word: str) -> Alert:
    found = known.with_prefix(now.alerts, word) or [a for a in now.active if a.rule == word]
    if len(found) == 1:
        return found[0]
    if found:
        ids = ", ".join(f"{a.id[:13]} ({a.rule} {render.labels(a.labels)})" for a in found[:10])
        raise Failed(f"{word}: means {len(found)} alerts: {ids}")
    raise Failed(known.nothing_called(word, now.active))


def _stored(event: Row) -> Row:
    """An event of the ledger's timeline, named like those of the log."""
    return {"event": event.get("transition", "delivery"), **event}


def _fresh(now: Known, alert: Alert) -> Iterator[Row]:
    """Transitions that the ledger doesn't have yet."""
    for transition in now.fresh:
        if transition.fingerprint == alert.fingerprint and transition.at_ns >= alert.started_ns:
            yield dict(events.of_transition(transition, alert.id).row)


def _decided(where: Place, now: Known, alert: Alert) -> Iterator[Row]:
    """Decisions about *alert*: acknowledgements, their ends, and silences of its time."""
    about: set[str] = set()
    end_ns = alert.resolved_ns if alert.state == RESOLVED else None
    for decision in Journal(where.decisions).read_all():
        if end_ns is not None and decision.at_ns > end_ns + now.reopen_ns:
            break
        if decision.of in about or _is_about(decision, alert):
            about.add(decision.id)
            yield dict(events.of_decision(decision, {alert.fingerprint: alert.rule}).row)


def _is_about(decision: Decision, alert: Alert) -> bool:
    if decision.kind == "silence":
        ends_ns = decision.ends_at(decision.at_ns, 0, "")
        current = ends_ns is None or ends_ns >= alert.started_ns
        return current and matches({**decision.matchers}, alert)
    if decision.kind not in ("ack", "clear") or decision.at_ns < alert.started_ns:
        return False
    if decision.alert == alert.id or decision.scope == "all":
        return True
    if decision.rule == alert.rule and (decision.kind == "clear" or decision.scope == "future"):
        return True
    return any(cover.fingerprint == alert.fingerprint for cover in decision.covers)


def _head(alert: Alert, now: Known, how: Look) -> None:
    severity = Styled(alert.severity.word, alert.severity.word)
    render.line(how, severity, alert.rule, render.labels(alert.labels))
    since = times.show_ns(alert.started_ns, utc=how.utc)
    end_ns = alert.resolved_ns if alert.resolved_ns is not None else now.now_ns
    lasted = times.spoken(max(0, end_ns - alert.started_ns) / times.NS)
    render.line(how, f"{alert.state}, since {since}, for {lasted}, {alert.count:,} times")
    if alert.value is not None:
        render.line(how, measured(alert))
    if alert.message:
        render.line(how, alert.message)
    hold = held(alert, now)
    render.line(how, f"acknowledged or silenced: {hold or 'no'}")
    render.line(how, f"id {alert.id}")


def _section(how: Look, columns: tuple[Column, ...], rows: list[list[Cell]]) -> None:
    if rows:
        print()
        render.table(how, columns, rows)


def _story_cells(row: Row, how: Look) -> list[Cell]:
    return [_at(row["at"], how), row["event"], _what(row)]


def _what(row: Row) -> str:
    """What an event says, whichever kind it is of."""
    if "delivery" in row:
        one = row["delivery"]
        attempts = f"after {one['attempt']} attempts" if one["attempt"] > 1 else ""
        parts = [one["plugin"], one["state"], f"({one['why']})", attempts]
        parts += [one["reason"], one["error"]]
    elif "by" in row:
        until = row["expires_at"] and f"until {row['expires_at']}"
        resolved = "until resolved" if row["until_resolved"] else ""
        parts = [f"by {row['by']}", until, resolved, row["reason"]]
    else:
        value = render.quantity(row["value"], row.get("unit", "")) if row["value"] else ""
        parts = [row["severity"], value, row["message"], row["reason"]]
    return " ".join(part for part in parts if part)


def _told_cells(row: Mapping[str, Any], how: Look) -> list[Cell]:
    said = " ".join(part for part in (row["state"], row["severity"]) if part)
    return [row["plugin"], said, _at(row["at"], how) if row["at"] else "", row["held"] or ""]


def _evidence_cells(alert: Alert, how: Look) -> list[list[Cell]]:
    return [
        [
            times.show_ns(at_ns, utc=how.utc, precision="milliseconds"),
            render.quantity(value, alert.unit),
        ]
        for at_ns, value in alert.evidence
    ]


def _at(time: str, how: Look) -> str:
    return times.show_ns(parse_rfc3339(time), utc=how.utc)
