"""`silences add`, `list` and `expire`."""

import pytest

from notifier.decisions import Journal


def test_a_silence_is_added_listed_and_ended(desk):
    """Written for the service to act on, seen by the next process, gone when it is ended."""
    desk.tell("order_rejected", labels={"symbol": "A", "engine": "swing"})
    desk.tell("order_rejected", labels={"symbol": "B", "engine": "intraday"})
    ended = desk.command("silences", "add", "rule=order_*", "engine=swing", "--for", "2h")
    assert ended.code == 0
    assert "matches now: order_rejected engine=swing symbol=A" in ended.out
    assert "symbol=B" not in ended.out
    [row] = desk.command("silences", "list", "--json").rows
    assert row["matchers"] == {"rule": "order_*", "engine": "swing"}
    assert len(row["alerts"]) == 1
    listed = desk.run("silences", "list").out
    assert "rule=order_* engine=swing" in listed
    assert "silenced by" in desk.run("alerts", "list").out
    assert desk.command("silences", "expire", row["id"][:6]).out.startswith("ended rule=order_*")
    assert desk.run("silences", "list", "--json").rows == []
    assert [d.kind for d in Journal(desk.journal).read_all()] == ["silence", "unsilence"]


def test_a_silence_may_begin_later(desk):
    """It is listed before it begins and holds nothing back until then."""
    desk.tell("a")
    ended = desk.run(
        "silences", "add", "rule=a", "--for", "1h", "--from", "2099-01-01T00:00:00Z", "--json"
    )
    assert ended.rows[0]["starts_at"] == "2099-01-01T00:00:00.000000Z"
    assert ended.rows[0]["ends_at"] == "2099-01-01T01:00:00.000000Z"
    assert len(desk.run("silences", "list", "--json").rows) == 1
    assert "silenced by" not in desk.run("alerts", "list").out


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["engine", "--for", "1h"], "engine: use label=pattern"),
        (["engine=", "--for", "1h"], "use label=pattern"),
        (["a=1", "a=2", "--for", "1h"], "a is given twice"),
        (["a=1", "--for", "100d"], "--for=100d: must be 1s to 90d"),
        (["a=1", "--for", "x"], "--for=x: use a number"),
        (["a=1"], "tickwatch silences add <label=pattern>... --for D"),
        (["a=1", "--for", "1h", "--from", "2020-01-01"], "it would be over already"),
    ],
)
def test_a_bad_silence_is_refused(desk, argv, text):
    """Exit code 2, one line, nothing written."""
    ended = desk.run("silences", "add", *argv)
    assert (ended.code, ended.out) == (2, "")
    assert text in ended.err
    assert not desk.journal.exists()


def test_ending_an_unknown_silence_names_those_there_are(desk):
    """Nothing is written."""
    assert "no such silence (silences: none)" in desk.run("silences", "expire", "abcd").err
    desk.run("silences", "add", "rule=a", "--for", "1h")
    ended = desk.run("silences", "expire", "zzzz")
    assert ended.code == 1
    assert "(rule=a)" in ended.err


def test_no_silences_says_how_to_add_one(desk):
    """On stderr."""
    ended = desk.run("silences", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "silences add --help" in ended.err
