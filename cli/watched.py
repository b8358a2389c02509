"""`health`'s checks of what is watched: service, stores, engines, sessions, levels, day files."""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from aggregator.health import ALIVE, DEAD, SILENT, STOPPED, engine_state
from aggregator.history import dayfile, dayfolder
from aggregator.history.dayfolder import CLOSED, OPEN, Entry
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from aggregator.store.schema import StoreError
from cli import known, render, rollups, thresholds, times
from cli.checks import Check
from cli.condition import CRITICAL, OK, UNKNOWN, WARNING
from cli.deliveries import opened as opened_ledger
from cli.place import Place
from cli.problems import Failed
from cli.thresholds import FAR, Comparison
from notifier import ledger
from notifier.alert import parse_rfc3339
from ringbuf.ownership import holder
from ringbuf.survey import RingInfo, marks, survey

# A list of holidays must reach so far beyond today; exchanges publish a year at a time.
_AHEAD = timedelta(days=7)
_SOON_S = 3600  # an engine that is expected so soon should be on its way
_VERIFY_S = 2.0  # spent on reading day files back


@dataclass(frozen=True)
class Engine:
    """An engine, its state and, unless it is well, why."""

    name: str
    state: str
    why: str


def service(where: Place) -> Iterator[Check]:
    """Whether a service with both its children watches the directory."""
    name = "service"
    start = f"tickwatch run --data-dir {where.data_dir}"
    pid = where.service_pid()
    if pid is None and not where.service:
        text = f"no service has ever run on {where.data_dir} ({where.origin})"
        yield Check(name, UNKNOWN, text, start)
        return
    if pid is None:
        last = where.service.get("pid")
        text = f"no service runs on {where.data_dir}: the last one was pid {last}"
        yield Check(name, CRITICAL, text, start)
        return
    for child in ("aggregator", "notifier"):
        if holder(where.data_dir / f"{child}.lock") is None:
            text = f"pid {pid} runs, its {child} doesn't: it is being (re)started"
            yield Check(name, CRITICAL, text, "see the service's log if this stays")
            return
    yield Check(name, OK, f"pid {pid} runs on {where.data_dir}")


def stores(where: Place) -> Iterator[Check]:
    """Whether what was recorded and what was told can be read, and is up to date."""
    name = "stores"
    now_ns = times.now_ns()
    try:
        with rollups.opened(where) as db:
            report = rollups.report_of(db)
    except (StoreError, sqlite3.Error) as error:
        state = CRITICAL if where.rollups.exists() else UNKNOWN
        yield Check(name, state, str(error), "start a service, or run this as its user")
        report = None
    if report is not None:
        yield _report(report, where, now_ns)
        yield from _history(report.get("history") or {})
    try:
        now = known.load(where)
        with opened_ledger(where) as db:
            balance = ledger.conservation(db)
    except (Failed, OSError, sqlite3.Error) as error:
        state = CRITICAL if where.ledger.exists() else UNKNOWN
        yield Check(name, state, str(error), "start a service, or run this as its user")
        return
    if not balance["holds"] or now.bad:
        text = f"alerts don't add up: {now.bad} bad lines, see `tickwatch status --json`"
        yield Check(name, WARNING, text, "keep the alert log, and report this")
    else:
        yield Check(name, OK, f"alerts.db: {balance['fired']} alerts, all accounted for")


def _report(report: Mapping[str, Any], where: Place, now_ns: int) -> Check:
    """What the aggregator last said of itself."""
    if report.get("disk_problem"):
        text = f"the aggregator can't write: {report['disk_problem']}"
        return Check("stores", CRITICAL, text, "make room, or mend the disk")
    if not report:
        return Check("stores", UNKNOWN, "rollups.db: nothing reported yet", "look again")
    age = times.spoken((now_ns - parse_rfc3339(report["at"])) / times.NS)
    text = f"rollups.db: last report {age} ago"
    if where.service_pid() is not None and not rollups.is_fresh(report, now_ns):
        return Check("stores", CRITICAL, text, "the aggregator is stuck: see the service's log")
    return Check("stores", OK, text)


