"""Routes: which plugins hear of an alert, and in which order.

Pure data and parsing; no clock, no files.  The first route that matches decides; an alert that no
route matches goes to every enabled plugin, so that a gap in the routes never loses one.  A route
has steps: the first starts when the alert fires, the next when nobody of the step before was
reached (``undelivered``) or nobody acknowledged (``unacked``).
"""

import difflib
import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from notifier.alert import Severity

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_KEYS = ("match", "steps", "undelivered", "unacked")


class TableError(ValueError):
    """Tables of the settings that can't be used; ``problems`` has one line for each thing wrong."""

    def __init__(self, problems: Sequence[str]):
        super().__init__("\n".join(problems))
        self.problems = list(problems)


@dataclass(frozen=True, slots=True)
class Route:
    """Who hears of the alerts that *match*.

    ``match`` maps ``severity``, ``rule`` or a label's name to shell patterns, one of which must
    fit.  Each step is a tuple of plugin names.
    """

    steps: tuple[tuple[str, ...], ...]
    match: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    undelivered_s: float | None = None
    unacked_s: float | None = None

    @property
    def key(self) -> str:
        """The same as long as the route says the same; stored beside an alert's step."""
        return json.dumps([sorted(self.match.items()), self.steps], separators=(",", ":"))

    def takes(self, rule: str, labels: Mapping[str, str], severity: Severity) -> bool:
        """Whether an alert belongs to this route; a label that the alert lacks is an empty text."""
        facts = {**labels, "rule": rule, "severity": severity.word}
        return all(
            any(fnmatchcase(facts.get(name, ""), pattern) for pattern in patterns)
            for name, patterns in self.match.items()
        )


def route_for(
    routes: Sequence[Route],
    everyone: Sequence[str],
    rule: str,
    labels: Mapping[str, str],
    severity: Severity,
) -> Route:
    """The route of an alert: the first that takes it, else one step with *everyone*."""
    for route in routes:
        if route.takes(rule, labels, severity):
            return route
    return Route(steps=(tuple(everyone),))


@dataclass(frozen=True, slots=True)
class Step:
    """How far an alert has come on its route; ``since_ns`` None while nobody must be reached."""

    route: str = ""
    number: int = 0
    since_ns: int | None = None


def advance(
    step: Step,
    route: Route,
    takers: Collection[str],
    reached: Collection[str],
    failed: Collection[str],
    *,
    waiting: bool,
    now_ns: int,
) -> tuple[Step, int | None]:
    """The step an alert is at now, and when it may go on to the next.

    Args:
        takers: enabled plugins that take the alert's severity.
        reached: plugins that have delivered; failed: those whose newest message is dead.
        waiting: whether it fires and nothing (ack, silence, session) holds messages back.
    """
    if step.route != route.key or step.number >= len(route.steps):
        step = Step(route.key)
    if not waiting:
        return Step(route.key, step.number), None
    since_ns = now_ns if step.since_ns is None else step.since_ns
    number = step.number
    while number + 1 < len(route.steps):
        plugins = [name for name in route.steps[number] if name in takers]
        waits_s = [] if route.unacked_s is None else [route.unacked_s]
        if all(name in failed for name in plugins):
            waits_s = [0.0]
        elif route.undelivered_s is not None and not any(name in reached for name in plugins):
            waits_s.append(route.undelivered_s)
        if not waits_s:
            break
        due_ns = since_ns + round(min(waits_s) * 1e9)
        if now_ns < due_ns:
            return Step(route.key, number, since_ns), due_ns
        number, since_ns = number + 1, now_ns
    return Step(route.key, number, since_ns), None


def duration_s(value: object) -> float:
    """Seconds of a duration such as ``"15m"``, or a plain number of seconds.

    Raises:
        ValueError: anything else, or a negative one.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e9:
        return float(value)
    found = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"{value!r}: use a number and s, m, h or d, such as 15s or 15m")
    return float(found[1]) * _SECONDS[found[2]]


def parse_routes(
    tables: Sequence[Mapping[str, Any]], plugins: Collection[str] | None = None
) -> list[Route]:
    """The routes in the ``[[route]]`` tables.

    Args:
        plugins: names of the configured plugins that steps may use; None: any name.

    Raises:
        TableError: with every problem of every table.
    """
    routes, problems = [], []
    for number, table in enumerate(tables, 1):
        wrong: list[str] = [
            f"no such key {key!r}{_hint(key, _KEYS)}" for key in table if key not in _KEYS
        ]
        route = Route(
            steps=_steps(table.get("steps"), plugins, wrong),
            match=_match(table.get("match", {}), wrong),
            undelivered_s=_wait(table, "undelivered", wrong),
            unacked_s=_wait(table, "unacked", wrong),
        )
        if len(route.steps) > 1 and route.undelivered_s is None and route.unacked_s is None:
            wrong.append("steps after the first never start: set undelivered or unacked")
        problems += [f"route {number}: {text}" for text in wrong]
        routes.append(route)
    if problems:
        raise TableError(problems)
    return routes


def _steps(
    value: object, plugins: Collection[str] | None, wrong: list[str]
) -> tuple[tuple[str, ...], ...]:
    steps = value if isinstance(value, list) else []
    if not steps or not all(
        isinstance(step, list) and step and all(isinstance(name, str) for name in step)
        for step in steps
    ):
        wrong.append('steps: use lists of plugin names, such as [["slack"], ["email"]]')
        return ()
    if plugins is not None:
        wrong += [
            f"steps: no plugin {name!r}{_hint(name, plugins)}"
            for name in dict.fromkeys(name for step in steps for name in step)
            if name not in plugins
        ]
    return tuple(tuple(step) for step in steps)


def _match(value: object, wrong: list[str]) -> dict[str, tuple[str, ...]]:
    if not isinstance(value, Mapping):
        wrong.append('match: use a table such as {severity = "critical"}')
        return {}
    match: dict[str, tuple[str, ...]] = {}
    for name, patterns in value.items():
        listed = [patterns] if isinstance(patterns, str) else patterns
        if not isinstance(listed, list) or not all(isinstance(one, str) for one in listed):
            wrong.append(f"match {name}: use a pattern, or a list of patterns")
            continue
        match[name] = tuple(listed)
        words = [severity.word for severity in Severity]
        if name == "severity" and not any(fnmatchcase(w, p) for w in words for p in listed):
            wrong.append(f"match severity {patterns!r}: use {', '.join(words)}")
    return match


def _wait(table: Mapping[str, Any], key: str, wrong: list[str]) -> float | None:
    if key not in table:
        return None
    try:
        return duration_s(table[key])
    except ValueError as problem:
        wrong.append(f"{key}={problem}")
        return None


def _hint(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {near[0]!r}?" if near else f": use {', '.join(sorted(known))}"
