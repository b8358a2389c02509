"""Documentation says what the program does: commands, settings, JSON fields, tables, links."""

import json
import re
import shlex
import time
import tomllib
from pathlib import Path

import pytest

from aggregator.history.dayfolder import FOLDER
from aggregator.rules import message, rulefile, ruleset, sessionfile
from aggregator.rules.builtin import session_rules
from aggregator.rules.rule import STATS
from aggregator.rules.rulefile import parse_rules
from aggregator.rules.sessions import Session
from aggregator.settings import Settings
from cli import arguments, events
from cli.usage import COMMANDS, OVERVIEW, PROGRAM
from notifier import routes, settings
from notifier.alert import Kind, Severity, Transition, rfc3339
from notifier.decisions import decide
from notifier.plugin import PLUGINS, load
from notifier.routes import parse_routes
from notifier.settings import parse_plugins
from ringbuf import Recorder
from tests.cli.conftest import desk  # noqa: F401 - a fixture
from tests.cli.test_report import day  # noqa: F401 - a fixture
from tests.daywrite import record, write_days

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").glob("*.md"))
FREE = frozenset({"labels", "match", "above", "below", "matchers"})  # objects with any keys
# In pieces, so that this file passes its own test.
HOSTS = tuple(
    ".".join(parts)
    for parts in (
        ("pypi", "org"), ("pythonhosted", "org"), ("npmjs", "org"), ("npmjs", "com"),
        ("crates", "io"), ("golang", "org"), ("debian", "org"), ("docker", "io"), ("ghcr", "io"),
        ("readthedocs", "io"), ("anaconda", "org"),
    )
)  # fmt: skip
TEXTS = (".py", ".md", ".toml", ".cfg", ".txt", ".sh", ".example", ".lock", ".yml", ".yaml", "")
SKIPPED = {".git", ".venv", ".hypothesis", "__pycache__", "build", "data", "logs"}


def section(text, title):
    """The part of a document under a heading, up to the next of its rank."""
    marks = "#" * len(re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)[1])
    found = re.search(
        rf"^{marks} {re.escape(title)}$(.*?)(?=^#{{1,{len(marks)}}} |\Z)", text, re.M | re.S
    )
    return found[1]


# commands


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_is_in_the_overview_with_help_and_examples(words):
    """Its help says how to use it, and each example is right use of it."""
    name = " ".join(words)
    assert re.search(rf"^  {name} {{2,}}\S", OVERVIEW, re.MULTILINE)
    text = COMMANDS[words].text
    assert f"\nUsage: {PROGRAM} {name}" in text
    examples = re.findall(rf"^  ({PROGRAM} .+)$", text.partition("\nExamples:\n")[2], re.MULTILINE)
    assert examples
    for example in examples:
        _, found, rest = arguments.split(shlex.split(example)[1:])
        assert found == words
        assert arguments.parse(found, rest)


def test_every_example_of_the_overview_is_right_use():
    """What a newcomer tries first."""
    examples = re.findall(rf"^  ({PROGRAM} .+)$", OVERVIEW.partition("Examples:\n")[2], re.M)
    assert len(examples) > 2
    for example in examples:
        _, words, rest = arguments.split(shlex.split(example)[1:])
        assert words in COMMANDS and arguments.parse(words, rest)


def test_every_command_that_a_document_names_exists():
    """In README and docs, as `python -m cli ...`, `tickwatch ...` or by its words in backticks."""
    for path in (ROOT / "README.md", *DOCS):
        for line in re.findall(rf"(?:python -m cli|{PROGRAM}) ([a-z][a-z -]*)", path.read_text()):
            words = tuple(line.split())
            known = [words[:length] for length in (2, 1) if words[:length] in COMMANDS]
            groups = {command[0] for command in COMMANDS}
            assert known or words[0] not in groups or len(words) == 1, f"{path.name}: {line}"


# settings


def test_every_setting_is_in_the_example_file_and_no_other():
    """`.env.example` is the list of all settings."""
    text = (ROOT / ".env.example").read_text()
    named = set(re.findall(r"^#?(MONITORING_\w+)=", text, re.MULTILINE)) - {"MONITORING_CONFIG"}
    assert named == {name.upper() for name in Settings.model_fields}


def test_every_setting_that_a_document_names_exists():
    """So that nobody sets one in vain."""
    known = {name.upper() for name in Settings.model_fields} | {"MONITORING_CONFIG"}
    for path in (ROOT / "README.md", *DOCS):
        for name in re.findall(r"\b(MONITORING_[A-Z_]+[A-Z])\b(?!\*|_|\.\.\.)", path.read_text()):
            there = {name, name.removesuffix("_FILE")} & known
            prefix = any(each.startswith(f"{name}_") for each in known)
            assert there or prefix, f"{path.name}: {name}"


# tables of the TOML file

RULES = (ROOT / "docs" / "rules.md").read_text()


def documented(title):
    """The keys in the first column of a section's tables."""
    rows = re.findall(r"^\|(.+?)\|", section(RULES, title), re.MULTILINE)
    return {name for row in rows for name in re.findall(r"`([\w]+)`", row)}


