"""Rules over restarts and changes: what is carried over, taken from the log, or resolved."""

import logging
import uuid
from collections.abc import Sequence

import numpy as np
import pytest

from aggregator.rules.evaluator import Evaluator
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from notifier.alert import Kind, Severity, Transition, decode, encode

NS = 1_000_000_000
START = 1_700_000_000 * NS
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
HIGH = Rule("high", "m", above={WARNING: Level(5), CRITICAL: Level(9)})
WINDOW = Rule("window", "m", stat=("max",), window_s=10, above={WARNING: Level(5)})
PENDING = Rule("pending", "m", above={WARNING: Level(5)}, for_s=10)


def evaluator(*rules: Rule, sessions: Sequence[Session] = ()) -> Evaluator:
    made = Evaluator(rules, sessions, uuid.UUID(int=7))
    made.add_series(1, "m", "ms", {"engine": "e"})
    return made


def record(made: Evaluator, at_s: float, value: float, source: str = "ring") -> list[Transition]:
    at = np.array([START + round(at_s * NS)])
    return made.observe(source, np.array([1]), at, at, np.array([value]))


def until(made: Evaluator, at_s: float) -> list[Transition]:
    return made.advance("ring", START + round(at_s * NS) + 1)


def saved(made: Evaluator) -> dict[str, bytes]:
    return {key: value for key, value in made.dirty().items() if value is not None}


def kinds(transitions: Sequence[Transition]) -> list[tuple[str, Kind]]:
    return [(line.rule, line.kind) for line in transitions]


def test_a_restart_goes_on_before_the_series_writes_again() -> None:
    """A pending alert fires and silence is noticed, though nothing is recorded any more."""
    silent = Rule("silent", "m", stat=("absent",), above={WARNING: Level(8)})
    first = evaluator(PENDING, silent)
    record(first, 0, 7)
    again = Evaluator([PENDING, silent], [], uuid.UUID(int=7))
    again.load(saved(first))
    assert kinds(until(again, 12)) == [("silent", Kind.FIRED), ("pending", Kind.FIRED)]


def test_a_second_that_was_not_evaluated_yet_is_evaluated_after_the_restart() -> None:
    """Also if its last record came on the very second."""
    for at_s in (0.5, 1.0):
        first = evaluator(WINDOW)
        assert record(first, at_s, 7) == []
        again = evaluator(WINDOW)
        again.load(saved(first))
        assert kinds(until(again, 1)) == [("window", Kind.FIRED)]


def test_a_checkpoint_writes_what_changed_alone() -> None:
    """Nothing new, nothing to write but the clock; a slice that left its window is deleted."""
    made = evaluator(WINDOW)
    record(made, 0.5, 2)
    assert len(saved(made)) == 3
    assert made.dirty() == {}
    until(made, 5)
    assert set(made.dirty()) == {"rule/source/ring"}
    record(made, 8, 2)
    saved(made)
    until(made, 12)
    gone = [key for key, value in made.dirty().items() if value is None]
    assert len(gone) == 1
    assert gone[0].startswith("window/")


def test_the_log_is_believed_when_the_records_are_gone() -> None:
    """Fired after the checkpoint, records overwritten: firing, not fired twice, and resolved."""
    first = evaluator(HIGH)
    log = record(first, 1, 7)
    again = evaluator(HIGH)
    again.fold(decode(encode(log[0])))
    assert kinds(record(again, 2, 7)) == []
    assert again.active()[0]["severity"] == "warning"
    assert kinds(record(again, 3, 9)) == [("high", Kind.SEVERITY)]
    assert kinds(record(again, 4, 0)) == [("high", Kind.RESOLVED)]


def test_the_log_is_believed_by_the_clock_too() -> None:
    """Nothing is recorded after the restart: the alert counts as firing all the same."""
    first = evaluator(HIGH)
    record(first, 0, 0)
    stored = saved(first)
    record(first, 1, 2)
    stored |= saved(first)
    log = record(first, 2, 7)
    again = evaluator(HIGH)
    record(again, 1, 2)
    again.fold(decode(encode(log[0])))
    assert until(again, 5) == []
    assert [row["value"] for row in again.active()] == [7]


def test_a_resolution_in_the_log_is_believed() -> None:
    """Fired and resolved beyond the checkpoint: later records find it at rest."""
    first = evaluator(HIGH)
    log = record(first, 1, 7) + record(first, 2, 0)
    again = evaluator(HIGH)
    for line in log:
        again.fold(decode(encode(line)))
    assert record(again, 3, 0) == []
    assert again.active() == []
    assert kinds(record(again, 4, 7)) == [("high", Kind.FIRED)]


