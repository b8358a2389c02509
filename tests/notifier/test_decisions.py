"""Acknowledgements, silences and their journal: what holds, until when, and what is never lost."""

import fcntl
import json
import os
import random
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier import decision as decision_module
from notifier.alert import Ack, Alert, Severity, parse_rfc3339
from notifier.decision import decode, encode
from notifier.decisions import (
    Cover,
    Decision,
    DecisionKind,
    Decisions,
    Journal,
    ack_for,
    boot_id,
    covering,
    decide,
    expired_acks,
    silenced_by,
    was_acked,
)

INFO, WARNING, CRITICAL = Severity
SECOND = 1_000_000_000
HOUR = 3600 * SECOND
NOON = parse_rfc3339("2026-01-31T12:00:00Z")
MONO = 1_000 * HOUR
BOOT = "boot-1"
ROOT = Path(__file__).parents[2]


def alert(rule: str = "r", symbol: str = "A", severity: Severity = WARNING, **more: Any) -> Alert:
    """A firing alert that began an hour before noon."""
    fields: dict[str, Any] = {"id": f"{rule}-{symbol}-1", "state": "firing"}
    fields |= {"started_ns": NOON - HOUR, "last_seen_ns": NOON - HOUR}
    return Alert(rule=rule, labels={"symbol": symbol}, severity=severity, **(fields | more))


def made(kind: DecisionKind, by: str = "asha", **fields: Any) -> Decision:
    """A decision made at noon, in the boot of these tests."""
    return decide(kind, by, **({"at_ns": NOON, "mono_ns": MONO, "boot_id": BOOT} | fields))


def ack(*alerts: Alert, ttl_s: int | None = 3600, **fields: Any) -> Decision:
    """An ack of *alerts*."""
    return made("ack", covers=covering(alerts), ttl_s=ttl_s, **fields)


def acked(of: Alert, decisions: Sequence[Decision], after_s: float = 0) -> str | None:
    """Who has acked *of*, so many seconds after noon by both clocks."""
    after_ns = int(after_s * SECOND)
    found = ack_for(of, decisions, NOON + after_ns, MONO + after_ns, BOOT)
    return None if found is None else found.by


# What an ack covers


def test_an_ack_of_a_rule_covers_its_active_alerts_and_no_other_series() -> None:
    """Symbol B fires later: it notifies, although its rule is acknowledged for A."""
    decisions = [ack(alert(), rule="r")]
    assert acked(alert(), decisions) == "asha"
    assert acked(alert(symbol="B"), decisions) is None
    assert acked(alert(rule="q"), decisions) is None
    assert acked(alert(), []) is None


def test_an_ack_of_a_rule_with_all_covers_its_future_alerts_until_the_ttl() -> None:
    """Series that fire later are covered, those of other rules are not, and it ends."""
    decisions = [ack(alert(), rule="r", scope="future")]
    assert acked(alert(symbol="B"), decisions, 3599) == "asha"
    assert acked(alert(symbol="B"), decisions, 3600) is None
    assert acked(alert(rule="q", symbol="B"), decisions) is None


def test_future_alerts_are_acked_at_the_level_that_was_acked() -> None:
    """A series that fires worse than what the operator saw breaks through."""
    decisions = [ack(alert(severity=WARNING), rule="r", scope="future")]
    assert acked(alert(symbol="B", severity=WARNING), decisions) == "asha"
    assert acked(alert(symbol="B", severity=CRITICAL), decisions) is None
    wide = [replace(decisions[0], severity=CRITICAL)]
    assert acked(alert(symbol="B", severity=CRITICAL), wide) == "asha"
    assert acked(alert(severity=CRITICAL), wide) is None  # this one was seen as a warning


def test_an_ack_for_the_future_without_a_ttl_covers_nothing_to_come() -> None:
    """Nothing acknowledges alerts that nobody has seen for ever."""
    decisions = [ack(alert(), rule="r", scope="future", ttl_s=None, until_resolved=True)]
    assert acked(alert(), decisions) == "asha"
    assert acked(alert(symbol="B"), decisions) is None


def test_an_ack_of_all_covers_what_was_active_then() -> None:
    """Every rule's active alerts, none that fires afterwards."""
    decisions = [ack(alert(), alert(rule="q"), scope="all")]
    assert acked(alert(), decisions) == acked(alert(rule="q"), decisions) == "asha"
    assert acked(alert(rule="q", symbol="B"), decisions) is None


