"""Trading hours: when a session is open, and when it next opens or closes.

A calendar and nothing else: no clock, no files.  Hours are local times of a time zone, so a day may
have 23 or 25 hours; an open span is half-open, [open, close), in nanoseconds since the epoch.  A
session that closes at or before its opening time runs over midnight, and belongs to the day on
which it opens: days and holidays are judged by that date.
"""

from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from zoneinfo import ZoneInfo

from aggregator.rules.units import NS_PER_S

DAY_NAMES = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
# A session that hasn't opened for so long isn't going to, and one that was open throughout is never
# closed.
_HORIZON_DAYS = 400


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of time in which a session is open, or closed, throughout."""

    is_open: bool
    start_ns: int
    end_ns: int


# Beyond every time there is: the ends of spans that the calendar doesn't bound.
BEGINNING_NS = -(1 << 62)
END_NS = 1 << 62


@dataclass(frozen=True, slots=True)
class Session:
    """One session.

    ``days`` holds weekdays, 0 = Monday.  ``close`` at or before ``open`` means the next day; equal
    means 24 hours.  ``engines`` are the rings expected to be written while it is open.
    """

    name: str
    tz: str = "UTC"
    days: frozenset[int] = frozenset(range(5))
    open: time = time(0, 0)
    close: time = time(0, 0)
    holidays: frozenset[date] = frozenset()
    engines: tuple[str, ...] = ()
    _zone: ZoneInfo = field(init=False, repr=False, compare=False)
    _known: list[Span] = field(init=False, repr=False, compare=False, default_factory=list)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_zone", ZoneInfo(self.tz))

    def is_open(self, at_ns: int) -> bool:
        """Whether the session is open at *at_ns*."""
        return self.span(at_ns).is_open

    def span(self, at_ns: int) -> Span:
        """The open or closed stretch around *at_ns*; open days that touch are one stretch."""
        for span in self._known:  # the newest one answers nearly every question
            if span.start_ns <= at_ns < span.end_ns:
                return span
        span = self._span(at_ns)
        self._known[:] = [span]
        return span

    def next_open(self, at_ns: int) -> int | None:
        """The first opening after *at_ns*, or None if there is none in the next 400 days.

        A day that opens as the one before it closes doesn't count: the session just stays open.
        """
        today = self._date(at_ns)
        for offset in range(-1, _HORIZON_DAYS):
            day = today + timedelta(days=offset)
            hours = self._hours(day)
            if hours is not None and hours[0] > at_ns and not self._touches_before(day, hours[0]):
                return hours[0]
        return None

    def next_close(self, at_ns: int) -> int | None:
        """The first close after *at_ns*, or None if there is none in sight."""
        span = self.span(at_ns)
        if not span.is_open:
            if span.end_ns == END_NS:
                return None
            span = self.span(span.end_ns)
        return None if span.end_ns == END_NS else span.end_ns

    def last_open(self, at_ns: int) -> int | None:
        """The last opening at or before *at_ns*, or None without one in the 400 days before."""
        span = self.span(at_ns)
        if not span.is_open:
            if span.start_ns == BEGINNING_NS:
                return None
            span = self.span(span.start_ns - 1)
        return None if span.start_ns == BEGINNING_NS else span.start_ns

    def last_close(self, at_ns: int) -> int | None:
        """The last close at or before *at_ns*, or None if there was none in the 400 days before."""
        span = self.span(at_ns)
        if span.is_open:
            if span.start_ns == BEGINNING_NS:
                return None
            span = self.span(span.start_ns - 1)
        return None if span.start_ns == BEGINNING_NS else span.start_ns

    @property
    def last_holiday(self) -> date | None:
        """The last holiday that is listed: a calendar that ends in the past is out of date."""
        return max(self.holidays, default=None)

    def _span(self, at_ns: int) -> Span:
        today = self._date(at_ns)
        closed_since_ns = BEGINNING_NS
        for offset in (-1, 0, 1):
            hours = self._hours(today + timedelta(days=offset))
            if hours is None:
                continue
            if hours[0] <= at_ns < hours[1]:
                return self._joined(hours, today + timedelta(days=offset))
            if hours[1] <= at_ns:
                closed_since_ns = hours[1]
        if closed_since_ns == BEGINNING_NS:
            closed_since_ns = self._closed_before(at_ns, today)
        opens_ns = self.next_open(at_ns)
        return Span(False, closed_since_ns, END_NS if opens_ns is None else opens_ns)

    def _date(self, at_ns: int) -> date:
        return datetime.fromtimestamp(at_ns // NS_PER_S, self._zone).date()

    def _hours(self, day: date) -> tuple[int, int] | None:
        """Open and close of the session of *day*, or None if it has none."""
        if day.weekday() not in self.days or day in self.holidays:
            return None
        last = day if self.close > self.open else day + timedelta(days=1)
        opens_ns, closes_ns = self._ns(day, self.open), self._ns(last, self.close)
        return (opens_ns, closes_ns) if opens_ns < closes_ns else None

    def _ns(self, day: date, at: time) -> int:
        # A local time that a clock change skips is taken with the offset before it, one that comes
        # twice as the first.
        return int(datetime.combine(day, at, self._zone).timestamp()) * NS_PER_S

    def _joined(self, hours: tuple[int, int], day: date) -> Span:
        start_ns, end_ns = hours
        for offset in range(1, _HORIZON_DAYS + 1):
            before = self._hours(day - timedelta(days=offset))
            if before is None or before[1] < start_ns:
                break
            start_ns = before[0]
        else:
            start_ns = BEGINNING_NS
        for offset in range(1, _HORIZON_DAYS + 1):
            after = self._hours(day + timedelta(days=offset))
            if after is None or after[0] > end_ns:
                break
            end_ns = after[1]
        else:
            end_ns = END_NS
        return Span(True, start_ns, end_ns)

    def _touches_before(self, day: date, opens_ns: int) -> bool:
        before = self._hours(day - timedelta(days=1))
        return before is not None and before[1] >= opens_ns

    def _closed_before(self, at_ns: int, today: date) -> int:
        for offset in range(_HORIZON_DAYS):
            hours = self._hours(today - timedelta(days=offset))
            if hours is not None and hours[1] <= at_ns:
                return hours[1]
        return BEGINNING_NS
