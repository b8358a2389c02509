"""`rules check`: is the rule file right, what applies, and do its levels fit what was recorded?

Every problem is listed at once.  The table shows what is in force: built-in rules, those that the
file changed, its own, with the level of each beside an ordinary value of the last session.
"""

import re
import sqlite3
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.rules import ruleset
from aggregator.rules.builtin import session_rules
from aggregator.rules.rule import ABSENT, LAST, Levels, Rule
from aggregator.rules.rulefile import RuleFile, RuleFileError
from aggregator.rules.tables import read_tables
from aggregator.rules.units import duration
from aggregator.settings import Settings, SettingsError
from aggregator.store.schema import StoreError
from cli import place, render, rollups, thresholds, times
from cli.place import Place
from cli.problems import Failed, UsageError
from cli.render import Cell, Column, Look, Styled
from cli.thresholds import Comparison
from notifier.plugin import PLUGINS, load
from notifier.routes import TableError, parse_routes
from notifier.settings import PluginSettings, parse_plugins

BUILT_IN, CHANGED, OWN = "built-in", "changed", "own"

_COLUMNS = (
    Column("rule", whole=True),
    Column("from", whole=True),
    Column("watches"),
    Column("fires"),
    Column("session"),
)
_COMPARED = (
    Column("rule", whole=True),
    Column("metric"),
    Column("labels"),
    Column("its first level"),
)

Row = dict[str, Any]


@dataclass(frozen=True)
class Checked:
    """Settings, and the rules and sessions that are in force with one file."""

    settings: Settings
    path: Path | None
    rules: RuleFile


def main(args: Mapping[str, Any]) -> int:
    """Print problems, or the rules in force; 1 if there are problems."""
    how = render.look(args)
    where = place.find(args)
    settings = read_settings(args)
    path = existing(args["<file>"]) or ruleset.configured_file(settings)
    problems = problems_of(settings, path)
    if problems:
        return _report(problems, path, how)
    found = Checked(settings, path, ruleset.in_force(settings, path))
    compared, why_not = _compared(where, found)
    if how.json:
        render.json_rows(_row(rule, found, compared) for rule in found.rules.rules)
        return 0
    _show(found, compared, how)
    if why_not:
        render.note(f"not compared with what was recorded: {why_not}")
    return 0


def read_settings(args: Mapping[str, Any]) -> Settings:
    """The settings of this directory and environment.

    Raises:
        UsageError: with every problem.
    """
    own = {"monitoring_data_dir": args["--data-dir"]} if args.get("--data-dir") else {}
    try:
        return Settings(**own)
    except SettingsError as error:
        raise UsageError(str(error)) from None


def existing(named: str | None) -> Path | None:
    """The file that an argument names.

    Raises:
        Failed: there is no such file.
    """
    if named is None:
        return None
    path = Path(named)
    if not path.is_file():
        raise Failed(f"{path}: {'not a file' if path.exists() else 'no such file'}")
    return path


def in_force(settings: Settings, path: Path | None) -> RuleFile:
    """The rules and sessions with the rule file *path*.

    Raises:
        Failed: with every problem of the file.
    """
    try:
        return ruleset.in_force(settings, path)
    except RuleFileError as error:
        raise Failed(str(error)) from None


def problems_of(settings: Settings, path: Path | None) -> list[str]:
    """Every problem of a file's rules, sessions, routes and plugins, one line each."""
    if path is None:
        return []
    try:
        ruleset.in_force(settings, path)
        problems: list[str] = []
    except RuleFileError as error:
        problems = error.problems
    try:
        tables, _ = read_tables(path)
    except RuleFileError:
        return problems
    return problems + [f"{path}: {text}" for text in _of_delivery(settings, tables)]


def _of_delivery(settings: Settings, tables: Mapping[str, Any]) -> list[str]:
    """Problems of ``[[plugin]]`` and ``[[route]]`` tables."""
    problems: list[str] = []
    plugins: Sequence[PluginSettings] = ()
    try:
        plugins = parse_plugins(tables.get("plugin", []))
    except TableError as error:
        problems += error.problems
    for one in plugins:
        made = load(one.kind)(name=one.name, enabled=one.enabled, options=dict(one.options))
        problems += made.check() if one.enabled else []
    names = {kind for kind in PLUGINS if getattr(settings, f"monitoring_enable_{kind}_alerts")}
    try:
        # Where a plugin's table is wrong its name may be, too: no second problem of its routes.
        parse_routes(tables.get("route", []), None if problems else {*names, *_names(plugins)})
    except TableError as error:
        problems += error.problems
    return problems


def _names(plugins: Sequence[PluginSettings]) -> list[str]:
    return [plugin.name for plugin in plugins]


