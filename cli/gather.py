"""Look at everything there is to know of one data directory, for `status`.

Facts come from whoever knows them: locks and rings directly, the aggregator's and the notifier's
last reports, the ledger.  A part that can't be read makes the whole UNKNOWN, but hides no other.
"""

import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from aggregator.health import ALIVE, engine_state
from aggregator.store import query
from cli import known, render, rollups, times
from cli.condition import Condition, Row
from cli.deliveries import opened as opened_ledger
from cli.known import Known
from cli.place import Place
from cli.problems import Failed
from notifier import ledger
from notifier.alert import Alert, Severity, parse_rfc3339, rfc3339
from notifier.delivery import DEAD
from ringbuf.ownership import holder
from ringbuf.survey import RingInfo, marks, survey

# A message that waits longer than this is a reason to look.
_PENDING_LONG_S = 300
_LAPSE_S = 300
_LATENCY = "*_latency"
_PNL = "pnl"
_LATENCY_S = 3600


def gather(where: Place) -> Condition:
    """Look at everything at *where*; never raises for what it finds there."""
    found = Condition(where)
    if not where.data_dir.is_dir():
        found.blind.append(f"no such directory: {where.data_dir} ({where.origin})")
        return found
    with _part(found, "service"):
        _service(found)
    report: Row = {}
    if where.rollups.exists():
        with _part(found, "rollups"):
            report = _rollups(found)
    with _part(found, "rings"):
        _engines(found, {each["engine"]: each for each in report.get("engines", ())})
    with _part(found, "alerts"):
        now = known.load(where)
        _alerts(found, now)
        found.alerts["pending"] = len(report.get("pending", ()))
        if where.ledger.exists():
            _deliveries(found, now)
    with _part(found, "disk"):
        _disk(found)
    return found


@contextmanager
def _part(found: Condition, name: str) -> Iterator[None]:
    """A part that can't be read makes the whole unknown, but hides no other part."""
    try:
        yield
    except (OSError, sqlite3.Error, Failed, ValueError, KeyError, TypeError) as error:
        found.blind.append(f"{name}: {error}")


def _service(found: Condition) -> None:
    where = found.where
    pid = where.service_pid()
    found.service = {
        "running": pid is not None,
        "pid": pid,
        "started_at": where.service.get("started_at") if pid is not None else None,
    }
    if pid is None:
        before = where.service.get("pid")
        last = f"the last one was pid {before}" if before else "none has ever run there"
        found.blind.append(f"no service runs on {where.data_dir}: {last}; start it: tickwatch run")
        return
    if holder(where.data_dir / "aggregator.lock") is None:
        found.blind.append("the service's aggregator doesn't run: it is being (re)started")
    if holder(where.data_dir / "notifier.lock") is None:
        found.critical.append("the service's notifier doesn't run: nobody is told of alerts")


def _rollups(found: Condition) -> Row:
    """Latencies and PnL of the last hour of records; returns the aggregator's report."""
    with rollups.opened(found.where) as db:
        report = rollups.report_of(db)
        end_s = query.newest_s(db)
        if end_s is not None:
            _last_hour(found, db, end_s)
        now_s = found.at_ns // times.NS
        days = rollups.day_rows(found.where)
        found.unrolled = query.lacking(db, days, now_s - _LATENCY_S, now_s)
    if found.service.get("running"):
        _reported(found, report)
    return report


def _last_hour(found: Condition, db: sqlite3.Connection, end_s: int) -> None:
    start_s, base_s = end_s - _LATENCY_S, query.base_s(db)

    def intervals(metric: str) -> dict[tuple[Any, ...], list[Row]]:
        by_series: dict[tuple[Any, ...], list[Row]] = {}
        for row in query.metrics(
            db, interval_s=base_s, metric=metric, start_s=start_s, end_s=end_s
        ):
            by_series.setdefault(rollups.series_key(row), []).append(row)
        return by_series

    found.performance = list(query.summary(db, metric=_LATENCY, start_s=start_s, end_s=end_s))
    latencies = intervals(_LATENCY)
    keys = map(rollups.series_key, found.performance)
    found.courses = [rollups.course(latencies.get(key, []), "p99") for key in keys]
    found.pnl = [rows[-1] for rows in intervals(_PNL).values()]