def _history(report: Mapping[str, Any]) -> Iterator[Check]:
    """What the aggregator said of its day files, if anything is wrong with them."""
    if report.get("problem"):
        text = f"records stay in memory: {report['problem']}"
        yield Check("stores", WARNING, text, "make room, or mend the disk")
    counts = (report.get("archive") or {}).get("counts", {})
    for what in ("failed", "damaged"):
        if counts.get(what):
            text = f"the last archive run found {counts[what]} {what} day files"
            yield Check("stores", WARNING, text, "see the service's log")


def look(where: Place, lapse_s: float) -> list[Engine]:
    """Every engine that has a ring, or a mark that says why it has none."""
    now_ns = time.monotonic_ns()
    found = [_engine(info, now_ns, lapse_s) for info in survey(where.data_dir)]
    running = [mark for mark in marks(where.data_dir) if mark.pid_alive]
    return found + [Engine(mark.engine, "missing", str(mark.problem)) for mark in running]


def _engine(info: RingInfo, now_ns: int, lapse_s: float) -> Engine:
    state, why = engine_state(info, now_ns, int(lapse_s * times.NS))
    if info.problem is not None:
        return Engine(info.name, "unreadable", info.problem)
    return Engine(info.name, state, why)


def engines(found: Sequence[Engine], sessions: Sequence[Session], now_ns: int) -> Iterator[Check]:
    """Whether engines write, and those that sessions expect are among them."""
    name = "engines"
    alive = {each.name for each in found if each.state == ALIVE}
    for each in found:
        if each.state == ALIVE:
            yield Check(name, OK, f"{each.name} is alive")
        elif each.state in (DEAD, SILENT):
            yield Check(name, CRITICAL, each.why, f"tickwatch ring dump {each.name}, then restart")
        elif each.state != STOPPED:
            text = f"{each.name} is not monitored: {each.why}"
            yield Check(name, CRITICAL, text, "see the engine's log, then restart it")
    yield from _expected(alive, sessions, now_ns)
    if not found:
        text = "no engine has ever written here"
        yield Check(name, UNKNOWN, text, "start an engine with this data directory")
    elif not alive:
        states = ", ".join(f"{each.name} is {each.state}" for each in found)
        yield Check(name, UNKNOWN, f"no engine writes: {states}", "start the engine")


def _expected(alive: set[str], sessions: Sequence[Session], now_ns: int) -> Iterator[Check]:
    for session in sessions:
        missing = ", ".join(each for each in session.engines if each not in alive)
        opens_ns = session.next_open(now_ns)
        if not missing:
            continue
        if session.is_open(now_ns):
            text = f"{session.name} is open, {missing} doesn't write"
            yield Check("engines", CRITICAL, text, "start it")
        elif opens_ns is not None and opens_ns - now_ns < _SOON_S * times.NS:
            left = times.spoken((opens_ns - now_ns) / times.NS)
            text = f"{session.name} opens in {left}, {missing} doesn't write yet"
            yield Check("engines", WARNING, text, "start it")


def without_ring(where: Place, sessions: Sequence[Session]) -> int:
    """How many of the engines that sessions expect have no ring yet."""
    have = {info.name for info in survey(where.data_dir) if info.problem is None}
    return len({name for session in sessions for name in session.engines} - have)


