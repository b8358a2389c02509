"""Free-text alerts: an engine's own words as alerts."""

import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.rules import freetext
from aggregator.rules.evaluator import SERVICE, Evaluator
from notifier.alert import Kind, Severity, Transition, decode, encode

NS = 1_000_000_000
START = 1_700_000_000 * NS
LABELS = {"engine": "e", "symbol": "RELIANCE"}


def evaluator() -> Evaluator:
    return Evaluator((), (), uuid.UUID(int=7))


class Engine:
    """Says things to an evaluator; times are seconds after START."""

    def __init__(self, made: Evaluator, source: str = "ring") -> None:
        self.made = made
        self.source = source
        self.seq = 0

    def say(
        self,
        at_s: float,
        kind: str = "emit",
        *,
        rule: str = "order_rejected",
        severity: str = "critical",
        message: str = "RMS says no",
        **labels: str,
    ) -> list[Transition]:
        self.seq += 1
        at_ns = START + round(at_s * NS)
        return self.made.text(
            self.source, self.seq, at_ns, kind, rule, severity, message, {**LABELS, **labels}
        )

    def until(self, at_s: float) -> list[Transition]:
        return self.made.advance(self.source, START + round(at_s * NS) + 1)


def told(transitions: list[Transition]) -> list[tuple[str, float, int]]:
    """Kind, seconds after START, and count."""
    return [(line.kind.value, (line.at_ns - START) / NS, line.count) for line in transitions]


def test_an_engine_fires_an_alert_in_its_own_words() -> None:
    """Rule name, severity, message and labels are those that it gave; there is no value."""
    (line,) = Engine(evaluator()).say(0)
    assert (line.kind, line.rule, line.severity) == (
        Kind.FIRED,
        "order_rejected",
        Severity.CRITICAL,
    )
    assert (line.message, line.labels) == ("RMS says no", LABELS)
    assert (line.value, line.threshold, line.free_text, line.again) == (None, None, True, True)


def test_the_same_again_only_raises_the_count() -> None:
    """Told at most every ten seconds, with the newest words."""
    engine = Engine(evaluator())
    out = engine.say(0)
    for at_s in range(1, 10):
        out += engine.say(at_s, message=f"RMS says no {at_s}")
    out += engine.until(50)
    assert told(out) == [("fired", 0, 1), ("update", 10, 10)]
    assert out[1].message == "RMS says no 9"


def test_another_severity_is_told_at_once() -> None:
    """It rises and falls; an unknown word is taken for the worst."""
    engine = Engine(evaluator())
    out = engine.say(0, severity="info")
    out += engine.say(1, severity="warning")
    out += engine.say(2, severity="disastrous")
    assert [line.severity.word for line in out] == ["info", "warning", "critical"]
    assert [line.kind for line in out[1:]] == [Kind.SEVERITY, Kind.SEVERITY]


def test_it_is_over_when_the_engine_says_so() -> None:
    """Only the alert with these labels, and only if it is firing."""
    engine = Engine(evaluator())
    engine.say(0)
    assert engine.say(1, "resolve", symbol="INFY") == []
    (line,) = engine.say(2, "resolve")
    assert (line.kind, line.announce, line.reason) == (Kind.RESOLVED, True, "")
    assert engine.say(3, "resolve") == []
    assert engine.until(1000) == []


def test_after_five_quiet_minutes_it_is_over_and_nobody_is_told() -> None:
    """Counted from the last time; a later one fires again and must notify."""
    engine = Engine(evaluator())
    engine.say(0)
    engine.say(100)
    out = engine.until(399)
    assert told(out) == [("update", 100, 2)]
    (line,) = engine.until(400)
    assert (line.kind, line.announce, line.reason) == (Kind.RESOLVED, False, "quiet")
    (line,) = engine.say(401)
    assert (line.kind, line.again) == (Kind.FIRED, True)


def test_the_alerts_of_a_ring_that_is_gone_end_by_the_aggregators_clock() -> None:
    """After a reboot nobody passes the old ring's time; a minute late it is done all the same."""
    made = evaluator()
    engine = Engine(made)
    engine.say(0)
    assert made.advance(SERVICE, START + 359 * NS) == []
    (line,) = made.advance(SERVICE, START + 361 * NS)
    assert told([line]) == [("resolved", 300, 1)]
    assert engine.until(1000) == []


def test_a_new_ring_goes_on_with_the_alert_of_the_old_one() -> None:
    """The same words from the engine's next ring are the same alert."""
    made = evaluator()
    old, new = Engine(made, "old"), Engine(made, "new")
    assert told(old.say(0)) == [("fired", 0, 1)]
    assert new.say(100) == []
    assert told(new.until(150)) == [("update", 100, 2)]
    assert told(old.until(350)) == []
    assert told(new.until(400)) == [("resolved", 400, 2)]


