"""A notifier with a clock that only tests move, plugins that do as told, and restarts at will."""

import os
import signal
import sqlite3
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from notifier import ledger
from notifier.alert import Alert, Kind, Severity, Transition, transition_id
from notifier.alertlog import AlertLog
from notifier.cycle import Notifier
from notifier.decisions import Decision, Journal, covering
from notifier.plugin import AlertDeliveryPlugin, Message
from notifier.settings import NotifierSettings, PluginSettings
from notifier.worker import Inline, Workers
from tests.notifier.running import Running
from tests.servers import HttpServer

SECOND = 1_000_000_000
START_NS = 1_750_000_000 * SECOND
INSTALLATION = uuid.UUID("00000000-0000-4000-8000-000000000001")


class Scripted(AlertDeliveryPlugin):
    """Keeps what it gets and ends as told: ``script`` for the next attempts, then ``otherwise``.

    ``every_s`` is how often it wants to be told again; ``again`` are the rows that it accepted so.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.every_s: float | None = None
        self.again: list[list[Mapping[str, Any]]] = []
        self.got: list[Message] = []
        self.accepted: list[Message] = []
        self.script: list[Exception | bool] = []
        self.otherwise: Exception | bool = True

    def deliver(self, message: Message) -> bool:
        self.got.append(message)
        if self._end():
            self.accepted.append(message)
            return True
        return False

    @property
    def resend_s(self) -> float | None:
        return self.every_s

    def resend(self, rows: Sequence[Mapping[str, Any]], deadline: float) -> bool:
        if self._end():
            self.again.append(list(rows))
            return True
        return False

    def _end(self) -> bool:
        end = self.script.pop(0) if self.script else self.otherwise
        if isinstance(end, Exception):
            raise end
        return end

    def said(self) -> list[str]:
        """State of each accepted message."""
        return [message.kind for message in self.accepted]


@dataclass
class World:
    """Everything around one notifier."""

    path: Path
    settings: NotifierSettings
    plugins: dict[str, Scripted]
    now_ns: int = START_NS
    occasions: int = 0
    workers: Workers | None = None
    options: dict[str, Any] = field(default_factory=dict)
    running: Notifier | None = None

    def __post_init__(self) -> None:
        self.log = AlertLog(self.settings.alerts_dir)
        self.journal = Journal(self.settings.alerts_dir / "acknowledgements.jsonl")

    @property
    def notifier(self) -> Notifier:
        if self.running is None:
            workers = self.workers or Inline(self.plugins)
            self.running = Notifier(
                self.settings, self.plugins, workers=workers, noise=lambda: 0.5, **self.options
            )
            # No test here cuts the power, and a busy disk makes thousands of commits slow.
            self.running._keeper._db.execute("PRAGMA synchronous = OFF")
        return self.running

    def transition(self, kind: str, rule: str = "slow", **fields: Any) -> Transition:
        """A transition that happens now; other fields than Transition's are labels."""
        known = {name: fields.pop(name) for name in list(fields) if name in _FIELDS}
        self.occasions += 1
        one = Transition(
            id="",
            kind=Kind(kind),
            at_ns=self.now_ns,
            rule=rule,
            labels={"engine": "intraday", **fields},
            severity=Severity.parse(known.pop("severity", "critical")),
            **known,
        )
        name = transition_id(INSTALLATION, one.fingerprint, one.kind, "ring", self.occasions)
        return replace(one, id=name)

    def log_now(self, *transitions: Transition) -> None:
        """Append to the alert log."""
        self.log.append(transitions, self.now_ns)

    def fire(self, rule: str = "slow", severity: str = "critical", **fields: Any) -> Transition:
        one = self.transition("fired", rule, severity=severity, **fields)
        self.log_now(one)
        return one

    def resolve(self, rule: str = "slow", severity: str = "critical", **fields: Any) -> None:
        self.log_now(self.transition("resolved", rule, severity=severity, **fields))

    def raise_to(self, severity: str, rule: str = "slow", **fields: Any) -> None:
        self.log_now(self.transition("severity", rule, severity=severity, **fields))

    def work(self) -> int:
        """Step until nothing is left to do now."""
        done = 0
        while count := self.notifier.step(self.now_ns):
            done += count
            assert done < 1_000_000
        return done

    def go(self, seconds: float, each_s: float = 1.0) -> None:
        """Let time pass, stepping all the while."""
        end_ns = self.now_ns + round(seconds * SECOND)
        self.work()
        while self.now_ns < end_ns:
            self.now_ns = min(end_ns, self.now_ns + round(each_s * SECOND))
            self.work()

    def go_lazily(self, seconds: float) -> int:
        """As go(), but step only when something is due; how many moments that were."""
        end_ns, moments = self.now_ns + round(seconds * SECOND), 0
        self.work()
        while self.now_ns < end_ns:
            due_ns = self.notifier.next_due_ns(self.now_ns)
            assert due_ns is None or due_ns > self.now_ns, "due, yet nothing was done"
            self.now_ns = end_ns if due_ns is None else min(end_ns, due_ns)
            self.work()
            moments += 1
        return moments

    def crash(self) -> None:
        """End the notifier without any farewell; the next use starts another."""
        if self.running is not None:
            self.running.close()
        self.running = None

    def read(self) -> sqlite3.Connection:
        return ledger.open_readonly(self.settings.ledger_path)

    def alerts(self, **query: Any) -> list[Alert]:
        db = self.read()
        try:
            return ledger.alerts(db, **query)
        finally:
            db.close()

    def health(self) -> dict[str, Any]:
        """What the notifier last reported."""
        db = self.read()
        try:
            return ledger.health(db)
        finally:
            db.close()

    def deliveries(self, **query: Any) -> list[ledger.Delivery]:
        db = self.read()
        try:
            return ledger.deliveries(db, **query)
        finally:
            db.close()

    def balance(self) -> dict[str, Any]:
        """The conservation ledger, which must hold."""
        db = self.read()
        try:
            found = ledger.conservation(db)
        finally:
            db.close()
        assert found["holds"], found
        return found

    def decide(self, kind: str, **fields: Any) -> Decision:
        """Append a decision of asha, made now."""
        decision = Decision(
            kind=kind,  # type: ignore[arg-type]
            id=str(uuid.uuid4()),
            at_ns=self.now_ns,
            by="asha",
            **fields,
        )
        return self.journal.append(decision)

    def ack(self, rule: str = "slow", ttl_s: int | None = 3600, **fields: Any) -> Decision:
        """Acknowledge a rule's firing alerts, as the command does."""
        covers = covering(self.alerts(active=False, rule=rule))
        return self.decide("ack", rule=rule, covers=covers, ttl_s=ttl_s, **fields)


