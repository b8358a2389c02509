"""The thread for slow work: rests, wakes, survives errors, finishes when asked."""

import threading

import pytest

from aggregator.history.background import Background
from tests.waiting import wait_for


def test_a_background_thread_works_until_nothing_is_due(caplog: pytest.LogCaptureFixture) -> None:
    """It rests as long as a step says, can be woken, survives an error, and finishes at the end."""
    left = [3]
    failing = [True]
    done = threading.Event()

    def step() -> float:
        if failing.pop() if failing else False:
            raise RuntimeError("once")
        left[0] -= 1
        done.set()
        return 0.0 if left[0] > 0 else 600.0

    work = Background("work", step)
    assert not done.wait(0.05)
    work.wake()
    wait_for(lambda: left[0] == 0, "all steps")
    left[0] = 2
    assert work.close(10)
    assert left[0] == 0
    assert "background work failed, trying again" in caplog.messages


def test_the_same_failure_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    """A step that fails each time doesn't fill the log; another failure is said again."""
    failures = ["a", "a", "a", "b"]

    def step() -> float:
        if failures:
            raise RuntimeError(failures.pop(0))
        return 600.0

    work = Background("work", step)

    def woken() -> bool:
        work.wake()
        return not failures

    wait_for(woken, "all failures")
    assert work.close(10)
    assert len(caplog.records) == 2


def test_a_thread_that_hangs_is_not_waited_for_long() -> None:
    """Closing says that it didn't end."""
    release = threading.Event()

    def step() -> float:
        release.wait(60)
        return 1.0

    work = Background("work", step)
    assert not work.close(0.05)
    release.set()
    assert work.close(10)
