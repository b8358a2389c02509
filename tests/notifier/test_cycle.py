"""The notifier step by step, with a clock that only the test moves."""

import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from notifier.alert import Severity, encode
from notifier.alertlog import Position
from notifier.cycle import Damaged
from notifier.ledger import DEAD, DELIVERED, PENDING, SKIPPED
from notifier.plugin import PartialError, PermanentError, RetryableError
from notifier.routes import Route
from notifier.settings import PluginSettings

SECOND = 1_000_000_000
HOUR = 3600.0
FAIL = RetryableError("HTTP 503")


def test_an_alert_is_told_repeated_and_its_end_told(world):
    """Critical: at once, after 5, 15 and 30 minutes, then hourly; the end to whoever was told."""
    desk = world.plugins["desk"]
    world.fire()
    times = []
    for second in range(0, 9001, 60):
        before = len(desk.accepted)
        world.go(60 if second else 0, each_s=60)
        times += [second] * (len(desk.accepted) - before)
    assert times == [0, 300, 900, 1800, 5400, 9000]
    assert [message.repeat for message in desk.accepted] == [0, 1, 2, 3, 4, 5]
    world.resolve()
    world.work()
    assert desk.said()[-1] == "resolved"
    assert len({message.delivery for message in desk.accepted}) == 7
    assert world.balance()["delivered"] == 1


def test_the_message_is_frozen_when_it_is_written(world):
    """A retry says what the first attempt said, whatever happened since."""
    desk = world.plugins["desk"]
    desk.script = [FAIL]
    world.fire(value=812.0, threshold=250.0, unit="ms", evidence=((7000, 1904.0),))
    world.work()
    world.log_now(world.transition("update", value=900.0, severity="critical", count=9))
    world.go(5)
    first, second = desk.got
    assert (first.delivery, first.attempt, second.attempt) == (second.delivery, 1, 2)
    assert first.alert == second.alert
    assert second.alert["value"] == 812.0
    assert second.evidence == ((7000, 1904.0),)
    assert world.alerts()[0].count == 9


def test_rising_severity_breaks_through_an_ack_and_names_who_acked(world):
    """An ack is for what was seen; worse is news."""
    desk = world.plugins["desk"]
    world.fire(severity="warning")
    world.work()
    world.ack()
    world.go(3000, each_s=300)
    assert desk.said() == ["firing"]
    world.ack(ttl_s=7200)
    world.raise_to("critical")
    world.go(1)
    assert [one.note for one in desk.accepted] == ["", "was acknowledged by asha"]
    assert desk.accepted[1].alert["severity"] == "critical"
    world.raise_to("warning")
    world.go(HOUR, each_s=60)
    assert len(desk.accepted) == 2


def test_an_ack_that_ends_while_it_fires_is_told_at_once(world):
    """Naming who had acked; the end of the ack is written down after that."""
    desk = world.plugins["desk"]
    world.fire()
    world.work()
    world.ack(ttl_s=3600)
    world.go(3599, each_s=60)
    assert len(desk.accepted) == 1
    world.go(1)
    assert desk.accepted[1].note == "was acknowledged by asha"
    world.go(2)
    kinds = [one.kind for one in world.journal.read_all()]
    assert kinds == ["ack", "expired"]
    world.go(299)
    assert len(desk.accepted) == 3


def test_an_ack_that_ended_while_nobody_ran_is_told_at_the_start(world):
    """The end of an ack is a fact of the clock, not of a process."""
    desk = world.plugins["desk"]
    world.fire(severity="warning")
    world.work()
    world.ack(ttl_s=3600)
    world.go(60)
    world.crash()
    world.now_ns += 3600 * SECOND
    world.work()
    assert [one.note for one in desk.accepted] == ["", "was acknowledged by asha"]


def test_the_end_is_told_under_an_ack_and_firing_again_is_not(world):
    """Resolved goes to whoever was told; inside the TTL the same series stays acked."""
    desk = world.plugins["desk"]
    world.fire()
    world.work()
    world.ack()
    world.resolve()
    world.go(1)
    world.fire()
    world.go(1200, each_s=60)
    assert desk.said() == ["firing", "resolved"]


def test_another_series_of_an_acked_rule_is_told(world):
    """An ack covers what was active, not the rule."""
    desk = world.plugins["desk"]
    world.fire(symbol="A")
    world.work()
    world.ack()
    world.fire(symbol="B")
    world.go(1)
    assert [one.alert["labels"]["symbol"] for one in desk.accepted] == ["A", "B"]


