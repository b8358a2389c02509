"""Telling receivers that forget again what is so."""

import time
from pathlib import Path

import pytest

from notifier import resend
from notifier.plugin import PermanentError, RetryableError
from notifier.settings import PluginSettings
from notifier.worker import Threads
from tests.alertmanager import Alertmanager, require
from tests.servers import HttpServer
from tests.waiting import wait_for


def _forgetful(make_world, *names, every_s=60.0, **options):
    world = make_world(*(names or ("desk",)), **options)
    world.plugins["desk"].every_s = every_s
    return world


def _rows(plugin):
    """(rule, state, severity) of each row of each part."""
    return [[(row["rule"], row["state"], row["severity"]) for row in rows] for rows in plugin.again]


def test_what_fires_is_told_again_each_period_and_its_end_for_five_minutes(make_world):
    """With the words of the contract, to the plugin that asks for it and to no other."""
    world = _forgetful(make_world, "desk", "mail")
    desk = world.plugins["desk"]
    world.fire()
    world.go(59)
    assert desk.again == []
    world.go(2)
    assert _rows(desk) == [[("slow", "firing", "critical")]]
    world.go(120)
    assert len(desk.again) == 3
    world.resolve()
    world.go(299)
    assert _rows(desk)[-1] == [("slow", "resolved", "critical")]
    world.go(60)
    count = len(desk.again)
    world.go(300)
    assert len(desk.again) == count
    assert world.plugins["mail"].again == []
    assert desk.said() == ["firing", "resolved"]
    assert world.health()["plugins"][0]["resent"] == sum(map(len, desk.again))


def test_nothing_new_is_ever_told_this_way(make_world):
    """What the other side has not accepted yet is a delivery's business, severity included."""
    world = _forgetful(make_world)
    desk = world.plugins["desk"]
    world.fire(severity="critical")
    world.go(1)
    world.raise_to("warning")  # falling is never told by itself
    world.go(60)
    assert _rows(desk)[-1] == [("slow", "firing", "critical")]
    desk.otherwise = False
    world.resolve()
    world.go(120)
    desk.again.clear()
    desk.otherwise = True
    world.go(6)
    assert desk.said()[-1] == "resolved"
    world.fire(severity="warning")  # within the window: not told until its end
    world.go(120)
    assert all(state != "firing" for rows in _rows(desk) for _, state, _ in rows)


def test_an_end_that_is_held_back_is_not_told_this_way_either(make_world):
    """A silence delays it; the plugin hears of it as a message."""
    world = _forgetful(make_world)
    world.fire()
    world.go(1)
    world.decide("silence", rule="slow", ends_ns=world.now_ns + 200 * 10**9)
    world.go(1)
    world.resolve()
    world.go(150)
    assert _rows(world.plugins["desk"]) == []
    world.go(100)
    assert world.plugins["desk"].said() == ["firing", "resolved"]


def test_an_end_that_nobody_is_told_of_is_told_to_a_receiver_that_keeps_alerts(make_world):
    """A free-text alert ends quietly; in an Alertmanager it would go on firing."""
    world = _forgetful(make_world)
    world.fire(free_text=True)
    world.go(1)
    world.log_now(world.transition("resolved", severity="critical", announce=False))
    world.go(120)
    desk = world.plugins["desk"]
    assert desk.said() == ["firing"]
    assert _rows(desk) == [[("slow", "resolved", "critical")]] * 2


def test_many_alerts_are_told_again_in_parts_and_what_is_new_goes_first(make_world, monkeypatch):
    """All of them in each period; a part is bounded."""
    monkeypatch.setattr(resend, "PART", 10)
    world = _forgetful(
        make_world, plugins=[PluginSettings("desk", "webhook", rate_per_s=100, burst=1000)]
    )
    desk = world.plugins["desk"]
    for number in range(35):
        world.fire(f"rule-{number}")
    world.go(2)
    order = []
    send, told = desk.resend, desk.deliver
    desk.resend = lambda rows, deadline: order.append("again") or send(rows, deadline)
    desk.deliver = lambda message: order.append("new") or told(message)
    world.now_ns += 58 * 10**9
    world.fire("fresh")
    world.go(5)
    assert order[0] == "new"
    assert [len(rows) for rows in desk.again] == [10, 10, 10, 6]
    assert {row["rule"] for rows in desk.again for row in rows} == {
        "fresh",
        *(f"rule-{number}" for number in range(35)),
    }