@pytest.mark.parametrize(
    ("title", "keys"),
    [
        ("A rule", rulefile._KEYS),
        ("A session", sessionfile._KEYS),
        ("A route", routes._KEYS),
        ("A plugin", settings._PLUGIN_KEYS),
    ],
)
def test_every_key_of_every_table_is_documented(title, keys):
    """In docs/rules.md, each with its meaning and default; none that doesn't exist."""
    assert set(keys) <= documented(title)
    assert documented(title) - set(keys) <= {"message"} | set(PLUGINS)


def test_every_stat_and_every_word_of_a_message_is_documented():
    """They are what a rule is made of."""
    text = section(RULES, "A rule")
    assert [stat for stat in STATS if f"`{stat}`" not in text] == []
    assert [name for name in message.FIELDS if f"`{{{name}}}`" not in text] == []


def test_every_option_of_every_plugin_is_documented():
    """With its kind."""
    text = section(RULES, "A plugin")
    for kind in PLUGINS:
        [row] = re.findall(rf"^\| `{kind}` \|(.+)$", text, re.MULTILINE)
        assert set(re.findall(r"`(\w+)`", row)) >= set(load(kind).known), kind


def test_every_built_in_rule_is_documented():
    """Its name, what it watches, and nothing that isn't there."""
    rules = ruleset.builtin(Settings(monitoring_position_limit=5))
    rules += session_rules([Session("NSE")])
    rows = re.findall(r"^\| `(\w+)` \|(.+)$", section(RULES, "Built-in rules"), re.MULTILINE)
    assert {name for name, _ in rows} == {rule.name for rule in rules}
    for rule in rules:
        assert any(name == rule.name and f"`{rule.metric}`" in row for name, row in rows), rule.name


def test_every_toml_example_is_right(tmp_path):
    """All of them together are one good file."""
    blocks = re.findall(r"```toml\n(.*?)```", RULES, re.DOTALL)
    assert len(blocks) > 4
    (tmp_path / "nse.txt").write_text("2026-01-26\n")
    path = tmp_path / "tickwatch.toml"
    path.write_text("\n".join(blocks))
    parse_rules(path, ruleset.builtin(Settings()))
    tables = tomllib.loads(path.read_text())
    plugins = {each.name for each in parse_plugins(tables["plugin"])}
    parse_routes(tables["route"], plugins | {"telegram", "slack", "email"})


# JSON

JSON = (ROOT / "docs" / "json.md").read_text()


def fields_of(title):
    """Documented fields of a command; those of rows that are described elsewhere included."""
    found = set()
    for names, meaning in re.findall(r"^\|(.+?)\|(.*)\|$", section(JSON, title), re.MULTILINE):
        fields = re.findall(r"`([^`]+)`", names)
        found |= set(fields)
        link = re.search(r"rows? as in \[([a-z ]+)\]", meaning)
        if link and len(fields) == 1:
            found |= {f"{fields[0]}.{each}" for each in fields_of(link[1])}
    return found


def emitted(value, at=""):
    """Every field in a command's output, named as the document names it."""
    if isinstance(value, list):
        return {name for each in value for name in emitted(each, at)}
    if not isinstance(value, dict):
        return set()
    found = set()
    for key, inner in value.items():
        mark = "[]" if isinstance(inner, list) else "{}" if key in FREE else ""
        name = f"{at}.{key}{mark}" if at else f"{key}{mark}"
        found.add(name)
        if key not in FREE:
            found |= emitted(inner, name)
    return found


def leaves(fields):
    """Without objects that are only there for what is in them."""
    return {one for one in fields if not any(other.startswith(f"{one}.") for other in fields)}


@pytest.fixture
def busy(day):  # noqa: F811 - the fixture
    """Everything that there is to show: engines, alerts of all kinds, silences, deliveries."""
    day.service_runs()
    day.tell(
        "daily_loss_high", severity=Severity.WARNING, value=-4.1, threshold=-4.0, unit="%",
        evidence=((time.time_ns(), -4.2),),
    )  # fmt: skip
    day.tell("daily_loss_high", Kind.UPDATE, Severity.WARNING, value=-4.2, threshold=-4.0)
    day.notify(ops="")
    day.run("alerts", "ack", "daily_loss_high", "--reason", "hedged")
    day.run("silences", "add", "engine=intraday", "--for", "1h")
    with Recorder("intraday", day.data_dir, capacity=1024) as recorder:
        recorder.metric("tick_latency", "ms").record(0.4)
        day.report(engines=[{"engine": "intraday", "rate": 1.0, "lost": 0, "read": 1, "fill": 0.0}])
        yield day


