"""The demo's webhook sink: a server on 127.0.0.1 that the webhook plugin posts alerts to.

It shows what an operator would be told, and when.  What is no alert is shown as such, and
everything is answered, because a sink that drops a message is sent it again.
"""

import json
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cli import render
from cli.loopback import HOST, Loopback, Replier
from notifier.alert import Severity, parse_rfc3339

PATH = "/alerts"
RESOLVED = "resolved"
_ALERTS_KEPT = 1_024


class _Told(NamedTuple):
    rule: str
    engine: str
    state: str
    severity: Severity


class Sink:
    """Receives alerts and says a line for each.  ``received`` counts messages; ``url`` is where."""

    def __init__(self, say: Callable[[str], None], port: int = 0) -> None:
        """Listen on *port*, or on any free one if it is taken."""
        self.received = 0
        self._say = say
        self._lock = threading.Lock()  # the server has a thread per request
        self._told: dict[str, _Told] = {}  # by the alert's id
        sink = self

        class Receiver(Replier):
            def do_POST(self) -> None:
                at_ns = time.time_ns()
                body = self.body()
                self.reply(413 if body is None else 200)
                if body is not None:
                    sink.take(body, at_ns)

        try:
            self._server = Loopback(Receiver, port)
        except OSError:
            self._server = Loopback(Receiver)
        self.port = self._server.port
        self.url = f"http://{HOST}:{self.port}{PATH}"

    def close(self) -> None:
        """Stop listening."""
        self._server.close()

    def take(self, body: bytes, at_ns: int) -> None:
        """Take one message that arrived at *at_ns* (wall clock)."""
        try:
            row = json.loads(body)
            with self._lock:
                self.received += 1
                text = self._line(row, at_ns)
        except (ValueError, TypeError, KeyError, AttributeError) as problem:
            text = f"not an alert: {problem!r}"
        self._say(text)

    def settled(self, engine: str, *rules: str) -> bool:
        """Whether each of *rules* fired for *engine* and is resolved by now."""
        with self._lock:
            told = [each for each in self._told.values() if each.engine == engine]
        states = [{each.state for each in told if each.rule == rule} for rule in rules]
        return all(state == {RESOLVED} for state in states)

    def _line(self, row: Mapping[str, Any], at_ns: int) -> str:
        severity, state, labels = Severity.parse(row["severity"]), row["state"], row["labels"]
        if "members" in row:
            return f"{severity.name:8}  digest    {row['message']}"
        now = _Told(row["rule"], labels.get("engine", ""), state, severity)
        before = self._told.pop(row["id"], None)
        if len(self._told) < _ALERTS_KEPT:
            self._told[row["id"]] = now
        since = row["resolved_at"] if state == RESOLVED else row["last_seen_at"]
        after_ms = (at_ns - parse_rfc3339(since)) / 1e6
        word = _word(before, now)
        shown = (
            f"{word.upper() if state == RESOLVED else severity.name:8}  {word:8}  {row['rule']}"
            f"  {render.labels(labels)}{_reading(row)}  {after_ms:,.1f} ms after the record"
        )
        return shown if row["attempt"] == 1 else f"{shown}, attempt {row['attempt']}"


def _word(before: _Told | None, now: _Told) -> str:
    if now.state == RESOLVED:
        return RESOLVED
    if before is None or before.state == RESOLVED:
        return "fired"
    if before.severity == now.severity:
        return "still"
    return "worse" if now.severity > before.severity else "better"


def _reading(row: Mapping[str, Any]) -> str:
    if row["value"] is None:
        return ""
    value = render.quantity(row["value"], row["unit"])
    return f"  {value}, limit {render.quantity(row['threshold'], row['unit'])}"