def test_an_ack_of_one_alert_covers_one() -> None:
    """By its full id, with or without its series told."""
    one = alert()
    for decisions in ([ack(one, alert=one.id)], [ack(alert=one.id)]):
        assert acked(one, decisions) == "asha"
        assert acked(alert(symbol="B"), decisions) is None


# How long it holds


def test_an_alert_that_fires_again_within_the_ttl_is_still_acked() -> None:
    """Also when so late that it is another alert of the same series."""
    decisions = [ack(alert())]
    assert acked(alert(id="r-A-2"), decisions, 3599) == "asha"
    assert acked(alert(id="r-A-2"), decisions, 3600) is None


def test_an_ack_until_resolved_ends_with_the_alert() -> None:
    """It holds however long the alert fires and not for the next alert of that series."""
    decisions = [ack(alert(), ttl_s=None, until_resolved=True)]
    assert acked(alert(), decisions, 30 * 86_400) == "asha"
    assert acked(alert(state="resolved"), decisions) is None
    assert acked(alert(id="r-A-2"), decisions) is None
    both = [ack(alert(), ttl_s=60, until_resolved=True)]
    assert acked(alert(), both, 59) == "asha"
    assert acked(alert(), both, 60) is None


@given(st.integers(-20 * 86_400, 20 * 86_400), st.integers(0, 7200), st.booleans())
def test_on_a_clock_step_the_earlier_expiry_wins(
    step_s: int, passed_s: int, same_boot: bool
) -> None:
    """An ack never holds longer than its TTL by either clock, whichever way one was set."""
    decisions = [ack(alert())]
    wall_ns = NOON + (passed_s + step_s) * SECOND
    boot = BOOT if same_boot else "boot-2"
    mono_ns = MONO + passed_s * SECOND if same_boot else 5
    found = ack_for(alert(), decisions, wall_ns, mono_ns, boot)
    by_wall = passed_s + step_s < 3600
    by_mono = passed_s < 3600 or not same_boot
    assert (found is not None) == (by_wall and by_mono)
    if found is not None:
        assert found.expires_at_ns is not None
        assert wall_ns < found.expires_at_ns <= NOON + HOUR


def test_an_ack_tells_who_when_why_and_until_when() -> None:
    """What the alert's row shows; clocks that drift apart by a little don't move the expiry."""
    decisions = [ack(alert(), reason="known")]
    expected = Ack("asha", NOON, NOON + HOUR, "known")
    assert ack_for(alert(), decisions, NOON + 5, MONO + 5_000_000, BOOT) == expected
    lasting = [ack(alert(), ttl_s=None, until_resolved=True)]
    assert ack_for(alert(), lasting, NOON, MONO, BOOT) == Ack("asha", NOON, None)


def test_an_ack_without_an_end_holds_nothing() -> None:
    """In doubt the alert is told."""
    assert acked(alert(), [ack(alert(), ttl_s=None)]) is None
    with pytest.raises(ValueError, match="ack without an end"):
        decode(encode(ack(alert(), ttl_s=None)))


# What ends it early


def test_a_higher_severity_breaks_through_and_names_who_had_acked() -> None:
    """Rising above the acked level tells at once; falling and rising back changes nothing."""
    decisions = [ack(alert(severity=WARNING))]
    worse = alert(severity=CRITICAL)
    assert acked(worse, decisions) is None
    assert was_acked(worse, decisions, NOON, MONO, BOOT) == Ack("asha", NOON, NOON + HOUR)
    assert acked(alert(severity=INFO), decisions) == "asha"
    assert was_acked(alert(), decisions, NOON, MONO, BOOT) is None
    decisions.append(ack(worse, by="ravi"))
    assert acked(worse, decisions) == "ravi"
    assert acked(alert(severity=INFO), decisions) == "ravi"


def test_an_ack_that_ran_out_while_firing_names_who_had_acked() -> None:
    """But not one that ended before this alert began."""
    decisions = [ack(alert())]
    late = (NOON + 2 * HOUR, MONO + 2 * HOUR, BOOT)
    found = was_acked(alert(), decisions, *late)
    assert found is not None
    assert (found.by, found.expires_at_ns) == ("asha", NOON + HOUR)
    newer = alert(id="r-A-2", started_ns=NOON + HOUR + SECOND)
    assert was_acked(newer, decisions, *late) is None
    assert was_acked(alert(symbol="B"), decisions, *late) is None


