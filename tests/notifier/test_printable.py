"""Text from outside can't act on what shows it."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.printable import printable


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("order_latency p99 812 ms", "order_latency p99 812 ms"),
        ("पैसा · 31 µs ≥ 5 €", "पैसा · 31 µs ≥ 5 €"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("\x9b31m", "\\x9b31m"),
        ("Subject\r\nBcc: x", "Subject\\x0d\\x0aBcc: x"),
        ("a\u202eb", "a\\u202eb"),
        ("a\u2028b\u0085c", "a\\u2028b\\x85c"),
        ("\U000e0041", "\\U000e0041"),
        ("\ud800", "\\ud800"),
        ("", ""),
    ],
)
def test_what_could_act_on_a_display_is_written_as_its_escape(text: str, shown: str) -> None:
    """Escape sequences, line breaks, direction overrides and tags lose their effect."""
    assert printable(text) == shown


@given(st.text(st.characters()))
def test_every_text_becomes_one_line_that_can_be_encoded(text: str) -> None:
    """Whatever comes in, what comes out has no control, format or surrogate character."""
    shown = printable(text)
    assert len(shown.splitlines()) <= 1
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in shown)
    shown.encode()


@given(st.text())
def test_showing_twice_shows_the_same(text: str) -> None:
    """Text that passed once is ordinary text and passes unchanged."""
    assert printable(printable(text)) == printable(text)
