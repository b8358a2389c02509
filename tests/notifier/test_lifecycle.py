"""The pure part: what an alert is after transitions, and what should be told of it."""

from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.alert import Kind, Severity, Transition
from notifier.lifecycle import (
    FIRING,
    RESOLVED,
    Held,
    Hold,
    Life,
    Pace,
    Told,
    Want,
    Why,
    after_death,
    after_delivery,
    apply,
    decide,
    next_repeat_ns,
)

SECOND = 1_000_000_000
REOPEN = 600 * SECOND
CRITICAL = (300.0, 900.0, 1800.0, 3600.0)
PACE = Pace(CRITICAL, REOPEN)


def transition(kind, at_s, severity=Severity.WARNING, **fields):
    return Transition(
        f"{kind}-{at_s}", Kind(kind), at_s * SECOND, "slow", {"engine": "x"}, severity, **fields
    )


def live(*transitions):
    life = None
    for one in transitions:
        life = apply(life, one, REOPEN)
    return life


def test_an_alert_has_the_id_of_its_first_transition_while_it_lives():
    """Severity, value and count move; identity and start don't."""
    life = live(
        transition("fired", 1, value=5.0, threshold=4.0, unit="ms", message="slow"),
        transition("update", 5, value=9.0, count=7),
        transition("severity", 6, Severity.CRITICAL, value=11.0),
    )
    alert = life.alert
    assert (alert.id, alert.started_ns, alert.last_seen_ns) == ("fired-1", SECOND, 6 * SECOND)
    assert (alert.severity, alert.value, alert.count) == (Severity.CRITICAL, 11.0, 7)
    assert (alert.threshold, alert.unit, alert.message) == (4.0, "ms", "slow")


def test_firing_again_within_the_reopen_window_is_the_same_alert():
    """Same id, counts add up; after the window it is another alert."""
    first = (transition("fired", 0, count=3), transition("resolved", 10))
    again = live(*first, transition("fired", 610))
    assert again.alert.id == "fired-0"
    assert (again.fires, again.alert.count, again.alert.resolved_ns) == (2, 4, None)
    later = live(*first, transition("fired", 611))
    assert (later.alert.id, later.fires) == ("fired-611", 1)


def test_the_end_of_something_unknown_is_no_alert():
    """Nobody was told of its beginning, so there is nothing to end."""
    assert live(transition("resolved", 5)) is None


def test_a_second_end_changes_nothing():
    """The first one tells when and how it ended."""
    life = live(
        transition("fired", 0), transition("resolved", 3), transition("resolved", 9, announce=False)
    )
    assert (life.alert.resolved_ns, life.quiet) == (3 * SECOND, False)


def test_an_old_update_does_not_fire_again_what_ended_after_it():
    """Lines may be read twice."""
    life = live(transition("fired", 0), transition("resolved", 9), transition("update", 5))
    assert (life.alert.state, life.fires) == (RESOLVED, 1)


def test_an_update_of_something_unknown_is_a_firing_alert():
    """Lines can be missing; a fact about something that fires says that it fires."""
    assert live(transition("update", 5, count=4)).alert.state == FIRING
    assert (
        live(transition("fired", 0), transition("resolved", 1), transition("update", 2)).fires == 2
    )


@pytest.mark.parametrize(
    ("told_s", "next_s"),
    [(0, 300), (300, 900), (900, 1800), (1800, 5400), (5400, 9000), (10_000, 12_600), (170, 900)],
)
def test_critical_repeats_after_5_15_and_30_minutes_then_hourly(told_s, next_s):
    """Counted from the first message; a late repeat doesn't bring the next one nearer."""
    assert next_repeat_ns(CRITICAL, 0, told_s * SECOND) == next_s * SECOND


def test_warning_repeats_every_four_hours_and_info_never():
    """The last number is the period."""
    assert next_repeat_ns((14_400.0,), 0, 0) == 14_400 * SECOND
    assert next_repeat_ns((14_400.0,), 0, 14_401 * SECOND) == 28_800 * SECOND
    assert next_repeat_ns((), 0, 0) is None


@given(
    since=st.integers(0, 10**6),
    late=st.integers(0, 10**6),
    offsets=st.lists(st.integers(1, 10**5), min_size=1, max_size=5, unique=True).map(sorted),
)
def test_the_next_repeat_lies_ahead_and_ever_comes(since, late, offsets):
    """Whatever was late, there is a next time, after now and within one period or offset."""
    at = since + late
    due = next_repeat_ns([float(one) for one in offsets], since * SECOND, at * SECOND)
    assert at * SECOND < due <= (at + 3 * max(offsets)) * SECOND