def _report(problems: Sequence[str], path: Path | None, how: Look) -> int:
    if how.json:
        render.json_rows({"line": _line(each, path), "problem": each} for each in problems)
    else:
        for each in problems:
            render.line(how, each)
        count = f"{len(problems)} problems" if len(problems) > 1 else "1 problem"
        render.note(f"{count} in {path}: a service keeps the rules that it has")
    return 1


def _line(problem: str, path: Path | None) -> int | None:
    found = re.match(rf"{re.escape(str(path))} line (\d+)", problem)
    return int(found[1]) if found else None


def _compared(where: Place, found: Checked) -> tuple[dict[str, list[Comparison]], str]:
    """Comparisons by rule, and why there are none."""
    try:
        with rollups.opened(where) as db:
            now_ns = times.now_ns()
            compared = thresholds.compare(found.rules.rules, found.rules.sessions, db, now_ns)
    except (StoreError, sqlite3.Error) as error:
        return {}, str(error)
    return compared, "" if compared else "nothing was recorded yet"


def _row(rule: Rule, found: Checked, compared: Mapping[str, Sequence[Comparison]]) -> Row:
    of_rule = [each for each in compared.get(rule.name, ()) if rule.fits(each.metric, each.labels)]
    return {
        "rule": rule.name,
        "from": origin(rule, found),
        "metric": rule.metric,
        "match": {label: list(patterns) for label, patterns in rule.match.items()},
        "per": rule.per or None,
        "by": list(rule.by),
        "stat": list(rule.stat),
        "window_seconds": rule.window_s or None,
        "min_count": rule.min_count,
        "above": _levels(rule.above),
        "below": _levels(rule.below),
        "clear": str(rule.clear) if rule.clear is not None else None,
        "for_seconds": rule.for_s,
        "session": rule.session or None,
        "when": rule.when or None,
        "message": rule.message,
        "compared": [each.row() for each in of_rule],
    }


def _levels(levels: Levels) -> dict[str, str]:
    return {severity.word: str(level) for severity, level in levels.items()}


def origin(rule: Rule, found: Checked) -> str:
    """Whether a rule is built in, a changed built-in one, or the file's own."""
    shipped = [*ruleset.builtin(found.settings), *session_rules(found.rules.sessions)]
    if rule in shipped:
        return BUILT_IN
    return CHANGED if rule.name in {each.name for each in shipped} else OWN


def _show(found: Checked, compared: Mapping[str, Sequence[Comparison]], how: Look) -> None:
    rules = found.rules
    named = f"{found.path}: " if found.path is not None else "no rule file: "
    sessions = ", ".join(each.name for each in rules.sessions) or "none"
    render.line(how, f"{named}{len(rules.rules)} rules in force, sessions: {sessions}")
    off = {each.name for each in ruleset.builtin(found.settings)}
    off -= {each.name for each in rules.rules}
    if off:
        render.line(how, f"switched off: {', '.join(sorted(off))}")
    print()
    render.table(how, _COLUMNS, [_cells(rule, found) for rule in rules.rules])
    lines = [each for several in compared.values() for each in several]
    if lines:
        print()
        render.table(how, _COMPARED, [_compared_cells(each) for each in lines])


def _cells(rule: Rule, found: Checked) -> list[Cell]:
    match = " ".join(f"{label}={'|'.join(found)}" for label, found in rule.match.items())
    metric = f"{rule.metric} / {rule.per}" if rule.per else rule.metric
    return [
        rule.name,
        origin(rule, found),
        " ".join(part for part in (metric, match) if part),
        fires(rule),
        rule.session,
    ]


def fires(rule: Rule) -> str:
    """When a rule fires, such as ``warning: p99 over 60s > 250ms, for 30s``."""
    what = ", ".join(rule.stat)
    if rule.stat == (LAST,):
        what = "value"
    elif rule.stat == (ABSENT,):
        what = "no record for"
    elif rule.window_s:
        what += f" over {duration(rule.window_s)}"
    sign = "" if rule.stat == (ABSENT,) else _sign(rule)
    levels = ", ".join(f"{severity.word} {sign}{level}" for severity, level in rule.levels)
    held = f", for {duration(rule.for_s)}" if rule.for_s else ""
    clear = f", clear at {rule.clear}" if rule.clear is not None else ""
    return f"{what}: {levels}{held}{clear}"


def _sign(rule: Rule) -> str:
    return f"{'>' if rule.above else '<'}{'' if rule.strict else '='} "


def _compared_cells(each: Comparison) -> list[Cell]:
    far = each.ratio is not None and each.ratio >= thresholds.FAR
    text = each.text if each.telling else f"{each.text}, of {each.count} records only"
    style = "warning" if each.telling and (far or each.reached) else ""
    return [
        each.rule,
        each.metric,
        render.labels(each.labels),
        Styled(text, style) if style else text,
    ]