def _reported(found: Condition, report: Mapping[str, Any]) -> None:
    """What the running aggregator says of itself, or fails to say."""
    if not report:
        found.blind.append("the service has just started: nothing reported yet")
    elif not rollups.is_fresh(report, found.at_ns):
        age = times.spoken((found.at_ns - parse_rfc3339(report["at"])) / times.NS)
        found.blind.append(f"the aggregator's last report is {age} old")
    if report.get("disk_problem"):
        found.warning.append(f"the aggregator can't write: {report['disk_problem']}")
    if report.get("transitions_dropped"):
        count = report["transitions_dropped"]
        found.critical.append(f"{count} transitions of alerts could not be logged")


def _engines(found: Condition, reported: Mapping[str, Row]) -> None:
    lapse_s = found.where.setting("monitoring_heartbeat_lapse_seconds", _LAPSE_S)
    infos = survey(found.where.data_dir)
    for info in infos:
        state, _ = engine_state(info, time.monotonic_ns(), int(lapse_s * times.NS))
        found.engines.append(_engine(info, state, reported.get(info.name, {})))
        if info.problem is not None and info.alive:
            found.warning.append(f"engine {info.name}: its ring can't be read: {info.problem}")
    for mark in marks(found.where.data_dir):
        if mark.pid_alive:
            found.engines.append(_empty(mark.engine, mark.pid, "missing"))
            found.critical.append(f"engine {mark.engine} is not monitored: {mark.problem}")
    alive = [each for each in found.engines if each["state"] == ALIVE]
    if not found.engines:
        found.quiet.append(f"no engine has ever written to {found.where.data_dir}")
    elif not alive:
        states = ", ".join(f"{each['engine']} is {each['state']}" for each in found.engines)
        found.quiet.append(f"no engine writes: {states}")
    elif not any(each["written"] for each in alive):
        found.quiet.append("no engine has recorded anything yet")


def _empty(name: str, pid: int, state: str) -> Row:
    return {
        "engine": name,
        "pid": pid,
        "state": state,
        "last_record_at": None,
        "rate": None,
        "written": None,
        "read": None,
        "lost": None,
        "alerts_lost": None,
        "rejected": None,
        "overflowed": None,
        "fill": None,
    }


def _engine(info: RingInfo, state: str, reported: Row) -> Row:
    """What the ring itself says now, and what the aggregator knows of it."""
    row = _empty(info.name, info.pid, state)
    for name in ("read", "lost", "alerts_lost", "fill", "rate"):
        row[name] = reported.get(name)
    if info.problem is None:
        row |= {
            "written": info.published,
            "rejected": info.rejected,
            "overflowed": info.overflowed,
        }
    if info.last_record_ns is not None:
        ago_ns = time.monotonic_ns() - info.last_record_ns
        same_boot = ago_ns >= 0
        row["last_record_at"] = rfc3339(time.time_ns() - ago_ns) if same_boot else None
    if state != ALIVE:
        row["rate"] = 0.0 if row["rate"] is not None else None
    return row


def _alerts(found: Condition, now: Known) -> None:
    """Count what fires, and make it a reason: known to somebody, it is one step less."""
    counts = {severity.word: 0 for severity in reversed(Severity)}
    held = {"acknowledged": 0, "silenced": 0}
    for alert in now.active:
        counts[alert.severity.word] += 1
        ack, silence = now.ack(alert), now.silence(alert)
        held["acknowledged"] += ack is not None
        held["silenced"] += silence is not None
        if alert.severity < Severity.WARNING:
            continue
        text = _firing(alert, now)
        if ack is not None:
            text += f", acknowledged by {ack.by}"
        if silence is not None:
            text += f", silenced by {silence.by}"
        open_ = ack is None and silence is None
        worst = alert.severity == Severity.CRITICAL and open_
        (found.critical if worst else found.warning).append(text)
    found.alerts = {**counts, **held, "unread_lines": len(now.fresh), "bad_lines": now.bad}


