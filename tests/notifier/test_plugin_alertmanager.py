"""The Alertmanager plugin against a real Alertmanager, asked with amtool."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from notifier.alert import parse_rfc3339, rfc3339
from notifier.plugin import Message, PermanentError, RetryableError
from notifier.plugins.alertmanager import AlertmanagerPlugin, as_alert, labels
from tests.alertmanager import Alertmanager, require
from tests.messages import message, messages, row
from tests.servers import HttpServer, Reply, free_port


@pytest.fixture
def receiver() -> Iterator[HttpServer]:
    """Whom the Alertmanager tells."""
    with HttpServer() as server:
        yield server


@pytest.fixture
def real(tmp_path: Path, receiver: HttpServer) -> Iterator[Alertmanager]:
    """A real Alertmanager."""
    require()
    with Alertmanager(tmp_path, receiver.url) as server:
        yield server


def plugin(*urls: str, **options: Any) -> AlertmanagerPlugin:
    """The plugin for these."""
    return AlertmanagerPlugin("alertmanager", options={"url": list(urls), **options})


def now(offset_s: float = 0.0) -> str:
    """A time near now, as rows have it."""
    return str(rfc3339(time.time_ns() + int(offset_s * 1e9)))


def fresh(**changes: Any) -> dict[str, Any]:
    """An alert that has just fired."""
    at = now(-1)
    return row(started_at=at, last_seen_at=at, **changes)


def test_an_alert_fires_and_ends_in_a_real_alertmanager(
    real: Alertmanager, receiver: HttpServer
) -> None:
    """Both are told to its own receiver, with start and end as they were."""
    sender = plugin(real.url)
    sender.prepare()
    alert = fresh(labels={"engine": "intraday", "bad-name": "x", "2nd": "y", "empty": ""})
    assert sender.deliver(message(alert=alert)) is True
    [seen] = real.active()
    assert seen["labels"] == {
        "alertname": "performance_degradation",
        "severity": "critical",
        "engine": "intraday",
        "bad_name": "x",
        "_2nd": "y",
    }
    assert seen["annotations"]["summary"].startswith("CRITICAL performance_degradation 812 ms")
    started = alert["started_at"]
    assert parse_rfc3339(seen["startsAt"]) // 10**6 == parse_rfc3339(started) // 10**6
    assert seen["status"]["state"] == "active"
    fired = receiver.wait(1)[0].json()
    assert fired["alerts"][0]["status"] == "firing"

    ended = {**alert, "state": "resolved", "resolved_at": now()}
    assert sender.deliver(message("resolved", alert=ended)) is True
    assert real.active() == []
    assert receiver.wait(2)[1].json()["alerts"][0]["status"] == "resolved"


def test_an_alert_whose_severity_changes_is_one_alert(real: Alertmanager) -> None:
    """Alertmanager knows it by its labels: that of the old severity must end."""
    sender = plugin(real.url)
    alert = fresh(severity="warning")
    sender.deliver(message(alert=alert))
    worse = {**alert, "severity": "critical", "last_seen_at": now()}
    sender.deliver(message(alert=worse))
    assert [one["labels"]["severity"] for one in real.active()] == ["critical"]
    # a plugin that was restarted in between doesn't know what it said before
    plugin(real.url).deliver(message(alert={**worse, "severity": "info"}))
    assert [one["labels"]["severity"] for one in real.active()] == ["info"]


def test_a_restarted_alertmanager_is_told_again(tmp_path: Path, receiver: HttpServer) -> None:
    """It keeps alerts in memory alone; what fires is there again after the next resend."""
    require()
    alert = fresh()
    with Alertmanager(tmp_path, receiver.url) as server:
        sender = plugin(server.url)
        sender.deliver(message(alert=alert))
    with Alertmanager(tmp_path, receiver.url, server.port) as server:
        assert server.active() == []
        ended = fresh(id="2", rule="other", state="resolved", resolved_at=now())
        assert sender.resend([alert, ended], time.monotonic() + 5) is True
        assert [one["labels"]["alertname"] for one in server.active()] == [alert["rule"]]


def test_a_digest_is_told_alert_by_alert(real: Alertmanager) -> None:
    """An Alertmanager groups for itself; a thousand go in a few requests."""
    members = tuple(
        fresh(id=str(number), labels={"symbol": f"S{number}"}) for number in range(1200)
    )
    sender = plugin(real.url)
    assert sender.deliver(message("digest", alert=members[0], members=members)) is True
    assert len(real.active()) == 1200


def test_a_test_message_ends_by_itself(real: Alertmanager) -> None:
    """Marked as a test, and gone within a minute."""
    plugin(real.url).deliver(message("test", alert=fresh(rule="tickwatch_test")))
    [seen] = real.active()
    assert seen["labels"]["test"] == "true"
    assert seen["annotations"]["summary"].startswith("TEST ")
    assert parse_rfc3339(seen["endsAt"]) <= time.time_ns() + 61 * 10**9


def test_what_alertmanager_refuses_is_permanent(real: Alertmanager) -> None:
    """A path that isn't there, in its own words."""
    with pytest.raises(PermanentError, match=r"^HTTP 404"):
        plugin(f"{real.url}/elsewhere").deliver(message(alert=fresh()))


