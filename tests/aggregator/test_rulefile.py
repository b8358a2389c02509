"""Rule files: everything that can be said in one, and every problem of one at once."""

from datetime import date, time
from pathlib import Path

import pytest

from aggregator.rules.builtin import builtin_rules, session_rules
from aggregator.rules.rule import Rule
from aggregator.rules.rulefile import RuleFile, RuleFileError, parse_rules
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from notifier.alert import Severity

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL

WHOLE = """
[[rule]]
name = "order_rejects"
metric = "orders_rejected"
match = {strategy = "mean_*", desk = ["nifty", "bank*"]}
per = "orders_sent"
stat = "sum"
window = "5m"
min_count = 20
above = {warning = 0.02, critical = "10%"}
clear = 0.01
for = "30s"
session = "NSE"
message = "{value:.1%} of orders rejected on {strategy}"

[[rule]]
name = "slow"
metric = "*_latency"
stat = ["avg", "p99"]
window = 60
above = {warning = "250us"}

[[rule]]
name = "feed_gap"
metric = "tick_latency"
stat = "absent"
above = {warning = "30s", critical = "2m"}
by = "engine"
when = "connected"

[[session]]
name = "NSE"
tz = "Asia/Kolkata"
days = "mon-fri"
open = "09:15"
close = "15:30"
holidays = "nse.txt"
engines = ["intraday"]
"""


def parse(folder: Path, text: str, builtin: list[Rule] | None = None) -> RuleFile:
    path = folder / "rules.toml"
    path.write_text(text, encoding="utf-8")
    return parse_rules(path, builtin or [])


def problems(folder: Path, text: str, builtin: list[Rule] | None = None) -> list[str]:
    with pytest.raises(RuleFileError) as caught:
        parse(folder, text, builtin)
    prefix = f"{folder / 'rules.toml'} "
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def rule(extra: str = "", *, levels: str = "above = {warning = 5}") -> str:
    return f'[[rule]]\nname = "r"\nmetric = "m"\n{levels}\n{extra}\n'


def test_a_file_says_all_that_a_rule_and_a_session_have(tmp_path: Path) -> None:
    """Every key arrives, with units kept as written."""
    (tmp_path / "nse.txt").write_text("# 2026\n2026-01-26  # Republic Day\n\n2026-03-04\n")
    parsed = parse(tmp_path, WHOLE)
    session = Session(
        "NSE",
        "Asia/Kolkata",
        frozenset(range(5)),
        time(9, 15),
        time(15, 30),
        frozenset({date(2026, 1, 26), date(2026, 3, 4)}),
        ("intraday",),
    )
    assert parsed.sessions == (session,)
    stale, rejects, slow, gap = parsed.rules
    assert stale == session_rules([session])[0]
    assert rejects == Rule(
        "order_rejects",
        "orders_rejected",
        match={"strategy": ("mean_*",), "desk": ("nifty", "bank*")},
        per="orders_sent",
        stat=("sum",),
        window_s=300,
        min_count=20,
        above={WARNING: Level(0.02), CRITICAL: Level(10, "%")},
        clear=Level(0.01),
        for_s=30,
        session="NSE",
        message="{value:.1%} of orders rejected on {strategy}",
    )
    assert (slow.stat, slow.window_s, slow.above) == (
        ("avg", "p99"),
        60,
        {WARNING: Level(250, "us")},
    )
    assert (gap.by, gap.when, gap.above[CRITICAL]) == (("engine",), "connected", Level(2, "m"))


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    """Each with the line of its table's header and a suggestion, none hiding another."""
    text = """
[[rule]]
name = "rejects"
metric = "orders_rejected"
stat = "sun"
widnow = "5m"
above = {warn = 5}

[[rule]]
name = "late"
metric = "lag"
stat = "p99"
above = {warning = 5, critical = 3}
session = "NES"

[[session]]
name = "NSE"
tz = "Asia/Kolkatta"
days = "mon-fry"
open = "9.15"
close = "25:00"
"""
    found = problems(tmp_path, text)
    assert found == [
        (
            "line 16, session 'NSE': tz: 'Asia/Kolkatta': no such time zone"
            "; did you mean Asia/Kolkata?"
        ),
        "line 16, session 'NSE': days: 'mon-fry': use days such as mon-fri or mon,wed,fri",
        "line 16, session 'NSE': open: '9.15': use a time such as 09:15",
        "line 16, session 'NSE': close: '25:00': must be 00:00..24:00",
        "line 2, rule 'rejects': widnow: no such key; did you mean window?",
        (
            "line 2, rule 'rejects': above: severity 'warn': use info, warning or critical"
            "; did you mean warning?"
        ),
        (
            "line 2, rule 'rejects': stat: 'sun': use one of last avg min max sum count rate"
            " p50 p90 p99 p999 absent; did you mean sum?"
        ),
        "line 9, rule 'late': stat p99 needs a window of 1s..7d, such as window = \"5m\"",
        "line 9, rule 'late': above: critical (3) must be above warning (5)",
        "line 9, rule 'late': session 'NES': no such session; did you mean NSE?",
    ]