def _firing(alert: Alert, now: Known) -> str:
    name = f"{alert.rule} {render.labels(alert.labels)}".rstrip()
    since = times.spoken(max(0, now.now_ns - alert.started_ns) / times.NS)
    return f"{name}: {alert.severity.word} for {since}"


def _deliveries(found: Condition, now: Known) -> None:
    with opened_ledger(found.where) as db:
        balance = ledger.conservation(db)
        report = ledger.health(db)
        dead = ledger.deliveries(db, state=DEAD, limit=1000)
    waiting = ledger.pending(found.where.ledger)
    plugins = [_plugin(each) for each in report.get("plugins", ())]
    ends = {name: balance[name] for name in ("delivered", "dead", "skipped")}
    missing, ping = dict(report.get("missing") or {}), dict(report.get("ping") or {})
    found.deliveries = {
        "pending": waiting,
        **ends,
        "plugins": plugins,
        "oldest_pending_at": report.get("oldest_pending_at"),
        "missing_lines": int(missing.get("lines") or 0),
        "ping": {name: ping.get(name) for name in ("last_at", "sent", "problem")},
        "conservation": balance,
    }
    if found.deliveries["missing_lines"]:
        found.critical.append(_missing(found.deliveries["missing_lines"], missing.get("newest")))
    if ping.get("problem"):
        found.warning.append(f"the dead-man service can't be pinged: {ping['problem']}")
    if not balance["holds"]:
        found.warning.append("deliveries don't add up: see `tickwatch status --json`")
    found.warning += [str(problem) for problem in report.get("problems", ())]
    active = {alert.id: alert for alert in now.active}
    for one in dead:
        if one.alert in active:
            rule = active[one.alert].rule
            why = one.error or one.reason
            found.warning.append(f"{one.plugin} could not be told of {rule}: {why}")
    for each in plugins:
        since = each["oldest_pending_at"]
        if since and found.at_ns - parse_rfc3339(since) > _PENDING_LONG_S * times.NS:
            age = times.spoken((found.at_ns - parse_rfc3339(since)) / times.NS)
            found.warning.append(f"a message for {each['plugin']} has been waiting for {age}")


def _missing(lines: int, newest: object) -> str:
    """What to say of lines of the alert log that never came: each may be an alert nobody heard."""
    said = "1 line is" if lines == 1 else f"{lines} lines are"
    which = f" (the newest gap: {newest})" if newest else ""
    return f"{said} missing in the alert log of the last hour{which}: alerts may be lost"


def _plugin(report: Mapping[str, Any]) -> Row:
    delivered, failed = int(report.get("delivered", 0)), int(report.get("failed", 0))
    tried = delivered + failed + int(report.get("dead", 0))
    kept = (
        "plugin", "failing", "last_error", "dead", "pending", "oldest_pending_at",
        "last_delivered_at", "held_until",
    )  # fmt: skip
    row = {name: report.get(name) for name in kept}
    hour = report.get("hour") or {}
    row["hour"] = {name: hour.get(name) for name in ("accepted", "failed", "rate")}
    rate = round(delivered / tried, 4) if tried else None
    return row | {"delivered": delivered, "failed": failed, "success_rate": rate}


def _disk(found: Condition) -> None:
    status = os.statvfs(found.where.data_dir)
    usable = status.f_blocks - status.f_bfree + status.f_bavail
    found.disk = {
        "free_bytes": status.f_bavail * status.f_frsize,
        "used_pct": round(100 * (1 - status.f_bavail / usable), 1) if usable else None,
    }