def test_a_receiver_that_is_away_is_noticed_without_any_new_alert(make_world):
    """Failed parts are counted and have the plugin reported as failing; it comes back by itself."""
    world = _forgetful(make_world)
    desk = world.plugins["desk"]
    world.fire(severity="info")  # which has no repeats
    world.go(1)
    desk.otherwise = RetryableError("connection refused")
    world.go(5 * 61)
    [row] = world.health()["plugins"]
    assert row["failing"] is True and row["resends_failed"] >= 4
    assert row["last_error"] == "connection refused"
    assert row["hour"] == {"accepted": 1, "failed": 0, "rate": 1.0}  # of deliveries alone
    desk.otherwise = True
    world.go(61)
    [row] = world.health()["plugins"]
    assert row["failing"] is False and row["resent"] == 1


def test_a_part_that_is_refused_stops_no_other(make_world, monkeypatch):
    """One bad row must not have a thousand others forgotten."""
    monkeypatch.setattr(resend, "PART", 1)
    world = _forgetful(make_world)
    desk = world.plugins["desk"]
    for number in range(3):
        world.fire(f"rule-{number}")
    world.go(1)
    desk.script = [PermanentError("HTTP 400")]
    world.go(62)
    assert len(desk.again) == 2
    assert world.health()["plugins"][0]["resends_failed"] == 1


def test_an_acknowledged_alert_is_told_again_like_any_other(make_world):
    """An ack keeps people from being told again; the receiver has its own silences."""
    world = _forgetful(make_world)
    world.fire()
    world.go(1)
    world.ack()
    world.go(61)
    assert _rows(world.plugins["desk"]) == [[("slow", "firing", "critical")]]


def test_a_restart_tells_again_at_once(make_world):
    """Who knows how long nobody ran."""
    world = _forgetful(make_world)
    world.fire()
    world.go(1)
    world.crash()
    world.go(1)
    assert _rows(world.plugins["desk"]) == [[("slow", "firing", "critical")]]
    assert world.plugins["desk"].said() == ["firing"]


def test_stepping_only_when_something_is_due_is_enough_to_tell_again(make_world):
    """The loop sleeps until then."""
    world = _forgetful(make_world)
    world.fire()
    world.work()
    moments = world.go_lazily(299)
    assert len(world.plugins["desk"].again) == 4
    assert moments < 20


def test_an_attempt_to_tell_again_that_hangs_is_given_up(make_world):
    """As any attempt; meanwhile the plugin isn't called stuck, afterwards new alerts leave."""
    world = _forgetful(
        make_world, plugins=[PluginSettings("desk", "webhook", burst=99, timeout_s=0.2)]
    )
    desk = world.plugins["desk"]
    world.workers = Threads(world.plugins, lambda: None)
    world.fire()
    wait_for(lambda: world.work() or desk.said(), "the message")
    hang = [True]
    send = desk.resend

    def slow(rows, deadline):
        while hang[0]:
            time.sleep(0.01)
        return send(rows, deadline)

    desk.resend = slow
    world.go(61)
    assert world.health()["plugins"][0]["stuck"] is False
    world.fire("other")

    def told():
        world.now_ns += 10**8
        world.work()
        return len(desk.said()) == 2

    wait_for(told, "the other alert")
    hang[0] = False

    def counted():
        world.go(1)
        return world.health()["plugins"][0]["resends_failed"] == 1

    wait_for(counted, "the count of what was given up")
    world.workers.stop()


@pytest.mark.slow
def test_an_alertmanager_that_restarts_learns_from_the_process_what_fires(
    make_world, tmp_path: Path
) -> None:
    """It keeps alerts in memory alone; nobody but the notifier tells it."""
    require()
    from tests.notifier.running import Running

    with HttpServer() as receiver:
        (tmp_path / "am").mkdir()
        with Alertmanager(tmp_path / "am", receiver.url) as server:
            settings = PluginSettings(
                "alertmanager", "alertmanager", options={"url": server.url, "resend_s": 10}
            )
            world = make_world(plugins=[settings])
            running = Running(world.settings, world)
            running.start()
            running.fire(desk="nifty")
            wait_for(server.active, "the alert in Alertmanager")
        with Alertmanager(tmp_path / "am", receiver.url, server.port) as server:
            assert server.active() == []
            [alert] = wait_for(server.active, "the alert after the restart")
            assert alert["labels"]["desk"] == "nifty"
        assert running.end() == 0
