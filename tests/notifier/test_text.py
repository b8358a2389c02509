"""The words of a message."""

import math
import time
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import text
from notifier.plugin import Message
from notifier.printable import printable
from tests.messages import message, messages, row

SINCE = "11:40:03 IST"


@pytest.fixture(autouse=True)
def india(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The desk's own time zone."""
    monkeypatch.setenv("TZ", "Asia/Kolkata")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def test_a_firing_alert_fits_a_phone() -> None:
    """Subject: severity, name, value against threshold; then where, since when and how bad."""
    said = "order_latency p99 812 ms > 250 ms (avg 31, p99 812, max 1,904 in 1 min)"
    composed = text.compose(message(evidence=((2, 1904.2), (1, 1500.0)), alert=row(message=said)))
    assert composed.lines == (
        "CRITICAL order_latency p99 812 ms > 250 ms",
        f"intraday mean_reversion · since {SINCE} · worst 1,904 ms",
        said,
        "then 1,500 ms",
    )


def test_without_words_of_the_rule_value_and_threshold_are_the_subject() -> None:
    """And its words stand below when they begin otherwise."""
    lines = text.lines(message())
    assert lines[0] == "CRITICAL order_latency 812 ms > 250 ms"
    assert lines[2] == "avg 31 ms, p99 812 ms, max 1,904 ms"
    assert len(text.lines(message(alert=row(message="")))) == 2


def test_what_is_frozen_is_told_as_it_was_frozen() -> None:
    """Text is composed once, when the delivery is made; later changes don't reach it."""
    composed = text.compose(message())
    assert (
        text.lines(Message("firing", row(value=1.0), "d", lines=composed.lines)) == composed.lines
    )


def test_a_resolved_alert_says_how_long_it_lasted() -> None:
    """A resolution names the severity that is over and both times."""
    ended = row(state="resolved", resolved_at="2026-01-30T06:22:10.000000Z")
    lines = text.lines(message("resolved", alert=ended, note="fired, resolved"))
    assert lines[0] == "RESOLVED order_latency after 12 min (was CRITICAL)"
    assert lines[1] == f"intraday mean_reversion · {SINCE} to 11:52:10 IST"
    assert lines[-1] == "fired, resolved"


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        ("2026-01-30T06:10:04.000000Z", "after 0 s"),
        ("2026-01-30T06:12:02.000000Z", "after 118 s"),
        ("2026-01-30T08:40:03.000000Z", "after 2 h"),
        ("2026-02-03T08:40:03.000000Z", "after 4 d"),
        ("2026-01-30T06:10:00.000000Z", "after 0 s"),  # a clock was set back
    ],
)
def test_durations_are_rounded_down_to_a_unit(ended: str, words: str) -> None:
    """Whole units, never a negative time."""
    line = text.subject(message("resolved", alert=row(state="resolved", resolved_at=ended)))
    assert words in line


def test_a_repeat_says_that_it_is_one() -> None:
    """Someone who reads only the subject sees that nothing new fired."""
    lines = text.lines(message(repeat=2, alert=row(count=1234)))
    assert lines[0].startswith("STILL CRITICAL order_latency")
    assert "repeat 2, seen 1,234 times" in lines


def test_a_note_is_the_last_line() -> None:
    """Who had acknowledged stands in the message that breaks through."""
    assert text.lines(message(note="was acknowledged by asha"))[-1] == "was acknowledged by asha"


def test_a_free_text_alert_tells_its_message() -> None:
    """Without a value the engine's own words are the subject, once."""
    alert = row(rule="order_rejected", labels={"engine": "x"}, value=None, threshold=None, unit="")
    lines = text.lines(message(alert={**alert, "message": "RMS says no"}))
    assert lines[0] == "CRITICAL order_rejected: RMS says no"
    assert "RMS says no" not in lines[1:]
    assert text.lines(message(alert={**alert, "message": ""}))[0] == "CRITICAL order_rejected"


@pytest.mark.parametrize(
    ("rule", "value", "threshold", "said"),
    [
        ("circuit_breaker_triggered", 1.0, 0.0, "circuit breaker triggered"),
        ("position_limit_breached", 12.0, 10.0, "12 positions, limit 10"),
        ("feed_stale", 31.0, 30.0, "no tick for 31 s while NSE is open"),
    ],
)
def test_a_number_without_a_unit_gives_way_to_words(
    rule: str, value: float, threshold: float, said: str
) -> None:
    """``12 > 10`` alone tells nobody what there is too much of."""
    alert = row(rule=rule, labels={}, value=value, threshold=threshold, unit="", message=said)
    assert text.lines(message(alert=alert))[0] == f"CRITICAL {rule}: {said}"
    bare = text.lines(message(alert={**alert, "message": ""}))[0]
    assert bare == f"CRITICAL {rule} {value:g} > {threshold:g}"