@pytest.mark.slow
def test_a_thousand_repeats_of_an_acked_condition_stay_quiet(make_world):
    """An engine that fires and recovers a thousand times is told less than a fifth as often."""
    heard = []
    for acked in (False, True):
        world = make_world()
        world.fire()
        world.work()
        if acked:
            world.ack(ttl_s=86_400)
        for _ in range(1000 if acked else 300):
            for happens in (world.resolve, world.fire):
                world.now_ns += 15 * SECOND
                happens()
                world.notifier.step(world.now_ns)
        heard.append(len(world.plugins["desk"].accepted))
        world.balance()
    assert heard[1] / 1000 < heard[0] / 300 / 5


def test_a_silence_holds_back_and_its_end_releases(world):
    """Silenced messages are skipped with the reason; what still fires afterwards is told."""
    desk = world.plugins["desk"]
    world.decide("silence", rule="slow", ends_ns=world.now_ns + 600 * SECOND)
    world.fire()
    world.fire("other")
    world.go(599, each_s=10)
    assert [one.alert["rule"] for one in desk.accepted] == ["other", "other"]
    [skipped] = world.deliveries(state=SKIPPED)
    assert skipped.reason == "silenced by asha"
    world.go(1)
    assert (desk.accepted[-1].alert["rule"], desk.accepted[-1].note) == (
        "slow",
        "was silenced by asha",
    )
    assert world.balance()["routed"] == 2


def test_what_began_and_ended_in_a_silence_is_never_told(world):
    """But it is stored, counted, and has its reason."""
    world.decide("silence", matchers={"engine": "intra*"}, ends_ns=world.now_ns + 60 * SECOND)
    world.fire()
    world.work()
    world.resolve()
    world.go(120)
    assert world.plugins["desk"].got == []
    assert world.balance()["skipped"] == 1


def test_an_alert_outside_its_session_is_held_back(make_world):
    """Sessions can be judged here as well; the opening releases what still fires."""
    is_open = []
    world = make_world(reopen_s=600.0)
    world.options["in_session"] = lambda alert, at_ns: bool(is_open)
    world.fire()
    world.go(90)
    assert world.plugins["desk"].got == []
    is_open.append(True)
    world.go(61)
    assert world.plugins["desk"].accepted[0].note == "was outside its session"


def test_a_late_message_says_fired_and_resolved_in_one(world):
    """After an outage people hear once, of both; the first message is not lost from the count."""
    desk = world.plugins["desk"]
    desk.otherwise = FAIL
    world.fire()
    world.go(30)
    world.resolve()
    world.go(30)
    desk.otherwise = True
    world.go(5)
    assert [(one.kind, one.note) for one in desk.accepted] == [
        ("resolved", "fired, and resolved before it could be told")
    ]
    assert desk.accepted[0].alert["state"] == "resolved"
    assert {one.reason for one in world.deliveries(state=SKIPPED)} == {"superseded"}
    assert world.balance()["delivered"] == 1


def test_delivery_resumes_within_five_seconds_of_recovery(world):
    """However long the outage was; everything that waits leaves, not only the probe."""
    desk = world.plugins["desk"]
    desk.otherwise = FAIL
    for number in range(5):
        world.fire(f"rule-{number}")
    world.go(20 * 60)
    desk.otherwise = True
    world.go(5, each_s=0.1)
    assert {one.alert["rule"] for one in desk.accepted} >= {f"rule-{n}" for n in range(5)}


def test_attempts_in_an_outage_are_bounded(world):
    """Three fast retries, then at most a probe each five seconds however many wait."""
    desk = world.plugins["desk"]
    desk.otherwise = FAIL
    for number in range(50):
        world.fire(f"rule-{number}")
    world.go(600, each_s=0.5)
    assert len(desk.got) <= 600 / 2.5 + 4


def test_one_message_that_always_fails_does_not_hold_up_others(world):
    """The one that waited longest is tried next, not the same one for ever."""
    desk = world.plugins["desk"]
    world.fire("poison")
    deliver = desk.deliver

    def picky(message):
        desk.otherwise = FAIL if message.alert["rule"] == "poison" else True
        return deliver(message)

    desk.deliver = picky
    world.work()
    for number in range(5):
        world.fire(f"rule-{number}")
    world.go(60)
    assert len(desk.accepted) == 5