@pytest.mark.parametrize(
    "target",
    [
        {"rule": "r"},
        {"alert": "r-A-1"},
        {"alert": "r-A-1", "covers": covering([alert()])},
        {"scope": "all"},
    ],
)
def test_a_clear_ends_the_acks_before_it_and_none_after(target: dict[str, Any]) -> None:
    """By rule, by id or all; also for the next alert of that series, and for --all acks."""
    for before in (
        ack(alert()),
        ack(alert(), rule="r", scope="future"),
        ack(alert(), scope="all"),
        ack(alert(), ttl_s=None, until_resolved=True),
    ):
        cleared = [before, made("clear", by="ravi", **target)]
        assert acked(alert(), cleared) is None
        assert acked(alert(id="r-A-2"), cleared) is None
        assert was_acked(alert(), cleared, NOON, MONO, BOOT) is None
        assert acked(alert(), [*cleared, ack(alert(), by="mia")]) == "mia"


def test_a_clear_of_one_leaves_the_others_acked() -> None:
    """Clearing a rule or an alert out of many touches nothing else."""
    decisions = [ack(alert(), alert(symbol="B"), alert(rule="q"), scope="all")]
    by_rule = [*decisions, made("clear", rule="q")]
    assert acked(alert(rule="q"), by_rule) is None
    assert acked(alert(), by_rule) == "asha"
    by_id = [*decisions, made("clear", alert="r-A-1")]
    assert acked(alert(), by_id) is None
    assert acked(alert(symbol="B"), by_id) == "asha"
    future = [ack(alert(), rule="r", scope="future"), made("clear", alert="r-A-1")]
    assert acked(alert(symbol="C"), future) == "asha"


def test_the_order_of_lines_counts_and_not_their_times() -> None:
    """A clock that was set back between an ack and its clearing doesn't undo the clearing."""
    decisions = [ack(alert()), made("clear", rule="r", at_ns=NOON - HOUR)]
    assert acked(alert(), decisions) is None


def test_the_newest_ack_that_holds_is_told_and_an_older_longer_one_still_holds() -> None:
    """A second, shorter ack takes nothing away from the first."""
    decisions = [ack(alert(), by="long"), ack(alert(), by="short", ttl_s=60)]
    assert acked(alert(), decisions, 59) == "short"
    assert acked(alert(), decisions, 60) == "long"


def test_expired_acks_are_written_down_once() -> None:
    """Those whose TTL is over, without a line about it, and not those that were cleared."""
    ran_out, cleared, alive = ack(alert()), ack(alert(rule="q"), rule="q"), ack(ttl_s=9999)
    one = ack(alert(), alert="r-A-1")
    decisions = [
        ran_out,
        cleared,
        alive,
        one,
        made("clear", rule="q"),
        made("clear", alert=one.alert),
    ]
    late = (NOON + HOUR, MONO + HOUR, BOOT)
    assert expired_acks(decisions, NOON, MONO, BOOT) == []
    assert expired_acks(decisions, *late) == [ran_out]
    decisions.append(made("expired", by="tickwatch", of=ran_out.id))
    assert expired_acks(decisions, *late) == []
    assert expired_acks([ran_out, made("clear", scope="all")], *late) == []


# Silences


def test_a_silence_holds_between_its_times_for_what_it_matches() -> None:
    """All patterns must match; rule and severity count as labels, a missing one is empty."""
    silence = made(
        "silence", matchers={"symbol": "A*"}, starts_ns=NOON + HOUR, ends_ns=NOON + 2 * HOUR
    )
    during = NOON + HOUR
    assert silenced_by(alert(symbol="AB"), [silence], during) == silence
    assert silenced_by(alert(symbol="B"), [silence], during) is None
    assert silenced_by(alert(), [silence], during - 1) is None
    assert silenced_by(alert(), [silence], during + HOUR) is None
    for matchers, hit in (
        ({"rule": "r", "severity": "warning"}, True),
        ({"rule": "r", "severity": "critical"}, False),
        ({"desk": "nifty"}, False),
        ({"desk": ""}, True),
        ({"symbol": "[AB]", "rule": "?"}, True),
    ):
        found = silenced_by(alert(), [replace(silence, matchers=matchers)], during)
        assert (found is not None) == hit, matchers


