"""What the notifier reports of itself: rates, ages, gaps, and what is wrong."""

import pytest

from notifier.alert import rfc3339
from notifier.plugin import PermanentError, RetryableError
from notifier.report import unwell
from tests.notifier.conftest import SECOND

GOOD = {
    "plugins": [
        {"plugin": "desk", "failing": False, "last_error": "", "stuck": False}
        | {"oldest_pending_at": None}
    ],
    "conservation": {"holds": True},
    "problems": [],
}


def test_success_and_failure_rates_are_of_the_last_hour(world):
    """Attempts, per plugin; the counters since ever stay beside them."""
    desk = world.plugins["desk"]
    desk.script = [RetryableError("HTTP 503"), False, True, PermanentError("HTTP 404")]
    world.fire("one", severity="info")
    world.go(60)
    world.fire("two", severity="info")
    world.go(61)
    [row] = world.health()["plugins"]
    assert row["hour"] == {"accepted": 1, "failed": 3, "rate": 0.25}
    assert (row["delivered"], row["failed"], row["dead"]) == (1, 2, 1)
    world.go(3700, each_s=60)
    [row] = world.health()["plugins"]
    assert row["hour"] == {"accepted": 0, "failed": 0, "rate": None}
    assert (row["delivered"], row["failed"], row["dead"]) == (1, 2, 1)


def test_rates_survive_a_restart(world):
    """At most the last minute is forgotten."""
    world.plugins["desk"].script = [False]
    world.fire()
    world.go(120)
    world.crash()
    world.go(1)
    assert world.health()["plugins"][0]["hour"] == {"accepted": 1, "failed": 1, "rate": 0.5}


def test_rates_that_cannot_be_read_begin_anew(world):
    """A report is never worth an alert."""
    world.fire()
    world.go(61)
    world.notifier.book.changes.meta["hours"] = "no json"
    world.work()
    world.crash()
    world.fire("other")
    world.go(61)
    assert world.health()["plugins"][0]["hour"]["accepted"] == 1


def test_the_age_of_the_oldest_undelivered_alert_is_told(make_world):
    """Over all plugins, and of each; None when everything is delivered."""
    world = make_world("desk", "mail")
    world.go(1)
    assert world.health()["oldest_pending_at"] is None
    world.plugins["mail"].otherwise = False
    fired_ns = world.now_ns
    world.fire("one")
    world.go(30)
    world.fire("two")
    world.go(30)
    report = world.health()
    assert report["oldest_pending_at"] == rfc3339(fired_ns)
    desk, mail = report["plugins"]
    assert (desk["oldest_pending_at"], mail["oldest_pending_at"]) == (None, rfc3339(fired_ns))
    world.plugins["mail"].otherwise = True
    world.go(30)
    assert world.health()["oldest_pending_at"] is None


def test_missing_log_numbers_are_reported_for_an_hour(world):
    """So that an alert can be raised from it, also by a watcher that was restarted meanwhile."""
    world.fire("one")
    world.go(1)
    assert world.health()["missing"] == {"lines": 0, "newest": None}
    world.log._last += 3
    world.fire("five")
    world.go(2)
    assert world.health()["missing"] == {"lines": 3, "newest": "2..4"}
    world.go(60)
    world.crash()
    world.go(2)
    assert world.health()["missing"]["lines"] == 3
    world.go(3600, each_s=60)
    assert world.health()["missing"] == {"lines": 0, "newest": None}
    assert world.balance()["gaps"] == 3


def test_old_gaps_of_a_log_that_is_read_again_are_no_news(world):
    """Rebuilding counts them, and raises nothing."""
    world.fire("one")
    world.log._last += 3
    world.fire("five")
    world.go(5)
    world.crash()
    world.settings.ledger_path.unlink()
    world.go(5)
    assert world.balance()["gaps"] == 3
    assert world.health()["missing"]["lines"] == 0


def test_the_report_is_not_written_when_nothing_changes(world):
    """Each write costs the disk something."""
    world.fire()
    world.go(2)
    written = world.health()["at"]
    world.now_ns = (world.now_ns // (60 * SECOND) + 1) * 60 * SECOND
    world.go(1)
    at = world.health()["at"]
    assert at != written
    world.go(50)
    assert world.health()["at"] == at


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({}, None),
        ({"failing": True, "last_error": "HTTP 503"}, "plugin desk keeps failing: HTTP 503"),
        ({"failing": True}, "plugin desk keeps failing: no reason known"),
        ({"stuck": True}, "plugin desk is stuck"),
        ({"oldest_pending_at": rfc3339(10**18 - 299 * SECOND)}, None),
        (
            {"oldest_pending_at": "2001-09-09T01:41:39.000000Z"},
            "plugin desk: an alert waits since 2001-09-09T01:41:39.000000Z",
        ),
    ],
)
def test_what_is_wrong_with_a_plugin_is_told_in_a_line(changes, line):
    """An alert may wait for five minutes."""
    report = GOOD | {"plugins": [GOOD["plugins"][0] | changes]}
    assert unwell(report, 10**18) == ([line] if line else [])


def test_deliveries_that_do_not_add_up_and_files_in_trouble_are_wrong():
    """Whatever the plugins say."""
    report = GOOD | {"conservation": {"holds": False}, "problems": ["alert log: gone"]}
    assert unwell(report, 0) == ["deliveries don't add up", "alert log: gone"]
    assert unwell({}, 0) == []
