"""`rules check`: every problem of a file, what is in force, and levels beside what was recorded."""

import json
import subprocess
import sys
from datetime import datetime
from datetime import time as clock

import pytest

from aggregator.configuration import configure
from aggregator.rules import ruleset
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from aggregator.settings import Settings
from aggregator.store.store import Store
from cli import place, rollups, thresholds
from cli.rulecheck import fires
from notifier.alert import Severity
from tests.cli.test_metrics import T0, rollup
from tests.environments import unmeasured

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
FIELDS = {
    "rule", "from", "metric", "match", "per", "by", "stat", "window_seconds", "min_count", "above",
    "below", "clear", "for_seconds", "session", "when", "message", "compared",
}  # fmt: skip
COMPARED = {
    "metric", "labels", "unit", "level", "ordinary", "worst", "count", "ratio", "reached", "text",
}  # fmt: skip

FILE = """\
monitoring_max_raw_metrics = 100

[[session]]
name = "NSE"
tz = "Asia/Kolkata"
open = "09:15"
close = "15:30"

[[rule]]
name = "daily_loss_high"
enabled = false

[[rule]]
name = "performance_degradation"
above = {warning = "50ms"}

[[rule]]
name = "order_rejects"
metric = "orders_rejected"
match = {strategy = ["mean_*", "trend"]}
per = "orders_sent"
stat = "sum"
window = "5m"
min_count = 20
above = {warning = 0.02, critical = 0.10}
clear = 0.01
for = "30s"
session = "NSE"
"""


@pytest.fixture
def recorded(desk):
    """A fast latency, a slow one, and a loss, over an hour."""
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        fast = store.series_id("tick_latency", "ms", {"engine": "intraday"})
        slow = store.series_id("order_latency", "us", {"engine": "intraday"})
        loss = store.series_id("daily_loss_pct", "%", {"engine": "intraday"})
        new = store.series_id("new_latency", "ms", {"engine": "intraday"})
        for i in range(12):
            store.commit(
                [
                    rollup(fast, T0 + 300 * i, [0.2] * 99 + [0.4]),
                    rollup(slow, T0 + 300 * i, [2_000_000.0] * 100),
                    rollup(loss, T0 + 300 * i, [-1.25] * 10),
                ],
                {},
                {},
            )
        store.commit([rollup(new, T0, [1.0])], {}, {})
    return desk


def rule_file(desk, text=FILE):
    path = desk.folder / "rules.toml"
    path.write_text(text)
    return str(path)


def by_rule(rows):
    return {row["rule"]: row for row in rows}


def test_a_sound_file_shows_what_is_in_force(desk):
    """From another process: built in, changed, own; every field of a rule."""
    ended = desk.command("rules", "check", rule_file(desk), "--json")
    assert ended.code == 0
    rows = ended.rows
    assert all(set(row) == FIELDS for row in rows)
    rules = by_rule(rows)
    assert "daily_loss_high" not in rules
    assert rules["connection_lost"]["from"] == "built-in"
    assert rules["feed_stale"]["from"] == "built-in"
    changed = rules["performance_degradation"]
    assert (changed["from"], changed["above"], changed["stat"]) == (
        "changed", {"warning": "50ms"}, ["avg", "p99", "max"],
    )  # fmt: skip
    own = rules["order_rejects"]
    assert own == {
        "rule": "order_rejects",
        "from": "own",
        "metric": "orders_rejected",
        "match": {"strategy": ["mean_*", "trend"]},
        "per": "orders_sent",
        "by": [],
        "stat": ["sum"],
        "window_seconds": 300,
        "min_count": 20,
        "above": {"warning": "0.02", "critical": "0.1"},
        "below": {},
        "clear": "0.01",
        "for_seconds": 30.0,
        "session": "NSE",
        "when": None,
        "message": "",
        "compared": [],
    }


def test_text_names_file_sessions_and_what_is_off(desk):
    """One line a rule, in words."""
    path = rule_file(desk)
    ended = desk.run("rules", "check", path)
    head, off, _, titles, *lines = ended.out.splitlines()
    assert head == f"{path}: {len(lines)} rules in force, sessions: NSE"
    assert off == "switched off: daily_loss_high"
    assert titles.split() == ["rule", "from", "watches", "fires", "session"]
    [own] = [line for line in lines if line.startswith("order_rejects")]
    words = (
        "order_rejects own orders_rejected / orders_sent strategy=mean_*|trend sum over 5m: "
        "warning >= 0.02, critical >= 0.1, for 30s, clear at 0.01 NSE"
    )
    assert " ".join(own.split()) == words
    assert "not compared with what was recorded" in ended.err


