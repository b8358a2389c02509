"""Rules and sessions from a TOML file.

A file is taken whole or not at all, and every problem in it is reported at once: with the line of
the table's header, and a suggestion where a word looks mistyped.  What makes a rule sensible is
said by ``Rule.problems``; here is only how it is written.
"""

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.rules.builtin import session_rules
from aggregator.rules.rule import STATS, Levels, Rule
from aggregator.rules.sessionfile import parse_session
from aggregator.rules.sessions import Session
from aggregator.rules.tables import (
    RuleFileError,
    Table,
    boolean,
    header_lines,
    hint,
    read_tables,
    text,
    whole,
    words,
)
from aggregator.rules.units import parse_duration_s, parse_level
from notifier.alert import Severity

__all__ = ["RuleFile", "RuleFileError", "parse_rules"]

# Tables and names that a settings file has beside rules and sessions; others check those.
_NEIGHBOURS = ("route", "plugin")
_SETTING = "monitoring_"
_COMMON = ("for", "session")
_NO_LEVELS: Levels = {}
_KEYS = (
    "name", "enabled", "metric", "match", "per", "by", "stat", "window", "min_count", "above",
    "below", "clear", "for", "session", "when", "message",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class RuleFile:
    """What a file says, together with the built-in rules that it leaves alone."""

    rules: tuple[Rule, ...]
    sessions: tuple[Session, ...]


def parse_rules(path: Path, builtin: Sequence[Rule] = ()) -> RuleFile:
    """Read the ``[[rule]]`` and ``[[session]]`` tables of a file.

    A rule named like a built-in one that has a ``metric`` replaces it; without one it changes only
    the keys that it has (of the first, where there are several of that name).  ``enabled = false``
    switches a rule off.

    Args:
        path: the file; holidays files are looked for beside it.
        builtin: the rules that are there without it.

    Raises:
        RuleFileError: with a line for every problem.
    """
    tables, source = read_tables(path)
    problems = [
        f"{path}: {name}: no such table{hint(name, ('rule', 'session', *_NEIGHBOURS))}"
        for name in tables
        if name not in ("rule", "session", *_NEIGHBOURS) and not name.startswith(_SETTING)
    ]
    sessions = [
        session
        for where, fields in _each(tables, "session", source, path, problems)
        if (session := parse_session(fields, where, path.parent, problems)) is not None
    ]
    # A session with a problem of its own is no second problem of the rules that name it.
    names = [str(each.get("name")) for _, each in _each(tables, "session", source, path, [])]
    problems += [
        f"{path}: session {name!r}: there are {count} of that name"
        for name, count in Counter(names).items()
        if count > 1
    ]
    reader = _Reader([*builtin, *session_rules(sessions)], names)
    for where, fields in _each(tables, "rule", source, path, problems):
        reader.read(fields, where, problems)
    if problems:
        raise RuleFileError(problems)
    return RuleFile(tuple(reader.rules()), tuple(sessions))


def _each(
    tables: Mapping[str, Any], name: str, source: str, path: Path, problems: list[str]
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Each table called *name* and where it is."""
    given = tables.get(name, [])
    if not isinstance(given, list) or not all(isinstance(each, dict) for each in given):
        problems.append(f"{path}: {name}: write [[{name}]] before each {name}")
        return
    lines = header_lines(source, name)
    for index, fields in enumerate(given):
        line = f"line {lines[index]}" if len(lines) == len(given) else f"{name} {index + 1}"
        yield f"{path} {line}", fields


class _Reader:
    """Gathers the rules of a file on top of the built-in ones."""

    def __init__(self, builtin: Sequence[Rule], sessions: Sequence[str]) -> None:
        self._builtin = builtin
        self._sessions = sessions
        self._own: dict[str, list[Rule]] = {}
        self._lines: dict[str, str] = {}

    def rules(self) -> list[Rule]:
        """The built-in rules, left alone or changed, in their order, then the file's own."""
        merged: list[Rule] = []
        own = dict(self._own)
        for rule in self._builtin:
            if rule.name not in self._lines:
                merged.append(rule)
            else:
                merged += own.pop(rule.name, [])
        return [*merged, *(rule for rules in own.values() for rule in rules)]

    def read(self, fields: Mapping[str, Any], where: str, problems: list[str]) -> None:
        """Take one ``[[rule]]`` table."""
        name = fields.get("name")
        table = Table(fields, f"{where}, rule {name!r}" if name else f"{where}, rule", problems)
        table.check_keys(_KEYS)
        if not isinstance(name, str):
            table.wrong("name: must be text in quotes" if name is not None else "name is missing")
            return
        if name in self._lines:
            table.wrong(f"there is one of that name already, see {self._lines[name]}")
            return
        self._lines[name] = where
        if not table.get("enabled", boolean, True):
            return
        before = [rule for rule in self._builtin if rule.name == name]
        if "metric" in fields or not before:
            if not before and "metric" not in fields:
                known = {rule.name for rule in self._builtin}
                table.wrong(
                    f"metric is missing, and no built-in rule has this name{hint(name, known)}"
                )
                return
            before = [Rule(name, "?")]
        changed = [_changed(rule, table) for rule in before[:1]]
        # Others of its name are about something else: its levels aren't theirs.
        common = Table({key: fields[key] for key in _COMMON if key in fields}, where, [])
        changed += [_changed(rule, common) for rule in before[1:]]
        if not table.sound:
            return
        for rule in changed:
            for problem in rule.problems():
                table.wrong(problem)
            if rule.session and rule.session not in self._sessions:
                table.wrong(
                    f"session {rule.session!r}: no such session{hint(rule.session, self._sessions)}"
                )
        self._own[name] = changed


def _changed(rule: Rule, table: Table) -> Rule:
    """*rule* with what *table* says."""
    fields = table.fields
    above, below, strict = rule.above, rule.below, rule.strict
    levels = {"above", "below"} & set(fields)
    if levels:  # those of a file are reached at them, whatever the built-in rule did
        above, below = (
            table.get("above", _levels, _NO_LEVELS),
            table.get("below", _levels, _NO_LEVELS),
        )
        strict = False
    return dataclasses.replace(
        rule,
        above=above,
        below=below,
        strict=strict,
        metric=table.get("metric", text, rule.metric),
        match=table.get("match", _match, rule.match),
        per=table.get("per", text, rule.per),
        by=table.get("by", words, rule.by),
        stat=table.get("stat", _stats, rule.stat),
        window_s=table.get("window", _window, rule.window_s),
        min_count=table.get("min_count", whole, rule.min_count),
        clear=table.get("clear", parse_level, None if levels else rule.clear),
        for_s=table.get("for", parse_duration_s, rule.for_s),
        session=table.get("session", text, rule.session),
        when=table.get("when", text, rule.when),
        message=table.get("message", text, rule.message),
    )


def _levels(given: Any) -> Levels:
    if not isinstance(given, dict) or not given:
        raise ValueError("must be such as {warning = 5, critical = 10}")
    return {_severity(word): parse_level(level) for word, level in given.items()}


def _severity(word: str) -> Severity:
    try:
        return Severity.parse(word)
    except ValueError as error:
        raise ValueError(f"{error}{hint(word, [each.word for each in Severity])}") from None


def _match(given: Any) -> dict[str, tuple[str, ...]]:
    if not isinstance(given, dict):
        raise ValueError('must be such as {strategy = "mean_*"}')
    return {label: words(patterns) for label, patterns in given.items()}


def _stats(given: Any) -> tuple[str, ...]:
    stats = words(given)
    for stat in stats:
        if stat not in STATS:
            raise ValueError(f"{stat!r}: use one of {' '.join(STATS)}{hint(stat, STATS)}")
    if len(set(stats)) < len(stats):
        raise ValueError(f"{' '.join(stats)}: each only once")
    return stats


def _window(given: Any) -> int:
    seconds = parse_duration_s(given)
    if seconds != int(seconds):
        raise ValueError(f"{given!r}: must be whole seconds")
    return int(seconds)
