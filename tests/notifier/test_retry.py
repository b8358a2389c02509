"""Backoff, and whether a plugin may be tried."""

from hypothesis import given
from hypothesis import strategies as st

from notifier.retry import MAX_RETRY_AFTER_S, Gate, backoff_s

SECOND = 1_000_000_000


@given(
    attempt=st.integers(1, 10_000),
    base_s=st.floats(0.1, 10),
    factor=st.floats(1, 1000),
    luck=st.floats(0, 1, exclude_max=True),
)
def test_backoff_stays_within_base_and_cap(attempt, base_s, factor, luck):
    """Never more than the cap nor than the doubled base, never less than a tenth of the base."""
    cap_s = base_s * factor
    wait_s = backoff_s(attempt, base_s, cap_s, lambda: luck)
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 64))
    assert base_s / 10 <= wait_s <= ceiling <= cap_s


def test_backoff_doubles_up_to_the_cap():
    """With the same luck each wait is twice the one before, until the cap."""
    waits = [backoff_s(attempt, 1.0, 60.0, lambda: 0.5) for attempt in range(1, 10)]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_plugin_is_failing_after_its_fast_retries():
    """Four failures in a row with three fast retries; one success ends it."""
    gate = Gate(fast_retries=3)
    states = []
    for number in range(4):
        gate.failed(number * SECOND, "HTTP 503", random=lambda: 0.5)
        states.append(gate.failing)
    assert states == [False, False, False, True]
    gate.succeeded(9 * SECOND)
    assert (gate.failing, gate.down, gate.opens_at()) == (False, False, 0)


def test_a_refused_delivery_is_failing_but_not_down():
    """The other side is there; only this one can't be delivered."""
    gate = Gate()
    gate.refused(SECOND, "HTTP 404")
    assert (gate.failing, gate.down, gate.last_error) == (True, False, "HTTP 404")


@given(
    failures=st.integers(1, 50),
    luck=st.floats(0, 1, exclude_max=True),
    retry_after_s=st.one_of(st.none(), st.floats(-5, 1e6)),
)
def test_a_plugin_that_is_down_is_probed_within_five_seconds(failures, luck, retry_after_s):
    """Unless it asked for time, and then for no longer than the limit."""
    gate = Gate()
    for _ in range(failures):
        gate.failed(0, "x", random=lambda: luck, retry_after_s=retry_after_s)
    held_s = 0.0 if retry_after_s is None else min(max(0.0, retry_after_s), MAX_RETRY_AFTER_S)
    limit_ns = round(max(5.0, held_s) * SECOND)
    assert gate.opens_at() <= limit_ns
    assert gate.probe_at() <= limit_ns
    assert gate.hold_ns == round(held_s * SECOND)
