"""Trading hours: a calendar that is right over midnight, holidays and clock changes."""

import pickle
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rules.sessions import BEGINNING_NS, END_NS, Session

NS = 1_000_000_000
EVERY_DAY = frozenset(range(7))


def at(text: str, zone: str = "UTC") -> int:
    """Nanoseconds since the epoch of a local time such as 2026-03-29 09:15."""
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * NS


NSE = Session(
    "NSE",
    tz="Asia/Kolkata",
    open=time(9, 15),
    close=time(15, 30),
    holidays=frozenset({date(2026, 1, 26)}),
)


def test_the_session_is_open_from_its_opening_up_to_its_close() -> None:
    """Half-open: the opening instant is in, the closing instant is out."""
    opens, closes = at("2026-01-27 09:15", "Asia/Kolkata"), at("2026-01-27 15:30", "Asia/Kolkata")
    assert [NSE.is_open(ns) for ns in (opens - 1, opens, closes - 1, closes)] == [
        False,
        True,
        True,
        False,
    ]
    assert NSE.span(opens).start_ns == opens
    assert NSE.span(opens).end_ns == closes


def test_weekends_and_holidays_are_closed() -> None:
    """From Friday's close to Tuesday's opening if Monday is a holiday."""
    friday, tuesday = at("2026-01-23 15:30", "Asia/Kolkata"), at("2026-01-27 09:15", "Asia/Kolkata")
    noon = at("2026-01-26 12:00", "Asia/Kolkata")
    span = NSE.span(noon)
    assert (span.is_open, span.start_ns, span.end_ns) == (False, friday, tuesday)
    assert NSE.last_close(noon) == friday
    assert NSE.last_open(noon) == at("2026-01-23 09:15", "Asia/Kolkata")
    assert NSE.next_open(noon) == tuesday
    assert NSE.next_close(noon) == at("2026-01-27 15:30", "Asia/Kolkata")
    assert NSE.last_holiday == date(2026, 1, 26)


def test_in_an_open_session_the_neighbours_are_its_own_ends() -> None:
    """Last open and next close are those of today, last close and next open those beside it."""
    noon = at("2026-01-28 12:00", "Asia/Kolkata")
    assert NSE.last_open(noon) == at("2026-01-28 09:15", "Asia/Kolkata")
    assert NSE.next_close(noon) == at("2026-01-28 15:30", "Asia/Kolkata")
    assert NSE.last_close(noon) == at("2026-01-27 15:30", "Asia/Kolkata")
    assert NSE.next_open(noon) == at("2026-01-29 09:15", "Asia/Kolkata")


def test_a_session_over_midnight_belongs_to_the_day_on_which_it_opens() -> None:
    """Sunday to Friday from 18:00: open on Monday at 3 in the morning, closed on Saturday."""
    globex = Session(
        "GLOBEX",
        tz="America/Chicago",
        days=frozenset({6, 0, 1, 2, 3}),
        open=time(17, 0),
        close=time(16, 0),
        holidays=frozenset({date(2026, 7, 2)}),
    )
    assert globex.is_open(at("2026-06-29 03:00", "America/Chicago"))
    assert not globex.is_open(at("2026-06-29 16:30", "America/Chicago"))
    assert not globex.is_open(at("2026-06-27 12:00", "America/Chicago"))
    # The holiday is the day of the opening: Thursday evening is closed, Thursday morning isn't.
    assert globex.is_open(at("2026-07-02 03:00", "America/Chicago"))
    assert not globex.is_open(at("2026-07-02 18:00", "America/Chicago"))


@pytest.mark.parametrize(
    ("day", "hours"), [("2026-03-27", 8), ("2026-03-29", 7), ("2026-10-25", 9), ("2026-10-26", 8)]
)
def test_a_day_on_which_the_clocks_change_is_longer_or_shorter(day: str, hours: int) -> None:
    """00:00 to 08:00 in London has 7 hours in spring and 9 in autumn."""
    london = Session("L", tz="Europe/London", days=EVERY_DAY, open=time(0), close=time(8))
    span = london.span(at(f"{day} 06:00", "Europe/London"))
    assert span.end_ns - span.start_ns == hours * 3600 * NS


