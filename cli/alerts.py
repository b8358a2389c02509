"""`alerts list`, `alerts ack` and `alerts clear`."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cli import deciding, known, place, render, rollups, times
from cli.known import Known
from cli.problems import Failed, UsageError, suggestion
from cli.render import Cell, Column, Look, Styled
from notifier import standing
from notifier.alert import Ack, Alert, Severity
from notifier.decisions import Decision
from notifier.lifecycle import RESOLVED

_MAX_TTL_S = 7 * 86_400
_DEFAULT_TTL_S = 86_400

_COLUMNS = (
    Column("id", whole=True),
    Column("severity", whole=True),
    Column("state", whole=True),
    Column("rule", whole=True),
    Column("labels"),
    Column("value"),
    Column("count", right=True),
    Column("since", whole=True),
    Column("last seen", whole=True),
    Column("ack"),
)


def list_alerts(args: Mapping[str, Any]) -> int:
    """Print the alerts that are active, or all that are known."""
    how = render.look(args)
    least = severity(args)
    since_ns = None
    if args["--hours"] is not None:
        since_ns = times.now_ns() - int(times.hours_s(args["--hours"]) * times.NS)
    where = place.find(args)
    resolved_too = args["--all"] or since_ns is not None
    now = known.load(where, everything=resolved_too)
    pending = rollups.pending(where, now.now_ns)
    shown = [
        alert
        for alert in pending + (now.alerts if resolved_too else now.active)
        if alert.severity >= least
        and (since_ns is None or alert.state != RESOLVED or (alert.resolved_ns or 0) >= since_ns)
    ]
    shown.sort(key=lambda alert: (alert.state == RESOLVED, -alert.severity))
    if how.json:
        render.json_rows(now.row(alert) for alert in shown)
    elif shown:
        render.table(how, _COLUMNS, [_cells(alert, now, how) for alert in shown])
    if not shown:
        _nothing(now, where.data_dir, resolved_too, least)
    return 0


def severity(args: Mapping[str, Any]) -> Severity:
    """The least severity asked for.

    Raises:
        UsageError: no such severity.
    """
    word = args["--severity"]
    if word is None:
        return Severity.INFO
    try:
        return Severity.parse(word)
    except ValueError:
        hint = suggestion(word.lower(), [each.word for each in Severity])
        raise UsageError(f"--severity={word}: use info, warning or critical{hint}") from None


def _nothing(now: Known, where: object, resolved_too: bool, least: Severity) -> None:
    if now.alerts and least > Severity.INFO:
        render.note(f"no alert of severity {least.word} or worse: see it all without --severity")
    elif resolved_too:
        render.note(f"no alert is known in {where}; does a service run?  See `tickwatch status`")
    else:
        render.note("no alert is active; `tickwatch alerts list --all` shows resolved ones")


def _cells(alert: Alert, now: Known, how: Look) -> list[Cell]:
    return [
        alert.id[:8],
        Styled(alert.severity.word, alert.severity.word),
        Styled(alert.state, "dim") if alert.state == RESOLVED else alert.state,
        alert.rule,
        render.labels(alert.labels),
        measured(alert),
        f"{alert.count:,}",
        times.show_ns(alert.started_ns, utc=how.utc),
        times.show_ns(alert.last_seen_ns, utc=how.utc),
        held(alert, now),
    ]


def measured(alert: Alert) -> str:
    """Value and threshold, such as ``812 ms (limit 250)``; a free-text alert's message."""
    if alert.value is None:
        return alert.message
    value = render.quantity(alert.value, alert.unit)
    return value if alert.threshold is None else f"{value} (limit {render.number(alert.threshold)})"


def held(alert: Alert, now: Known) -> str:
    """Who acknowledged or silenced *alert*, and for how long that holds."""
    ack = now.ack(alert)
    if ack is not None:
        return f"{ack.by}, {_left(ack, now.now_ns)}"
    silence = now.silence(alert) if alert.state != RESOLVED else None
    return f"silenced by {silence.by}" if silence is not None else ""


def _left(ack: Ack, now_ns: int) -> str:
    if ack.expires_at_ns is None:
        return "until resolved"
    return f"{times.spoken((ack.expires_at_ns - now_ns) / times.NS)} left"


def ack(args: Mapping[str, Any]) -> int:
    """Acknowledge alerts and say which, once the decision is on disk.

    Raises:
        Failed: nothing to acknowledge by that name; nothing was written.
    """
    how = render.look(args)
    where = place.find(args)
    ends = _ends(args, where)
    now = known.load(where)
    word = args["<rule-or-id>"]
    meant = _meant(args, now)
    fields: dict[str, Any] = dict(ends)
    if word is None:
        fields["scope"] = "all" if args["--all"] else "active"
    elif meant[0].rule == word:
        fields |= {"rule": word, "scope": "future" if args["--all"] else "active"}
    else:
        fields["alert"] = meant[0].id
    by, reason = deciding.operator(args), deciding.reason(args)
    decision = standing.acknowledge(now, meant, by, reason=reason, **fields)
    deciding.unattended(where)
    _acknowledged(how, decision, meant, now)
    return 0