def test_memory_for_free_text_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Above the limit the one that was quiet longest is over, untold and counted."""
    monkeypatch.setattr(freetext, "MOST", 3)
    made = evaluator()
    engine = Engine(made)
    for at_s in range(3):
        engine.say(at_s, symbol=f"s{at_s}")
    engine.say(3, symbol="s0")
    fired, over = sorted(engine.say(4, symbol="s4"), key=lambda line: line.kind)
    assert (fired.kind, fired.labels["symbol"]) == (Kind.FIRED, "s4")
    assert (over.kind, over.labels["symbol"], over.announce) == (Kind.RESOLVED, "s1", False)
    assert over.reason == "too many free-text alerts"
    assert made.dropped_texts == 1
    assert len(made.active()) == 3


def test_active_alerts_are_shown() -> None:
    """With what `status` needs of them."""
    made = evaluator()
    Engine(made).say(0)
    (row,) = made.active()
    assert (row["rule"], row["state"], row["count"]) == ("order_rejected", "firing", 1)
    assert (row["value"], row["since_ns"]) == (None, START)


def test_a_retired_engine_takes_its_alerts_along() -> None:
    """Its own, not those of another engine."""
    made = evaluator()
    engine = Engine(made)
    engine.say(0)
    engine.say(0, engine="other")
    (line,) = made.forget("e", START + 5 * NS)
    assert (line.labels["engine"], line.reason, line.announce) == ("e", "engine retired", True)
    assert [row["labels"]["engine"] for row in made.active()] == ["other"]


SAYINGS = st.lists(
    st.tuples(
        st.sampled_from(["emit", "emit", "emit", "resolve"]),
        st.sampled_from(["s1", "s2"]),
        st.sampled_from(["warning", "critical"]),
        st.sampled_from([0, 1, NS // 2, 9 * NS, 10 * NS, 150 * NS, 300 * NS, 301 * NS]),
    ),
    max_size=25,
)


def said(made: Evaluator, sayings: list[tuple[str, str, str, int]], first: int) -> list[Transition]:
    """What comes of the sayings from number *first* on; times are steps from START."""
    out: list[Transition] = []
    at_ns = START
    for seq, (kind, symbol, severity, step) in enumerate(sayings):
        at_ns += step
        if seq >= first:
            labels = {"engine": "e", "symbol": symbol}
            out += made.text("ring", seq, at_ns, kind, "r", severity, f"no {seq}", labels)
    return out


def end_of(sayings: list[tuple[str, str, str, int]]) -> int:
    return START + sum(step for *_, step in sayings) + 400 * NS


@settings(max_examples=150, deadline=None)
@given(SAYINGS, st.data())
def test_restart_anywhere_changes_nothing_for_free_text(
    sayings: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    """Killed after any saying with an older checkpoint, and replayed from there: the same log."""
    stored: dict[str, bytes] = {}
    log: list[Transition] = []
    made, at, checkpoint, logged = evaluator(), 0, 0, 0
    for _ in range(data.draw(st.integers(1, 3))):
        cut = data.draw(st.integers(at, len(sayings)))
        log += said(made, sayings[:cut], at)
        at = cut
        if data.draw(st.booleans()):
            for key, value in made.dirty().items():
                if value is None:
                    stored.pop(key, None)
                else:
                    stored[key] = value
            checkpoint, logged = at, len(log)
        if data.draw(st.booleans()):
            made, at = evaluator(), checkpoint
            made.load(stored)
            for line in log[logged:]:
                made.fold(decode(encode(line)))
    log += said(made, sayings, at)
    log += made.advance("ring", end_of(sayings))
    reference = evaluator()
    assert log == said(reference, sayings, 0) + reference.advance("ring", end_of(sayings))


@settings(max_examples=100, deadline=None)
@given(SAYINGS, st.data())
def test_words_lost_over_a_restart_fire_nothing_twice(
    sayings: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    """The ring was overwritten while nobody read: each alert still fires and resolves in turn."""
    checkpoint = data.draw(st.integers(0, len(sayings)))
    crash = data.draw(st.integers(checkpoint, len(sayings)))
    resume = data.draw(st.integers(checkpoint, len(sayings)))
    made = evaluator()
    log = said(made, sayings[:checkpoint], 0)
    stored = {key: value for key, value in made.dirty().items() if value is not None}
    beyond = said(made, sayings[:crash], checkpoint)
    made = evaluator()
    made.load(stored)
    for line in beyond:
        made.fold(decode(encode(line)))
    log += beyond + said(made, sayings, resume)
    for source in ("ring", SERVICE):
        log += made.advance(source, end_of(sayings) + 100 * NS)
    assert len({line.id for line in log}) == len(log)
    firing: set[str] = set()
    for line in log:
        assert (line.fingerprint in firing) is (line.kind is not Kind.FIRED), line
        if line.kind is Kind.FIRED:
            firing.add(line.fingerprint)
        elif line.kind is Kind.RESOLVED:
            firing.remove(line.fingerprint)
    assert firing == set()


@settings(max_examples=60, deadline=None)
@given(SAYINGS, st.data())
def test_passing_time_changes_nothing_for_free_text(
    sayings: list[tuple[str, str, str, int]], data: st.DataObject
) -> None:
    """However often the watermark is told, the same transitions come out."""
    made, reference = evaluator(), evaluator()
    out: list[Transition] = []
    at_ns = START
    for seq, (_, _, _, step) in enumerate(sayings):
        if data.draw(st.booleans()):
            out += made.advance("ring", at_ns + data.draw(st.integers(0, step)))
        at_ns += step
        out += said(made, sayings[: seq + 1], seq)
    out += made.advance("ring", end_of(sayings))
    assert out == said(reference, sayings, 0) + reference.advance("ring", end_of(sayings))


@pytest.mark.parametrize("resolved", [False, True])
def test_what_the_log_has_holds_when_the_words_are_gone(resolved: bool) -> None:
    """The ring was overwritten before the replay: no second firing, and nothing fires for ever."""
    made = evaluator()
    engine = Engine(made)
    log = engine.say(0.5) + (engine.say(1, "resolve") if resolved else [])
    again = evaluator()
    for line in log:
        again.fold(decode(encode(line)))
    out = again.advance(SERVICE, START + 500 * NS)
    assert [line.kind for line in out] == ([] if resolved else [Kind.RESOLVED])
    assert again.active() == []
    again.fold(decode(encode(log[0])))
    assert len(again.forget("e", START + 600 * NS)) == 1