def test_an_opening_that_the_clocks_skip_is_taken_with_the_offset_before() -> None:
    """02:30 doesn't exist in Berlin on 29 March 2026: the session opens when it would have."""
    berlin = Session("B", tz="Europe/Berlin", days=EVERY_DAY, open=time(2, 30), close=time(9))
    assert berlin.next_open(at("2026-03-29 00:00", "Europe/Berlin")) == at("2026-03-29 01:30")


def test_a_session_without_a_close_in_sight_is_one_span() -> None:
    """Around the clock, every day: days that touch are one."""
    crypto = Session("CRYPTO", days=EVERY_DAY)
    span = crypto.span(at("2026-05-05 12:00"))
    assert (span.is_open, span.start_ns, span.end_ns) == (True, BEGINNING_NS, END_NS)
    assert crypto.next_close(at("2026-05-05 12:00")) is None
    assert crypto.next_open(at("2026-05-05 12:00")) is None
    assert crypto.last_open(at("2026-05-05 12:00")) is None
    assert crypto.last_close(at("2026-05-05 12:00")) is None


def test_days_that_touch_end_at_a_holiday() -> None:
    """Around the clock but for one day: open up to it, and again after it."""
    day = date(2026, 5, 9)
    session = Session("C", days=EVERY_DAY, holidays=frozenset({day}))
    noon = at("2026-05-05 12:00")
    assert session.next_close(noon) == at("2026-05-09 00:00")
    assert session.next_open(noon) == at("2026-05-10 00:00")
    assert session.last_close(at("2026-05-12 00:00")) == at("2026-05-09 00:00")


def test_a_session_that_never_opens_has_no_openings() -> None:
    """Only days that are all holidays: closed for ever, and no endless search."""
    never = Session("N", days=frozenset())
    noon = at("2026-05-05 12:00")
    assert never.span(noon) == never.span(noon + 10**18)
    assert (never.next_open(noon), never.last_open(noon)) == (None, None)
    assert (never.next_close(noon), never.last_close(noon)) == (None, None)


def test_sessions_can_be_handed_to_another_process() -> None:
    """Pickled and back, it is equal and answers the same."""
    again = pickle.loads(pickle.dumps(NSE))  # noqa: S301 (our own bytes)
    assert again == NSE
    assert again.is_open(at("2026-01-27 10:00", "Asia/Kolkata"))


TIMES = st.builds(time, st.integers(0, 23), st.sampled_from([0, 15, 30, 45]))


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["UTC", "Asia/Kolkata", "Europe/London", "America/New_York"]),
    st.frozensets(st.integers(0, 6)),
    TIMES,
    TIMES,
    st.frozensets(st.dates(date(2026, 3, 20), date(2026, 4, 5)), max_size=4),
)
def test_spans_agree_with_looking_at_every_quarter_of_an_hour(
    zone: str, days: frozenset[int], opens: time, closes: time, holidays: frozenset[date]
) -> None:
    """Over two weeks with clock changes the spans are exactly where a naive look at local times
    changes."""
    session = Session("S", zone, days, opens, closes, holidays)
    tz = ZoneInfo(zone)

    def naive(moment: datetime) -> bool:
        for back in (0, 1):
            day = (moment.astimezone(tz) - timedelta(days=back)).date()
            if day.weekday() not in days or day in holidays:
                continue
            last = day if closes > opens else day + timedelta(days=1)
            start = datetime.combine(day, opens, tz).timestamp()
            if start <= moment.timestamp() < datetime.combine(last, closes, tz).timestamp():
                return True
        return False

    moment = datetime(2026, 3, 22, tzinfo=UTC)
    for _ in range(14 * 96):
        ns = int(moment.timestamp()) * NS
        span = session.span(ns)
        assert span.is_open == session.is_open(ns) == naive(moment)
        assert span.start_ns <= ns < span.end_ns
        moment += timedelta(minutes=15)
