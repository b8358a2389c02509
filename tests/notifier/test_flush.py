"""Commits that are brought to disk by a thread: nobody waits, and trouble is told."""

import errno
import logging
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from notifier import flush
from notifier.flush import Flush
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
    one = Flush(file, background=True)
    disk.go.clear()
    started = time.monotonic()
    for _ in range(50):
        one.ask()
    assert time.monotonic() - started < 5
    assert not one.clean and not one.wait(0.01)
    disk.go.set()
    assert one.wait(30) and one.clean
    assert disk.syncs <= 2
    one.close()


def test_in_the_callers_thread_it_is_done_when_asking_returns(disk: Disk, file: Path) -> None:
    """As tests and the start want it."""
    one = Flush(file)
    one.ask()
    assert (disk.syncs, one.clean, one.wait(0)) == (1, True, True)
    one.close()


def test_a_database_without_a_write_ahead_log_is_no_trouble(disk: Disk, tmp_path: Path) -> None:
    """It syncs by itself."""
    one = Flush(tmp_path / "none")
    one.ask()
    assert (one.clean, one.problem, disk.syncs) == (True, "", 0)
    one.close()


def test_a_disk_that_fails_is_told_tried_again_and_waited_for_by_nobody(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Delivery goes on from memory meanwhile."""
    monkeypatch.setattr(flush, "RETRY_S", 0.01)
    disk.error = OSError(errno.EIO, "input/output error")
    one = Flush(file, background=True)
    one.ask()
    started = time.monotonic()
    assert not one.wait(60)
    assert time.monotonic() - started < 30
    assert one.problem == "alerts.db: input/output error"
    wait_for(lambda: disk.syncs > 3, "more tries")
    assert caplog.text.count("can't be brought to disk") == 1
    disk.error = None
    wait_for(lambda: one.clean, "a disk that works again")
    assert one.problem == ""
    one.close()


def test_a_disk_that_is_slow_is_told(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit that isn't on disk after seconds is a problem."""
    monkeypatch.setattr(flush, "SLOW_S", 0.05)
    disk.go.clear()
    one = Flush(file, background=True)
    one.ask()
    assert "slower than" in wait_for(lambda: one.problem, "the problem")
    disk.go.set()
    wait_for(lambda: one.clean and not one.problem, "the end of it")
    one.close()


def test_closing_ends_the_thread_even_while_the_disk_fails(
    disk: Disk, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """And closes the file; an fsync that hangs is left to the end of the process."""
    caplog.set_level(logging.CRITICAL + 1)
    disk.error = OSError(errno.EIO, "input/output error")
    one = Flush(file, background=True)
    one.ask()
    wait_for(lambda: disk.syncs, "a failure")
    one.close()
    assert not [each for each in threading.enumerate() if each.name == "flush"]


def test_a_hanging_disk_does_not_hang_the_end(
    disk: Disk, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process must be able to go."""
    monkeypatch.setattr(flush, "SLOW_S", 0.05)
    disk.go.clear()
    one = Flush(file, background=True)
    one.ask()
    one.close()
    disk.go.set()
    wait_for(lambda: not _threads(), "the thread's end")
    one.close()


def _threads() -> list[Any]:
    return [each for each in threading.enumerate() if each.name == "flush"]