def test_a_silence_of_a_rule_ends_after_its_ttl_or_by_being_taken_back() -> None:
    """Named by rule, ended by id; whatever matches everything by omission matches nothing."""
    silence = made("silence", rule="r*", ttl_s=60)
    assert silenced_by(alert(), [silence], NOON + 59 * SECOND) == silence
    assert silenced_by(alert(), [silence], NOON + 60 * SECOND) is None
    taken_back = [silence, made("unsilence", of=silence.id)]
    assert silenced_by(alert(), taken_back, NOON) is None
    assert silenced_by(alert(), [made("silence", ttl_s=60)], NOON) is None
    other = made("silence", matchers={"symbol": "B"}, ttl_s=60)
    index = Decisions([silence, other])
    assert index.silences(NOON) == [silence, other]
    assert index.silences(NOON, MONO + HOUR, BOOT) == []
    assert index.silenced_by(alert(), NOON, MONO + HOUR, BOOT) is None


# The index


def _reference(
    of: Alert, decisions: Sequence[Decision], now_ns: int, mono_ns: int, boot: str
) -> str | None:
    """The table read line by line, without an index."""
    holding: list[Decision] = []
    for line in decisions:
        if line.kind == "clear":
            if line.rule == of.rule or line.scope == "all":
                holding = []
        elif line.kind == "ack" and not line.has_ended(now_ns, mono_ns, boot):
            covers = [c for c in line.covers if c.fingerprint == of.fingerprint]
            if line.until_resolved:
                covers = [c for c in covers if c.alert == of.id and of.state != "resolved"]
            levels = [c.severity for c in covers]
            if not covers and line.scope == "future" and line.rule == of.rule:
                levels = [max(c.severity for c in line.covers)]
            if levels and of.severity <= levels[0]:
                holding.append(line)
    return holding[-1].id if holding else None


_rules = st.sampled_from(["r", "q"])
_alerts = st.builds(
    alert, _rules, st.sampled_from("AB"), st.sampled_from(Severity), id=st.sampled_from("12")
).map(lambda a: replace(a, id=f"{a.rule}-{a.labels['symbol']}-{a.id}"))
_acks = st.builds(
    lambda alerts, ttl_s, lasting, future: ack(
        *alerts,
        rule=alerts[0].rule,
        ttl_s=None if lasting and not future else ttl_s,
        until_resolved=lasting and not future,
        scope="future" if future else "active",
    ),
    st.lists(_alerts, min_size=1, max_size=3, unique_by=lambda a: a.fingerprint),
    st.integers(1, 100),
    st.booleans(),
    st.booleans(),
)
_clears = st.builds(lambda rule: made("clear", rule=rule), _rules)
_journals = st.lists(_acks | _clears, max_size=8).map(
    lambda lines: [replace(line, at_ns=NOON + i, mono_ns=MONO + i) for i, line in enumerate(lines)]
)


@given(_journals, _alerts, st.sampled_from(["firing", "resolved"]), st.integers(0, 110))
@settings(max_examples=300)
def test_the_index_says_what_the_lines_say(
    lines: list[Decision], of: Alert, state: str, after_s: int
) -> None:
    """Looking up is only faster than reading all lines, never different."""
    of = replace(of, state=state)
    now = (NOON + after_s * SECOND, MONO + after_s * SECOND, BOOT)
    found = ack_for(of, lines, *now)
    expected = _reference(of, lines, *now)
    assert (found and found.at_ns) == next((d.at_ns for d in lines if d.id == expected), None)


def test_an_index_of_many_decisions_stays_small_and_answers_the_same() -> None:
    """A year of acks is forgotten as it ends; what holds is kept, clears included."""
    index = Decisions()
    index.add(ack(alert(symbol="old"), ttl_s=None, until_resolved=True, by="lasting"))
    index.add(ack(alert(symbol="gone"), ttl_s=10**8))
    index.add(made("clear", rule="r", covers=()))
    index.add(ack(alert(symbol="old"), ttl_s=None, until_resolved=True, by="again"))
    for n in range(20_000):
        at_ns = NOON + n * 60 * SECOND
        index.add(ack(alert(symbol=f"s{n % 50}"), at_ns=at_ns, boot_id=""))
        index.add(made("retry", delivery="d"))
    assert index._size < 10_000
    now = (NOON + 20_000 * 60 * SECOND, 0, "")
    assert index.ack_for(alert(symbol="s49"), *now) is not None
    assert index.ack_for(alert(symbol="gone"), *now) is None
    found = index.ack_for(alert(symbol="old"), *now)
    assert found is not None
    assert found.by == "again"


