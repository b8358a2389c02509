"""The notifier as a child process: waiting, clocks, signals, its lock; the work is in ``cycle``.

It ends when its parent has ended or asks it to (SIGTERM), after delivering what can be delivered
until the deadline; a second SIGTERM ends it at once.  SIGINT is the parent's business.  The lock
file's time is set each second: that is how the parent sees progress.
"""

import fcntl
import logging
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import FrameType

from notifier import logs
from notifier.cycle import Damaged, Notifier
from notifier.decisions import Decision, Journal
from notifier.ledger import LedgerError
from notifier.ping import Ping
from notifier.plugin import AlertDeliveryPlugin, Message, PermanentError, load
from notifier.printable import printable
from notifier.settings import NotifierSettings, PluginSettings
from notifier.worker import Threads

__all__ = ["Notifier", "main"]

_log = logging.getLogger("notifier")

Item = tuple[int, list[bytes]]
POLL_S = 0.1  # the alert log and the decisions journal are looked at this often without a bell
LOCK_S = 30.0
_SECOND_NS = 1_000_000_000
# A worker that has a message to send must not wait for the interpreter: the loop lets it go first
# while nothing new rings, and never holds it for long.
_YIELD_S = 0.002
_SWITCH_S = 0.0005
_MARGIN_S = 1.0  # the parent kills at the drain limit; be gone before


class Refusing(AlertDeliveryPlugin):
    """Stands in for a plugin that can't be made: what it gets is dead at once, with the reason."""

    def deliver(self, message: Message) -> bool:
        """Refuse."""
        raise PermanentError(self.text("problem"))


class Clock:
    """Time since the epoch that no setting of the clock moves, and that goes on while suspended."""

    def __init__(self) -> None:
        self._offset_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)

    def now_ns(self) -> int:
        """Nanoseconds."""
        return self._offset_ns + time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Bell:
    """What wakes the loop: the aggregator's doorbell, a result of an attempt, a signal."""

    def __init__(self, doorbell: "Queue[Item]") -> None:
        self._rings: queue.SimpleQueue[Item | None] = queue.SimpleQueue()
        self._doorbell = doorbell
        threading.Thread(target=self._listen, name="doorbell", daemon=True).start()

    def ring(self) -> None:
        """Wake the loop; safe in threads and signal handlers."""
        self._rings.put(None)

    def wait(self, timeout_s: float) -> list[Item]:
        """Wait for a ring, and return what all rings so far brought."""
        items = []
        try:
            item = self._rings.get(timeout=timeout_s) if timeout_s > 0 else self._rings.get_nowait()
            while True:
                if item is not None:
                    items.append(item)
                item = self._rings.get_nowait()
        except queue.Empty:
            return items

    def _listen(self) -> None:
        while True:
            try:
                self._rings.put(self._doorbell.get())
            except (EOFError, OSError):
                return  # the other end is gone; the log is still polled
            except Exception:  # noqa: BLE001 - whatever pickle makes of half a message
                _log.warning("doorbell message ignored", extra={"component": "monitoring"})


class Scribe:
    """Appends to the decisions journal in a thread: a stopped command may hold its lock."""

    def __init__(self, journal: Path) -> None:
        self._journal = Journal(journal)
        self._jobs: queue.SimpleQueue[Decision] = queue.SimpleQueue()
        threading.Thread(target=self._write, name="journal", daemon=True).start()

    def write(self, decisions: Sequence[Decision]) -> None:
        """Append *decisions* soon."""
        for one in decisions:
            self._jobs.put(one)

    def _write(self) -> None:
        while True:
            decision = self._jobs.get()
            try:
                self._journal.append(decision)
            except OSError as problem:
                _log.warning(
                    "the end of an ack could not be written down",
                    extra={"component": "monitoring", "problem": str(problem)},
                )


