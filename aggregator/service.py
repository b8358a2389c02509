"""The service: a process of its own that keeps the aggregator and the notifier running.

It holds ``service.lock``, owns the delivery queue and outlives a crashed engine, so that somebody
is left to tell of the death.  A child that died is restarted with a fresh queue: a process killed
inside ``Queue.get()`` leaves the queue's lock held for ever, one killed inside ``put()`` leaves
half a message.  Truth is never in the queue, so a queue can be thrown away.
"""

import json
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from types import FrameType
from typing import TypeAlias

import aggregator.process
import notifier.process
from aggregator.configuration import Configuration, configure, secret_free
from aggregator.locks import Held, hold
from aggregator.settings import Settings, SettingsError
from notifier import ledger, logs
from notifier.alert import rfc3339
from ringbuf.survey import survey

_log = logging.getLogger("aggregator")

# A bell is only a hint, so a full queue drops it; this bounds the memory of a notifier that stands
# still.
QUEUE_LENGTH = 10_000
RESTART_MIN_S = 0.1
RESTART_MAX_S = 30.0
# A child that ran for so long was well: the next restart starts from the shortest pause again.
WELL_S = 60.0
STALL_S = 30.0
STOP_S = 5.0
IDLE_EXIT_S = 600.0

Doorbell: TypeAlias = "Queue[tuple[int, list[bytes]]]"


class ServiceBusy(RuntimeError):
    """Another service runs on this data directory."""


@dataclass(slots=True)
class Child:
    """One of the two processes and what is known of its restarts."""

    name: str
    lock: Path
    start: Callable[[Doorbell], BaseProcess]
    process: BaseProcess | None = None
    started_s: float = 0.0
    pause_s: float = 0.0
    due_s: float = 0.0
    restarts: int = 0
    beat_ns: int = 0
    beat_seen_s: float = 0.0

    @property
    def alive(self) -> bool:
        """Whether its process runs."""
        return self.process is not None and self.process.is_alive()

    def stalled(self, now_s: float) -> bool:
        """Whether it runs without progress: each loop touches its lock file once a second.

        The file's time is only compared with itself, so that a wall clock that is set kills nobody.
        """
        try:
            beat_ns = self.lock.stat().st_mtime_ns
        except OSError:
            beat_ns = 0
        if beat_ns != self.beat_ns or not self.alive:
            self.beat_ns, self.beat_seen_s = beat_ns, now_s
        return now_s - max(self.beat_seen_s, self.started_s) > STALL_S

    def end(self, number: int) -> None:
        """Send it signal *number*, if it runs."""
        if self.alive and self.process is not None and self.process.pid is not None:
            os.kill(self.process.pid, number)

    def join(self, timeout_s: float) -> bool:
        """Wait for its end; whether it ended."""
        if self.process is not None:
            self.process.join(timeout_s)
        return not self.alive


