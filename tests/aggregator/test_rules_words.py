"""Quantities and messages: what people write in rules and what they read in alerts."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.rules import message
from aggregator.rules.units import Level, duration, human, parse_duration_s, parse_level


@pytest.mark.parametrize(
    ("given", "unit", "expected"),
    [
        ("250us", "ms", 0.25),
        ("250 us", "us", 250.0),
        ("0.3ms", "us", 300.0),
        ("1.5s", "ms", 1500.0),
        ("2m", "s", 120.0),
        ("-4 %", "pct", -4.0),
        ("2%", "1", 0.02),
        ("1GiB", "MiB", 1024.0),
        ("5e3ns", "µs", 5.0),
        (7, "ms", 7.0),
        ("7", "anything", 7.0),
        ("7ms", "", 7.0),
    ],
)
def test_levels_are_converted_exactly(given: object, unit: str, expected: float) -> None:
    """No dust from binary fractions: 250us is a quarter of a millisecond."""
    assert parse_level(given).to(unit) == expected


def test_units_of_different_kinds_cannot_be_compared() -> None:
    """A time is no size, and a series in pieces is neither."""
    for unit in ("MB", "count", "%"):
        with pytest.raises(ValueError, match="250us can't be compared"):
            Level(250, "us").to(unit)


def test_durations_are_numbers_of_seconds_or_times() -> None:
    """30, "30s", "1.5m", "2h", "1d"."""
    given = (30, "30s", "1.5m", "2h", "1d")
    assert [parse_duration_s(each) for each in given] == [30, 30, 90, 7200, 86_400]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (812.3, "812"),
        (0.41234, "0.412"),
        (1904.4, "1,904"),
        (999.7, "1,000"),
        (123456.0, "123,456"),
        (-4.53, "-4.53"),
        (0.0, "0"),
        (0.00001234, "1.23e-05"),
        (float("inf"), "inf"),
    ],
)
def test_numbers_are_short(value: float, text: str) -> None:
    """As many digits as a glance takes in."""
    assert human(value) == text
    assert str(message.Number(value)) == text
    assert f"{message.Number(value)}" == text


def test_durations_are_short() -> None:
    """The largest unit that leaves a whole number."""
    assert [duration(each) for each in (45, 90, 300, 7200, 86_400, 0.5)] == [
        "45s",
        "90s",
        "5m",
        "2h",
        "1d",
        "0.5s",
    ]


def test_a_template_is_filled_in() -> None:
    """Formats of its own, short numbers without, labels, braces, and no holes in the line."""
    fields = {"value": message.Number(0.1234), "unit": "", "strategy": "mean"}
    template = "{{x}} {value:.1%} {value} {unit} of {strategy}\n{gone}"
    assert message.render(template, fields) == "{x} 12.3% 0.123 of mean -"


def test_a_format_that_does_not_fit_shows_the_value_as_it_is() -> None:
    """A label where a number was expected, or a width that would fill the memory."""
    assert message.render("{a:.1%} {b:999999999}", {"a": "text", "b": "x"}) == "text x"


def test_a_message_is_bounded() -> None:
    """A label of a megabyte doesn't make a message of one."""
    text = message.render("{a}", {"a": "x" * 10_000})
    assert len(text) == message.LONGEST


@given(st.text(max_size=40), st.dictionaries(st.text(max_size=8), st.text(max_size=20)))
def test_no_template_fails_at_run_time(template: str, fields: dict[str, str]) -> None:
    """Whatever it is, a text comes out."""
    assert isinstance(message.render(template, fields), str)
    assert isinstance(message.render("{value:" + template + "}", fields), str)
    list(message.problems(template, fields))
