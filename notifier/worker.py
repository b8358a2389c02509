"""Attempts at delivery, each in a thread of its plugin, so that a stuck plugin delays no other.

A worker knows no database and no schedule: a job goes in, a result comes out.  An attempt that
outlives its deadline is given up: its outcome is unknown whatever it returns later, and a second
thread goes on in its place.  A plugin never has more than two threads; with both stuck it waits.
"""

import enum
import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Protocol

from notifier.plugin import (
    RESEND,
    AlertDeliveryPlugin,
    Message,
    PartialError,
    PermanentError,
    RetryableError,
)

_log = logging.getLogger("notifier")

THREADS_PER_PLUGIN = 2
GRACE_S = 0.5  # a plugin that keeps its deadline returns a little after it


class Outcome(enum.StrEnum):
    """How an attempt ended."""

    DELIVERED = "delivered"
    FAILED = "failed"
    REFUSED = "refused"
    PARTIAL = "partial"
    UNKNOWN = "outcome unknown"


@dataclass(frozen=True, slots=True)
class Job:
    """One attempt of one plugin, which has *timeout_s* from when it starts."""

    plugin: str
    message: Message
    timeout_s: float

    def timed(self) -> Message:
        """The message of an attempt that starts now."""
        return replace(self.message, deadline=time.monotonic() + self.timeout_s)


@dataclass(frozen=True, slots=True)
class Result:
    """How it ended; ``remaining`` are recipients to try again, ``reached``: some have it."""

    plugin: str
    delivery: str
    attempt: int
    outcome: Outcome
    error: str = ""
    retry_after_s: float | None = None
    remaining: tuple[str, ...] = ()
    reached: bool = False


class Workers(Protocol):
    """Who makes attempts."""

    def free(self, plugin: str) -> bool:
        """Whether a job of *plugin* would start at once."""

    def submit(self, job: Job) -> None:
        """Start an attempt; only when ``free``."""

    def collect(self) -> list[Result]:
        """What ended since the last call, attempts that ran out of time included."""


def attempt(plugin: AlertDeliveryPlugin, message: Message) -> Result:
    """Make one attempt and say how it ended; raises nothing."""

    def result(outcome: Outcome, error: str = "", **more: object) -> Result:
        known = {"plugin": plugin.name, "delivery": message.delivery, "attempt": message.attempt}
        return Result(**known, outcome=outcome, error=error, **more)  # type: ignore[arg-type]

    try:
        if message.kind == RESEND:
            accepted = plugin.resend(message.members, message.deadline)
        else:
            accepted = plugin.deliver(message)
        return result(Outcome.DELIVERED) if accepted else result(Outcome.FAILED, "not accepted")
    except PermanentError as problem:
        return result(Outcome.REFUSED, str(problem))
    except PartialError as problem:
        reached = bool(problem.delivered)
        return result(Outcome.PARTIAL, str(problem), remaining=problem.recipients, reached=reached)
    except RetryableError as problem:
        outcome = Outcome.UNKNOWN if problem.unknown else Outcome.FAILED
        return result(outcome, str(problem), retry_after_s=problem.retry_after)
    except Exception as problem:  # noqa: BLE001 - the boundary to code that is not ours
        # An error in a plugin must not end the delivery of others.  Its text may hold a secret, so
        # only its type is told.
        _log.warning(
            "plugin raised an unexpected error",
            extra={
                "component": "monitoring",
                "plugin": plugin.name,
                "error": type(problem).__name__,
            },
        )
        return result(Outcome.UNKNOWN, f"plugin error: {type(problem).__name__}")


def prepare(plugin: AlertDeliveryPlugin) -> None:
    """Have *plugin* import what it needs; what goes wrong now is told by the first attempt."""
    try:
        plugin.prepare()
    except Exception as problem:  # noqa: BLE001 - the boundary to code that is not ours
        _log.warning(
            "plugin can't be prepared",
            extra={
                "component": "monitoring",
                "plugin": plugin.name,
                "error": type(problem).__name__,
            },
        )


class Inline:
    """Attempts made at once by the caller, for tests that hold the clock."""

    def __init__(self, plugins: Mapping[str, AlertDeliveryPlugin]) -> None:
        self._plugins = plugins
        self._results: list[Result] = []

    def free(self, plugin: str) -> bool:
        return True

    def submit(self, job: Job) -> None:
        self._results.append(attempt(self._plugins[job.plugin], job.timed()))

    def collect(self) -> list[Result]:
        results, self._results = self._results, []
        return results


@dataclass(slots=True)
class _Running:
    message: Message
    ends_s: float


@dataclass(slots=True)
class _Crew:
    """The threads of one plugin; ``running`` is the attempt that counts, others are stuck."""

    plugin: AlertDeliveryPlugin
    jobs: "queue.SimpleQueue[Message | None]" = field(default_factory=queue.SimpleQueue)
    threads: int = 0
    stuck: int = 0
    running: _Running | None = None


class Threads:
    """Attempts made by daemon threads; *wake* is called when there is something to collect.

    The first thread of each plugin starts at once and prepares it, so that no alert waits for an
    import.
    """

    def __init__(
        self, plugins: Mapping[str, AlertDeliveryPlugin], wake: Callable[[], None]
    ) -> None:
        self._crews = {name: _Crew(plugin) for name, plugin in plugins.items()}
        self._wake = wake
        self._done: queue.SimpleQueue[Result] = queue.SimpleQueue()
        for crew in self._crews.values():
            self._hire(crew)

    def free(self, plugin: str) -> bool:
        crew = self._crews[plugin]
        return crew.running is None and crew.stuck < THREADS_PER_PLUGIN

    def submit(self, job: Job) -> None:
        crew = self._crews[job.plugin]
        message = job.timed()
        crew.running = _Running(message, message.deadline + GRACE_S)
        if crew.threads - crew.stuck < 1:
            self._hire(crew)
        crew.jobs.put(message)

    def collect(self) -> list[Result]:
        results = []
        while not self._done.empty():
            result = self._done.get()
            crew = self._crews[result.plugin]
            running = crew.running
            if running is not None and _is_of(running.message, result):
                crew.running = None
                results.append(result)
            else:
                crew.stuck -= 1  # given up long ago: its thread is back, its answer came too late
        return results + self._overdue()

    def stop(self) -> None:
        """Let idle threads end; stuck ones end with the process."""
        for crew in self._crews.values():
            for _ in range(crew.threads):
                crew.jobs.put(None)

    def _hire(self, crew: _Crew) -> None:
        crew.threads += 1
        name = f"deliver-{crew.plugin.name}"
        threading.Thread(target=self._work, args=(crew,), name=name, daemon=True).start()

    def _overdue(self) -> list[Result]:
        results = []
        now_s = time.monotonic()
        for name, crew in self._crews.items():
            if crew.running is None or now_s < crew.running.ends_s:
                continue
            message, crew.running = crew.running.message, None
            crew.stuck += 1
            results.append(
                Result(name, message.delivery, message.attempt, Outcome.UNKNOWN, "no end in time")
            )
        return results

    def _work(self, crew: _Crew) -> None:
        prepare(crew.plugin)
        while (message := crew.jobs.get()) is not None:
            self._done.put(attempt(crew.plugin, message))
            self._wake()


def _is_of(message: Message, result: Result) -> bool:
    return (message.delivery, message.attempt) == (result.delivery, result.attempt)