def test_every_problem_is_told_with_its_line(desk):
    """Rules, sessions, plugins and routes of the file at once; exit code 1."""
    path = rule_file(
        desk,
        '[[rule]]\nname = "a"\nmetrik = "x"\nabove = {warning = 1}\n\n'
        '[[session]]\nname = "NSE"\nopen = "9"\n\n'
        '[[plugin]]\nkind = "webhok"\n\n[[plugin]]\nkind = "slack"\nname = "s"\n'
        '[[route]]\nsteps = [["nobody"]]\nunackd = "5m"\n',
    )
    ended = desk.run("rules", "check", path)
    assert ended.code == 1
    lines = ended.out.splitlines()
    assert lines[0].startswith(f"{path} line 6, session 'NSE': close is missing")
    assert any(
        line == f"{path} line 1, rule 'a': metrik: no such key; did you mean metric?"
        for line in lines
    )
    assert any("kind='webhok': use alertmanager" in line for line in lines)
    assert any("no such key 'unackd'; did you mean 'unacked'?" in line for line in lines)
    assert ended.err == (
        f"tickwatch: {len(lines)} problems in {path}: a service keeps the rules that it has\n"
    ).removeprefix("tickwatch: ")
    ended = desk.run("rules", "check", path, "--json")
    assert ended.code == 1
    assert [row["problem"] for row in ended.rows] == lines
    assert {row["line"] for row in ended.rows} == {6, 1, None}


def test_half_configured_plugins_and_unknown_ones_in_routes_are_problems(desk):
    """A route may name a plugin of the settings, too."""
    path = rule_file(desk, '[[plugin]]\nkind = "slack"\nname = "s"\n')
    ended = desk.run("rules", "check", path)
    assert ended.code == 1 and "s: url is empty" in ended.out
    assert "1 problem in" in ended.err
    path = rule_file(desk, '[[route]]\nsteps = [["webhook"], ["nobody"]]\nunacked = "5m"\n')
    ended = desk.run(
        "rules",
        "check",
        path,
        MONITORING_ENABLE_WEBHOOK_ALERTS="true",
        MONITORING_WEBHOOK_URL="http://127.0.0.1:9",
    )
    assert ended.code == 1
    assert "no plugin 'nobody'" in ended.out and "'webhook'" not in ended.out


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["nowhere.toml"], 1, "nowhere.toml: no such file"),
        (["/"], 1, "/: not a file"),
        (["a", "b"], 2, "a b given"),
        (["--fix"], 2, "no option --fix"),
    ],
)
def test_what_is_no_file_is_said_in_one_line(desk, argv, code, text):
    """1 for what isn't there, 2 for wrong use."""
    ended = desk.run("rules", "check", *argv)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err and ended.err.count("\n") == 1


def test_a_file_that_is_no_toml_is_one_problem(desk):
    """With the place in it."""
    path = rule_file(desk, "[[rule]\n")
    ended = desk.run("rules", "check", path)
    assert ended.code == 1
    assert ended.out.startswith(f"{path}: not TOML: ") and ended.out.count("\n") == 1


def test_without_a_file_the_configured_one_is_checked(desk):
    """The rules file of the settings, else the TOML file, else the built-in rules alone."""
    path = rule_file(desk)
    assert desk.run("rules", "check").out.startswith("no rule file: ")
    ended = desk.run("rules", "check", MONITORING_RULES_FILE=path)
    assert ended.out.startswith(f"{path}: ")
    assert desk.run("rules", "check", "--config", path).out.startswith(f"{path}: ")


def test_wrong_settings_are_wrong_use(desk):
    """The built-in rules depend on them."""
    ended = desk.run("rules", "check", MONITORING_DAILY_LOSS_ALERT_PCT="99")
    assert ended.code == 2
    assert "MONITORING_DAILY_LOSS_ALERT_PCT=99: must be 0.5..10" in ended.err


@pytest.mark.parametrize(("text", "tracking"), [(FILE, "true"), ("", "false")])
def test_the_rules_in_force_are_those_of_the_service(desk, monkeypatch, text, tracking):
    """The same file and settings give the very same rules here and there."""
    monkeypatch.setenv("MONITORING_RULES_FILE", rule_file(desk, text))
    monkeypatch.setenv("MONITORING_POSITION_LIMIT", "7")
    monkeypatch.setenv("MONITORING_ENABLE_PERFORMANCE_TRACKING", tracking)
    settings = Settings()
    service = configure(settings)
    ours = ruleset.in_force(settings, ruleset.configured_file(settings))
    assert ours.rules == service.rules
    assert ours.sessions == service.sessions
    assert "position_limit_breached" in {rule.name for rule in ours.rules}


def test_levels_are_compared_with_what_was_recorded(recorded):
    """In the series' own unit; how far off they are, or that they were reached."""
    ended = recorded.run("rules", "check", "--json")
    assert ended.err == ""
    rules = by_rule(ended.rows)
    compared = {each["metric"]: each for each in rules["performance_degradation"]["compared"]}
    assert all(set(each) == COMPARED for each in compared.values())
    tick = compared["tick_latency"]
    assert (tick["level"], tick["unit"], tick["worst"], tick["count"]) == (1000.0, "ms", 0.4, 1200)
    assert tick["ratio"] == pytest.approx(1000 / tick["ordinary"])
    assert not tick["reached"]
    order = compared["order_latency"]
    assert (order["level"], order["unit"], order["reached"]) == (1_000_000.0, "us", True)
    [loss] = rules["daily_loss_high"]["compared"]
    assert (loss["ordinary"], loss["ratio"]) == (-1.25, 3.2)
    assert loss["text"] == "-4 % is 3.2 times the lowest of the last 24 h (-1.25 %)"
    assert rules["sentiment_failures_high"]["compared"] == []


