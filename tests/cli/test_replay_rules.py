"""`rules replay`: the same evaluator over stored history, exact where all raw records are there."""

import math
import random
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.history.daywriter import DayFiles
from aggregator.history.history import History
from aggregator.rollup import RollupBuffer
from aggregator.rules import ruleset
from aggregator.rules.builtin import OWN_METRICS, builtin_rules
from aggregator.rules.evaluator import Evaluator
from aggregator.rules.rule import Rule
from aggregator.rules.rulefile import RuleFile, parse_rules
from aggregator.rules.units import Level
from aggregator.settings import Settings
from aggregator.store.query import open_readonly
from aggregator.store.store import Store
from cli import past, stand_in
from cli.past import Names, Past, counts
from cli.quiet import Quiet
from cli.replay_rules import Trial
from cli.stand_in import Order, Shape
from cli.would_send import Telling, messages
from notifier import ledger
from notifier.alert import Kind, Severity, Transition, fingerprint, parse_rfc3339, transition_id
from notifier.alertlog import AlertLog
from notifier.cycle import Notifier
from notifier.settings import NotifierSettings, PluginSettings
from tests.cli.conftest import Scripted

NS = 10**9
DAY = int(datetime(2026, 1, 30, tzinfo=UTC).timestamp())
OPEN = DAY + 9 * 3600
WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
FIELDS = {
    "at", "why", "rule", "labels", "severity", "state", "message", "value", "threshold", "unit",
    "exact",
}  # fmt: skip

RULES = """\
[[rule]]
name = "slow"
metric = "tick_latency"
stat = ["p99", "max"]
window = "60s"
above = {warning = "50ms", critical = "200ms"}

[[rule]]
name = "loss"
metric = "daily_loss_pct"
below = {warning = -4, critical = -6}
clear = -3
for = "3s"

[[rule]]
name = "rejects"
metric = "rejected"
per = "sent"
stat = "sum"
window = "5m"
min_count = 5
above = {warning = 0.5}

[[rule]]
name = "quiet"
metric = "tick_latency"
stat = "absent"
above = {warning = "20s"}
"""
OFF = "".join(
    f'[[rule]]\nname = "{rule}"\nenabled = false\n'
    for rule in ("performance_degradation", "daily_loss_high", "connection_lost")
)


@dataclass
class Recorded:
    """Records of one engine as an aggregator keeps them, and what a live evaluator made of them."""

    desk: object
    engine: str = "intraday"
    times: list = field(default_factory=list)
    names: list = field(default_factory=list)
    values: list = field(default_factory=list)

    @property
    def ring(self):
        return uuid.uuid5(uuid.NAMESPACE_DNS, self.engine).hex

    def add(self, at_s, metric, value, unit="ms"):
        self.times.append(int(at_s * NS))
        self.names.append((metric, unit))
        self.values.append(float(value))

    def arrays(self):
        order = np.argsort(np.array(self.times), kind="stable")
        known = sorted(set(self.names))
        numbers = np.array([known.index(name) for name in self.names], np.int64)[order]
        times = np.array(self.times, np.int64)[order]
        return known, numbers, times, np.array(self.values)[order]

    def labels(self):
        return {"engine": self.engine}

    def keep(self, *, raw=True, rollups=True, budget=1e9):
        """Write rollups and day files."""
        known, numbers, times, values = self.arrays()
        with Store.open(self.desk.data_dir / "rollups.db", 300) as store:
            ids = np.array([store.series_id(*name, self.labels()) for name in known], np.int64)
            if rollups:
                buffer = RollupBuffer(300)
                buffer.add(ids[numbers], times, values)
                store.commit(buffer.drain(), {}, {})
        if raw:
            history = History(DayFiles(self.desk.data_dir / "archive"), 1000, budget=budget)
            for number, (metric, unit) in enumerate(known):
                history.add_series(int(ids[number]), metric, unit, self.labels())
            for start in range(0, len(times), 500):
                piece = slice(start, start + 500)
                seqs = np.arange(start, start + len(times[piece]))
                history.add(self.ring, ids[numbers[piece]], seqs, times[piece], values[piece])
                while history.step() == 0.0 or history.waiting:
                    pass

    def live(self, rules, sessions=(), seed=1):
        """The transitions of an evaluator that gets the records in batches of any size."""
        known, numbers, times, values = self.arrays()
        evaluator = Evaluator(rules, sessions, uuid.UUID(int=5))
        for number, (metric, unit) in enumerate(known):
            evaluator.add_series(number, metric, unit, self.labels())
        chance, start, found = random.Random(seed), 0, []
        while start < len(times):
            end = start + chance.choice([1, 7, 100, 5000])
            piece = slice(start, end)
            seqs = np.arange(start, start + len(times[piece]))
            found += evaluator.observe("ring", numbers[piece], seqs, times[piece], values[piece])
            if chance.random() < 0.3:
                found += evaluator.advance("ring", int(times[piece][-1]))
            start = end
        return found + evaluator.advance("ring", int(times[-1]) + NS + 1)