def test_a_delivery_that_never_succeeds_dies_at_its_deadline(make_world):
    """Critical after 24 hours, warning after 4, info after 1; with the last error as its reason."""
    world = make_world(repeats_s={})
    world.plugins["desk"].otherwise = FAIL
    for severity in ("info", "warning", "critical"):
        world.fire(severity, severity=severity)
    world.go(HOUR + 120, each_s=30)
    assert [one.severity for one in world.deliveries(state=DEAD)] == [Severity.INFO]
    world.go(3 * HOUR, each_s=60)
    world.go(20 * HOUR, each_s=300)
    dead = world.deliveries(state=DEAD)
    assert len(dead) == 3
    assert {one.reason for one in dead} == {"not delivered in time: HTTP 503"}
    assert world.balance()["dead"] == 3


def test_a_permanent_error_is_dead_at_once_and_the_next_step_is_taken(make_world):
    """404: nobody will hear of it there, so somebody else must."""
    route = Route((("desk",), ("mail",)), undelivered_s=900)
    world = make_world("desk", "mail", routes=(route,))
    world.plugins["desk"].otherwise = PermanentError("HTTP 404")
    world.fire()
    world.work()
    [dead] = world.deliveries(state=DEAD)
    assert (dead.reason, dead.attempt) == ("HTTP 404", 1)
    assert world.plugins["mail"].said() == ["firing"]
    world.go(2)
    [desk, mail] = json.loads(world.notifier._keeper.meta("health"))["plugins"]
    assert (desk["failing"], desk["last_error"], desk["dead"]) == (True, "HTTP 404", 1)
    assert (mail["failing"], mail["delivered"]) == (False, 1)


def test_nobody_reached_and_nobody_acking_start_the_next_step(make_world):
    """Fallback after 15 s without delivery, escalation after 15 min without an ack."""
    route = Route((("desk",), ("mail",)), undelivered_s=15, unacked_s=900)
    world = make_world("desk", "mail", routes=(route,))
    desk, mail = world.plugins["desk"], world.plugins["mail"]
    desk.otherwise = FAIL
    world.fire("one")
    world.go(14)
    assert mail.got == []
    world.go(1)
    assert [one.alert["rule"] for one in mail.accepted] == ["one"]
    desk.otherwise = True
    world.resolve("one")
    world.fire("two")
    world.go(890, each_s=5)
    assert "two" not in {one.alert["rule"] for one in mail.accepted}
    world.go(15, each_s=5)
    assert "two" in {one.alert["rule"] for one in mail.accepted}


def test_an_acked_alert_does_not_escalate(make_world):
    """Somebody cares; the later steps hear nothing, not even of the end."""
    route = Route((("desk",), ("mail",)), unacked_s=900)
    world = make_world("desk", "mail", routes=(route,))
    world.fire()
    world.go(60)
    world.ack(ttl_s=7200)
    world.go(3000, each_s=30)
    world.resolve()
    world.go(5)
    assert world.plugins["mail"].got == []
    assert world.plugins["desk"].said() == ["firing", "resolved"]


def test_each_plugin_gets_the_severities_it_takes(make_world):
    """Without routes every plugin gets its own selection."""
    plugins = [
        PluginSettings("phone", "webhook", severities=(Severity.CRITICAL,)),
        PluginSettings("mail", "webhook"),
        PluginSettings("off", "webhook", enabled=False),
    ]
    world = make_world(plugins=plugins)
    world.fire("minor", severity="warning")
    world.fire("major")
    world.work()
    assert [one.alert["rule"] for one in world.plugins["phone"].accepted] == ["major"]
    assert len(world.plugins["mail"].accepted) == 2
    assert world.plugins["off"].got == []


def test_retry_after_holds_the_whole_plugin(world):
    """For that long nothing is tried, then everything is delivered."""
    desk = world.plugins["desk"]
    desk.script = [RetryableError("HTTP 429", retry_after=120.0)]
    world.fire("one")
    world.work()
    world.fire("two")
    world.go(119)
    assert len(desk.got) == 1
    world.go(3)
    assert {one.alert["rule"] for one in desk.accepted} == {"one", "two"}


def test_recipients_are_served_once_each(world):
    """Only those that are left are tried again, with the same id; some reached is delivered."""
    desk = world.plugins["desk"]
    desk.script = [
        PartialError("451 later", ["b"], delivered=["a"], refused={"c": "550"}),
        PartialError("550 no", [], refused={"b": "550"}),
    ]
    world.fire()
    world.go(10)
    assert [one.recipients for one in desk.got] == [None, ("b",)]
    [delivery] = world.deliveries()
    assert (delivery.state, delivery.reason) == (DELIVERED, "550 no")


