"""`deliveries list` and `retry`, and `alerts show`, on a ledger that a real notifier wrote."""

import json
import os
import time

import pytest

from notifier.alert import Kind, Severity
from notifier.decisions import Journal
from tests.cli.conftest import SECOND_NS


def test_deliveries_are_listed_with_their_ends(desk):
    """What was told, what is tried again and when, what is dead and why."""
    desk.tell("connection_lost")
    desk.notify(webhook="", slack="again: HTTP 503", email="550 no such user")
    rows = desk.command("deliveries", "list", "--json").rows
    assert {row["plugin"]: row["state"] for row in rows} == {
        "webhook": "delivered",
        "slack": "pending",
        "email": "dead",
    }
    out = desk.run("deliveries", "list").out
    assert "550 no such user" in out
    assert "next try 20" in out and "HTTP 503" in out
    assert "connection_lost" in out and "engine=intraday" in out
    assert len(desk.run("deliveries", "list", "--state", "dead", "--json").rows) == 1
    assert len(desk.run("deliveries", "list", "--limit", "2", "--json").rows) == 2


def test_without_a_ledger_nothing_was_delivered(desk):
    """An empty list, not an error: the service may just have started."""
    ended = desk.run("deliveries", "list")
    assert (ended.code, ended.out) == (0, "")
    assert "no delivery yet" in ended.err
    assert desk.run("deliveries", "list", "--json").rows == []


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--state", "ded"], "use pending, delivered, dead, skipped; did you mean dead?"),
        (["--limit", "0"], "--limit=0: use a whole number, 1 to 100,000"),
        (["--limit", "x"], "--limit=x"),
    ],
)
def test_bad_filters_are_refused(desk, options, text):
    """Exit code 2 and what is allowed."""
    ended = desk.run("deliveries", "list", *options)
    assert ended.code == 2
    assert text in ended.err


def test_a_dead_delivery_can_be_retried(desk):
    """The decision names the delivery; the notifier does the rest."""
    desk.tell("connection_lost")
    desk.notify(email="550 no such user")
    [dead] = desk.run("deliveries", "list", "--json").rows
    ended = desk.command("deliveries", "retry", dead["id"][:8])
    assert ended.code == 0
    assert "email will be tried again" in ended.out
    [decision] = Journal(desk.journal).read_all()
    assert (decision.kind, decision.delivery) == ("retry", dead["id"])
    desk.notify(email="")
    [row] = desk.run("deliveries", "list", "--json").rows
    assert (row["id"], row["state"]) == (dead["id"], "delivered")


def test_only_dead_deliveries_can_be_retried(desk):
    """Others are named, nothing is written."""
    assert desk.run("deliveries", "retry", "abcd").code == 1
    desk.tell("connection_lost")
    desk.notify(webhook="", email="550 no such user")
    ids = {row["plugin"]: row["id"] for row in desk.run("deliveries", "list", "--json").rows}
    assert "is delivered" in desk.run("deliveries", "retry", ids["webhook"]).err
    ended = desk.run("deliveries", "retry", "zzzzzz")
    assert f"(dead ones: {ids['email'][:8]} (email))" in ended.err
    assert not desk.journal.exists()


def test_an_alert_is_shown_with_its_whole_story(desk):
    """Transitions, deliveries and decisions in the order of their time, who was told, evidence."""
    fired = desk.tell(
        "order_latency",
        ago_s=100,
        severity=Severity.WARNING,
        value=400.0,
        threshold=250.0,
        unit="ms",
        evidence=((1_700_000_000 * SECOND_NS, 1904.0),),
    )
    desk.notify(webhook="again: HTTP 503")
    desk.notify(webhook="", later_s=30)
    desk.run("alerts", "ack", "order_latency", "--reason", "known")
    desk.run("silences", "add", "rule=order_*", "--for", "1h")
    desk.run("silences", "add", "rule=other", "--for", "1h")
    desk.tell("order_latency", Kind.SEVERITY, Severity.CRITICAL, value=900.0, unit="ms")
    desk.run("alerts", "clear", "order_latency")
    [row] = desk.command("alerts", "show", fired.id[:6], "--json").rows
    assert row["id"] == fired.id
    assert [event["event"] for event in row["timeline"]] == [
        "fired", "delivery", "ack", "silence", "severity", "clear",
    ]  # fmt: skip
    assert (row["told"][0]["plugin"], row["told"][0]["state"]) == ("webhook", "firing")
    assert row["evidence"] == [{"at": "2023-11-14T22:13:20.000000Z", "value": 1904.0}]
    out = desk.run("alerts", "show", fired.id[:6], "--utc").out
    for text in (
        "critical order_latency engine=intraday",
        "900 ms (limit 250)",
        "webhook delivered (fired) after 3 attempts",
        "by asha",
        "known",
        "firing warning",
        "2023-11-14 22:13:20.000Z",
        "1,904 ms",
        f"id {fired.id}",
    ):
        assert text in out


def test_a_resolved_alert_can_be_shown(desk):
    """By its id, also when nothing but the log is left; decisions of later days aren't its own."""
    fired = desk.tell("a", ago_s=9000)
    desk.tell("a", Kind.RESOLVED, ago_s=8000, message="back")
    desk.run("silences", "add", "rule=a", "--for", "1h")
    [row] = desk.run("alerts", "show", fired.id, "--json").rows
    assert (row["state"], len(row["timeline"])) == ("resolved", 2)
    assert "for 16 min 40 s" in desk.run("alerts", "show", fired.id).out


def test_an_alert_that_is_not_there_or_not_unique_is_an_error(desk):
    """A rule's name will do if it means one alert."""
    assert desk.run("alerts", "show", "abcd").code == 1
    desk.tell("a", labels={"symbol": "A"})
    assert desk.run("alerts", "show", "a").code == 0
    desk.tell("a", labels={"symbol": "B"})
    ended = desk.run("alerts", "show", "a")
    assert ended.code == 1
    assert "means 2 alerts" in ended.err and "symbol=B" in ended.err


def test_what_the_ledger_has_and_the_log_adds_is_one(desk):
    """Lines beyond the notifier's position are folded onto its alerts; nothing counts twice."""
    fired = desk.tell("a", value=1.0)
    desk.notify()
    desk.tell("a", Kind.UPDATE, value=5.0, count=3)
    desk.tell("b")
    rows = desk.command("alerts", "list", "--json").rows
    assert {row["rule"]: (row["value"], row["count"]) for row in rows} == {
        "a": (5.0, 3),
        "b": (None, 1),
    }
    assert {row["id"] for row in rows if row["rule"] == "a"} == {fired.id}
    desk.notify()
    assert desk.command("alerts", "list", "--json").rows == rows


def test_a_ledger_of_another_version_is_named(desk):
    """With what to do, on every command that reads it."""
    import sqlite3

    desk.notify()
    with sqlite3.connect(desk.data_dir / "alerts.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    os.utime(desk.data_dir / "alerts.db", (time.time() - 60,) * 2)  # nobody is just creating it
    for argv in (["alerts", "list"], ["deliveries", "list"]):
        ended = desk.run(*argv)
        assert ended.code == 1
        assert "schema version 99" in ended.err


def test_deliveries_are_json_rows(desk):
    """One object a delivery; the payload isn't in it."""
    desk.tell("a")
    desk.notify(webhook="")
    out = desk.run("deliveries", "list", "--json").out
    assert "payload" not in out
    assert {"id", "alert", "plugin", "state", "attempt", "error"} <= set(json.loads(out)[0])
