"""Commits that are brought to disk by a thread: nobody waits, and trouble is told."""

import errno
import logging
import os
import threading
import time
from pathlib import Path

import pytest

from notifier import flush
from notifier.flush import Flush
from notifier.settings import PluginSettings
from tests.waiting import wait_for


class Disk:
    """Stands for os.fsync: counts, may hang until let go, may fail."""

    def __init__(self) -> None:
        self.syncs = 0
        self.go = threading.Event()
        self.go.set()
        self.error: OSError | None = None

    def fsync(self, descriptor: int) -> None:
        self.go.wait(30)
        self.syncs += 1
        if self.error is not None:
            raise self.error


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    """The disk under test."""
    one = Disk()
    monkeypatch.setattr(os, "fsync", one.fsync)
    return one


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The file to bring to disk."""
    path = tmp_path / "alerts.db-wal"
    path.write_bytes(b"x")
    return path


def test_asking_returns_at_once_and_the_thread_does_it(disk: Disk, file: Path) -> None:
    """However slow the disk is; what was asked for meanwhile takes one more fsync."""
    woken = threading.Event()
    one = Flush(file, woken.set)
    disk.go.clear()
    started = time.monotonic()
    tickets = []
    for _ in range(50):
        one.ask()
        tickets.append(one.ticket())
    assert time.monotonic() - started < 5
    assert not one.clean and not any(map(one.reached, tickets))
    disk.go.set()
    assert woken.wait(30)
    wait_for(lambda: one.clean, "all of it")
    assert all(map(one.reached, tickets))
    assert disk.syncs <= 2
    one.close()


def test_in_the_callers_thread_it_is_done_when_asking_returns(disk: Disk, file: Path) -> None:
    """As tests and the start want it."""
    one = Flush(file)
    one.ask()
    assert (disk.syncs, one.clean, one.reached(one.ticket())) == (1, True, True)
    one.close()


def test_a_database_without_a_write_ahead_log_is_no_trouble(disk: Disk, tmp_path: Path) -> None:
    """It syncs by itself."""
    one = Flush(tmp_path / "none")
    one.ask()
    assert (one.clean, one.problem, disk.syncs) == (True, "", 0)
    one.close()


def test_a_disk_that_fails_is_told_tried_again_and_holds_nothing_back(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Delivery goes on from memory meanwhile."""
    monkeypatch.setattr(flush, "RETRY_S", 0.01)
    disk.error = OSError(errno.EIO, "input/output error")
    one = Flush(file, _nobody)
    one.ask()
    assert wait_for(lambda: one.problem, "the problem") == "alerts.db: input/output error"
    assert not one.clean and one.reached(one.ticket())
    wait_for(lambda: disk.syncs > 3, "more tries")
    assert caplog.text.count("can't be brought to disk") == 1
    disk.error = None
    wait_for(lambda: one.clean, "a disk that works again")
    assert one.problem == ""
    one.close()


def test_a_disk_that_is_slow_is_told_and_holds_nothing_back(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An fsync that takes seconds is a problem."""
    monkeypatch.setattr(flush, "SLOW_S", 0.05)
    disk.go.clear()
    one = Flush(file, _nobody)
    one.ask()
    assert "slower than" in wait_for(lambda: one.problem, "the problem")
    assert one.reached(one.ticket())
    disk.go.set()
    wait_for(lambda: one.clean and not one.problem, "the end of it")
    one.close()


def test_closing_ends_the_thread_even_while_the_disk_fails(
    disk: Disk, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And closes the file."""
    caplog.set_level(logging.CRITICAL + 1)
    disk.error = OSError(errno.EIO, "input/output error")
    one = Flush(file, _nobody)
    one.ask()
    wait_for(lambda: disk.syncs, "a failure")
    one.close()
    assert not _threads()


def test_a_hanging_disk_does_not_hang_the_end(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process must be able to go; the fsync is left to its end."""
    monkeypatch.setattr(flush, "SLOW_S", 0.05)
    disk.go.clear()
    one = Flush(file, _nobody)
    one.ask()
    one.close()
    disk.go.set()
    wait_for(lambda: not _threads(), "the thread's end")
    one.close()


def _nobody() -> None:
    """Whom nothing has to wake."""


def _threads() -> list[threading.Thread]:
    return [each for each in threading.enumerate() if each.name == "flush"]


def test_only_what_could_come_again_under_another_id_waits_for_the_disk(make_world) -> None:
    """First messages leave while their commit is on its way; digests and further attempts don't."""
    world = make_world(plugins=[PluginSettings("desk", "webhook", rate_per_s=100, burst=1)])
    woken: list[bool] = []
    world.options["wake"] = lambda: woken.append(True)
    desk, keeper = world.plugins["desk"], world.notifier._keeper
    stand_in = _Slow()
    keeper.flush = stand_in  # type: ignore[assignment]
    desk.script = [False]
    world.fire("one", severity="info")
    world.go(1)
    assert [message.attempt for message in desk.got] == [1]
    world.go(5)
    assert len(desk.got) == 1, "a second attempt before its number was on disk"
    stand_in.done = stand_in.asked
    world.notifier._on_disk()
    assert woken
    world.work()
    assert [message.attempt for message in desk.got] == [1, 2]
    for number in range(5):
        world.fire(f"storm-{number}")
    world.go(2)
    assert len(desk.got) == 2, "a digest before its members were on disk"
    stand_in.done = stand_in.asked
    world.go(1)
    assert desk.got[-1].kind == "digest"
    assert world.balance()["delivered"] == 6


class _Slow:
    """A flush that is as far as the test says."""

    problem = ""

    def __init__(self) -> None:
        self.asked = self.done = 0

    @property
    def clean(self) -> bool:
        return self.asked == self.done

    def ask(self) -> None:
        self.asked += 1

    def ticket(self) -> int:
        return self.asked

    def reached(self, ticket: int) -> bool:
        return self.done >= ticket

    def close(self) -> None:
        """Nothing to close."""