def test_all_recipients_refused_is_dead(world):
    """Nobody has it, and nobody can."""
    world.plugins["desk"].script = [PartialError("550 no", [], refused={"a": "550"})]
    world.fire()
    world.work()
    assert [one.state for one in world.deliveries()] == [DEAD]


def test_false_and_unexpected_errors_are_tried_again(world):
    """A plugin's bug must not lose an alert, nor tell its text."""
    desk = world.plugins["desk"]
    desk.script = [False, ValueError("https://token@host")]
    world.fire()
    world.work()
    world.go(1)
    assert "token" not in world.deliveries()[0].error
    world.go(30)
    assert desk.said() == ["firing"]


def test_a_restart_anywhere_tells_nothing_twice(world):
    """What was told is on disk before anything else happens."""
    desk = world.plugins["desk"]
    for step in (world.fire, lambda: world.go(310, 10), world.resolve, lambda: world.go(5)):
        step()
        for _ in range(3):
            world.crash()
            world.work()
    assert desk.said() == ["firing", "firing", "resolved"]
    assert len({one.delivery for one in desk.got}) == 3


def test_three_restarts_of_the_engine_on_one_condition_are_one_message(world):
    """Firing again within the window is the same alert."""
    for _ in range(3):
        world.fire()
        world.go(10)
        world.resolve()
        world.go(10)
    assert world.plugins["desk"].said() == ["firing", "resolved"]


def test_an_attempt_found_open_goes_again_with_the_same_id(world):
    """Killed between the reply and its commit: at most one duplicate, and it can be recognised."""

    jobs = []

    class Silent:
        def free(self, plugin):
            return True

        def submit(self, job):
            jobs.append(job)

        def collect(self):
            return []

    world.workers = Silent()
    world.fire()
    world.go(1)
    world.crash()
    world.workers = None
    world.work()
    [again] = world.plugins["desk"].accepted
    [first] = jobs
    assert again.delivery == first.message.delivery
    assert (first.message.attempt, again.attempt) == (1, 2)


def test_a_line_that_comes_twice_counts_once(world):
    """By its id, whether it comes from the log again or came as a copy before."""
    one = world.transition("fired", severity="critical")
    world.notifier.step(world.now_ns)
    world.notifier.intake.offer(0, [encode(one), b"no json"])
    world.work()
    assert len(world.plugins["desk"].accepted) == 1
    world.log_now(one)
    world.log_now(one)
    world.work()
    assert len(world.plugins["desk"].accepted) == 1
    balance = world.balance()
    assert (balance["lines"], balance["copies"], balance["duplicates"]) == (2, 1, 2)


def test_a_line_that_stands_twice_in_a_row_counts_once(world):
    """As after trouble with a disk: both are taken in before anything is saved."""
    one = world.transition("fired", severity="critical")
    world.log_now(one, one)
    world.work()
    assert len(world.plugins["desk"].accepted) == 1
    balance = world.balance()
    assert (balance["lines"], balance["stored"], balance["duplicates"]) == (2, 1, 1)


def test_a_copy_that_the_log_has_is_not_needed(world):
    """The log is the truth; the copy that rang the bell is dropped by its number."""
    one = world.fire()
    world.notifier.intake.offer(1, [encode(one)])
    world.work()
    assert world.balance()["copies"] == 0
    assert world.balance()["stored"] == 1


def test_lines_read_again_fire_nothing(make_world):
    """Not even those that are too old to be remembered by their ids."""
    world = make_world(keep_s=3600.0)
    world.fire()
    world.log_now(world.transition("update", severity="critical"))
    world.go(1)
    world.resolve()
    world.go(2 * 86_400, each_s=600)
    heard = len(world.plugins["desk"].got)
    assert world.alerts(active=False) == []
    world.notifier.intake.position = Position()
    world.go(10)
    world.crash()
    world.notifier.intake.position = Position()
    world.go(10)
    assert len(world.plugins["desk"].got) == heard == 2
    assert world.balance()["duplicates"] == 6


def test_bad_lines_and_gaps_are_counted(world):
    """They stop nothing and are not hidden."""
    world.fire("one")
    path = next(world.settings.alerts_dir.glob("2*.jsonl"))
    with path.open("ab") as file:
        file.write(b"half a li\n")
    world.fire("two")
    world.work()
    lines = path.read_bytes().splitlines(keepends=True)
    last = json.loads(lines[-1])
    last |= {"n": 9, "id": "f0f0", "rule": "three"}
    with path.open("ab") as file:
        file.write(json.dumps(last).encode() + b"\n")
    world.work()
    balance = world.balance()
    assert (balance["lines"], balance["bad"], balance["stored"], balance["gaps"]) == (4, 1, 3, 6)
    assert len(world.plugins["desk"].accepted) == 3