_FIELDS = {
    "severity", "value", "threshold", "unit", "message", "count", "free_text", "announce", "again",
    "reason", "evidence",
}  # fmt: skip


@pytest.fixture
def make_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., World]]:
    """Make a world: names of plugins, and settings that differ from the defaults."""
    made: list[World] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)

    def make(*names: str, plugins: Sequence[PluginSettings] = (), **options: Any) -> World:
        configured = plugins or [
            PluginSettings(name, "webhook", rate_per_s=100, burst=1000)
            for name in (names or ("desk",))
        ]
        path = tmp_path / str(len(made))
        settings = NotifierSettings(
            path / "data", path / "logs", plugins=tuple(configured), **options
        )
        made.append(World(path, settings, {one.name: Scripted(one.name) for one in configured}))
        return made[-1]

    yield make
    for world in made:
        world.crash()
        world.log.close()


@pytest.fixture
def world(make_world: Callable[..., World]) -> World:
    """A world with the one plugin ``desk``."""
    return make_world()


@pytest.fixture
def server() -> Iterator[HttpServer]:
    with HttpServer() as one:
        yield one


@pytest.fixture
def running(make_world: Callable[..., Any], server: HttpServer) -> Iterator[Running]:
    """A notifier that is not started yet, delivering to ``server``."""
    options = {"url": server.url}
    desk = PluginSettings("webhook", "webhook", rate_per_s=100, timeout_s=2.0, options=options)
    world = make_world(plugins=[desk])
    one = Running(world.settings, world)
    yield one
    if one.process is not None and one.process.is_alive():
        one.end(signal.SIGKILL)