@pytest.mark.parametrize(
    ("extra", "said"),
    [
        ('window = "5m"', "window: stat last looks at each record by itself; name another stat"),
        ("min_count = 3", "min_count: stat last doesn't count records"),
        ('stat = "absent"\nwindow = "8d"', "window: must be 1s..7d"),
        ('by = "desk"', "by: stat last looks at each series by itself; name another stat"),
        ("clear = 5", "clear (5) must be below the level of warning (5)"),
        ("below = {warning = 1}", "levels: give either above or below"),
        ("for = -1", "for: must be 0..1d"),
        ('for = "3 kg"', "for: '3 kg': unit 'kg' is not known"),
        ('for = "3 MB"', "for: '3 MB': use a number and s, m, h or d"),
        ("for = true", "for: True: use a number, or text with a unit"),
        ('stat = "sum"\nwindow = "1.5s"', "window: '1.5s': must be whole seconds"),
        ('stat = "sum"\nwindow = "8d"', "stat sum needs a window of 1s..7d"),
        ('stat = ["last", "avg"]\nwindow = 5', "stat: last, absent, count and rate stand alone"),
        ('stat = ["avg", "avg"]\nwindow = 5', "stat: avg avg: each only once"),
        ("stat = []", "stat: []: must be text in quotes, or a list of such"),
        ("stat = 5", "stat: 5: must be text in quotes, or a list of such"),
        ('per = "n"', "per: a ratio needs stat avg, count, max, min, rate, sum"),
        ('when = "connected"', "when: only with stat absent"),
        ('stat = "sum"\nwindow = 5\nmin_count = 0', "min_count: must be at least 1"),
        ('stat = "sum"\nwindow = 5\nmin_count = 1.5', "min_count: 1.5: must be a whole number"),
        ("match = 5", 'match: must be such as {strategy = "mean_*"}'),
        ("match = {a = 5}", "match: 5: must be text in quotes, or a list of such"),
        ("message = 5", "message: 5: must be text in quotes"),
        ('message = "{value"', "message: expected '}' before end of string; write {{ and }}"),
        ('message = "{vaule}"', "message: {vaule}: no such value; did you mean {value}?"),
        ('message = "{value.real}"', "message: {value.real}: name a value or a label"),
        ('message = "{}"', "message: {}: name a value or a label"),
        ('message = "{value:x}"', "message: {value:x}: not a format for it"),
        ('message = "{value:9999}"', "message: {value:9999}: not a format for it"),
        ('enabled = "no"', "enabled: 'no': must be true or false"),
        ('stat = "absent"\nclear = 1', "clear: stat absent is over with the next record"),
    ],
)
def test_what_makes_no_sense_is_refused(tmp_path: Path, extra: str, said: str) -> None:
    """One line says what was wrong and what is allowed."""
    assert len(found := problems(tmp_path, rule(extra))) == 1
    assert found[0].startswith(f"line 1, rule 'r': {said}")