@dataclass
class Desk:
    """One plugin's people, told at once what is wanted, with an ack that holds up to a level."""

    now_s: int = 0
    life: Life | None = None
    told: Told = field(default_factory=lambda: Told("desk"))
    acked: Severity | None = None
    heard: list = field(default_factory=list)

    def see(self, kind, severity=Severity.WARNING, **fields):
        one = transition(kind, self.now_s, severity, **fields)
        one = replace(one, id=f"{kind}-{self.now_s}-{severity}")
        life = apply(self.life, one, REOPEN)
        if life is not self.life:
            self.told = Told("desk")
        self.life = life

    def hold(self):
        if self.acked is not None and self.life.alert.severity <= self.acked:
            return Hold(Held.ACK, "asha")
        return None

    def settle(self):
        """Reconcile until nothing is wanted; the messages that this gave."""
        given_now = []
        while self.life is not None:
            verdict = decide(
                self.life, self.told, None, targeted=True, hold=self.hold(), broken="",
                pace=PACE, now_ns=self.now_s * SECOND,
            )  # fmt: skip
            self.told.held = verdict.held
            if verdict.settled:
                self.told.fires = self.life.fires
            if verdict.want is None:
                break
            given_now.append(verdict.want)
            self.told = after_delivery(
                self.told, verdict.want, self.life.fires, self.now_s * SECOND
            )
        self.heard += [(self.now_s, want) for want in given_now]
        return given_now


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["fired", "severity", "update", "resolved", "wait"]),
        st.sampled_from(list(Severity)),
        st.integers(1, 4000),
    ),
    max_size=40,
)


@given(before=EVENTS, after=EVENTS)
def test_nothing_repeats_while_acked_unless_severity_rises(before, after):
    """Under an ack people hear of the end, once, and of a severity above the acked one; no more."""
    desk = Desk()
    for kind, severity, wait_s in before:
        desk.now_s += wait_s
        if kind != "wait":
            desk.see(kind, severity)
        desk.settle()
    if desk.life is None:
        return
    desk.acked = desk.life.alert.severity
    for kind, severity, wait_s in after:
        desk.now_s += wait_s
        if kind != "wait":
            desk.see(kind, severity)
        state_before = desk.told.state
        for want in desk.settle():
            if want.state == FIRING:
                assert desk.life.alert.severity > desk.acked
            else:
                assert state_before == FIRING or desk.life.alert.severity > desk.acked


@given(events=EVENTS)
def test_whoever_was_told_of_a_firing_is_told_of_its_end(events):
    """In the end nobody believes that something fires which doesn't, nor the reverse."""
    desk = Desk()
    for kind, severity, wait_s in events:
        desk.now_s += wait_s
        if kind != "wait":
            desk.see(kind, severity)
        desk.settle()
    if desk.life is None:
        return
    desk.now_s += 2 * 3600
    desk.settle()
    assert desk.told.state == desk.life.alert.state
    for (_, one), (_, other) in zip(desk.heard, desk.heard[1:], strict=False):
        assert not (one.state == other.state == RESOLVED and other.why == Why.RESOLVED)


@given(flaps=st.integers(1, 60), gap_s=st.integers(1, 100))
def test_a_flapping_alert_is_told_at_most_once_per_window(flaps, gap_s):
    """A firing message per reopen window, and its end; the flapping itself is not told."""
    desk = Desk()
    for _ in range(flaps):
        desk.see("fired")
        desk.settle()
        desk.now_s += gap_s
        desk.see("resolved")
        desk.settle()
        desk.now_s += gap_s
    windows = 2 * flaps * gap_s // 600 + 1
    assert sum(want.state == FIRING for _, want in desk.heard) <= windows
    assert len(desk.heard) <= 2 * windows


def test_a_flapping_alert_that_stays_is_told_at_the_end_of_the_window():
    """The damper delays, it doesn't swallow."""
    desk = Desk()
    for at_s in (0, 20, 40):
        desk.now_s = at_s
        desk.see("fired")
        desk.settle()
        if at_s < 40:
            desk.now_s += 10
            desk.see("resolved")
            desk.settle()
    assert [want.why for _, want in desk.heard] == [Why.FIRED, Why.RESOLVED]
    desk.now_s = 600
    assert [want.why for want in desk.settle()] == [Why.AGAIN]


def test_severity_that_rises_inside_the_window_is_told_at_once():
    """The damper is for more of the same, not for worse."""
    desk = Desk()
    desk.see("fired")
    desk.settle()
    desk.now_s = 5
    desk.see("resolved")
    desk.settle()
    desk.now_s = 9
    desk.see("fired", Severity.CRITICAL)
    assert [want.why for want in desk.settle()] == [Why.SEVERITY]


def test_falling_severity_is_not_told_by_itself():
    """The next repeat says it."""
    desk = Desk()
    desk.see("fired", Severity.CRITICAL)
    desk.settle()
    desk.now_s = 5
    desk.see("severity", Severity.WARNING)
    assert desk.settle() == []
    desk.now_s = 300
    [repeat] = desk.settle()
    assert (repeat.why, repeat.severity) == (Why.REPEAT, Severity.WARNING)