def test_what_never_ends_is_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the limit the oldest acks are forgotten, which tells an alert rather than hide it."""
    monkeypatch.setattr("notifier.decisions._KEPT", 2000)
    index = Decisions()
    for n in range(10_000):
        index.add(ack(alert(symbol=f"s{n}"), ttl_s=None, until_resolved=True))
    assert index._size <= 2 * 2000 + 1000
    assert index.ack_for(alert(symbol="s9999"), NOON, MONO, BOOT) is not None
    assert index.ack_for(alert(symbol="s0"), NOON, MONO, BOOT) is None


def test_a_lookup_costs_the_same_among_thousands(tmp_path: Path) -> None:
    """5,000 decisions about one rule don't make each question read them all."""
    few, many = Decisions([ack(alert())]), Decisions()
    for n in range(5000):
        many.add(ack(alert(symbol=f"s{n}"), alert(), rule="r", scope="future", ttl_s=9999))
    costs = []
    for index in (few, many):
        best = 1e9
        for _ in range(5):
            start = time.perf_counter()
            for _ in range(100):
                assert index.ack_for(alert(), NOON, MONO, BOOT) is not None
            best = min(best, time.perf_counter() - start)
        costs.append(best)
    assert costs[1] < 100 * costs[0]


# The journal

_text = st.text(max_size=10)
_times = st.integers(0, 10**15).map(lambda us: us * 1000)
_decisions = st.builds(
    Decision,
    kind=st.sampled_from(["ack", "clear", "expired", "silence", "unsilence", "retry"]),
    id=_text,
    at_ns=_times,
    by=_text,
    rule=_text,
    alert=_text,
    delivery=_text,
    of=_text,
    scope=st.sampled_from(["active", "future", "all"]),
    covers=st.lists(st.builds(Cover, _text, _text, st.sampled_from(Severity)), max_size=3).map(
        tuple
    ),
    ttl_s=st.integers(1, 604_800),
    until_resolved=st.booleans(),
    reason=_text,
    severity=st.none() | st.sampled_from(Severity),
    matchers=st.dictionaries(_text, _text, max_size=2),
    starts_ns=st.none() | _times,
    ends_ns=st.none(),
    boot_id=_text,
    mono_ns=st.integers(0, 2**62),
)


@given(_decisions)
def test_decoding_what_was_encoded_gives_the_decision_back(decision: Decision) -> None:
    """Nothing that an operator said is lost or changed on its way through the journal."""
    line = encode(decision)
    assert line.isascii()
    assert b"\n" not in line
    assert decode(line) == decision


_fields = st.sampled_from(
    [
        "kind",
        "id",
        "at",
        "by",
        "rule",
        "scope",
        "covers",
        "ttl_s",
        "severity",
        "matchers",
        "starts",
        "ends",
        "mono_ns",
    ]
)
_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text | st.just(10**30),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=2),
    max_leaves=5,
)


@given(st.dictionaries(_fields, _values) | st.binary())
def test_any_line_decodes_or_is_a_value_error(changes: dict[str, Any] | bytes) -> None:
    """No foreign line raises anything but ValueError, nor yields what can't be shown."""
    line = changes
    if isinstance(changes, dict):
        fields = json.loads(encode(ack(alert(), rule="r")))
        line = json.dumps(fields | changes).encode()
    assert isinstance(line, bytes)
    try:
        decision = decode(line)
    except ValueError:
        return
    assert decode(encode(decision)) == decision


@given(st.lists(_text, min_size=1, max_size=5), st.data())
@settings(max_examples=60)
def test_any_cut_of_a_journal_yields_a_prefix_of_its_records(
    tmp_path_factory: pytest.TempPathFactory, reasons: list[str], data: st.DataObject
) -> None:
    """Cut at any byte, the journal holds the first decisions, and the next append is whole."""
    path = tmp_path_factory.mktemp("cut") / "acknowledgements.jsonl"
    written = [Journal(path).append(ack(alert(), reason=reason)) for reason in reasons]
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    path.write_bytes(whole[:cut])
    before, offset, bad = Journal(path).read()
    assert before == written[: whole[:cut].count(b"\n")]
    assert bad == 0
    appended = Journal(path).append(ack(alert()))
    rest, _, bad = Journal(path).read(offset)
    assert before + rest == [*written[: len(before + rest) - 1], appended]
    assert bad <= 1