@pytest.mark.parametrize(
    ("value", "threshold", "words"),
    [
        (-4.5, -4.0, "-4.5 % < -4 %"),
        (4.0, 4.0, "4 % (limit 4 %)"),
        (1000.4, 1000.0, "1,000.4 % > 1,000 %"),
        (5.0, None, "order_latency 5 %"),
    ],
)
def test_value_and_threshold_can_always_be_told_apart(
    value: float, threshold: float | None, words: str
) -> None:
    """Rounding never makes a breach look like none."""
    line = text.subject(message(alert=row(value=value, threshold=threshold, unit="%")))
    assert line.endswith(words)


def test_a_value_that_is_back_below_the_threshold_is_no_breach() -> None:
    """While hysteresis holds an alert, the newest value may be on the good side of the level."""
    line = text.subject(message(alert=row(value=200.0), evidence=((1, 900.0),)))
    assert line.endswith("order_latency 200 ms (limit 250 ms)")


def test_an_alert_of_another_day_has_its_date() -> None:
    """``since 11:40:03`` alone would mean today."""
    later = row(last_seen_at="2026-01-31T06:10:03.000000Z")
    assert "since 30 Jan 11:40:03 IST" in text.body(message(alert=later))[0]


def test_a_digest_counts_exactly() -> None:
    """Counts add up to the members, whatever is left unnamed."""
    members = tuple(
        row(
            rule=f"rule_{number % 11}",
            labels={"engine": "intraday", "symbol": str(number)},
            severity="critical" if number == 4999 else "warning",
            state="resolved" if number % 5 == 0 else "firing",
        )
        for number in range(5000)
    )
    lines = text.lines(message("digest", alert=members[0], members=members))
    assert lines[0].startswith("CRITICAL 5,000 alerts: rule_0 455")
    assert lines[1] == f"4,000 firing, 1,000 resolved · first {SINCE} · last {SINCE}"
    counts = [int(part.rsplit(" ", 1)[1].replace(",", "")) for part in lines[2].split(", ")]
    assert sum(counts) == 5000
    assert lines[3].startswith("CRITICAL rule_5 812 ms > 250 ms · intraday 4999")
    assert lines[-1] == "and 4,995 more"


def test_a_digest_of_resolved_alerts_says_so() -> None:
    """When nothing fires any more, the subject is no alarm."""
    members = (
        row(state="resolved", resolved_at="2026-01-30T06:22:10.000000Z"),
        row(state="resolved"),
    )
    lines = text.lines(message("digest", alert=members[0], members=members))
    assert lines[0] == "RESOLVED 2 alerts: performance_degradation 2"
    assert lines[2].endswith("resolved")


def test_a_test_message_is_marked() -> None:
    """Nobody gets up for a test."""
    lines = text.lines(message("test", alert=row(message="sent by asha"), note="health --send"))
    assert lines[0] == "TEST sent by asha"
    assert "no action is needed" in lines[1]


def test_a_row_without_anything_still_has_words() -> None:
    """A message is never lost for lack of a field."""
    assert text.lines(Message("firing", {"severity": "odd"}, "d"))[0] == "ODD alert"
    assert text.lines(Message("digest", {}, "d"))[0].startswith("RESOLVED 0 alerts")
    assert text.summarise([{"severity": "odd"}]).severity == "odd"
    assert text.lines(Message("firing", {}, "d", lines=("", " "))) == ("alert",)


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1904.3, "1,904"),
        (31.27, "31.3"),
        (0.0412, "0.0412"),
        (9.999, "10"),
        (250.0, "250"),
        (-125_034.5, "-125,034"),
        (1e-9, "1.00e-09"),
        (1e18, "1.00e+18"),
        (math.nan, "nan"),
        (12_345, "12,345"),
    ],
)
def test_numbers_have_separators_and_three_digits(value: float, words: str) -> None:
    """What a person can read at a glance."""
    assert text.number(value) == words


@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_different_numbers_look_different(value: float, threshold: float) -> None:
    """However close they are."""
    first, second = text.pair(value, threshold)
    assert (first != second) == (value != threshold)


@given(messages())
def test_any_text_gives_bounded_printable_lines(made: Message) -> None:
    """No control character, line break or direction override of a label gets through."""
    lines = text.lines(made)
    assert lines and all(lines)
    assert all(printable(line) == line for line in lines)
    assert all(len(line) <= text.LINE_CHARACTERS for line in lines)
    assert len(text.subject(made)) <= text.SUBJECT_CHARACTERS
    assert len(lines) <= 12
    assert text.compose(made).lines[0] == text.subject(made)