class Service:
    """Supervises both children; ``step()`` is one look at them."""

    def __init__(self, configuration: Configuration, *, joined: bool = False) -> None:
        self._configuration = configuration
        self._joined = joined
        self._context = multiprocessing.get_context("spawn")
        data_dir = Path(configuration.settings.monitoring_data_dir)
        self._data_dir = data_dir
        self._aggregator = Child("aggregator", data_dir / "aggregator.lock", self._aggregate)
        self._notifier = Child("notifier", data_dir / "notifier.lock", self._notify)
        self._doorbell: Doorbell = self._queue()
        self._deaths: list[tuple[str, int | None]] = []
        self._engines_seen_s = time.monotonic()
        self._looked_s = 0.0

    def start(self) -> None:
        """Start both; the notifier first, so that the first alert finds it."""
        for child in (self._notifier, self._aggregator):
            self._launch(child)

    def step(self) -> None:
        """Restart what died or stalled."""
        now_s = time.monotonic()
        for child in (self._aggregator, self._notifier):
            if child.stalled(now_s):
                _log.error(
                    "no progress, killed", extra={"component": "monitoring", "child": child.name}
                )
                child.end(signal.SIGKILL)
                child.join(STOP_S)
        if not self._aggregator.alive and self._aggregator.process is not None:
            self._mourn(self._aggregator)
            self._retire(self._notifier)
        elif not self._notifier.alive and self._notifier.process is not None:
            self._mourn(self._notifier)
            self._retire(self._aggregator)
        for child in (self._notifier, self._aggregator):
            if child.process is None and time.monotonic() >= child.due_s:
                self._launch(child)

    def wait(self, timeout_s: float) -> None:
        """Sleep until a child ends or *timeout_s* passed."""
        sentinels = [
            child.process.sentinel
            for child in (self._aggregator, self._notifier)
            if child.process is not None
        ]
        multiprocessing.connection.wait(sentinels, timeout_s)

    def superfluous(self) -> bool:
        """Whether a service that an engine started can go: no engine for ten minutes, nothing
        undelivered."""
        now_s = time.monotonic()
        if not self._joined or now_s - self._looked_s < 1.0:
            return False
        self._looked_s = now_s
        if any(info.alive for info in survey(self._data_dir)):
            self._engines_seen_s = now_s
        if now_s - self._engines_seen_s < IDLE_EXIT_S:
            return False
        return ledger.pending(self._data_dir / "alerts.db") == 0

    def reload(self) -> None:
        """Read rules, sessions, routes and plugins again: all of them, or on any problem none."""
        try:
            fresh = configure(self._configuration.settings)
        except SettingsError as error:
            for problem in error.problems:
                _log.error("not reloaded", extra={"component": "monitoring", "problem": problem})
            return
        before, self._configuration = self._configuration, fresh
        self._aggregator.end(signal.SIGHUP)
        if fresh.notifier != before.notifier:
            self._retire(self._notifier)
        _log.info("reloaded", extra={"component": "monitoring", "rules": len(fresh.rules)})

    def stop(self, urgent: Callable[[], bool]) -> bool:
        """End the aggregator, then the notifier, which delivers until its deadline; False if one
        had to be killed."""
        clean = True
        drain_s = self._configuration.notifier.drain_s
        for child, timeout_s in (
            (self._aggregator, 2 * STOP_S),
            (self._notifier, drain_s + STOP_S),
        ):
            child.end(signal.SIGTERM)
            deadline = time.monotonic() + timeout_s
            while not child.join(0.05) and time.monotonic() < deadline and not urgent():
                pass
            if child.alive:
                clean = False
                child.end(signal.SIGKILL)
                child.join(STOP_S)
        self._doorbell.close()
        self._doorbell.cancel_join_thread()
        return clean

    def _launch(self, child: Child) -> None:
        child.process = child.start(self._doorbell)
        child.started_s = time.monotonic()
        _log.info(
            "started",
            extra={"component": "monitoring", "child": child.name, "pid": child.process.pid},
        )

    def _mourn(self, child: Child) -> None:
        """Note a death and when to restart; throw the queue away that it may have broken."""
        code = child.process.exitcode if child.process else None
        ran_s = time.monotonic() - child.started_s
        child.pause_s = (
            RESTART_MIN_S
            if ran_s > WELL_S
            else min(RESTART_MAX_S, child.pause_s * 2 or RESTART_MIN_S)
        )
        child.due_s = time.monotonic() + child.pause_s
        child.restarts += 1
        child.process = None
        self._deaths.append((child.name, code))
        self._doorbell = self._queue()
        _log.error(
            "died, will be restarted",
            extra={
                "component": "monitoring",
                "child": child.name,
                "exit_code": code,
                "restarts": child.restarts,
                "in_s": child.pause_s,
            },
        )

    def _retire(self, other: Child) -> None:
        """End the survivor in order, so that it starts again with the fresh queue."""
        other.end(signal.SIGTERM)
        if not other.join(self._configuration.notifier.drain_s):
            other.end(signal.SIGKILL)
            other.join(STOP_S)
        other.process = None
        other.due_s = 0.0

    def _queue(self) -> Doorbell:
        return self._context.Queue(QUEUE_LENGTH)

    def _aggregate(self, doorbell: Doorbell) -> BaseProcess:
        arguments = (self._configuration, doorbell, os.getpid(), tuple(self._deaths))
        self._deaths.clear()
        return self._spawn(aggregator.process.main, arguments, "aggregator")

    def _notify(self, doorbell: Doorbell) -> BaseProcess:
        arguments = (self._configuration.notifier, doorbell, os.getpid())
        return self._spawn(notifier.process.main, arguments, "notifier")

    def _spawn(
        self, target: Callable[..., None], arguments: tuple[object, ...], name: str
    ) -> BaseProcess:
        process = self._context.Process(target=target, args=arguments, name=name)
        process.start()
        return process


