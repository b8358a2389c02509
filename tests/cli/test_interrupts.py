"""Signals end a wait, not the work between two waits."""

import signal
import time

import pytest

from cli import interrupts

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@pytest.fixture(autouse=True)
def _handlers():
    """The test process gets its own handlers back, whatever a test did to them."""
    before = {each: signal.getsignal(each) for each in SIGNALS}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_work_is_held_until_the_wait(number):
    """The work is finished, and the wait that follows isn't begun."""
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.only_while_waiting() as pause:
        signal.raise_signal(number)
        done.append("work")
        pause(done.append, 1.0)
    assert done == ["work"]


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_wait_ends_it_at_once(number):
    """Nobody waits for the rest of a second after Ctrl-C."""
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), interrupts.only_while_waiting() as pause:
        pause(time.sleep, 60.0)
    assert time.monotonic() - began < 30


def test_a_second_signal_interrupts_work():
    """Work that never comes to an end can be left all the same."""
    done = []
    with pytest.raises(KeyboardInterrupt), interrupts.only_while_waiting():
        signal.raise_signal(signal.SIGINT)
        done.append("held")
        signal.raise_signal(signal.SIGINT)
        done.append("never")
    assert done == ["held"]


def test_waits_without_a_signal_are_just_waits():
    """Each is called with its seconds, and work goes on behind it."""
    seconds = []
    with interrupts.only_while_waiting() as pause:
        pause(seconds.append, 0.5)
        pause(seconds.append, 1.5)
    assert seconds == [0.5, 1.5]


def test_a_signal_after_a_wait_is_held_again():
    """What counts is the moment, not whether there has been a wait before."""
    with pytest.raises(KeyboardInterrupt), interrupts.only_while_waiting() as pause:
        pause(lambda _: None, 0.0)
        signal.raise_signal(signal.SIGTERM)
        pause(lambda _: pytest.fail("waited"), 0.0)


def test_the_handlers_before_come_back():
    """After the work, and after its end by a signal or an error."""

    def own(number, frame):
        raise AssertionError

    for each in SIGNALS:
        signal.signal(each, own)
    with interrupts.only_while_waiting():
        assert all(signal.getsignal(each) != own for each in SIGNALS)
    with pytest.raises(ValueError, match="bug"), interrupts.only_while_waiting():
        raise ValueError("bug")
    assert [signal.getsignal(each) for each in SIGNALS] == [own, own]


def test_an_ignored_signal_stays_ignored():
    """`tickwatch watch &` in a script isn't ended by the Ctrl-C meant for another command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interrupts.only_while_waiting() as pause:
        signal.raise_signal(signal.SIGINT)
        pause(lambda _: None, 0.0)