def test_any_labels_are_accepted(real: Alertmanager) -> None:
    """Whatever names and values an engine makes up."""
    odd = {"": "x", "a b": "1", "a-b": "2", "a.b": "3", "ä": "\ud800\x00", "severity": "s", "é": ""}
    assert plugin(real.url).deliver(message(alert=fresh(labels=odd))) is True
    [seen] = real.active()
    assert seen["labels"] | {} == {
        "alertname": "performance_degradation",
        "severity": "critical",
        "severity_2": "s",
        "_": "x",
        "a_b": "1",
        "a_b_2": "2",
        "a_b_3": "3",
        "__2": "\\ud800\\x00",
    }


def test_one_member_of_a_cluster_is_enough(receiver: HttpServer) -> None:
    """The others hear it with the next resend; what they said is reported."""
    sender = plugin(f"http://127.0.0.1:{free_port()}", receiver.url)
    assert sender.deliver(message()) is True
    assert sender.reply == "1 of 2 accepted, else connection refused"
    nobody = plugin(f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(RetryableError, match=r"^connection refused$"):
        nobody.deliver(message())


def test_a_silent_member_leaves_time_for_the_others(receiver: HttpServer) -> None:
    """They share the attempt's time."""
    with HttpServer() as silent:
        silent.default = Reply(never=True)
        assert plugin(silent.url, receiver.url).deliver(message(within_s=1.0)) is True


def test_a_severity_counts_as_told_only_when_it_was_accepted(receiver: HttpServer) -> None:
    """Otherwise the alert of the old severity would never end."""
    sender = plugin(receiver.url)
    alert = fresh(severity="warning")
    sender.deliver(message(alert=alert))
    worse = message(alert={**alert, "severity": "critical", "last_seen_at": now()})
    receiver.answer(Reply(503))
    with pytest.raises(RetryableError):
        sender.deliver(worse)
    sender.deliver(worse)
    sender.deliver(worse)
    _, failed, again, last = (request.json() for request in receiver.wait(4))
    assert [len(failed), len(again), len(last)] == [2, 2, 1]
    assert again[1]["labels"]["severity"] == "warning"
    assert parse_rfc3339(again[1]["endsAt"]) <= time.time_ns()


def test_a_firing_alert_stays_until_it_is_resolved() -> None:
    """Our silence must not end it: its end is a day away, and there is no link to a generator."""
    alert = as_alert(fresh(), "critical", time.time_ns())
    assert parse_rfc3339(alert["endsAt"]) > time.time_ns() + 23 * 3600 * 10**9
    assert alert["generatorURL"] == ""


def test_what_is_remembered_is_bounded(
    receiver: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Severities of the newest alerts only."""
    monkeypatch.setattr("notifier.plugins.alertmanager._REMEMBERED", 3)
    sender = plugin(receiver.url)
    for number in range(5):
        sender.deliver(message(alert=fresh(id=str(number))))
    assert list(sender._severities) == ["2", "3", "4"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": ""}, "url is empty: set MONITORING_ALERTMANAGER_URL"),
        ({"url": "http://a:9093, b:9093"}, "url must begin with http"),
        ({"url": "http://a", "resend_s": 5}, "resend_s must be 10..240 seconds"),
        ({"url": "http://a", "resend_s": "often"}, "resend_s must be 10..240 seconds"),
        ({"url": "http://a", "ca_file": "/nowhere.pem"}, "ca_file is not a file"),
    ],
)
def test_a_half_configuration_is_told(options: dict[str, Any], words: str) -> None:
    """Which setting, and what is allowed."""
    made = AlertmanagerPlugin("alertmanager", options=options)
    [problem] = made.check()
    assert problem.startswith(f"alertmanager: {words}")
    assert made.resend_s in (60.0, 5.0)


@given(messages())
def test_any_row_is_a_valid_alert(made: Message) -> None:
    """Label names as Alertmanager's rule wants them, no empty value, start before end, JSON."""
    for alert_row in (made.alert, *made.members):
        alert = json.loads(json.dumps(as_alert(alert_row, "info", time.time_ns(), made)))
        assert all(re.fullmatch("[a-zA-Z_][a-zA-Z0-9_]*", name) for name in alert["labels"])
        assert all(alert["labels"].values())
        assert parse_rfc3339(alert["endsAt"]) >= parse_rfc3339(alert["startsAt"])


def test_labels_of_one_name_get_numbers() -> None:
    """None hides another, and the same labels always give the same names."""
    found = labels({"rule": "r", "labels": {"a.b": "2", "a-b": "1", "alertname": "x"}}, "info")
    assert found == {
        "alertname": "r",
        "severity": "info",
        "a_b": "1",
        "a_b_2": "2",
        "alertname_2": "x",
    }
