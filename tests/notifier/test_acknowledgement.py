"""The acknowledgement table, a test per row: real commands in processes of their own, and a
notifier whose clock is moved on from the real time.

How commands print is tested with them; here counts who is told what.
"""

import dataclasses
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from notifier.decisions import Journal

ROOT = Path(__file__).parents[2]
HOUR_S = 3600


@pytest.fixture
def world(make_world):
    """A world in which it is now; critical alerts repeat after 5, 15, 30 minutes, then hourly."""
    world = make_world()
    world.now_ns = time.time_ns()
    return world


def tickwatch(world, *arguments, code=0):
    """Run a command from another directory; what it printed."""
    done = subprocess.run(
        [sys.executable, "-m", "cli", "--data-dir", str(world.settings.data_dir), *arguments],
        check=False,
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT)}
        | {"MONITORING_LOG_DIR": str(world.settings.log_dir)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, (done.stdout, done.stderr)
    return done.stdout + done.stderr


def ack(world, *arguments, **options):
    """Acknowledge as asha."""
    return tickwatch(world, "alerts", "ack", *arguments, "--operator", "asha", **options)


def said(world, **labels):
    """What was told of the alerts with these labels: (state, severity, note)."""
    return [
        (message.kind, message.alert["severity"], message.note)
        for message in world.plugins["desk"].accepted
        if labels.items() <= message.alert["labels"].items()
    ]


def test_ack_of_a_rule_covers_its_active_and_recent_alerts_and_no_other_series(world):
    """Symbol A is acknowledged, also one that ended within the reopen window; symbol B is told."""
    world.fire(symbol="A")
    world.fire(symbol="ended")
    world.go(1)
    world.resolve(symbol="ended")
    world.go(1)
    ack(world, "slow")
    world.fire(symbol="ended")
    world.fire(symbol="B")
    world.go(HOUR_S, each_s=30)
    assert len(said(world, symbol="A")) == 1
    assert [kind for kind, _, _ in said(world, symbol="ended")] == ["firing", "resolved"]
    assert len(said(world, symbol="B")) > 3


def test_ack_of_a_rule_with_all_covers_its_future_alerts_until_the_ttl(world):
    """The first message of a new one is held back, and told when the time is over."""
    world.fire(symbol="A")
    world.go(1)
    ack(world, "slow", "--all", "--ttl", "1h")
    world.fire(symbol="B")
    world.go(HOUR_S - 30, each_s=30)
    assert said(world, symbol="B") == []
    world.go(60)
    assert said(world, symbol="B") == [("firing", "critical", "was acknowledged by asha")]


def test_ack_of_all_covers_everything_active(world):
    """Of every rule, and nothing that comes later."""
    world.fire("one")
    world.fire("two")
    world.go(1)
    ack(world, "--all")
    world.go(HOUR_S, each_s=30)
    assert len(said(world)) == 2
    world.fire("three")
    world.go(1)
    assert len(said(world)) == 3


def test_ack_of_an_id_covers_one(world):
    """Four digits of it are enough."""
    first = world.fire(symbol="A")
    world.fire(symbol="B")
    world.go(1)
    ack(world, first.id[:8])
    world.go(HOUR_S, each_s=30)
    assert len(said(world, symbol="A")) == 1
    assert len(said(world, symbol="B")) > 3


def test_ack_of_an_unknown_or_inactive_rule_names_the_active_ones_and_writes_nothing(world):
    """A typing error at night must not look like success."""
    world.now_ns -= 2 * HOUR_S * 10**9  # so that it is over by the commands' clock, too
    world.fire("slow")
    world.fire("over")
    world.go(1)
    world.resolve("over")
    world.go(HOUR_S, each_s=60)
    for rule in ("slwo", "over"):
        assert "slow" in ack(world, rule, code=1)
    assert Journal(world.settings.alerts_dir / "acknowledgements.jsonl").read_all() == []


def test_ack_still_holds_when_the_alert_resolves_and_fires_again_within_the_ttl(world):
    """Also outside the reopen window, when it is another alert of the same series."""
    world.fire()
    world.go(1)
    ack(world, "slow", "--ttl", "8h")
    world.go(5)
    world.resolve()
    world.go(2 * HOUR_S, each_s=60)
    world.fire()
    world.go(HOUR_S, each_s=60)
    assert [kind for kind, _, _ in said(world)] == ["firing", "resolved"]


def test_ack_until_resolved_ends_with_the_alert(world):
    """However long it lasts, and no longer."""
    world.fire()
    world.go(1)
    ack(world, "slow", "--until-resolved")
    world.go(30 * HOUR_S, each_s=300)
    assert len(said(world)) == 1
    world.resolve()
    world.go(HOUR_S, each_s=60)
    world.fire()
    world.go(1)
    assert [kind for kind, _, _ in said(world)] == ["firing", "resolved", "firing"]


def test_ack_is_broken_by_a_higher_severity_at_once_and_names_who_had_acked(world):
    """Falling changes nothing."""
    world.fire(severity="warning")
    world.go(1)
    ack(world, "slow")
    world.raise_to("info")
    world.go(HOUR_S, each_s=60)
    assert len(said(world)) == 1
    world.raise_to("critical")
    world.go(0)
    assert said(world)[1:] == [("firing", "critical", "was acknowledged by asha")]


@pytest.mark.parametrize("restart", [False, True])
def test_ack_that_ends_while_firing_is_told_at_once_also_right_after_a_restart(world, restart):
    """By a timer: no new record is needed."""
    world.fire()
    world.go(1)
    ack(world, "slow", "--ttl", "1h")
    world.go(HOUR_S - 30, each_s=30)
    assert len(said(world)) == 1
    if restart:
        world.crash()
        world.now_ns += 40 * 10**9  # it ran out while nobody ran
    world.go(0 if restart else 40)
    assert said(world)[1:] == [("firing", "critical", "was acknowledged by asha")]


def test_ack_does_not_hold_back_the_end(world):
    """Whoever was told of the firing is told that it is over."""
    world.fire()
    world.go(1)
    ack(world, "slow")
    world.resolve()
    world.go(1)
    assert [kind for kind, _, _ in said(world)] == ["firing", "resolved"]


def test_ack_supersedes_a_repeat_on_its_way_and_holds_back_no_first_message(world):
    """People who were never told of an alert hear of it, acknowledged or not."""
    desk = world.plugins["desk"]
    world.fire("told")
    world.go(1)
    desk.otherwise = False
    world.fire("new")
    world.go(301)  # a repeat of the one and the first message of the other wait
    ack(world, "told")
    ack(world, "new")
    world.go(1)
    desk.otherwise = True
    world.go(60)
    assert [message.alert["rule"] for message in desk.accepted] == ["told", "new"]
    assert {one.reason for one in world.deliveries(state="skipped")} == {"acknowledged by asha"}


def test_ack_by_another_process_is_honoured_by_a_real_notifier_within_a_second(
    running, server
) -> None:
    """Repeats that come twice a second end within a second of the command's success."""
    running.settings = running.world.settings = dataclasses.replace(
        running.settings, repeats_s=dict.fromkeys(running.settings.repeats_s, (0.5,))
    )
    running.start()
    running.fire()
    server.wait(3, 60)
    ack(running.world, "slow")
    acked_s = time.monotonic()
    time.sleep(4)
    late = [request for request in server.requests if request.at > acked_s + 1.0]
    assert len(late) == 0, [request.at - acked_s for request in late]
    assert running.end() == 0
