"""Counts of the last hour."""

from hypothesis import given
from hypothesis import strategies as st

from notifier.hour import MINUTE_NS, MINUTES, Hour


@given(
    st.lists(st.tuples(st.integers(0, 40 * MINUTE_NS), st.sampled_from(["a", "b"])), max_size=60),
    st.integers(0, 90 * MINUTE_NS),
)
def test_what_is_older_than_an_hour_does_not_count(
    events: list[tuple[int, str]], later_ns: int
) -> None:
    """Exact to the minute, and never more than 60 of them in memory."""
    hour, now_ns, happened = Hour(), 0, []
    for wait_ns, what in events:
        now_ns += wait_ns
        hour.add(now_ns, what)
        happened.append((now_ns // MINUTE_NS, what))
        assert len(hour.rows()) <= MINUTES
    now_ns += later_ns
    for what in ("a", "b"):
        recent = [one for one in happened if one[0] > now_ns // MINUTE_NS - MINUTES]
        assert hour.count(now_ns, what) == sum(kind == what for _, kind in recent)


def test_an_hour_survives_a_restart_and_what_is_no_row_does_not() -> None:
    """Also minutes that lie ahead are left out: the clock was set back meanwhile."""
    hour = Hour()
    hour.add(5 * MINUTE_NS, "a", 3)
    hour.add(7 * MINUTE_NS, "a", 2)
    recalled = Hour()
    recalled.recall([*hour.rows(), [99, {"a": 50}], "x", [1], None, [2, 7]], 8 * MINUTE_NS)
    assert recalled.count(8 * MINUTE_NS, "a") == 5
    assert recalled.count(65 * MINUTE_NS, "a") == 2