@pytest.mark.parametrize(
    ("levels", "extra", "said"),
    [
        ("", "", "levels: give either above or below"),
        ("above = {}", "", "above: must be such as {warning = 5, critical = 10}"),
        ("above = 5", "", "above: must be such as {warning = 5, critical = 10}"),
        ("above = {warning = nan}", "", "above: nan: must be a finite number"),
        ('above = {warning = "x"}', "", "above: 'x': use a number and a unit"),
        ('above = {warning = "1e999"}', "", "above: '1e999': must be a finite number"),
        (
            "below = {warning = 3, critical = 5}",
            "",
            "below: critical (5) must be below warning (3)",
        ),
        ('above = {warning = "1 MB", critical = "2s"}', "", "above: 1MB and 2s can't be compared"),
        ('above = {warning = "1s"}', 'clear = "1 B"', "clear: 1B and 1s can't be compared"),
        ("below = {warning = 3}", "clear = 2", "clear (2) must be above the level of warning (3)"),
        ("below = {warning = 3}", 'stat = "absent"', "below: stat absent is a time"),
        (
            'above = {warning = "3 MB"}',
            'stat = "absent"',
            "above.warning: 3MB: the value of stat absent is a time",
        ),
        ('above = {warning = "3ms"}', 'stat = "absent"', "above: 3ms: silence is noticed from 1s"),
        (
            'above = {warning = "3ms"}',
            'stat = "count"\nwindow = 5',
            "above.warning: 3ms: the value of stat count is a plain number",
        ),
    ],
)
def test_levels_that_make_no_sense_are_refused(
    tmp_path: Path, levels: str, extra: str, said: str
) -> None:
    """Levels must be there, be comparable, and get worse with the severity."""
    assert len(found := problems(tmp_path, rule(extra, levels=levels))) == 1
    assert found[0].startswith(f"line 1, rule 'r': {said}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[[rule]]\nmetric = "m"', "line 1, rule: name is missing"),
        ('[[rule]]\nname = 5\nmetric = "m"', "line 1, rule 5: name: must be text in quotes"),
        (
            '[[rule]]\nname = "a b"\nmetric = "m"\nabove = {info = 1}',
            "line 1, rule 'a b': name 'a b'",
        ),
        (
            '[[rule]]\nname = "r"\nmetric = ""\nabove = {info = 1}',
            "line 1, rule 'r': metric is missing",
        ),
        ('[[session]]\nopen = "1:00"\nclose = "2:00"', "line 1, session: name is missing"),
        (
            '[[session]]\nname = " "\nopen = "1:00"\nclose = "2:00"',
            "line 1, session ' ': name: must not be empty",
        ),
    ],
)
def test_a_table_without_its_name_or_metric_is_refused(
    tmp_path: Path, text: str, said: str
) -> None:
    """What every table needs is asked for."""
    assert len(found := problems(tmp_path, text)) == 1
    assert found[0].startswith(said)


def test_names_are_unique_within_a_file(tmp_path: Path) -> None:
    """The second rule or session of a name is a problem, and says where the first is."""
    session = '[[session]]\nname = "S"\nopen = "1:00"\nclose = "2:00"\n'
    found = problems(tmp_path, rule() + rule() + session * 2)
    assert found == [
        f"{tmp_path / 'rules.toml'}: session 'S': there are 2 of that name",
        (
            f"line 6, rule 'r': there is one of that name already, see {tmp_path / 'rules.toml'} "
            "line 1"
        ),
    ]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"name = ", "not TOML: Invalid value (at end of document)"),
        (b'x = "\xff"', "not a text file in UTF-8"),
        (b"rule = 5", "rule: write [[rule]] before each rule"),
        (b"rule = [5]", "rule: write [[rule]] before each rule"),
        (b"[[rules]]\n", "rules: no such table; did you mean rule?"),
    ],
)
def test_a_file_that_is_no_rule_file_is_one_clear_error(
    tmp_path: Path, content: bytes, said: str
) -> None:
    """The path and the reason, in one line."""
    path = tmp_path / "rules.toml"
    path.write_bytes(content)
    with pytest.raises(RuleFileError) as caught:
        parse_rules(path)
    assert caught.value.problems == [f"{path}: {said}"]
    assert str(caught.value) == f"{path}: {said}"