def test_a_lost_ledger_is_rebuilt_silently_and_tells_what_still_fires(world):
    """What ended is not told again; what fires is, under the ids that receivers know."""
    desk = world.plugins["desk"]
    world.fire("over")
    world.fire("still")
    world.go(2)
    world.resolve("over")
    world.go(2)
    before = {one.delivery for one in desk.accepted}
    world.crash()
    for suffix in ("", "-wal", "-shm"):
        world.settings.ledger_path.with_name(f"alerts.db{suffix}").unlink(missing_ok=True)
    world.work()
    assert [one.alert["rule"] for one in desk.accepted[3:]] == ["still"]
    assert desk.accepted[3].delivery in before
    assert len(world.alerts(active=False)) == 2
    world.balance()


def test_a_damaged_ledger_is_moved_aside(world):
    """It is kept for whoever wants to look, and delivery goes on."""
    world.fire()
    world.go(2)
    world.crash()
    world.settings.ledger_path.write_bytes(b"this is no database" * 1000)
    world.fire("new")
    world.work()
    assert {one.alert["rule"] for one in world.plugins["desk"].accepted[1:]} == {"slow", "new"}
    assert list(world.settings.data_dir.glob("alerts.db.damaged-*"))


def test_the_first_start_tells_what_ended_before_it(world):
    """An alert that fired and ended while the notifier was starting is told, old history isn't."""
    world.fire("old")
    world.resolve("old")
    world.now_ns += 700 * SECOND
    world.fire("young")
    world.resolve("young")
    world.now_ns += SECOND
    world.work()
    [message] = world.plugins["desk"].accepted
    assert (message.alert["rule"], message.kind) == ("young", "resolved")


def test_a_ledger_taken_away_while_in_use_ends_the_process(world):
    """So that a new start rebuilds it; writing into a deleted file would lose everything."""
    world.fire()
    world.go(2)
    world.settings.ledger_path.unlink()
    with pytest.raises(Damaged):
        world.go(2)


def test_delivery_goes_on_while_the_ledger_cannot_be_written(world):
    """From memory; what happened meanwhile is stored as soon as that is possible."""
    world.work()
    keeper = world.notifier._keeper
    save, keeper.save = keeper.save, _raise_full
    world.fire("one")
    world.go(30)
    assert world.plugins["desk"].said() == ["firing"]
    assert "alerts.db: database or disk is full" in world.notifier._problems["alerts.db"]
    keeper.save = save
    world.go(3)
    assert [one.state for one in world.deliveries()] == [DELIVERED]
    assert world.plugins["desk"].said() == ["firing"]
    world.balance()


def _raise_full(*_):
    raise sqlite3.OperationalError("database or disk is full")


def test_a_ledger_damaged_while_in_use_is_moved_aside(world):
    """The process starts again and rebuilds it; what fires is told."""
    world.fire()
    world.go(2)

    def fail(*_):
        raise sqlite3.DatabaseError("database disk image is malformed")

    world.notifier._keeper.save = fail
    world.fire("new")
    with pytest.raises(Damaged):
        world.work()
    world.crash()
    world.work()
    assert list(world.settings.data_dir.glob("alerts.db.damaged-*"))
    assert len(world.alerts()) == 2


def test_trouble_with_reading_the_ledger_stops_no_alert(world):
    """In doubt an alert is another one, and is told."""
    world.go(1)
    keeper = world.notifier._keeper
    keeper.knows = keeper.newest = keeper.delivery = keeper.tidy = _raise_full
    world.decide("retry", delivery="any")
    world.fire()
    world.go(5)
    assert world.plugins["desk"].said() == ["firing"]
    del keeper.knows, keeper.newest, keeper.delivery, keeper.tidy
    world.fire("other")
    world.go(5)
    assert "alerts.db" not in world.notifier._problems


def test_alerts_stay_in_memory_while_the_ledger_cannot_be_written(world):
    """Nobody could bring them back."""
    world.fire()
    world.work()
    world.resolve()
    world.work()
    keeper = world.notifier._keeper
    save, keeper.save = keeper.save, _raise_full
    world.fire("other")
    world.go(700, each_s=5)
    assert len(world.notifier.book.entries) == 2
    keeper.save = save
    world.go(120, each_s=5)
    assert len(world.notifier.book.entries) == 1


