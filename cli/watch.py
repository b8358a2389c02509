"""`watch`: alerts, acknowledgements and resolutions as they happen.

The files are the truth and are read by position; what watchdog says only wakes the loop, which
looks by itself as well once a second.  So lost events, half lines, midnight and a missing directory
are nothing special.
"""

import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from cli import events, interrupts, known, place, render, times
from cli.alerts import severity
from cli.events import Event
from cli.known import Known
from cli.place import Place
from notifier import alertlog
from notifier.alert import Kind, Severity, Transition
from notifier.alertlog import Position
from notifier.decisions import Journal
from notifier.lifecycle import Life, apply

FIRST_EVENTS = 10
POLL_S = 1.0
# How far back the first events are looked for, nearest first.
_LOOK_BACK_DAYS = (1, 30, 3650)
_REMEMBERED = 10_000
_WAKING = frozenset({"modified", "created", "moved", "deleted", "closed"})


def main(args: Mapping[str, Any]) -> int:
    """Print events until Ctrl-C."""
    how = render.look(args)
    least, pattern = severity(args), args["--rule"] or "*"
    where = place.find(args)
    known.require(where)

    def show(fresh: list[Event]) -> None:
        for event in fresh:
            _show(event, how)
        sys.stdout.flush()

    try:
        with interrupts.only_while_waiting() as pause:
            feed = Feed(where)
            first = [event for event in feed.first() if wanted(event, least, pattern)]
            if not how.json:
                render.note(f"watching {where.alert_log}: Ctrl-C ends")
            show(first[-FIRST_EVENTS:])
            with woken(where.alert_log) as bell:
                while True:
                    show([event for event in feed.step() if wanted(event, least, pattern)])
                    pause(bell.wait, POLL_S)
                    bell.clear()
    except KeyboardInterrupt:
        if how.terminal:
            print()
        return 0


def wanted(event: Event, least: Severity, pattern: str) -> bool:
    """Whether *event* is shown: an update of a value isn't, and the filters must let it pass."""
    if event.row["event"] == Kind.UPDATE:
        return False
    if event.severity is not None and event.severity < least:
        return False
    return pattern == "*" or any(fnmatchcase(rule, pattern) for rule in event.rules)


def _show(event: Event, how: render.Look) -> None:
    if how.json:
        print(render.json_text(event.row))
    else:
        render.line(how, *event.cells(how))


class Feed:
    """Events of one alert log and its decisions journal, each once, in the order of their time."""

    def __init__(self, where: Place) -> None:
        self._directory = where.alert_log
        self._journal = Journal(where.decisions)
        self._offset = 0
        self._position = Position()
        self._seen: dict[str, None] = {}  # in the order in which they came
        now = known.load(where)
        self._reopen_ns = now.reopen_ns
        self._known = now
        self._lives: dict[str, Life] = {}
        self._rules: dict[str, str] = {}
        for alert in reversed(now.alerts):
            self._lives[alert.fingerprint] = Life(alert)
            self._rules[alert.fingerprint] = alert.rule

    def first(self) -> list[Event]:
        """The newest events that are there already; later ones come from :meth:`step`."""
        for days in _LOOK_BACK_DAYS:
            since = datetime.fromtimestamp(times.now_ns() // times.NS, UTC) - timedelta(days=days)
            self._position = Position(f"{since:%Y-%m-%d}")
            found = list(self._transitions())
            told = [each for each in found if each.kind != Kind.UPDATE]
            if len(told) >= FIRST_EVENTS:
                break
        self._rules |= {each.fingerprint: each.rule for each in found}
        decided = self._decisions()
        self._remember([each.id for each in found] + [each.id for each in decided])
        fresh = [events.of_transition(t, _owner(self._known, t)) for t in found]
        return sorted([*fresh, *decided], key=lambda event: event.at_ns)

    def step(self) -> list[Event]:
        """What happened since the last call."""
        fresh: list[Event] = []
        for transition in self._transitions():
            self._rules[transition.fingerprint] = transition.rule
            life = apply(self._lives.get(transition.fingerprint), transition, self._reopen_ns)
            if life is not None:
                self._lives[transition.fingerprint] = life
            alert = life.alert.id if life is not None else transition.id
            fresh.append(events.of_transition(transition, alert))
        fresh = [event for event in [*fresh, *self._decisions()] if event.id not in self._seen]
        self._remember(event.id for event in fresh)
        return sorted(fresh, key=lambda event: event.at_ns)

    def _remember(self, ids: Iterable[str]) -> None:
        self._seen.update(dict.fromkeys(ids))
        for old in list(self._seen)[:-_REMEMBERED]:
            del self._seen[old]

    def _transitions(self) -> Iterator[Transition]:
        while True:
            found, self._position, bad = alertlog.read(self._directory, self._position)
            if bad:
                render.note(f"{bad} lines of the alert log are damaged: skipped")
            if not found and not bad:
                return
            yield from found

    def _decisions(self) -> list[Event]:
        decisions, self._offset, _ = self._journal.read(self._offset)
        return [events.of_decision(decision, self._rules) for decision in decisions]


def _owner(now: Known, transition: Transition) -> str:
    """The id of the alert that an earlier *transition* belongs to."""
    of = transition.fingerprint
    for alert in now.alerts:  # newest first
        if alert.fingerprint == of and alert.started_ns <= transition.at_ns:
            return alert.id
    return transition.id


@contextmanager
def woken(directory: Path) -> Iterator[threading.Event]:
    """An event that is set when something happens in *directory*, if the system can tell."""
    bell = threading.Event()
    observer = _observe(directory, bell)
    try:
        yield bell
    finally:
        if observer is not None:
            observer.stop()
            observer.join(timeout=2)


def _observe(directory: Path, bell: threading.Event) -> Any:
    """A running observer, or None when there is nothing to observe or no room for one."""
    import logging

    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    # It warns of events that come while it ends, on stderr if nobody takes its records.
    logging.getLogger("watchdog").addHandler(logging.NullHandler())

    class Ring(FileSystemEventHandler):
        """Rings the bell, but not for our own reading of the files."""

        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.event_type in _WAKING:
                bell.set()

    try:
        observer = Observer()
        observer.schedule(Ring(), str(directory))
        observer.start()
    except OSError as error:
        # No directory yet, or inotify's limits (inotify(7)): the loop looks by itself anyway.
        render.note(f"looking once a second: {error.strerror or error}")
        return None
    return observer