def test_reading_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Each decision comes once, torn and foreign lines are counted and passed."""
    path = tmp_path / "alerts" / "acknowledgements.jsonl"
    journal = Journal(path)
    assert journal.read() == ([], 0, 0)
    first = journal.append(ack(alert()))
    assert path.stat().st_mode & 0o777 == 0o600
    found, offset, bad = journal.read()
    assert (found, bad) == ([first], 0)
    assert journal.read(offset) == ([], offset, 0)
    with path.open("ab") as file:
        file.write(b'foreign\n\n{"kind":"ack","tor')
    second = journal.append(made("clear", rule="r"))
    found, offset, bad = journal.read(offset)
    assert (found, bad) == ([second], 3)
    assert Journal(path).read(offset) == ([], offset, 0)
    assert journal.read_all() == [first, second]
    assert journal.restarts == 0


@pytest.mark.parametrize("how", ["replaced", "truncated", "removed"])
def test_a_journal_that_became_another_file_is_read_from_its_beginning(
    tmp_path: Path, how: str
) -> None:
    """And the index then knows what is in it and nothing else."""
    path = tmp_path / "acknowledgements.jsonl"
    journal, index = Journal(path), Decisions()
    for symbol in "AB":
        journal.append(ack(alert(symbol=symbol)))
    with path.open("ab") as file:
        file.write(b"foreign\n")
    assert len(index.refresh(journal)) == 2
    assert (index.refresh(journal), index.bad) == ([], 1)
    if how == "truncated":
        path.write_bytes(path.read_bytes()[:-12])
    else:
        path.rename(tmp_path / "old")
        if how == "removed":
            assert index.refresh(journal) == []
            assert index.ack_for(alert(), NOON, MONO, BOOT) is None
        (tmp_path / "new").touch(mode=0o600)
        (tmp_path / "new").rename(path)
    newest = [journal.append(ack(alert(symbol=s))) for s in ("C" if how == "truncated" else "CDE")]
    fresh = index.refresh(journal)
    assert fresh[-len(newest) :] == newest
    assert index.ack_for(alert(symbol="C"), NOON, MONO, BOOT) is not None
    known = index.ack_for(alert(), NOON, MONO, BOOT) is not None
    assert known == (how == "truncated")
    assert journal.restarts == 1
    assert index.refresh(journal) == []


def test_a_decision_cut_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    """The command fails, and the next one after there is room again is whole."""
    journal = Journal(tmp_path / "acknowledgements.jsonl")
    first = journal.append(ack(alert()))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.path.stat().st_size + 40, hard))
    try:
        with pytest.raises(OSError, match="large"):
            journal.append(ack(alert(symbol="B")))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    second = journal.append(ack(alert(symbol="C")))
    found, _, bad = journal.read()
    assert (found, bad) == ([first, second], 1)


def test_a_journal_kept_locked_is_an_error_and_not_a_wait_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever was stopped while writing can't hang the next command."""
    monkeypatch.setattr(decision_module, "_LOCK_TIMEOUT_S", 0.05)
    journal = Journal(tmp_path / "acknowledgements.jsonl")
    journal.append(ack(alert()))
    with journal.path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(TimeoutError, match="locked by another process"):
            journal.append(ack(alert()))
    journal.append(ack(alert()))
    assert len(journal.read_all()) == 2


def test_a_journal_replaced_while_waiting_for_its_lock_is_opened_again(tmp_path: Path) -> None:
    """What was decided goes to the file that readers find, not to the one that was moved away."""
    path = tmp_path / "acknowledgements.jsonl"
    Journal(path).append(ack(alert()))
    decision = ack(alert(symbol="B"))
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        waiting = threading.Thread(target=Journal(path).append, args=(decision,))
        waiting.start()
        time.sleep(0.05)
        path.rename(tmp_path / "moved")
    waiting.join(10)
    assert Journal(path).read_all() == [decision]