def run(settings: Settings, *, joined: bool = False) -> int:
    """Be the service until SIGTERM or SIGINT; the exit code.

    Raises:
        SettingsError: rules, routes or plugins are wrong.
        ServiceBusy: another service holds this directory.
    """
    configuration = configure(settings)
    data_dir = Path(settings.monitoring_data_dir)
    log_dir = Path(settings.monitoring_log_dir)
    for folder in (data_dir, log_dir, log_dir / "alerts"):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    logs.setup("service", settings.monitoring_log_format, settings.monitoring_log_level)
    try:
        with hold(data_dir / "service.lock"):
            return _alone(configuration, log_dir, joined=joined)
    except Held as holder:
        raise ServiceBusy(
            f"a service runs on {data_dir.absolute()} already (pid {holder.pid}): "
            f"stop it first, or use another --data-dir"
        ) from holder


def _alone(configuration: Configuration, log_dir: Path, *, joined: bool) -> int:
    """Serve, unless the service of another data directory logs to the same place."""
    try:
        with hold(log_dir / "alerts.lock"):
            return _serve(configuration, joined=joined)
    except Held as holder:
        raise ServiceBusy(
            f"the service of another data directory (pid {holder.pid}) logs to "
            f"{log_dir.absolute()}: set MONITORING_LOG_DIR, each needs its own"
        ) from holder


def _serve(configuration: Configuration, *, joined: bool) -> int:
    settings = configuration.settings
    signals: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        signals.append(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, note)
    _write_service_file(settings)
    service = Service(configuration, joined=joined)
    service.start()
    beat_s = time.monotonic()
    while not service.superfluous():
        if signal.SIGHUP in signals:
            signals.remove(signal.SIGHUP)
            service.reload()
        if signals:
            break
        service.step()
        service.wait(0.2)
        if time.monotonic() - beat_s >= settings.monitoring_heartbeat_interval:
            beat_s = time.monotonic()
            _log.info("running", extra={"component": "monitoring"})
    _log.info("stopping", extra={"component": "monitoring"})
    return 0 if service.stop(lambda: len(signals) > 1) else 1


def _write_service_file(settings: Settings) -> None:
    data_dir = Path(settings.monitoring_data_dir).absolute()
    content = {
        "pid": os.getpid(),
        "started_at": rfc3339(time.time_ns()),
        "data_dir": str(data_dir),
        "log_dir": str(Path(settings.monitoring_log_dir).absolute()),
        "settings": secret_free(settings),
    }
    temporary = data_dir / f"service.json.{os.getpid()}"
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(data_dir / "service.json")


def main() -> int:
    """Run for an engine that started this process: settings come through standard input as JSON."""
    try:
        return run(Settings(**json.load(sys.stdin)), joined=True)
    except (SettingsError, ServiceBusy) as problem:
        sys.stderr.write(f"{problem}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