def test_a_free_text_emission_notifies_inside_the_window():
    """What an engine says again after its quiet end is news; the same one again is only counted."""
    desk = Desk()
    desk.see("fired", free_text=True)
    desk.settle()
    desk.now_s = 3
    desk.see("fired", free_text=True, again=True, count=2)
    assert desk.settle() == []
    desk.now_s = 310
    desk.see("resolved", announce=False)
    assert desk.settle() == []
    desk.now_s = 320
    desk.see("fired", free_text=True, again=True)
    assert [want.why for want in desk.settle()] == [Why.AGAIN]
    assert desk.life.alert.id == "fired-0-2"


def test_a_quiet_end_before_the_first_message_leaves_the_message():
    """An emission must be told even if its quiet end came first."""
    life = live(transition("fired", 0), transition("resolved", 300, announce=False))
    verdict = decide(
        life, Told("desk"), None, targeted=True, hold=None, broken="", pace=PACE, now_ns=SECOND
    )
    assert (verdict.want.why, verdict.want.state) == (Why.FIRED, FIRING)


def test_fired_and_resolved_before_it_was_told_is_one_message():
    """After an outage people hear once, of both."""
    life = live(transition("fired", 0), transition("resolved", 3))
    pending = Want(Why.FIRED, FIRING, Severity.WARNING)
    for earlier in (None, pending):
        verdict = decide(
            life, Told("desk"), earlier, targeted=True, hold=None, broken="", pace=PACE, now_ns=9
        )
        assert (verdict.want.why, verdict.want.state) == (Why.LATE, RESOLVED)


def test_an_ack_does_not_hold_back_the_first_message_but_a_silence_does():
    """The first message is on its way when somebody acks; a silence is a wish for quiet."""
    life = live(transition("fired", 0))
    first = Want(Why.FIRED, FIRING, Severity.WARNING)
    repeat = Want(Why.REPEAT, FIRING, Severity.WARNING)
    told = Told("desk", number=1)

    def keeps(pending, held):
        return decide(
            life, told, pending, targeted=True, hold=Hold(held), broken="", pace=PACE, now_ns=9
        ).keep

    assert keeps(first, Held.ACK)
    assert not keeps(repeat, Held.ACK)
    assert not keeps(first, Held.SILENCE)
    assert not keeps(first, Held.SESSION)


def test_a_silence_delays_the_end_and_settles_what_was_never_told():
    """Who was told hears of the end when the silence is over; who wasn't never does."""
    life = live(transition("fired", 0), transition("resolved", 3))
    hold = Hold(Held.SILENCE, "ravi", until_ns=77)

    def verdict(told):
        return decide(life, told, None, targeted=True, hold=hold, broken="", pace=PACE, now_ns=9)

    assert verdict(Told("desk", state=FIRING, fires=1)).due_ns == 77
    assert verdict(Told("desk")).settled


def test_a_plugin_that_the_route_has_not_come_to_is_not_told():
    """But it keeps a first message that is on its way, when the severity fell below its choice."""
    life = live(transition("fired", 0))
    first = Want(Why.FIRED, FIRING, Severity.CRITICAL)
    for pending, keep in ((None, False), (first, True)):
        verdict = decide(
            life, Told("desk"), pending, targeted=False, hold=None, broken="", pace=PACE, now_ns=9
        )
        assert (verdict.want, verdict.keep) == (None, keep)


def test_what_could_not_be_delivered_is_tried_again_as_the_next_repeat():
    """A dead first message is no reason to be silent for ever, nor to try without end."""
    life = live(transition("fired", 0, Severity.CRITICAL))
    told = after_death(
        Told("desk", number=1), Want(Why.FIRED, FIRING, Severity.CRITICAL), 1, 50 * SECOND
    )
    assert (told.state, told.failed) == ("", True)

    def at(seconds):
        return decide(
            life, told, None, targeted=True, hold=None, broken="", pace=PACE,
            now_ns=seconds * SECOND,
        )  # fmt: skip

    assert at(51).want is None
    assert at(51).due_ns == 350 * SECOND
    assert at(350).want.why == Why.REPEAT


def test_an_end_that_could_not_be_delivered_counts_as_told():
    """Else it would be tried for ever."""
    told = Told("desk", state=FIRING, fires=1, number=1)
    after = after_death(told, Want(Why.RESOLVED, RESOLVED, Severity.WARNING), 1, 5)
    assert (after.state, after.failed) == (RESOLVED, True)


def test_a_retry_asked_for_by_an_operator_is_left_alone():
    """Whatever else would be told now, it goes first."""
    life = live(transition("fired", 0), transition("resolved", 3))
    asked = Want(Why.RETRIED, FIRING, Severity.WARNING)
    verdict = decide(
        life, Told("desk", fires=1), asked, targeted=True, hold=None, broken="", pace=PACE, now_ns=9
    )
    assert verdict.keep