class Stop:
    """Whether the process was asked to end, by whom, and how urgently."""

    def __init__(self, bell: Bell, parent_pid: int) -> None:
        self._bell = bell
        self._parent_pid = parent_pid
        self._signals = 0
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, self._note)

    @property
    def asked(self) -> bool:
        """Whether to end."""
        return self._signals > 0 or os.getppid() != self._parent_pid

    @property
    def now(self) -> bool:
        """Whether to end without finishing."""
        return self._signals > 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self._bell.ring()


def main(settings: NotifierSettings, doorbell: "Queue[Item]", parent_pid: int) -> None:
    """Be the notifier until asked to end; exits with 1 if it can't work."""
    logs.setup("notifier", _format(settings), settings.log_level)
    sys.setswitchinterval(_SWITCH_S)
    bell = Bell(doorbell)
    stop = Stop(bell, parent_pid)
    lock = _lock(settings.data_dir / "notifier.lock", stop)
    if lock is None:
        raise SystemExit(0 if stop.asked else 1)
    plugins = {one.name: _made(one) for one in settings.plugins if one.enabled}
    scribe = Scribe(settings.alerts_dir / "acknowledgements.jsonl")
    try:
        notifier = Notifier(
            settings,
            plugins,
            workers=Threads(plugins, bell.ring),
            write_down=scribe.write,
            ping=_ping(settings),
            wake=bell.ring,
        )
        _run(notifier, bell, stop, lock, settings.drain_s - _MARGIN_S)
    except (LedgerError, Damaged) as problem:
        _log.critical(
            "the notifier must start again", extra={"component": "monitoring", "why": str(problem)}
        )
        raise SystemExit(1) from problem
    notifier.close()


def _run(notifier: Notifier, bell: Bell, stop: Stop, lock: int, drain_s: float) -> None:
    clock = Clock()
    until_ns: int | None = None
    beat_ns = 0
    while True:
        now_ns = clock.now_ns()
        if now_ns - beat_ns >= _SECOND_NS:
            beat_ns = now_ns
            os.utime(lock)
        done = notifier.step(now_ns, wall_ns=time.time_ns(), mono_ns=time.monotonic_ns())
        if stop.asked:
            until_ns = (
                now_ns + round(max(0.0, drain_s) * _SECOND_NS) if until_ns is None else until_ns
            )
            finished = not done and notifier.idle(now_ns, until_ns)
            if stop.now or finished or now_ns >= until_ns:
                return
        due_ns = notifier.next_due_ns(now_ns)
        wait_s = POLL_S if due_ns is None else min(POLL_S, (due_ns - now_ns) / _SECOND_NS)
        for item in bell.wait(_YIELD_S if done else max(0.001, wait_s)):
            notifier.intake.offer(*item)


def _lock(path: Path, stop: Stop) -> int | None:
    """The descriptor that holds the notifier's lock; None if an earlier notifier keeps it."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    deadline_s = time.monotonic() + LOCK_S
    while not stop.asked:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # whose holder others can see
            return descriptor
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                _log.critical(
                    "another notifier holds the lock",
                    extra={"component": "monitoring", "lock": str(path)},
                )
                break
            time.sleep(0.05)
    os.close(descriptor)
    return None


def _made(settings: PluginSettings) -> AlertDeliveryPlugin:
    """The plugin; one that can't be made refuses what it gets, instead of silently missing."""
    problem = ""
    try:
        plugin = load(settings.kind)(
            name=settings.name,
            enabled=True,
            options=settings.options,
            timeout_s=settings.timeout_s,
        )
        if not (problems := plugin.check()):
            return plugin
        problem = problems[0]
    except Exception as error:  # noqa: BLE001 - a plugin's code is not ours; the others must work
        problem = f"{settings.name}: can't be made: {type(error).__name__}"
    _log.error(
        "plugin can't be used",
        extra={"component": "monitoring", "plugin": settings.name, "problem": printable(problem)},
    )
    return Refusing(settings.name, options={"problem": problem})


def _ping(settings: NotifierSettings) -> Ping | None:
    if not settings.ping_url:
        return None
    return Ping(settings.ping_url, settings.ping_interval_s, settings.heartbeat_path)


def _format(settings: NotifierSettings) -> logs.Format:
    return "json" if settings.log_format == "json" else "text"