def test_lines_of_the_log_wait_for_their_series() -> None:
    """Folded before the series is known, they count once it is."""
    log = record(evaluator(HIGH), 1, 7)
    again = Evaluator([HIGH], [], uuid.UUID(int=7))
    again.fold(decode(encode(log[0])))
    again.add_series(1, "m", "ms", {"engine": "e"})
    assert record(again, 1, 7) == []
    assert kinds(record(again, 2, 0)) == [("high", Kind.RESOLVED)]


def test_a_removed_rule_resolves_its_alerts() -> None:
    """Told with that reason, once, with the same id however often it is found out."""
    first = evaluator(HIGH, WINDOW)
    fired = record(first, 1, 7)[0]
    until(first, 2)
    stored = saved(first)
    again = evaluator(WINDOW)
    again.load(stored)
    assert again.orphans() == ["high"]
    assert again.retire(["other"], START + 5 * NS) == []
    (line,) = again.retire(again.orphans(), START + 5 * NS)
    assert (line.kind, line.reason, line.fingerprint) == (
        Kind.RESOLVED,
        "rule removed",
        fired.fingerprint,
    )
    assert (line.severity, line.value, line.message) == (WARNING, 7, fired.message)
    assert again.orphans() == []
    assert [key for key, value in again.dirty().items() if value is None] == [
        f"rule/alert/{fired.fingerprint}"
    ]
    crashed = evaluator(WINDOW)
    crashed.load(stored)
    (twin,) = crashed.retire(["high"], START + 6 * NS)
    assert twin.id == line.id
    crashed = evaluator(WINDOW)
    crashed.load(stored)
    crashed.fold(decode(encode(line)))
    assert crashed.retire(["high"], START + 6 * NS) == []


def test_a_rule_that_is_at_rest_is_removed_without_a_word() -> None:
    """Pending or resolved alerts of it end silently; one that only the log knows is resolved."""
    first = evaluator(PENDING, HIGH)
    log = record(first, 1, 7)
    record(first, 2, 0)
    record(first, 3, 7)
    again = evaluator()
    again.load(saved(first))
    again.fold(decode(encode(log[0])))
    out = again.retire(again.orphans(), START + 9 * NS)
    assert kinds(out) == [("high", Kind.RESOLVED)]
    assert again.orphans() == []


def test_new_rules_take_over_what_still_fits() -> None:
    """Alerts and windows of rules that stay go on; a new level is applied to the next record."""
    made = evaluator(HIGH, WINDOW, PENDING)
    record(made, 1, 7)
    until(made, 2)
    higher = Rule("high", "m", above={WARNING: Level(6), CRITICAL: Level(8)})
    out = made.reload([higher, WINDOW], [], START + 3 * NS)
    assert out == []
    assert {row["rule"] for row in made.active()} == {"high", "window"}
    out = record(made, 4, 8)
    assert kinds(out) == [("high", Kind.SEVERITY)]
    out = made.reload([WINDOW], [], START + 5 * NS)
    assert [(line.rule, line.kind, line.reason) for line in out] == [
        ("high", Kind.RESOLVED, "rule removed")
    ]
    record(made, 11.5, 0)
    record(made, 14, 0)
    assert kinds(until(made, 15)) == [("window", Kind.RESOLVED)]


def test_a_rule_can_change_its_kind() -> None:
    """From records to a window to silence: its alert goes on and is judged by the new rule."""
    made = evaluator(HIGH)
    record(made, 1, 7)
    window = Rule("high", "m", stat=("max",), window_s=5, above={WARNING: Level(6)})
    made.reload([window], [], START + 2 * NS)
    record(made, 3, 2)
    assert kinds(until(made, 4)) == [("high", Kind.RESOLVED)]
    longer = Rule("high", "m", stat=("max",), window_s=50, above={WARNING: Level(6)})
    made.reload([longer], [], START + 5 * NS)
    assert any(key.startswith("window/") and blob is None for key, blob in made.dirty().items())
    silent = Rule("high", "m", stat=("absent",), above={WARNING: Level(6)})
    made.reload([silent], [], START + 6 * NS)
    record(made, 7, 1)
    assert kinds(until(made, 20)) == [("high", Kind.FIRED)]