def test_a_log_that_cannot_be_read_is_reported_and_read_later(world, monkeypatch):
    """Nothing is lost by it."""
    world.work()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patch:
        patch.setattr("notifier.alertlog.read", fail)
        world.fire()
        world.go(2)
        problems = json.loads(world.notifier._keeper.meta("health"))["problems"]
        assert problems == ["alert log: Permission denied"]
    world.work()
    assert world.plugins["desk"].said() == ["firing"]


def test_old_files_of_the_log_go_behind_the_position_only(make_world):
    """By their date, and only if a limit is set."""
    for days, left in ((None, 2), (1, 1)):
        world = make_world(log_keep_days=days)
        world.fire("one")
        world.go(70, each_s=10)
        world.now_ns += 3 * 86_400 * SECOND
        world.fire("two")
        world.go(130, each_s=10)
        assert len(list(world.settings.alerts_dir.glob("2*.jsonl"))) == left


def test_a_long_log_is_rebuilt_in_parts(make_world):
    """A kill in the middle goes on where it was, and still tells nobody what is over."""
    world = make_world()
    history = []
    for number in range(1200):
        history.append(world.transition("fired", n=str(number)))
        world.now_ns += SECOND
        history.append(world.transition("resolved", n=str(number)))
    world.log_now(*history, world.transition("fired", "alive"))
    world.now_ns += 1200 * SECOND
    world.notifier.step(world.now_ns)
    assert world.notifier.intake.rebuilding == "first"
    assert len(world.notifier.book.entries) < 600
    world.crash()
    world.work()
    assert [one.alert["rule"] for one in world.plugins["desk"].got] == ["alive"]
    assert world.balance()["fired"] == 1201


@pytest.mark.parametrize("burst", [2, 1000])
def test_stepping_only_when_something_is_due_is_enough(make_world, burst):
    """What is due is known beforehand: looking more often changes nothing but the cost."""
    told = []
    for lazily in (False, True):
        world = make_world(plugins=[PluginSettings("desk", "webhook", burst=burst)])
        desk = world.plugins["desk"]
        desk.script = [True, FAIL, FAIL, FAIL, FAIL, RetryableError("429", retry_after=7), FAIL]
        moments = 0
        for rule in ("one", "two", "three"):
            world.fire(rule)
            moments += world.go_lazily(100) if lazily else (world.go(100, 0.25) or 400)
        world.ack("one", ttl_s=3600)
        moments += world.go_lazily(4000) if lazily else (world.go(4000) or 4000)
        told.append([(one.kind, one.note, one.repeat) for one in desk.accepted])
        if lazily:
            assert moments < 200
    assert told[0] == told[1]


def test_one_alert_that_cannot_be_handled_keeps_no_other_back(world):
    """The problem is reported, the others are told."""
    run = world.notifier._reconciler.run

    def picky(entry, *rest):
        if entry.life.alert.rule == "bad":
            raise KeyError("surprise")
        run(entry, *rest)

    world.notifier._reconciler.run = picky
    world.fire("bad")
    world.fire("good")
    world.go(2)
    assert [one.alert["rule"] for one in world.plugins["desk"].accepted] == ["good"]
    problems = json.loads(world.notifier._keeper.meta("health"))["problems"]
    assert "can't be handled" in problems[0]


def test_a_dead_delivery_is_tried_again_on_command(world):
    """Once for each command, also if the notifier starts again in between."""
    desk = world.plugins["desk"]
    desk.otherwise = PermanentError("HTTP 404")
    world.fire(severity="info")
    world.work()
    [dead] = world.deliveries(state=DEAD)
    world.now_ns += SECOND
    world.decide("retry", delivery=dead.id)
    world.go(1)
    assert [one.attempt for one in desk.got] == [1, 2]
    world.crash()
    world.go(5)
    assert len(desk.got) == 2
    desk.otherwise = True
    world.decide("retry", delivery=dead.id)
    world.decide("retry", delivery="unknown")
    world.go(1)
    assert [one.state for one in world.deliveries()] == [DELIVERED]
    assert world.balance()["delivered"] == 1


def test_a_retried_message_of_an_ended_alert_is_followed_by_its_end(world):
    """Nobody is left with the belief that it fires."""
    desk = world.plugins["desk"]
    desk.script = [PermanentError("HTTP 404")]
    world.fire()
    world.go(2)
    world.resolve()
    world.go(700, each_s=10)
    [dead] = world.deliveries(state=DEAD)
    world.decide("retry", delivery=dead.id)
    world.go(2)
    assert desk.said() == ["firing", "resolved"]