def test_a_missing_file_is_one_clear_error(tmp_path: Path) -> None:
    """It names the path and the system's reason."""
    with pytest.raises(RuleFileError, match=r"none\.toml: can't be read: No such file"):
        parse_rules(tmp_path / "none.toml")


def test_tables_of_the_settings_file_are_left_to_others(tmp_path: Path) -> None:
    """Settings, routes and plugins can stand in the same file; a byte order mark does no harm."""
    text = "\ufeffmonitoring_log_level = 'info'\n[[route]]\nx = 1\n[[plugin]]\n" + rule()
    assert [each.name for each in parse(tmp_path, text).rules] == ["r"]


def test_a_header_inside_a_long_string_is_no_header(tmp_path: Path) -> None:
    """Line numbers stay right behind a message over several lines."""
    text = rule('message = """\n[[rule]]\n"""') + "[[rule]]\nname = 'other'\nmetric = 'm'\n"
    assert problems(tmp_path, text)[0].startswith("line 8, rule 'other': levels")


def test_tables_without_headers_are_counted(tmp_path: Path) -> None:
    """An array in one line has no header lines: the problem names the table by its number."""
    found = problems(tmp_path, 'rule = [{name = "r", metric = "m"}]')
    assert found[0].startswith("rule 1, rule 'r': levels")


def test_a_rule_with_the_name_of_a_built_in_one_changes_what_it_says(tmp_path: Path) -> None:
    """Without a metric of its own it keeps every key that it doesn't have."""
    builtin = builtin_rules(performance_threshold_ms=1000)
    text = '[[rule]]\nname = "performance_degradation"\nabove = {warning = "250us"}\nfor = "5s"'
    changed = {each.name: each for each in parse(tmp_path, text, builtin).rules}
    rule = changed["performance_degradation"]
    assert rule.above == {WARNING: Level(250, "us")}
    assert (rule.metric, rule.stat, rule.window_s) == ("*_latency", ("avg", "p99", "max"), 60)
    assert rule.for_s == 5
    assert not rule.strict
    assert len(changed) == len({each.name for each in builtin})


def test_new_levels_of_a_built_in_rule_take_the_place_of_the_old_ones(tmp_path: Path) -> None:
    """Below replaces above, and the old hysteresis goes with the old levels."""
    text = '[[rule]]\nname = "disk_nearly_full"\nbelow = {critical = 10}'
    rule = next(
        each
        for each in parse(tmp_path, text, builtin_rules()).rules
        if each.name == "disk_nearly_full"
    )
    assert (rule.above, rule.below, rule.clear) == ({}, {CRITICAL: Level(10)}, None)


def test_of_several_built_in_rules_of_a_name_the_first_gets_the_levels(tmp_path: Path) -> None:
    """The others are about something else; a session is for all of them."""
    text = '[[rule]]\nname = "records_lost"\nabove = {warning = 50}\nfor = "5s"'
    first, *others = (
        each for each in parse(tmp_path, text, builtin_rules()).rules if each.name == "records_lost"
    )
    assert (first.metric, first.above, first.for_s) == ("records_lost", {WARNING: Level(50)}, 5)
    assert {each.metric for each in others} == {"alerts_lost", "alert_lines_missing"}
    assert all((each.above, each.for_s) == ({CRITICAL: Level(0)}, 5) for each in others)


def test_a_rule_with_a_metric_replaces_a_built_in_one(tmp_path: Path) -> None:
    """Nothing of the built-in one is left, not even a second rule of its name."""
    text = '[[rule]]\nname = "records_lost"\nmetric = "m"\nabove = {info = 1}'
    rules = parse(tmp_path, text, builtin_rules()).rules
    assert [each for each in rules if each.name == "records_lost"] == [
        Rule("records_lost", "m", above={Severity.INFO: Level(1)})
    ]


def test_a_rule_can_be_switched_off(tmp_path: Path) -> None:
    """Built-in or own, it isn't there; a rule with no metric of an unknown name is a mistake."""
    text = '[[rule]]\nname = "records_lost"\nenabled = false\n' + rule("enabled = false")
    names = {each.name for each in parse(tmp_path, text, builtin_rules()).rules}
    assert names == {each.name for each in builtin_rules()} - {"records_lost"}
    text = '[[rule]]\nname = "record_lost"\nfor = 5'
    assert problems(tmp_path, text, builtin_rules()) == [
        (
            "line 1, rule 'record_lost': metric is missing, and no built-in rule has this name"
            "; did you mean records_lost?"
        )
    ]