def test_a_reload_is_complete_in_the_next_checkpoint() -> None:
    """What is stored afterwards equals the state, and nothing of the old rules is left."""
    made = evaluator(HIGH, WINDOW)
    record(made, 1, 7)
    until(made, 2)
    stored = saved(made)
    record(made, 3, 8)
    made.reload([HIGH], [], START + 4 * NS)
    for key, value in made.dirty().items():
        if value is None:
            stored.pop(key, None)
        else:
            stored[key] = value
    again = evaluator(HIGH)
    again.load(stored)
    assert again.active() == made.active()
    assert again.orphans() == []
    assert not any(key.startswith("window/") for key in stored)


def test_a_session_that_a_reload_takes_away_closes_nothing() -> None:
    """The alert goes on around the clock."""
    session = Session("S", days=frozenset(range(7)))
    rule = Rule("r", "m", above={WARNING: Level(5)}, session="S")
    made = evaluator(rule, sessions=[session])
    record(made, 1, 7)
    made.reload([Rule("r", "m", above={WARNING: Level(5)})], [], START + 2 * NS)
    assert Kind.RESOLVED not in {line.kind for line in until(made, 10**6)}


def test_a_session_that_a_reload_adds_ends_the_alert_at_its_close() -> None:
    """An alert that began before is over at the next close."""
    made = evaluator(Rule("r", "m", above={WARNING: Level(5)}))
    record(made, 1, 7)
    rule = Rule("r", "m", above={WARNING: Level(5)}, session="S")
    made.reload([rule], [Session("S")], START + 2 * NS)  # Tuesday 22:13 UTC, open on weekdays
    (line,) = [each for each in until(made, 10**6) if each.kind is Kind.RESOLVED]
    assert line.reason == "session closed"


def test_a_retired_engine_resolves_its_alerts() -> None:
    """An operator says that it won't come back: nothing of it is kept, but it may come all the
    same."""
    silent = Rule("silent", "m", stat=("absent",), above={WARNING: Level(8)})
    made = evaluator(HIGH, PENDING, WINDOW, silent)
    record(made, 1, 7)
    stored = saved(made)
    assert made.forget("other", START + 2 * NS) == []
    (line,) = made.forget("e", START + 2 * NS)
    assert (line.rule, line.kind, line.reason) == ("high", Kind.RESOLVED, "engine retired")
    assert until(made, 100) == []
    gone = {key for key, value in made.dirty().items() if value is None}
    assert gone >= {key for key in stored if "source" not in key}
    assert kinds(record(made, 101, 7)) == [("high", Kind.FIRED)]


def test_a_window_that_ran_empty_leaves_nothing_behind() -> None:
    """Label sets of long ago don't pile up in the checkpoint."""
    made = evaluator(WINDOW)
    record(made, 0.5, 2)
    until(made, 5)
    stored = saved(made)
    until(made, 20)
    gone = {key for key, value in made.dirty().items() if value is None}
    assert gone == {key for key in stored if "source" not in key}


def test_an_unreadable_state_stops_no_other(caplog: pytest.LogCaptureFixture) -> None:
    """It is dropped, deleted at the next checkpoint, and said."""
    first = evaluator(HIGH)
    record(first, 1, 7)
    stored = saved(first) | {
        "rule/alert/aaaa": b"\xc1",
        "rule/alert/bbbb": b"\x80",
        "rule/text/cccc": b"\x90",
        "rule/source/x": b"",
        "window/dddd/0/5/7": b"\x90",
    }
    again = evaluator(HIGH)
    with caplog.at_level(logging.ERROR):
        again.load(stored)
    assert len(caplog.records) == 4
    assert [row["rule"] for row in again.active()] == ["high"]
    gone = {key for key, value in again.dirty().items() if value is None}
    assert gone == {
        "rule/alert/aaaa",
        "rule/alert/bbbb",
        "rule/text/cccc",
        "rule/source/x",
        "window/dddd/0/5/7",
    }


def test_clocks_of_rings_that_are_gone_are_forgotten() -> None:
    """Only so many are kept; those with alerts stay."""
    made = evaluator(HIGH)
    record(made, 1, 7)
    for i in range(300):
        made.advance(f"old{i}", START + i * NS)
    names = {key for key in made.dirty() if key.startswith("rule/source/")}
    assert "rule/source/ring" in names
    assert len(names) == 300 + 1
    assert len([name for name, value in made.dirty().items() if value]) == 0