def test_the_waiting_messages_of_a_removed_plugin_are_skipped(make_world):
    """Nothing stays pending for ever."""
    world = make_world("desk", "gone")
    world.plugins["gone"].otherwise = FAIL
    world.fire()
    world.go(1)
    world.crash()
    world.settings = replace(world.settings, plugins=world.settings.plugins[:1])
    world.go(1)
    [skipped] = world.deliveries(plugin="gone")
    assert (skipped.state, skipped.reason) == (SKIPPED, "plugin removed")
    assert world.balance()["pending"] == 0


def test_a_clock_that_is_set_back_delays_nothing(world):
    """Times on disk that lie ahead are taken for now."""
    desk = world.plugins["desk"]
    desk.script = [FAIL]
    world.fire()
    world.work()
    world.crash()
    world.now_ns -= 7200 * SECOND
    world.go(61)
    assert desk.said() == ["firing"]
    world.crash()
    world.now_ns -= 7200 * SECOND
    world.go(301)
    assert desk.said() == ["firing", "firing"]


def test_a_wall_clock_that_steps_has_decisions_judged_again(world):
    """An ack until three o'clock ends when the clock says so, even if it jumped there."""
    desk = world.plugins["desk"]
    world.fire()
    world.work()
    world.ack(ttl_s=3600)
    world.work()
    world.notifier.step(world.now_ns + 1, wall_ns=world.now_ns + 3601 * SECOND)
    world.work()
    assert len(desk.accepted) == 2


def test_alerts_that_are_over_leave_memory(world):
    """And come back when they fire again within the window, or are retried."""
    world.fire()
    world.work()
    world.resolve()
    world.go(610)
    assert world.notifier.book.entries == {}
    assert world.alerts(active=False)[0].state == "resolved"


def test_a_late_line_within_the_reopen_window_finds_its_alert(world):
    """The window is about when it fired, not about when the line was read."""
    world.fire()
    world.work()
    world.resolve()
    again = replace(world.transition("fired"), at_ns=world.now_ns + 60 * SECOND)
    world.go(900, each_s=60)
    world.log_now(again)
    world.work()
    [alert] = world.alerts()
    assert alert.started_ns < again.at_ns


@pytest.mark.slow
def test_five_thousand_alerts_in_a_second_add_up(make_world):
    """The first leaves at once, the rest in digests with exact counts, critical ones first."""
    world = make_world(
        plugins=[PluginSettings("desk", "webhook", rate_per_s=1.0, burst=5)],
    )
    fired = [
        world.transition("fired", f"rule-{n % 7}", n=str(n), severity=("critical", "info")[n % 2])
        for n in range(5000)
    ]
    world.work()
    world.log_now(*fired)
    world.notifier.step(world.now_ns)
    desk = world.plugins["desk"]
    assert len(desk.got) == 1
    assert world.notifier.dispatcher.lanes["desk"].under_way is not None
    world.go(60)
    singles = [one for one in desk.accepted if one.kind != "digest"]
    digests = [one for one in desk.accepted if one.kind == "digest"]
    members = [row["id"] for one in digests for row in one.members]
    assert len(singles) + len(members) == 5000
    assert {one.alert["id"] for one in singles} | set(members) == {one.id for one in fired}
    assert len(desk.accepted) < 40
    assert all(len({row["severity"] for row in one.members}) == 1 for one in digests)
    order = [one.alert["severity"] for one in digests]
    assert order.index("info") > order.count("critical") - 1 or order[0] == "critical"
    assert world.balance()["delivered"] == 5000


def test_a_digest_keeps_its_members_over_failures_and_restarts(make_world):
    """Same id, same members, until it is delivered; later changes are told afterwards."""
    world = make_world(plugins=[PluginSettings("desk", "webhook", rate_per_s=1.0, burst=2)])
    desk = world.plugins["desk"]
    desk.script = [True, FAIL]
    for number in range(5):
        world.fire(f"rule-{number}")
    world.go(2)
    world.resolve("rule-3")
    world.crash()
    world.go(20)
    digests = [one for one in desk.got if one.kind == "digest"]
    assert len({one.delivery for one in digests}) == 1
    assert digests[0].members == digests[-1].members
    assert len(digests[0].members) == 4
    assert desk.accepted[-1].kind == "resolved"
    assert world.balance()["delivered"] == 5


