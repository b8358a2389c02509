"""Keeping secrets out of texts."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.printable import printable
from notifier.secret import header_problem, header_secrets, hide, url_problem, url_secrets

secrets = st.text("abcXYZ0189", min_size=4, max_size=30)
around = st.text(" -/.:\n\0\x1b\u202e€💥", max_size=300)


@given(st.lists(secrets, min_size=1, max_size=4), around, around)
def test_a_hidden_secret_is_nowhere_in_the_line(hidden: list[str], before: str, after: str) -> None:
    """However it is surrounded, also by other secrets; and the line is short and printable."""
    line = hide(before + "".join(hidden) + after, hidden)
    assert not [secret for secret in hidden if secret in line]
    assert printable(line) == line
    assert len(line) <= 200


def test_a_secret_is_hidden_in_every_form() -> None:
    """As it is, percent-encoded and decoded."""
    assert hide("key p%40ssword p@ssword", ["p@ssword"]) == "key *** ***"
    assert hide("key p%40ssword p@ssword", ["p%40ssword"]) == "key *** ***"


def test_a_short_text_is_no_secret() -> None:
    """Hiding every ``a`` would only make the rest unreadable."""
    assert hide("a banana", ["a", ""]) == "a banana"


def test_long_text_is_cut_after_hiding() -> None:
    """Cutting first could leave half a secret."""
    assert hide("x" * 8 + "secret", ["secret"], limit=10) == "x" * 8 + "*…"


def test_all_of_a_url_that_may_be_secret_is_found() -> None:
    """Credentials, also as they are sent, path segments, query and fragment."""
    found = url_secrets(
        "https://us%40er:pa55word@h.test/hooks/T0000000/B111111111?key=k3yk3y#frag9"
    )
    basic = base64.b64encode(b"us@er:pa55word").decode()
    assert {"pa55word", "T0000000", "B111111111", "k3yk3y", "frag9", basic} <= found
    assert "hooks" not in found
    assert not {one for one in found if one in "https://h.test/hook"}
    assert url_secrets("http://[::1/secret") == {"http://[::1/secret"}
    assert url_secrets("http://h.test/hook") == {"http://h.test/hook"}


def test_a_header_is_secret_with_and_without_its_scheme() -> None:
    """An error page may repeat the token alone."""
    assert header_secrets({"A": "Bearer tok en", "B": "x"}) == {"Bearer tok en", "tok en", "x"}


@given(st.text(max_size=60))
def test_any_text_is_a_url_or_has_a_problem(text: str) -> None:
    """The check raises nothing and repeats nothing."""
    problem = url_problem(text)
    assert problem or text.startswith(("http", "HTTP")) or text.lower().startswith("http")
    assert printable(problem) == problem


@pytest.mark.parametrize("name", ["", "a b", "a:b", "ä", "a\r\nb", "a\x00"])
def test_a_header_name_is_a_token(name: str) -> None:
    """Nothing that could end the header."""
    assert header_problem(name, "x") == "has an invalid name"


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "\x00", " a", "a ", "€", "\x7f"])
def test_a_header_value_is_one_line(value: str) -> None:
    """Of what Latin-1 can carry."""
    assert header_problem("X", value) == "X has an invalid value"
    assert header_problem("X", "a\tb ü") == ""
