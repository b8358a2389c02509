"""Durations, points in time and ranges, as operators write and read them."""

import time

import pytest

from cli import times
from cli.problems import UsageError


@pytest.fixture
def kolkata(monkeypatch):
    """The local zone of the test: five and a half hours before UTC, no daylight saving."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1h", 3600), ("2d", 172_800), ("1h30m", 5400), ("1.5h", 5400)],
)
def test_durations_are_numbers_with_units(text, seconds):
    """Every unit, fractions, and sums of them."""
    assert times.duration_s(text, "--ttl") == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "7x", "-5m", "5 m", "5m ", "1e3s", "5min"])
def test_a_bad_duration_says_what_is_allowed(text):
    """The message names option, value and form."""
    with pytest.raises(UsageError, match=r"--ttl=.*: use a number and s, m, h or d"):
        times.duration_s(text, "--ttl")


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "x", "", "1e9"])
def test_hours_are_positive_numbers(text):
    """Nothing else is taken for a number of hours."""
    with pytest.raises(UsageError, match="--hours="):
        times.hours_s(text)


def test_hours_may_be_fractions():
    """Half an hour is a range like any other."""
    assert times.hours_s("0.5") == 1800


def test_a_time_without_an_offset_is_local_or_utc_as_asked(kolkata):
    """09:15 in Kolkata is 03:45 UTC."""
    at = 1_769_831_100 * times.NS
    assert times.time_ns("2026-01-31T03:45:00Z", "--from") == at
    assert times.time_ns("2026-01-31 09:15", "--from") == at
    assert times.time_ns("2026-01-31 03:45", "--from", utc=True) == at
    assert times.time_ns("2026-01-31T03:45:00.000250+00:00", "--from") == at + 250_000


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "12", "9999999"])
def test_a_bad_time_says_what_is_allowed(text):
    """The message shows the form."""
    with pytest.raises(UsageError, match=r"--to=.*such as 2026-01-31T09:15:00\+05:30"):
        times.time_ns(text, "--to")


def test_times_are_shown_local_with_their_offset(kolkata):
    """People read their own clock and can tell which one it is."""
    at = 1_769_831_100 * times.NS + 250_000_000
    assert times.show_ns(at) == "2026-01-31 09:15:00+05:30"
    assert times.show_ns(at, utc=True) == "2026-01-31 03:45:00Z"
    assert times.show_ns(at, precision="minutes") == "2026-01-31 09:15+05:30"
    assert times.show_ns(at, precision="milliseconds", utc=True) == "2026-01-31 03:45:00.250Z"
    assert times.show_ns(None) == "-"
    assert times.show_s(at / times.NS, utc=True) == "2026-01-31 03:45:00Z"


def test_what_is_shown_can_be_given_back(kolkata):
    """An operator copies a time from one command into another."""
    at = 1_769_831_103 * times.NS
    assert times.time_ns(times.show_ns(at), "--at") == at
    assert times.time_ns(times.show_ns(at, utc=True), "--at") == at


def test_without_options_the_range_is_the_day_that_ends_at_the_newest_record():
    """Whole seconds, half open."""
    assert times.span_s({}, 1_000_000) == (1_000_000 - 86_400, 1_000_000)
    assert times.span_s({"--hours": "2"}, 1_000_000) == (1_000_000 - 7200, 1_000_000)


def test_from_and_to_name_the_range():
    """Either may be left out."""
    args = {"--from": "1970-01-02T00:00:00Z", "--to": "1970-01-03T00:00:00Z"}
    assert times.span_s(args, 5) == (86_400, 172_800)
    assert times.span_s({"--from": "1970-01-02T00:00:00Z"}, 200_000) == (86_400, 200_000)
    assert times.span_s({"--to": "1970-01-03T00:00:00Z"}, 5) == (86_400, 172_800)


@pytest.mark.parametrize(
    "args",
    [
        {"--hours": "1", "--from": "1970-01-02T00:00:00Z"},
        {"--from": "1970-01-03T00:00:00Z", "--to": "1970-01-02T00:00:00Z"},
        {"--from": "1970-01-03T00:00:00Z"},
    ],
)
def test_a_contradictory_range_is_refused(args):
    """Two kinds of range at once, an end before the start, a start after everything."""
    with pytest.raises(UsageError):
        times.span_s(args, 1000)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.012, "12 ms"),
        (3, "3 s"),
        (5.83, "5.8 s"),
        (59.9, "59 s"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (15_120, "4 h 12 min"),
        (200_000, "2 d 7 h"),
        (-61, "-1 min 1 s"),
    ],
)
def test_durations_are_spoken_in_two_units_at_most(seconds, text):
    """Short enough for a table, exact enough to act on."""
    assert times.spoken(seconds) == text