def _meant(args: Mapping[str, Any], now: Known) -> list[Alert]:
    """The alerts that the arguments name."""
    word = args["<rule-or-id>"]
    if word is not None:
        meant = known.named(now, word)
        if args["--all"] and meant[0].rule != word:
            raise UsageError(f"{word} is one alert: --all goes with a rule, or stands alone")
        return meant
    if args["--at"] is not None:
        return _at(args, now)
    if not now.active:
        raise Failed("no alert is active: nothing to acknowledge")
    return now.active


def _at(args: Mapping[str, Any], now: Known) -> list[Alert]:
    """The reachable alerts that began at the time given; one in whole seconds means that second."""
    text = args["--at"]
    at_ns = times.time_ns(text, "--at", utc=bool(args["--utc"]))
    step_ns = times.NS if at_ns % times.NS == 0 else 1000
    found = [a for a in now.reachable if 0 <= a.started_ns - at_ns < step_ns]
    if not found:
        utc = bool(args["--utc"])
        starts = (f"{a.rule} at {times.show_ns(a.started_ns, utc=utc)}" for a in now.active)
        active = ", ".join(starts) or "nothing"
        raise Failed(f"--at={text}: no alert began then (active: {active})")
    return found


def _ends(args: Mapping[str, Any], where: place.Place) -> dict[str, Any]:
    """When the acknowledgement ends, as the decision's fields."""
    future = bool(args["--all"] and args["<rule-or-id>"])
    if args["--ttl"] is not None:
        ttl_s = math.ceil(times.duration_s(args["--ttl"], "--ttl"))
        if not 1 <= ttl_s <= _MAX_TTL_S:
            raise UsageError(f"--ttl={args['--ttl']}: must be 1s to 7d (or use --until-resolved)")
    elif args["--until-resolved"] and not future:
        return {"until_resolved": True}
    else:
        ttl_s = int(where.setting("monitoring_ack_ttl_seconds", _DEFAULT_TTL_S))
    return {"ttl_s": ttl_s, "until_resolved": bool(args["--until-resolved"])}


def _acknowledged(how: Look, decision: Decision, meant: Sequence[Alert], now: Known) -> None:
    if how.json:
        render.json_rows(now.row(alert) for alert in meant)
        return
    ends_ns = decision.ends_at(now.now_ns, now.mono_ns, now.boot_id)
    until = "" if ends_ns is None else f"until {times.show_ns(ends_ns, utc=how.utc)}"
    if decision.until_resolved:
        until = f"{until}, or until it is resolved" if until else "until it is resolved"
    for alert in meant:
        name = f"{alert.rule} {render.labels(alert.labels)}".rstrip()
        render.line(how, f"acknowledged {name} {until} by {decision.by}")
    if decision.scope == "future":
        render.line(how, f"future alerts of {decision.rule} as well")


def clear(args: Mapping[str, Any]) -> int:
    """Take acknowledgements back and say which, once the decision is on disk.

    Raises:
        Failed: nothing of that name is acknowledged; nothing was written.
    """
    how = render.look(args)
    where = place.find(args)
    now = known.load(where, everything=True)
    word = args["<rule-or-id>"]
    acked = now.acked()
    meant = [alert for alert in acked if alert.rule == word]
    future = now.future_ack(word)
    fields = {"rule": word}
    if not meant and future is None:
        meant = known.with_prefix(acked, word)
        if len(meant) != 1:
            raise Failed(_not_acked(word, acked, meant))
        fields = {"alert": meant[0].id}
    before = {alert.id: now.standing_ack(alert) for alert in meant}
    by, reason = deciding.operator(args), deciding.reason(args)
    standing.clear(now, meant, by, reason=reason, **fields)
    deciding.unattended(where)
    if how.json:
        render.json_rows(now.row(alert) for alert in meant)
        return 0
    for alert in meant:
        one = before[alert.id]
        name = f"{alert.rule} {render.labels(alert.labels)}".rstrip()
        render.line(how, f"cleared {name} (acknowledged by {one.by if one else 'nobody'})")
    if not meant and future is not None:
        render.line(how, f"cleared future alerts of {word} (acknowledged by {future.by})")
    return 0


def _not_acked(word: str, acked: Sequence[Alert], several: Sequence[Alert]) -> str:
    if several:
        ids = ", ".join(alert.id[:13] for alert in several)
        return f"{word}: {len(several)} acknowledged alerts begin like this: {ids}"
    if not acked:
        return f"{word}: nothing is acknowledged"
    rules = list(dict.fromkeys(alert.rule for alert in acked))
    return f"{word}: not acknowledged{suggestion(word, rules)} (acknowledged: {', '.join(rules)})"
