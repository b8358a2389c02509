"""Who leaves next, and how many at once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.alert import Severity
from notifier.delivery import Delivery
from notifier.storm import Bucket, Outbox

SECOND = 1_000_000_000


def delivery(name, severity=Severity.WARNING, next_s=0, created_s=0):
    return Delivery(
        name, "alert", "desk", "firing", "fired", severity, 1, True,
        created_s * SECOND, round(next_s * SECOND), 10**18, "{}",
    )  # fmt: skip


@given(
    waits=st.lists(st.integers(0, 3 * SECOND), max_size=200),
    rate=st.floats(0.1, 50),
    burst=st.integers(1, 20),
)
def test_no_more_leave_than_burst_and_rate_allow(waits, rate, burst):
    """In any stretch of time; and what may leave does."""
    bucket, now, taken = Bucket(rate, burst), 0, 0
    for wait in waits:
        now += wait
        if bucket.next_ns(now) <= now:
            bucket.take(now)
            taken += 1
    assert taken <= burst + rate * now / SECOND + 1e-6
    assert bucket.next_ns(now) <= now + SECOND / rate + 2


def test_a_clock_that_goes_back_gives_no_tokens():
    """Nor does it take any."""
    bucket = Bucket(1.0, 2)
    bucket.take(100 * SECOND)
    assert bucket.level(50 * SECOND) == 1.0


def test_the_worst_leave_first_in_their_order():
    """Critical before warning before info."""
    outbox = Outbox()
    for name, severity in (("i", 1), ("w", 2), ("c1", 3), ("c2", 3)):
        outbox.add(delivery(name, Severity(severity)), 0)
    order = []
    while (severity := outbox.severity(0, SECOND)) is not None:
        [first] = outbox.first(severity)
        order.append(first.id)
        outbox.discard(first)
    assert order == ["c1", "c2", "w", "i"]


def test_a_lesser_one_that_waited_long_has_its_turn():
    """Critical alerts that never end must not keep a warning from being told at all."""
    outbox = Outbox()
    outbox.add(delivery("w", next_s=0), 0)
    outbox.add(delivery("c", Severity.CRITICAL, next_s=9), 9 * SECOND)
    assert outbox.severity(9 * SECOND, 10 * SECOND) == Severity.CRITICAL
    assert outbox.severity(10 * SECOND + 1, 10 * SECOND) == Severity.WARNING


def test_whoever_waits_is_ready_at_its_time():
    """And not before; the soonest is known."""
    outbox = Outbox()
    for name, at_s in (("b", 2), ("a", 1), ("c", 3)):
        outbox.add(delivery(name, next_s=at_s), 0)
    assert (outbox.soonest().id, outbox.next_ns(), len(outbox)) == ("a", SECOND, 3)
    outbox.wake(2 * SECOND)
    assert [one.id for one in outbox.first(Severity.WARNING, 9)] == ["a", "b"]
    assert {one.id for one in outbox.all()} == {"a", "b", "c"}


def test_release_lets_nobody_wait_longer():
    """After an outage the waits that it caused are over."""
    outbox = Outbox()
    outbox.add(delivery("a", next_s=60), 0)
    outbox.add(delivery("b", next_s=1), 0)
    outbox.release(2 * SECOND)
    outbox.wake(2 * SECOND)
    assert outbox.ready(Severity.WARNING) == 2


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "discard", "wake", "release"]),
            st.integers(0, 5),
            st.integers(0, 20),
        ),
        max_size=60,
    )
)
def test_nothing_that_waits_is_forgotten(moves):
    """Whatever is added is there until it is discarded, once."""
    outbox, there, now = Outbox(), {}, 0
    for move, number, seconds in moves:
        now += seconds * SECOND // 4
        if move == "add" and number not in there:
            there[number] = delivery(str(number), next_s=now / SECOND + seconds - 5)
            outbox.add(there[number], now)
        elif move == "discard" and number in there:
            outbox.discard(there.pop(number))
        elif move == "wake":
            outbox.wake(now)
        else:
            outbox.release(now)
        assert sorted(one.id for one in outbox.all()) == sorted(map(str, there))
        assert len(outbox) == len(there)
    outbox.wake(10**18)
    assert outbox.ready(Severity.WARNING) == len(there)
    assert outbox.next_ns() is None


@pytest.mark.parametrize("severity", list(Severity))
def test_an_empty_outbox_has_nobody(severity):
    """Asking is always allowed."""
    outbox = Outbox()
    assert outbox.severity(0, 0) is None
    assert outbox.first(severity) == []
    assert outbox.soonest() is None