def calendars(sessions: Sequence[Session], now_ns: int) -> Iterator[Check]:
    """Whether sessions' holidays reach beyond today."""
    name = "sessions"
    if not sessions:
        text = "no session is configured: nothing is expected of any engine or feed"
        yield Check(name, OK, text)
    for session in sessions:
        today = datetime.fromtimestamp(now_ns // times.NS, ZoneInfo(session.tz)).date()
        last = session.last_holiday
        opens_ns = session.next_open(now_ns)
        if last is not None and last < today + _AHEAD:
            text = f"{session.name}: the last holiday listed is {last}"
            todo = "add the coming year's: on a holiday that isn't listed engines count as missing"
            yield Check(name, WARNING, text, todo)
        elif opens_ns is None and not session.is_open(now_ns):
            text = f"{session.name} doesn't open in the next 400 days"
            yield Check(name, WARNING, text, "mend its days or holidays")
        else:
            yield Check(name, OK, _hours(session, now_ns))


def _hours(session: Session, now_ns: int) -> str:
    is_open = session.is_open(now_ns)
    turn_ns = session.next_close(now_ns) if is_open else session.next_open(now_ns)
    listed = f"holidays until {session.last_holiday}" if session.holidays else "no holidays listed"
    now = "open" if is_open else "closed"
    if turn_ns is None:
        return f"{session.name} is {now}, {listed}"
    left = times.spoken((turn_ns - now_ns) / times.NS)
    return f"{session.name} is {now}, {'closes' if is_open else 'opens'} in {left}, {listed}"


def levels(where: Place, rules: Sequence[Rule], sessions: Sequence[Session]) -> Iterator[Check]:
    """Whether the levels on times are anywhere near what the last session looked like."""
    name = "thresholds"
    try:
        with rollups.opened(where) as db:
            compared = thresholds.compare(rules, sessions, db, times.now_ns())
    except (StoreError, sqlite3.Error):
        compared = {}
    judged = [
        one for several in compared.values() for one in several if one.telling and _is_time(one)
    ]
    if not judged:
        yield Check(name, OK, "too few latencies recorded yet to compare with")
        return
    todo = "see `tickwatch rules check`, and try another level with `tickwatch rules replay`"
    for rule in dict.fromkeys(one.rule for one in judged):
        of_rule = [one for one in judged if one.rule == rule]
        low = [one for one in of_rule if one.above and one.ordinary >= one.level]
        # One level is for all series of a rule: it is too far away when it is so from each of them.
        of_rule.sort(key=lambda one: one.ratio or 0.0)
        far = of_rule if (of_rule[0].ratio or 0.0) >= FAR else []
        for one in (low or far)[:1]:
            more = len(low or far) - 1
            others = f" and {more} more" if more else ""
            series = f"{one.metric} {render.labels(one.labels)}"
            yield Check(name, WARNING, f"{rule}: {one.text}, {series}{others}", todo)
        if not low and not far:
            yield Check(name, OK, f"{rule}: {of_rule[0].text}")


def _is_time(one: Comparison) -> bool:
    try:
        Level(1.0, "s").to(one.unit)
    except ValueError:
        return False
    return bool(one.unit)


def archive(folder: Path) -> Iterator[Check]:
    """Whether the newest day files can be read back, as far as a few seconds go."""
    name = "archive"
    try:
        ours, others = dayfolder.entries(folder)
    except OSError as error:
        yield Check(name, CRITICAL, f"{folder}: {error.strerror}", "run this as the service's user")
        return
    newest = [[each for each in ours if each.suffix == kind][-1:] for kind in (CLOSED, OPEN)]
    if not any(newest):
        yield Check(name, OK, "no day file yet")
    for entry in (each for several in newest for each in several):
        yield _read_back(entry)
    if others:
        text = f"{len(others)} files in {folder} are none of ours, such as {others[0]}"
        yield Check(name, WARNING, text, "move them elsewhere")


def _read_back(entry: Entry) -> Check:
    """Inflate members until the time is over, and say how far that went."""
    name = "archive"
    ends = time.monotonic() + _VERIFY_S
    whole = read = damaged = records = 0
    try:
        with dayfolder.open_to_read(entry.path) as file:
            for member in dayfile.members(file):
                if member.state is dayfile.State.TORN:
                    continue  # the end of a file that is just being written
                whole += 1
                records += member.cover.records if member.cover is not None else 0
                if time.monotonic() < ends:
                    read += 1
                    damaged += not dayfile.is_readable(file, member)
    except OSError as error:
        return Check(name, WARNING, f"{entry.path}: {error.strerror}", "run this as its owner")
    text = f"{entry.path.name}: {records:,} records in {whole:,} members"
    text += "" if read == whole else f", {read:,} of them read"
    if damaged:
        todo = "the rest stays readable; the original is kept when the day is closed"
        return Check(name, WARNING, f"{text}, {damaged} damaged", todo)
    return Check(name, OK, text)