def test_the_comparison_is_words_for_people(recorded):
    """Two digits of how many times; few records are named."""
    out = recorded.run("rules", "check").out
    assert "1,000 ms is 5,000 times the p99 of the last 24 h (0.2" in out
    assert "1,000,000 us was reached: the highest of the last 24 h is 2,000,000 us" in out
    assert "1,000 ms is 1,000 times the p99 of the last 24 h (1 ms), of 1 records only" in out


NSE = Session("NSE", "UTC", open=clock(9, 0), close=clock(9, 30))


def compare(desk, rules, sessions, now):
    where = place.find({"--data-dir": str(desk.data_dir)})
    with rollups.opened(where) as db:
        now_ns = int(datetime.fromisoformat(now).timestamp() * 1e9)
        return thresholds.compare(rules, sessions, db, now_ns)


@pytest.mark.parametrize(
    ("session", "now", "count", "period"),
    [
        ("NSE", "2026-01-30T10:00:00Z", 100, "last session's"),
        ("", "2026-01-30T10:00:00Z", 100, "last session's"),
        ("NSE", "2026-02-06T08:00:00Z", 300, "of the last 24 h"),
        ("gone", "2026-01-30T10:00:00Z", 100, "last session's"),
    ],
)
def test_the_last_session_counts_where_there_was_one(desk, session, now, count, period):
    """The rule's own, else the one that closed last; without records the last 24 h."""
    friday = int(datetime.fromisoformat("2026-01-30T09:00:00Z").timestamp())
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        series = store.series_id("tick_latency", "ms", {"engine": "a"})
        for start_s in (friday, friday + 3600, friday + 7200):
            store.commit([rollup(series, start_s, [0.5] * 100)], {}, {})
    rule = Rule("slow", "tick_latency", {WARNING: Level(1.0, "ms")}, session=session)
    [found] = compare(desk, [rule], [NSE], now)["slow"]
    assert found.count == count and period in found.text


def test_what_cannot_be_compared_is_left_out(recorded):
    """Sums, counts, silence, ratios, and units that measure something else."""
    level = {WARNING: Level(1.0)}
    rules = [
        Rule("a", "tick_latency", level, stat=("sum",), window_s=60),
        Rule("b", "tick_latency", level, stat=("absent",)),
        Rule("c", "tick_latency", level, stat=("avg",), window_s=60, per="order_latency"),
        Rule("d", "tick_latency", {WARNING: Level(1.0, "MB")}),
        Rule("e", "other", level),
    ]
    found = compare(recorded, rules, [], "2026-01-31T12:00:00Z")
    assert found == {"d": [], "e": []}


def test_a_level_on_the_other_side_of_zero_has_no_ratio(recorded):
    """0 times, minus 3 times: such numbers say nothing."""
    rules = [
        Rule("a", "tick_latency", below={WARNING: Level(0.0)}),
        Rule("b", "daily_loss_pct", {CRITICAL: Level(5.0, "%")}),
    ]
    found = compare(recorded, rules, [], "2026-01-31T12:00:00Z")
    assert [found[name][0].ratio for name in "ab"] == [None, None]
    assert found["a"][0].text == "0 ms, the lowest of the last 24 h is 0.2 ms"


def test_an_empty_store_has_nothing_to_compare_with(desk):
    """Said on stderr; the rules are listed all the same."""
    Store.open(desk.data_dir / "rollups.db", 300).close()
    ended = desk.run("rules", "check")
    assert ended.code == 0
    assert ended.err == "not compared with what was recorded: nothing was recorded yet\n"


@pytest.mark.parametrize(
    ("rule", "text"),
    [
        (Rule("a", "m", {WARNING: Level(1.0)}), "value: warning >= 1"),
        (Rule("a", "m", below={CRITICAL: Level(1.0)}, strict=True), "value: critical < 1"),
        (
            Rule("a", "m", {WARNING: Level(30.0, "s")}, stat=("absent",)),
            "no record for: warning 30s",
        ),
        (
            Rule("a", "m", {WARNING: Level(5.0, "ms")}, stat=("p99",), window_s=60, for_s=10),
            "p99 over 1m: warning >= 5ms, for 10s",
        ),
    ],
)
def test_a_rule_in_words(rule, text):
    """As short as a table needs it."""
    assert fires(rule) == text


def test_checking_rules_loads_nothing_heavy(desk):
    """No numpy, no requests: a check must be quick enough to be made."""
    code = (
        "import sys; from cli.__main__ import main;"
        f"main(['--data-dir', {json.dumps(str(desk.data_dir))}, 'rules', 'check']);"
        "heavy = {'numpy', 'requests', 'watchdog', 'smtplib', 'multiprocessing'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=False, env=unmeasured(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