def session(desk, *, seconds=1800, seed=3):
    """Half an hour with a stall, a loss, rejected orders and a silence, at 10 records a second."""
    made, chance = Recorded(desk), random.Random(seed)
    for step in range(seconds * 4):
        at = OPEN + step / 4 + chance.random() / 10
        second = step // 4
        if not 900 <= second < 940:
            stalled = 300 <= second < 310 and chance.random() < 0.2
            made.add(at, "tick_latency", 120 + second % 7 * 25 if stalled else chance.random())
        if step % 4 == 0:
            made.add(at, "daily_loss_pct", -7 * math.sin(second / 500), "%")
            made.add(at, "sent", 1, "")
            made.add(at, "rejected", chance.random() < (0.8 if 1200 <= second < 1500 else 0.1), "")
    return made


@pytest.fixture
def rules(desk):
    path = desk.folder / "rules.toml"
    path.write_text(RULES + OFF)
    return path


def replay(desk, rules, *argv):
    return desk.run("rules", "replay", "--json", "--rules", str(rules), *argv)


def key(row):
    return (row["at"], row["rule"], row["state"], row["severity"], row["why"], row["value"])


def expected(transitions, end_ns):
    """The rows of the messages that live transitions lead to."""
    defaults = Telling(600.0, {CRITICAL: (300.0, 900.0, 1800.0, 3600.0), WARNING: (14_400.0,)})
    return [key(one.row()) for one in messages(transitions, defaults, end_ns)]


