"""`health`: the pre-market check.  Is everything in place before money is at stake?

One named check a line, with what to do.  The exit code is that of the worst: 0 OK, 1 WARNING,
2 CRITICAL, 3 UNKNOWN.  A check that fails to look hides no other.
"""

import logging
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.configuration import Configuration, configure, secret_free
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.settings import Settings, SettingsError
from cli import checks, place, render, sending, times, watched
from cli.checks import Check
from cli.condition import CODES, CRITICAL, OK, UNKNOWN, WARNING
from cli.place import Place
from cli.problems import Failed
from cli.render import Cell, Column, Look, Styled

_COLUMNS = (Column("state", whole=True), Column("check", whole=True), Column("what -> what to do"))
_STYLES = {OK: "ok", CRITICAL: "critical"}
_LAPSE_S = 300.0
# Where the service runs may be written in another way here; the rest must be the same.
_PLACES = frozenset({"monitoring_data_dir", "monitoring_log_dir"})

Looking = Callable[[], Check | Iterable[Check]]


@dataclass
class Found:
    """The settings of this directory and environment, as far as they are right."""

    checks: list[Check]
    configuration: Configuration | None = None

    @property
    def sessions(self) -> Sequence[Session]:
        return self.configuration.sessions if self.configuration else ()

    @property
    def rules(self) -> Sequence[Rule]:
        return self.configuration.rules if self.configuration else ()


def main(args: Mapping[str, Any]) -> int:
    """Print every check; the exit code is that of the worst."""
    how = render.look(args)
    where = place.find(args)
    found = _settings(args, where)
    done = [*found.checks, *_look(where, found)]
    if args["--send"]:
        plugins = found.configuration.notifier.plugins if found.configuration else ()
        done += _tried("delivery", lambda: sending.send(plugins))
    state = checks.worst([each.state for each in done])
    if how.json:
        render.json_rows(each.row() for each in done)
    else:
        _show(done, state, how)
    return CODES[state]


def _settings(args: Mapping[str, Any], where: Place) -> Found:
    """Parse everything that the service would, and tell every problem."""
    own = {"monitoring_data_dir": args["--data-dir"]} if args["--data-dir"] else {}
    unknown = _Unknown()
    logger = logging.getLogger("aggregator")
    before = logger.propagate
    logger.addHandler(unknown)
    logger.propagate = False
    try:
        settings = Settings(**own)
        configuration = configure(settings)
    except SettingsError as error:
        todo = "mend it: a service doesn't start with it"
        return Found([Check("settings", CRITICAL, each, todo) for each in error.problems])
    finally:
        logger.removeHandler(unknown)
        logger.propagate = before
    found = Found([], configuration)
    for name in unknown.names:
        text = f"{name} is no setting, and ignored"
        found.checks.append(Check("settings", WARNING, text, "remove it, or see .env.example"))
    found.checks += _differences(settings, where)
    if not found.checks:
        found.checks.append(Check("settings", OK, "all of them are right"))
    found.checks.append(_plugins(configuration))
    return found


class _Unknown(logging.Handler):
    """Takes note of variables that no setting is called like."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        name = getattr(record, "variable", None)
        if name is not None:
            self.names.append(str(name))


def _differences(settings: Settings, where: Place) -> Iterator[Check]:
    """Settings that the running service has and that wouldn't be the same if it started now."""
    theirs = where.service.get("settings")
    if not isinstance(theirs, dict) or where.service_pid() is None:
        return
    ours = secret_free(settings)
    todo = "restart the service, or check from its directory with its environment"
    for name in sorted(ours.keys() & theirs.keys() - _PLACES):
        one, other = theirs[name], ours[name]
        if one != other:
            text = f"{name.upper()} is {one!r} for the running service, {other!r} here"
            yield Check("settings", WARNING, text, todo)


def _plugins(configuration: Configuration) -> Check:
    names = [each.name for each in configuration.notifier.plugins if each.enabled]
    if names:
        return Check("plugins", OK, f"enabled: {', '.join(names)}")
    todo = "enable one, such as MONITORING_ENABLE_WEBHOOK_ALERTS=true"
    return Check("plugins", WARNING, "none is enabled: nobody is told of any alert", todo)


def _look(where: Place, found: Found) -> Iterator[Check]:
    """All checks in order."""
    settings = found.configuration.settings if found.configuration else None
    lapse_s = settings.monitoring_heartbeat_lapse_seconds if settings else _LAPSE_S
    folders = [where.data_dir, where.log_dir]
    disk_rule = next((rule for rule in found.rules if rule.name == "disk_nearly_full"), None)
    now_ns = times.now_ns()
    sessions = found.sessions
    steps: tuple[tuple[str, Looking], ...] = (
        ("directories", lambda: checks.directories([*folders, *_below(where)])),
        ("disk", lambda: checks.disk(folders, disk_rule)),
        ("shared_memory", lambda: checks.shared_memory(watched.without_ring(where, sessions))),
        ("remove_ipc", checks.remove_ipc),
        ("clock_source", checks.clock_source),
        ("ring_store", checks.ring_store),
        ("packages", checks.packages),
        ("service", lambda: watched.service(where)),
        ("stores", lambda: watched.stores(where)),
        ("engines", lambda: watched.engines(watched.look(where, lapse_s), sessions, now_ns)),
        ("sessions", lambda: watched.calendars(sessions, now_ns)),
        ("thresholds", lambda: watched.levels(where, found.rules, sessions)),
        ("archive", lambda: watched.archive(where.data_dir / "archive")),
    )
    for name, step in steps:
        yield from _tried(name, step)


def _below(where: Place) -> list[Path]:
    """The folders inside that the service has made already."""
    inside = (where.data_dir / "rings", where.data_dir / "archive", where.alert_log)
    return [folder for folder in inside if folder.is_dir()]


def _tried(name: str, step: Looking) -> list[Check]:
    """What a step finds; one that can't look says so."""
    try:
        found = step()
        return [found] if isinstance(found, Check) else list(found)
    except (OSError, Failed, sqlite3.Error, ValueError, KeyError, TypeError) as error:
        return [Check(name, UNKNOWN, f"can't be told: {error}", "run this as the service's user")]


def _show(done: Sequence[Check], state: str, how: Look) -> None:
    counts = ", ".join(
        f"{sum(each.state == one for each in done)} {one}"
        for one in (CRITICAL, UNKNOWN, WARNING, OK)
        if any(each.state == one for each in done)
    )
    render.line(how, Styled(state, _STYLES.get(state, "warning")), f"({counts})")
    print()
    render.table(how, _COLUMNS, [_cells(each) for each in done])


def _cells(each: Check) -> list[Cell]:
    style = _STYLES.get(each.state, "warning")
    text = f"{each.text} -> {each.todo}" if each.todo else each.text
    return [Styled(each.state, style), each.name, text]