def session(extra: str) -> str:
    return f'[[session]]\nname = "S"\nopen = 09:15:00\nclose = "24:00"\n{extra}\n'


@pytest.mark.parametrize(
    ("days", "expected"),
    [
        ('"mon-fri"', {0, 1, 2, 3, 4}),
        ('"Sunday-Thursday"', {6, 0, 1, 2, 3}),
        ('"mon, wed,fri"', {0, 2, 4}),
        ('["sat", "sun-mon"]', {5, 6, 0}),
    ],
)
def test_days_are_ranges_and_lists(tmp_path: Path, days: str, expected: set[int]) -> None:
    """A range may run over the end of the week."""
    parsed = parse(tmp_path, session(f"days = {days}"))
    assert parsed.sessions[0].days == expected
    assert (parsed.sessions[0].open, parsed.sessions[0].close) == (time(9, 15), time(0))


def test_holidays_can_stand_in_the_table(tmp_path: Path) -> None:
    """As dates or as text."""
    parsed = parse(tmp_path, session('holidays = [2026-01-26, "2026-03-04"]'))
    assert parsed.sessions[0].holidays == {date(2026, 1, 26), date(2026, 3, 4)}


def test_a_bad_holidays_file_is_reported_with_its_lines(tmp_path: Path) -> None:
    """Missing, no text, too long, or with lines that are no dates."""
    text = session('holidays = "h.txt"')
    path = tmp_path / "h.txt"
    said = f"line 1, session 'S': holidays: {path}"
    assert problems(tmp_path, text) == [f"{said}: can't be read: No such file or directory"]
    path.write_text("2026-01-26\nJan 27\n2026-13-01\n")
    assert problems(tmp_path, text) == [
        f"{said}: no date such as 2026-01-26 in line 2 ('Jan 27'), line 3 ('2026-13-01')"
    ]
    path.write_bytes(b"\xff\xfe")
    assert problems(tmp_path, text) == [f"{said}: not a text file in UTF-8"]
    path.write_text("#" * (1 << 20) + "\n")
    assert problems(tmp_path, text) == [f"{said}: too long for a list of holidays"]
    assert problems(tmp_path, session("holidays = [5]")) == [
        "line 1, session 'S': holidays: 5: use a date such as 2026-01-26"
    ]


def test_the_feed_is_watched_once_there_is_a_session(tmp_path: Path) -> None:
    """Each session brings its rule on the feed, which can be changed like any other."""
    assert [each.name for each in parse(tmp_path, session("engines = ['e']")).rules] == [
        "feed_stale"
    ]
    text = session("") + '[[rule]]\nname = "feed_stale"\nabove = {critical = "5s"}'
    (stale,) = parse(tmp_path, text).rules
    assert (stale.session, stale.above) == ("S", {CRITICAL: Level(5, "s")})


def test_built_in_rules_have_no_problems() -> None:
    """What is shipped passes the check that a file's rules must pass."""
    rules = builtin_rules(position_limit=5) + session_rules([Session("S")])
    assert [(rule.name, problem) for rule in rules for problem in rule.problems()] == []
    assert {rule.name for rule in rules} == {
        "circuit_breaker_triggered", "daily_loss_high", "connection_lost",
        "performance_degradation", "sentiment_failures_high", "stale_artifacts",
        "position_limit_breached", "feed_stale", "heartbeat_lapsed", "records_lost",
        "delivery_failing", "disk_nearly_full", "pipeline_crashing", "history_failing",
    }  # fmt: skip


def test_reading_rules_loads_no_numpy() -> None:
    """A command can check a rule file without the evaluator's libraries."""
    import subprocess
    import sys

    heavy = "'numpy', 'requests', 'pydantic'"
    code = f"import sys, aggregator.rules.rulefile; print({{{heavy}}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