def test_replay_equals_live(desk, rules):
    """Over complete raw records: the same messages, at the same times, with the same values."""
    made = session(desk)
    made.keep()
    ended = desk.command("rules", "replay", "--json", "--rules", str(rules))
    assert ended.code == 0
    rows = ended.rows
    assert all(set(row) == FIELDS and row["exact"] for row in rows)
    live = made.live(parse_rules(rules, builtin_rules()).rules)
    end_ns = (max(made.times) // NS + 1) * NS
    assert [key(row) for row in rows] == expected(live, end_ns)
    assert {row["rule"] for row in rows} == {"slow", "loss", "rejects", "quiet"}
    assert {row["why"] for row in rows} >= {"fired", "severity rose", "resolved", "still firing"}
    notes = ended.err.splitlines()
    assert notes[0].startswith(f"{len(rows)} messages from 2026-01-29 09:30:00")
    assert notes[1].startswith("not in any history, so not replayed: delivery_failing, disk_")
    assert len(notes) == 2


def test_without_raw_records_rollups_stand_in_and_say_so(desk, rules):
    """The same incidents, if not to the second; each message is marked."""
    session(desk).keep(raw=False)
    ended = replay(desk, rules)
    rows = ended.rows
    assert rows and not any(row["exact"] for row in rows)
    fired = {row["rule"]: row for row in rows if row["why"] == "fired"}
    assert set(fired) >= {"slow", "loss", "rejects"}
    for rule, at_s in (("slow", 300), ("loss", 305), ("rejects", 1200)):
        seen_s = parse_rfc3339(fired[rule]["at"]) // NS - OPEN
        assert at_s - 300 <= seen_s <= at_s + 600, rule
    assert max(row["value"] for row in rows if row["rule"] == "slow") > 200
    assert "raw records are complete for 0.0 % of" in ended.err
    text = desk.command("rules", "replay", "--rules", str(rules)).out
    assert text.splitlines()[0].split() == [
        "time", "severity", "why", "message", "labels", "from",
    ]  # fmt: skip
    assert all(line.endswith("rollups ~") for line in text.splitlines()[1:])


def test_a_day_that_is_partly_kept_is_exact_where_it_can_be(desk, rules):
    """What rests on rollups is marked, also when only the rule's window reaches into them."""
    session(desk).keep()
    [path] = (desk.data_dir / "archive").glob("*.part")
    members = []
    with path.open("rb") as file:
        members = list(past.dayfile.members(file))
    cut = next(m for m in members if m.cover.first_ns >= (OPEN + 600) * NS).offset
    content = path.read_bytes()
    path.write_bytes(content[cut:])  # as if the first ten minutes had not been written
    rows = replay(desk, rules).rows
    exact = {row["rule"] for row in rows if row["exact"]}
    assert exact >= {"rejects", "quiet"}
    assert not any(row["exact"] for row in rows if parse_rfc3339(row["at"]) < (OPEN + 600) * NS)
    assert any(row["exact"] for row in rows)
    assert {row["rule"] for row in rows if not row["exact"]} >= {"slow"}


def test_a_thinned_day_is_not_exact(desk, rules):
    """Records that were left out on purpose are missing all the same."""
    session(desk, seconds=600).keep(budget=1.0)
    rows = replay(desk, rules).rows
    assert rows and not any(row["exact"] for row in rows)


def test_raw_records_without_rollups_are_used(desk, rules):
    """Where aggregation is switched off."""
    made = session(desk, seconds=600)
    made.keep(rollups=False)
    argv = ["--from", "2026-01-30T00:00:00Z", "--to", "2026-01-31T00:00:00Z"]
    rows = replay(desk, rules, *argv).rows
    live = made.live(parse_rules(rules, builtin_rules()).rules)
    assert [key(row) for row in rows] == expected(live, (DAY + 86_400) * NS)
    assert all(row["exact"] for row in rows)


def test_damage_is_passed_over_and_said(desk, rules):
    """The rest is replayed."""
    session(desk, seconds=600).keep()
    [path] = (desk.data_dir / "archive").glob("*.part")
    with path.open("rb") as file:
        first = next(past.dayfile.members(file))
    content = bytearray(path.read_bytes())
    content[first.end - 9] ^= 0xFF
    path.write_bytes(content)
    ended = replay(desk, rules)
    assert ended.code == 0 and ended.rows
    assert "1 damaged members or lines of day files were passed over" in ended.err
    assert not any(row["exact"] for row in ended.rows)


def test_only_messages_of_the_range_are_listed_but_windows_know_what_was_before(desk, rules):
    """A rule over five minutes has seen them when the range begins."""
    session(desk).keep()
    everything = replay(desk, rules).rows
    cut = "2026-01-30T09:22:00Z"
    later = replay(desk, rules, "--from", cut, "--to", "2026-01-30T09:40:00Z").rows
    expected_rows = [key(row) for row in everything if row["at"] >= "2026-01-30T09:22:00"]
    assert [key(row) for row in later if row["rule"] != "loss"] == [
        each for each in expected_rows if each[1] != "loss"
    ]
    assert later


def test_two_files_are_compared(desk, rules):
    """What both tell, what only the one or the other does; a line each, in order of time."""
    session(desk, seconds=1300).keep()
    tuned = desk.folder / "tuned.toml"
    tuned.write_text(rules.read_text().replace('"50ms"', '"150ms"').replace("20s", "60s"))
    ended = replay(desk, rules, "--diff", str(tuned))
    rows = ended.rows
    assert all(set(row) == FIELDS | {"rules"} for row in rows)
    sides = {(row["rule"], row["rules"]) for row in rows}
    assert ("quiet", "first") in sides and ("quiet", "second") not in sides
    assert {side for rule, side in sides if rule == "slow"} >= {"first", "second"}
    assert {side for rule, side in sides if rule == "loss"} == {"both"}
    assert [row["at"] for row in rows] == sorted(row["at"] for row in rows)
    assert ended.err.startswith(f"{sum(row['rules'] == 'both' for row in rows)} messages with both")
    out = desk.run("rules", "replay", "--rules", str(rules), "--diff", str(tuned)).out
    marks = [line[0] for line in out.splitlines()[1:]]
    assert set(marks) == {" ", "-", "+"} or set(marks) == {"-", "+"} | {" "}
    same = replay(desk, rules, "--diff", str(rules), "--hours", "0.2").rows
    assert {row["rules"] for row in same} == {"both"}


def test_the_configured_rules_are_replayed_without_a_file(desk):
    """Those that a service would have."""
    made = Recorded(desk)
    for second in range(60):
        made.add(OPEN + second, "connected", second != 30, "")
    made.keep()
    rows = desk.run("rules", "replay", "--json").rows
    assert [(row["rule"], row["why"]) for row in rows] == [
        ("connection_lost", "fired"),
        ("connection_lost", "resolved"),
    ]
    assert rows[0]["message"].startswith("CRITICAL connection_lost: connection lost")


def test_engines_have_clocks_of_their_own(desk, rules):
    """One that is silent isn't pushed on by another, and both are replayed."""
    one, other = session(desk, seconds=400), Recorded(desk, "swing")
    other.add(OPEN, "tick_latency", 1)
    other.add(OPEN + 100, "tick_latency", 1)
    one.keep()
    other.keep()
    rows = replay(desk, rules).rows
    silences = [row for row in rows if row["rule"] == "quiet"]
    assert {row["labels"]["engine"] for row in silences} == {"swing"}
    assert {row["labels"]["engine"] for row in rows if row["rule"] == "slow"} == {"intraday"}


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--rules", "nowhere.toml"], 1, "nowhere.toml: no such file"),
        (["--diff", "nowhere.toml"], 1, "nowhere.toml: no such file"),
        (["--from", "2026-01-31", "--to", "2026-01-30"], 2, "--to"),
        (["--hours", "x"], 2, "--hours=x: use a positive number"),
        ([], 1, "rollups.db: no such file"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(desk, argv, code, text):
    """1 for what isn't there, 2 for wrong use."""
    if argv and "nowhere" not in argv[-1]:
        Store.open(desk.data_dir / "rollups.db", 300).close()
    ended = desk.run("rules", "replay", *argv)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err and ended.err.count("\n") == 1


def test_a_wrong_file_tells_all_its_problems(desk):
    """Nothing is replayed."""
    Store.open(desk.data_dir / "rollups.db", 300).close()
    path = desk.folder / "wrong.toml"
    path.write_text('[[rule]]\nname = "a"\n[[rule]]\nname = "b"\nmetric = "m"\n')
    ended = desk.run("rules", "replay", "--rules", str(path))
    assert ended.code == 1 and ended.err.count("\n") == 2
    assert "line 1, rule 'a'" in ended.err and "line 3, rule 'b'" in ended.err


def test_an_empty_history_is_said(desk):
    """With what to look at."""
    Store.open(desk.data_dir / "rollups.db", 300).close()
    ended = desk.run("rules", "replay", "--json")
    assert (ended.code, ended.rows) == (0, [])
    assert "nothing was recorded in that time" in ended.err


def test_a_live_service_may_be_a_moment_behind(desk, rules):
    """Its day file lacks the last second: that makes five minutes inexact only once it is gone."""
    made = session(desk, seconds=600)
    made.keep(raw=False)
    cut = [at < (OPEN + 598) * NS for at in made.times]
    for column in (made.times, made.names, made.values):
        column[:] = [value for value, kept in zip(column, cut, strict=True) if kept]
    made.keep(rollups=False)
    assert not all(row["exact"] for row in replay(desk, rules).rows)
    desk.service_runs()
    assert all(row["exact"] for row in replay(desk, rules).rows)


def test_every_rule_that_watches_the_service_itself_is_known_as_such():
    """A new one would be replayed as if nothing had ever happened."""
    recorded = {
        "circuit_breaker_active", "daily_loss_pct", "connected", "sentiment_failure", "*_latency",
        "position_count",
    }  # fmt: skip
    rules = ruleset.builtin(Settings(monitoring_position_limit=5))
    assert {rule.metric for rule in rules} - recorded == OWN_METRICS


def test_members_count_for_the_intervals_they_lie_in(desk):
    """Those across a boundary are inflated; those of other days aren't even opened."""
    made = Recorded(desk)
    for i in range(4000):
        made.add(OPEN + i * 0.37, "a", i)
    made.keep()
    found, thinned = counts(desk.data_dir / "archive", OPEN, OPEN + 86_400, 300)
    wanted = np.bincount([(at // NS - OPEN) // 300 for at in made.times])
    assert [found[OPEN + 300 * i] for i in range(len(wanted))] == wanted.tolist()
    assert not thinned
    assert not counts(desk.data_dir / "archive", OPEN - 10 * 86_400, OPEN - 86_400, 300)[0]


# stand-ins


def row(low, high, count=1000, *, p50=None, p90=None, p99=None, avg=None):
    p50 = (low + high) / 2 if p50 is None else p50
    stats = {"min": low, "p50": p50, "p90": p50 if p90 is None else p90}
    stats |= {"p99": high if p99 is None else p99, "p999": high, "max": high}
    return {**stats, "count": count, "avg": (low + high) / 2 if avg is None else avg}


finite = st.floats(-1e6, 1e6)


@given(
    st.lists(finite, min_size=1, max_size=200),
    st.sampled_from(Order),
    st.integers(1, 3600),
)
def test_stand_ins_have_the_extremes_and_the_mean(values, order, length):
    """Whatever the values: inside the interval, in order of time, never beyond min and max."""
    shape = Shape([])
    shape.order = order
    quantiles = np.quantile(values, [0.5, 0.9, 0.99, 0.999], method="inverted_cdf").tolist()
    stats = dict(zip(("p50", "p90", "p99", "p999"), quantiles, strict=True))
    low, high, mean = min(values), max(values), sum(values) / len(values)
    given_row = {"min": low, "max": high, "avg": min(max(mean, low), high), "count": len(values)}
    times, made = stand_in.records({**stats, **given_row}, 1000, 1000 + length, shape)
    assert len(times) == len(made) == len(values)
    assert times[0] >= 1000 * NS and times[-1] < (1000 + length) * NS
    assert (np.diff(times) >= 0).all()
    assert made.min() >= low and made.max() <= high
    if len(values) > 1:
        assert made.min() == low and made.max() == high


def test_a_state_stays_two_valued():
    """A connection is there or not: 0 and 1, as many of each as there were."""
    shape = Shape([Rule("lost", "connected", below={CRITICAL: Level(0.0)})])
    _, made = stand_in.records(row(0.0, 1.0, 100, p50=1.0, avg=0.9), 0, 300, shape)
    assert sorted(made) == [0.0] * 10 + [1.0] * 90
    lost = np.flatnonzero(made == 0)
    assert (np.diff(lost) == 1).all()  # one outage, not ten
    assert lost[0] > 0 and lost[-1] < 99


def test_bad_values_come_in_a_row_for_single_values_and_spread_for_windows():
    """The fewest messages that fit; windows that are like the whole."""
    peak = Shape([Rule("a", "m", {WARNING: Level(1.0)})])
    spread = Shape([Rule("a", "m", {WARNING: Level(1.0)}, stat=("p99",), window_s=60)])
    stats = row(0.0, 100.0, 1000, p50=1.0, p90=2.0, p99=50.0, avg=2.0)
    assert (peak.order, spread.order) == (Order.PEAK, Order.SPREAD)
    _, made = stand_in.records(stats, 0, 300, peak)
    high = np.flatnonzero(made > 2.5)
    assert high[-1] - high[0] == len(high) - 1
    _, made = stand_in.records(stats, 0, 300, spread)
    parts = [part.mean() for part in np.array_split(made, 5)]
    assert max(parts) < 2.5 * min(parts)


def test_rules_that_count_get_as_many_records_as_there_were():
    """Others get enough; a rule on silence gets one a second, since gaps can't be known."""
    many = row(0.0, 1.0, 15_000)
    counted = Shape([Rule("a", "m", {WARNING: Level(1.0)}, stat=("sum",), window_s=60)])
    assert len(stand_in.records(many, 0, 300, counted)[0]) == 15_000
    assert len(stand_in.records(many, 0, 300, Shape([]))[0]) == 1_000
    assert len(stand_in.records(many, 0, 3600, Shape([]))[0]) == 12_000
    steady = Shape([Rule("a", "m", {WARNING: Level(30.0, "s")}, stat=("absent",))])
    times, _ = stand_in.records(row(0.0, 1.0, 2), 0, 300, steady)
    assert len(times) == 300 and np.diff(times).max() == NS


# messages


def transition(at_s, kind, severity=WARNING, rule="slow", **fields):
    labels = {"engine": "intraday"}
    of = fingerprint(rule, labels)
    identity = transition_id(uuid.UUID(int=1), of, kind, "ring", int(at_s * 1000))
    fields = {"value": 5.0, "threshold": 1.0, "unit": "ms"} | fields
    return Transition(identity, kind, int(at_s * NS), rule, labels, severity, **fields)


def test_the_messages_are_those_that_the_notifier_writes(tmp_path):
    """First ones, rises, repeats, flapping inside the reopen window, ends: the same, when due."""
    start = OPEN
    story = [
        transition(start, Kind.FIRED),
        transition(start + 40, Kind.SEVERITY, CRITICAL, value=50.0),
        transition(start + 700, Kind.RESOLVED, CRITICAL),
        transition(start + 720, Kind.FIRED),
        transition(start + 730, Kind.RESOLVED),
        transition(start + 900, Kind.FIRED, CRITICAL),
        transition(start + 1600, Kind.RESOLVED, CRITICAL),
        transition(start + 2600, Kind.FIRED, CRITICAL),
        transition(start + 100, Kind.FIRED, CRITICAL, "other"),
    ]
    story.sort(key=lambda each: each.at_ns)
    end_s = start + 4000
    settings = NotifierSettings(
        tmp_path / "data", tmp_path / "logs", plugins=(PluginSettings("ops", "webhook"),)
    )
    (tmp_path / "data").mkdir()
    log = AlertLog(settings.alerts_dir)
    notifier = Notifier(settings, {"ops": Scripted("ops")}, noise=lambda: 0.5)
    waiting = list(story)
    for second in range(start, end_s):
        while waiting and waiting[0].at_ns <= second * NS:
            log.append([waiting.pop(0)], second * NS)
        for _ in range(2):
            notifier.step(second * NS, wall_ns=second * NS, mono_ns=second * NS)
    notifier.close()
    log.close()
    db = ledger.open_readonly(settings.ledger_path)
    written = sorted((d.created_ns // NS, d.kind, d.why) for d in ledger.deliveries(db))
    db.close()
    telling = Telling(settings.reopen_s, settings.repeats_s)
    sent = messages(story, telling, end_s * NS)
    assert sorted((one.at_ns // NS, one.state, one.why) for one in sent) == written
    assert len(written) > 10
    assert sent[0].text == "WARNING slow 5 ms > 1 ms"


def test_the_end_of_something_that_never_began_is_no_message():
    """The log of a range may begin in the middle of an alert."""
    telling = Telling(600.0, {})
    assert messages([transition(OPEN, Kind.RESOLVED)], telling, (OPEN + 60) * NS) == []


# what nobody can notice

VARIED = (
    Rule("last", "tick_latency", {WARNING: Level(5.0, "ms"), CRITICAL: Level(50.0, "ms")}),
    Rule("held", "tick_latency", {WARNING: Level(5.0, "ms")}, for_s=4.0, clear=Level(1.5, "ms")),
    Rule("p99", "*_latency", {WARNING: Level(20_000.0, "us")}, stat=("p99", "avg"), window_s=60),
    Rule("long", "tick_latency", {WARNING: Level(4.0, "ms")}, stat=("avg",), window_s=1200),
    Rule("low", "pnl", below={WARNING: Level(-10.0)}, stat=("min",), window_s=30),
    Rule("sum", "rejected", {WARNING: Level(3.0)}, stat=("sum",), window_s=120),
)


def eventful(desk, seed):
    """An hour of calm with a few excursions, trembling, and silences of all lengths."""
    made, chance = Recorded(desk), random.Random(seed)
    at, calm = float(OPEN), True
    while at < OPEN + 3600:
        if chance.random() < 0.002:
            calm = not calm
        if chance.random() < 0.0005:
            at += chance.choice([2, 40, 700])
        made.add(at, "tick_latency", chance.uniform(0.1, 1.0 if calm else 30.0))
        made.add(at, "order_latency", chance.uniform(10, 900 if calm else 90_000), "us")
        made.add(at, "pnl", chance.uniform(-9 if calm else -20, 5), "")
        if chance.random() < 0.003:
            made.add(at, "rejected", 1, "")
        at += chance.choice([0.5, 1, 3])
    return made


def tried(desk, quiet):
    """Transitions of all rules over what is stored, and how many records were left to nobody."""
    names = Names(lambda metric, labels: Shape([]))
    db = open_readonly(desk.data_dir / "rollups.db")
    stored = Past(db, desk.data_dir / "archive", False, quiet, names)
    trial = Trial(RuleFile(VARIED, ()))
    unseen = 0
    for stretch in stored.stretches(OPEN - 3600, OPEN + 86_400):
        assert stretch.exact
        for batch in stored.batches(stretch):
            unseen += int((batch.series == past.NOBODY).sum())
            trial.take(batch, names)
    db.close()
    trial.finish()
    return trial.transitions, unseen


@pytest.mark.parametrize("seed", range(2))
def test_leaving_out_what_nobody_notices_changes_no_transition(desk, seed):
    """Not one id, time, value, count or piece of evidence, with every kind of rule at work."""
    eventful(desk, seed).keep()
    everything, none = tried(desk, Loud(VARIED))
    fewer, unseen = tried(desk, Quiet(VARIED))
    assert fewer == everything
    assert none == 0 and unseen > 0
    assert {each.rule for each in everything} >= {"last", "held", "p99", "long", "low"}


class Loud(Quiet):
    """Thinks that everything matters."""

    def is_loud(self, number, at_ns):
        return True


@pytest.mark.parametrize(
    ("rule", "loud"),
    [
        (Rule("a", "m", {WARNING: Level(5.0)}), False),
        (Rule("a", "m", {WARNING: Level(2.0)}), True),
        (Rule("a", "m", {WARNING: Level(5.0)}, clear=Level(2.0)), True),
        (Rule("a", "m", below={WARNING: Level(1.0)}), True),
        (Rule("a", "m", {WARNING: Level(5.0)}, stat=("sum",), window_s=60), True),
        (Rule("a", "m", {WARNING: Level(5.0, "s")}, stat=("absent",)), True),
        (Rule("a", "x", {WARNING: Level(5.0)}, stat=("sum",), window_s=60, per="m"), True),
        (Rule("a", "m", {WARNING: Level(5.0)}, session="NSE"), True),
        (Rule("a", "m", {WARNING: Level(5.0, "MB")}), False),
    ],
)
def test_a_series_is_quiet_only_if_every_rule_on_it_is_plain(rule, loud):
    """And none of its values comes near a level."""
    quiet = Quiet([rule])
    seen = {"metric": "m", "unit": "ms", "labels": {}, "min": 1.0, "max": 3.0}
    quiet.see(1, {**seen, "interval_seconds": 300}, 3000)
    assert quiet.is_loud(1, 3100 * NS) is loud
    assert quiet.is_loud(2, 3100 * NS)  # nobody has seen its rollups
    quiet.know_nothing(3000, 3300)
    assert quiet.is_loud(1, 3100 * NS)