def test_a_dead_digest_and_its_members_are_retried_together(make_world):
    """One command for what was one message."""
    world = make_world(plugins=[PluginSettings("desk", "webhook", rate_per_s=1.0, burst=2)])
    desk = world.plugins["desk"]
    desk.script = [True, PermanentError("HTTP 413")]
    for number in range(4):
        world.fire(f"rule-{number}", severity="info")
    world.go(3)
    [dead] = [one for one in world.deliveries(state=DEAD) if one.kind == "digest"]
    assert world.balance()["dead"] == 3
    world.decide("retry", delivery=dead.id)
    world.go(3)
    assert desk.accepted[-1].kind == "digest"
    assert len(desk.accepted[-1].members) == 3
    assert world.balance()["delivered"] == 4


def test_old_rows_go_and_their_counts_stay(make_world):
    """alerts.db is bounded, conservation still holds."""
    world = make_world(keep_s=3600.0)
    for number in range(3):
        world.fire(f"rule-{number}")
    world.go(700, each_s=10)
    world.resolve("rule-0")
    world.log_now(world.transition("update", "rule-1"), world.transition("resolved", "unknown"))
    world.go(3 * HOUR, each_s=60)
    assert len(world.alerts(active=False)) == 2
    balance = world.balance()
    assert (balance["fired"], balance["routed"], balance["stored"]) == (3, 3, 6)
    world.go(24 * HOUR, each_s=600)
    assert world.balance()["stored"] == 6


def test_who_is_told_first_of_a_risen_severity_hears_who_had_acked(make_world):
    """The phone takes only critical ones, and wakes somebody: they should know."""
    plugins = [
        PluginSettings("phone", "webhook", severities=(Severity.CRITICAL,)),
        PluginSettings("mail", "webhook"),
    ]
    world = make_world(plugins=plugins)
    world.fire(severity="warning")
    world.work()
    world.ack()
    world.go(1)
    world.raise_to("critical")
    world.work()
    [message] = world.plugins["phone"].accepted
    assert message.note == "was acknowledged by asha"


def test_a_journal_or_log_that_cannot_be_read_is_reported(world):
    """Delivery goes on with what is known."""
    world.fire()
    world.go(1)
    world.settings.alerts_dir.joinpath("acknowledgements.jsonl").mkdir()
    for path in world.settings.alerts_dir.glob("2*.jsonl"):
        path.rename(path.with_suffix(".away"))
        path.symlink_to("/dev/zero")
    world.go(400, each_s=10)
    assert len(world.plugins["desk"].accepted) == 2
    problems = json.loads(world.notifier._keeper.meta("health"))["problems"]
    assert any("decisions journal" in text for text in problems)


@hypothesis_settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    events=st.lists(
        st.tuples(
            st.sampled_from(
                ["fire", "fire", "resolve", "raise", "ack", "clear", "silence", "crash", "wait"]
            ),
            st.integers(0, 2),
            st.sampled_from(["info", "warning", "critical"]),
            st.sampled_from(["ok", "ok", "fail", "refuse", "false", "unknown", "partial"]),
            st.integers(1, 2000),
        ),
        max_size=20,
    )
)
def test_every_fired_alert_is_accounted_for(make_world, events):
    """Whatever happens, each routed alert ends delivered, dead or skipped, with a reason."""
    ends = {
        "ok": True, "fail": FAIL, "refuse": PermanentError("HTTP 404"), "false": False,
        "unknown": RetryableError("reset", unknown=True), "partial": PartialError("x", ["a"]),
    }  # fmt: skip
    world = make_world("desk", "mail", routes=(Route((("desk",), ("mail",)), {}, 15, 900),))
    for kind, series, severity, end, wait_s in events:
        world.plugins["desk"].otherwise = ends[end]
        if kind == "fire":
            world.fire(series=str(series), severity=severity)
        elif kind == "resolve":
            world.resolve(series=str(series), severity=severity)
        elif kind == "raise":
            world.raise_to(severity, series=str(series))
        elif kind == "ack" and world.running:
            world.ack()
        elif kind == "clear":
            world.decide("clear", rule="slow")
        elif kind == "silence":
            world.decide("silence", rule="slow", ends_ns=world.now_ns + wait_s * SECOND)
        elif kind == "crash":
            world.crash()
        world.go(wait_s, each_s=max(1.0, wait_s / 20))
        world.balance()
    world.plugins["desk"].otherwise = True
    world.go(7200, each_s=60)
    balance = world.balance()
    assert balance["pending"] == 0
    assert all(one.reason for one in world.deliveries() if one.state in (DEAD, SKIPPED))
    assert not world.deliveries(state=PENDING)
    world.crash()