@pytest.mark.parametrize(
    ("title", "argv"),
    [
        ("metrics show", ["metrics", "show"]),
        ("metrics summary", ["metrics", "summary", "--hours", "6"]),
        ("alerts list", ["alerts", "list", "--all"]),
        ("alerts show", ["alerts", "show", "daily_loss_high"]),
        ("silences list", ["silences", "list"]),
        ("deliveries list", ["deliveries", "list"]),
        ("status", ["status"]),
        ("ring dump", ["ring", "dump", "intraday"]),
        ("health", ["health"]),
        ("rules check", ["rules", "check"]),
        ("report", ["report", "--hours", "6"]),
    ],
)
def test_every_field_that_a_command_prints_is_documented(busy, title, argv):
    """And every documented one is printed: docs/json.md is neither short nor stale."""
    printed = emitted(busy.run(*argv, "--json").rows)
    if title == "report":  # of a time to come: what there is now is in the period before
        later = [rfc3339(time.time_ns() + hours * 3600 * 10**9) for hours in (1, 13)]
        argv = ["report", "--from", later[0], "--to", later[1]]
        printed |= emitted(busy.run(*argv, "--json").rows)
    described = fields_of(title)
    assert sorted(leaves(printed) - described) == []
    assert sorted(leaves(described) - printed) == []


def test_every_field_of_a_replay_is_documented(busy):
    """With and without a comparison."""
    path = busy.folder / "rules.toml"
    path.write_text(
        '[[rule]]\nname = "slow"\nmetric = "tick_latency"\nabove = {warning = "0.4ms"}\n'
    )
    other = busy.folder / "other.toml"
    other.write_text("")
    argv = ["rules", "replay", "--rules", str(path), "--json", "--hours", "6"]
    printed = emitted(busy.run(*argv).rows)
    assert printed | {"rules"} == fields_of("rules replay")
    printed = emitted(busy.run(*argv, "--diff", str(other)).rows)
    assert printed == fields_of("rules replay")


def test_every_field_of_a_raw_record_is_documented(busy):
    """As JSON and as columns."""
    write_days(busy.data_dir / FOLDER, [record(time.time(), 1.0, labels={"engine": "a"})])
    ended = busy.run("metrics", "export", "--raw", "--json")
    assert emitted(json.loads(ended.out)) == fields_of("metrics export --raw")
    columns = busy.run("metrics", "export", "--raw").out.splitlines()[0].split(",")
    assert columns == list(json.loads(ended.out))


def test_every_field_of_a_problem_is_documented(busy):
    """`rules check` of a wrong file has rows of its own."""
    path = busy.folder / "rules.toml"
    path.write_text("[[rule]]\n")
    [row] = busy.run("rules", "check", str(path), "--json").rows
    assert all(f"`{name}`" in section(JSON, "rules check") for name in row)


def test_every_field_that_watch_prints_is_documented():
    """Transitions and decisions."""
    alert = Transition("id", Kind.FIRED, 0, "rule", {"engine": "a"}, Severity.INFO)
    printed = emitted(dict(events.of_transition(alert, "id").row))
    printed |= emitted(dict(events.of_decision(decide("ack", "asha", ttl_s=60), {}).row))
    assert printed == fields_of("watch")


def test_every_reading_command_has_its_json_documented():
    """Commands that start, write or only tell of what they did have no rows of their own."""
    others = {("run",), ("demo",)}
    headings = set(re.findall(r"^## (.+)$", JSON, re.MULTILINE))
    for words in COMMANDS.keys() - others:
        name = " ".join(words)
        assert name in headings or f"`{name}`" in JSON, name


# links and hosts


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_every_link_in_a_document_leads_somewhere(path):
    """Files exist, and so do the headings in them."""
    text = path.read_text()
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), f"{path.name}: {target}"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", linked.read_text(), re.MULTILINE)
            slugs = {re.sub(r"[^\w -]", "", t).lower().replace(" ", "-") for t in titles}
            assert anchor in slugs, f"{path.name}: {target}"


@pytest.mark.parametrize("path", [ROOT / "README.md", *DOCS], ids=lambda path: path.name)
def test_every_module_and_test_that_a_document_names_exists(path):
    """Whatever stands in quotes as a module, and every path of a test."""
    text = path.read_text()
    modules = re.findall(r"`((?:ringbuf|aggregator|notifier|cli)(?:\.[a-z_*]+)+)`", text)
    for name in (module.replace(".", "/") for module in modules):
        assert list(ROOT.glob(f"{name}.py")) or (ROOT / name).is_dir(), f"{path.name}: {name}"
    for name in re.findall(r"tests/[a-z_/*]+(?:\.py|\.sh)?", text):
        assert list(ROOT.glob(name.rstrip("/"))), f"{path.name}: {name}"


def test_no_file_names_a_host_of_packages():
    """Whoever installs this may have none, or one of his own."""
    named = []
    for path in ROOT.rglob("*"):
        relative = path.relative_to(ROOT)
        if SKIPPED & set(relative.parts) or not path.is_file() or path.suffix not in TEXTS:
            continue
        if relative.parts[0].startswith(".") and relative.parts[0] not in (".ci", ".env.example"):
            continue
        text = path.read_text(errors="replace")
        named += [f"{relative}: {host}" for host in HOSTS if host in text]
    assert named == []