def test_threads_append_whole_lines(tmp_path: Path) -> None:
    """The facade is called from any thread; a lock per process wouldn't keep them apart."""
    path = tmp_path / "acknowledgements.jsonl"
    journal = Journal(path)

    def work() -> None:
        for _ in range(20):
            journal.append(made("clear", rule="r"))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found, _, bad = journal.read()
    assert (len(found), bad) == (80, 0)


_APPENDER = """
import sys
from pathlib import Path
from notifier.decisions import Journal, decide
journal = Journal(Path(sys.argv[1]))
for n in range(int(sys.argv[2])):
    decision = decide("clear", sys.argv[3], rule="r", reason="x" * 3000)
    print(journal.append(decision).id, flush=True)
"""


def _appender(path: Path, count: int, name: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", _APPENDER, str(path), str(count), name]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_several_processes_append_at_once_and_lose_nothing(tmp_path: Path) -> None:
    """Each id that append returned is in the journal, in its process's order, in a whole line."""
    path = tmp_path / "acknowledgements.jsonl"
    writers = [_appender(path, 30, f"w{n}") for n in range(4)]
    ids = [writer.communicate(timeout=60)[0].split() for writer in writers]
    found, _, bad = Journal(path).read()
    assert (len(found), bad) == (120, 0)
    for n, mine in enumerate(ids):
        assert [d.id for d in found if d.by == f"w{n}"] == mine
        assert len(mine) == 30


def test_a_kill_during_appends_corrupts_no_line_of_others(tmp_path: Path) -> None:
    """kill -9 while writing: all that was reported is there, at most one torn line a kill."""
    path = tmp_path / "acknowledgements.jsonl"
    chance = random.Random(7)
    survivor = _appender(path, 100, "survivor")
    reported: set[str] = set()
    for n in range(5):
        victim = _appender(path, 10_000, f"victim{n}")
        assert victim.stdout is not None
        for _ in range(chance.randrange(1, 10)):
            reported.add(victim.stdout.readline().strip())
        time.sleep(chance.random() / 200)
        victim.kill()
        reported |= {line.strip() for line in victim.stdout if line.endswith("\n")}
        victim.stdout.close()
        victim.wait(10)
    reported |= set(survivor.communicate(timeout=60)[0].split())
    found, _, bad = Journal(path).read()
    assert reported <= {d.id for d in found}
    assert sum(d.by == "survivor" for d in found) == 100
    assert bad <= 5


def test_the_lock_is_not_left_with_a_forked_child(tmp_path: Path) -> None:
    """A child that an engine forks in the middle of an append doesn't keep the journal locked."""
    path = tmp_path / "acknowledgements.jsonl"
    journal = Journal(path)
    read_end, write_end = os.pipe()
    real_fsync, child = os.fsync, 0

    def fork_now(descriptor: int) -> None:
        nonlocal child
        if not child:
            child = os.fork()
            if child == 0:  # holds a copy of the locked descriptor until the pipe closes
                os.close(write_end)
                os.read(read_end, 1)
                os._exit(0)
        real_fsync(descriptor)

    patch = pytest.MonkeyPatch()
    patch.setattr(os, "fsync", fork_now)
    try:
        journal.append(ack(alert()))
    finally:
        patch.undo()
    try:
        journal.append(ack(alert()))
        assert len(journal.read_all()) == 2
    finally:
        os.close(write_end)
        os.close(read_end)
        os.waitpid(child, 0)


def test_a_machine_without_boot_ids_counts_by_the_wall_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Where the kernel names no boot an ack ends by the wall clock alone."""
    assert len(boot_id()) == 36

    def missing(path: Path, encoding: str) -> str:
        raise FileNotFoundError

    monkeypatch.setattr(Path, "read_text", missing)
    assert boot_id() == ""
    decisions = [ack(alert(), boot_id="")]
    assert ack_for(alert(), decisions, NOON, MONO + 2 * HOUR, "") is not None
    assert ack_for(alert(), decisions, NOON + HOUR, MONO, "") is None


def test_what_commands_import_is_the_standard_library() -> None:
    """An ack starts in a blink, also where numpy, pydantic and requests aren't wanted."""
    code = "import sys, notifier.decisions, notifier.alertlog, notifier.logs; print(*sys.modules)"
    shown = subprocess.run(
        [sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )  # -S: no installed package at all
    loaded = {name.partition(".")[0] for name in shown.stdout.split()}
    assert not loaded & {"numpy", "pydantic", "requests", "multiprocessing", "watchdog", "docopt"}
