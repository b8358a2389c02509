"""`health`: each check against what it is about, and the whole of it from another process."""

import dataclasses
import os
import subprocess
import sys
import time
from datetime import date, datetime
from datetime import time as clock
from pathlib import Path
from types import SimpleNamespace
from zoneinfo import ZoneInfo

import pytest

from aggregator.history import dayfile
from aggregator.history.dayfile import Cover
from aggregator.history.daywriter import DayFiles
from aggregator.rules.builtin import builtin_rules
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from aggregator.store.store import Store
from cli import checks, health, place, probe, sending, watched
from cli.checks import Check
from cli.watched import Engine
from notifier.alert import Severity
from notifier.plugin import AlertDeliveryPlugin
from notifier.settings import PluginSettings
from ringbuf import Recorder
from tests.cli.test_metrics import T0, rollup
from tests.environments import clean_environment
from tests.servers import HttpServer, Reply

NS = 10**9
PROBE = probe.run
FIELDS = {"check", "state", "message", "todo"}


def named(rows, name):
    """The checks called *name*, as (state, message)."""
    return [(row["state"], row["message"]) for row in rows if row["check"] == name]


def states(found):
    return [each.state for each in found]


@pytest.fixture(scope="module")
def probed():
    """What the probe of the ring's stores really finds here."""
    return PROBE(0.05)


@pytest.fixture(autouse=True)
def _probed_once(probed, monkeypatch):
    """The probe takes its time; here it took it once."""
    monkeypatch.setattr(probe, "run", lambda: probed)


@pytest.fixture
def well(desk):
    """A data directory as a service that is well has it, with an engine that writes."""
    desk.data_dir.chmod(0o700)
    (desk.folder / "logs").mkdir(mode=0o700)
    desk.report()
    desk.tell("connection_lost")
    desk.notify(ops="")
    desk.service_runs()
    with Recorder("intraday", desk.data_dir, capacity=1024) as recorder:
        recorder.metric("tick_latency", "ms").record(0.4)
        yield desk


def test_everything_in_place_is_seen_from_another_process(well):
    """One line a check, with every check of the list; nothing that depends on the desk is amiss."""
    with HttpServer() as server:
        ended = well.command(
            "health",
            "--json",
            MONITORING_ENABLE_WEBHOOK_ALERTS="true",
            MONITORING_WEBHOOK_URL=server.url,
            MONITORING_ACK_TTL_SECONDS="7200",
        )
    assert ended.err == ""
    rows = ended.rows
    assert all(set(row) == FIELDS for row in rows)
    assert list(dict.fromkeys(row["check"] for row in rows)) == [
        "settings", "plugins", "directories", "disk", "shared_memory", "remove_ipc",
        "clock_source", "ring_store", "packages", "service", "stores", "engines", "sessions",
        "thresholds", "archive",
    ]  # fmt: skip
    machine = {"disk", "shared_memory", "remove_ipc", "clock_source", "packages"}
    wrong = [row for row in rows if row["state"] != "OK" and row["check"] not in machine]
    assert wrong == []
    assert named(rows, "engines") == [("OK", "intraday is alive")]
    assert named(rows, "plugins") == [("OK", "enabled: webhook")]
    assert server.requests == []


def test_the_exit_code_is_that_of_the_worst_and_text_is_a_line_a_check(well):
    """0, 1, 2 as a monitoring plugin; first the worst and how many, then what to do."""
    ended = well.run("health", MONITORING_ACK_TTL_SECONDS="7200")
    head, blank, titles, *lines = ended.out.splitlines()
    assert blank == "" and titles.split()[:2] == ["state", "check"]
    words = [line.split()[0] for line in lines]
    assert head.split()[0] == checks.worst(words)
    assert ended.code == {"OK": 0, "WARNING": 1, "CRITICAL": 2, "UNKNOWN": 3}[head.split()[0]]
    [line] = [line for line in lines if " plugins " in line]
    assert "-> enable one, such as MONITORING_ENABLE_WEBHOOK_ALERTS=true" in line


def test_a_wrong_directory_is_never_healthy(desk):
    """Nothing there: UNKNOWN, exit code 3, and where it looked."""
    ended = desk.run("health", "--json", "--data-dir", str(desk.folder / "nowhere"))
    assert ended.code == 3
    [(state, text)] = named(ended.rows, "service")
    assert state == "UNKNOWN" and str(desk.folder / "nowhere") in text


def test_wrong_use_is_unknown(desk):
    """A monitoring system must not read it as a warning."""
    ended = desk.run("health", "--sned")
    assert ended.code == 3
    assert "did you mean --send?" in ended.err


def test_a_service_that_is_gone_is_critical(desk):
    """It ran here, so this is the right place, and nobody watches."""
    rows = desk.run("health", "--json").rows
    [(state, text)] = named(rows, "service")
    assert (state, text) == (
        "CRITICAL",
        f"no service runs on {desk.data_dir}: the last one was pid {os.getpid()}",
    )


def test_a_service_without_its_notifier_is_critical(well):
    """Nobody would be told."""
    well.locks.pop().release()
    [(state, text)] = named(well.run("health", "--json").rows, "service")
    assert state == "CRITICAL" and "its notifier doesn't" in text


def test_every_problem_of_the_settings_is_told(desk):
    """Those of the environment, of rules and of plugins, and exit code 2."""
    rules = desk.folder / "rules.toml"
    rules.write_text('[[rule]]\nname = "x"\nmetrik = "y"\n')
    ended = desk.run(
        "health", "--json", MONITORING_ACK_TTL_SECONDS="60", MONITORING_MAX_RAW_METRICS="1"
    )
    assert ended.code == 2
    assert named(ended.rows, "settings") == [
        ("CRITICAL", "MONITORING_MAX_RAW_METRICS=1: must be 50..1000"),
        (
            "CRITICAL",
            "MONITORING_ACK_TTL_SECONDS=60: must be 3600..604800 seconds (1 hour to 7 days)",
        ),
    ]
    assert named(ended.rows, "directories") and named(ended.rows, "engines")
    ended = desk.run(
        "health",
        "--json",
        MONITORING_RULES_FILE=str(rules),
        MONITORING_ENABLE_SLACK_ALERTS="true",
    )
    texts = " ".join(text for _, text in named(ended.rows, "settings"))
    assert "metrik: no such key; did you mean metric?" in texts
    assert "slack: url is empty" in texts


def test_a_setting_that_nobody_knows_is_a_warning(desk):
    """It may be another program's; if it is ours, it does nothing."""
    ended = desk.run("health", "--json", MONITORING_FOO_BAR_BAZ="1")
    assert ("WARNING", "MONITORING_FOO_BAR_BAZ is no setting, and ignored") in named(
        ended.rows, "settings"
    )
    assert ended.err == ""


def test_a_running_service_with_other_settings_is_a_warning(well):
    """Somebody changed a setting and forgot to restart it."""
    found = named(well.run("health", "--json").rows, "settings")
    assert found == [
        (
            "WARNING",
            "MONITORING_ACK_TTL_SECONDS is 7200 for the running service, 86400 here",
        )
    ]


def test_no_plugin_is_a_warning(desk):
    """Alerts are logged, and nobody is told."""
    [(state, text)] = named(desk.run("health", "--json").rows, "plugins")
    assert (state, text) == ("WARNING", "none is enabled: nobody is told of any alert")


def test_a_check_that_cannot_look_hides_no_other(desk, monkeypatch):
    """It is UNKNOWN, with the reason."""
    monkeypatch.setattr(checks, "clock_source", lambda: Path("/nonexistent").read_text())
    rows = desk.run("health", "--json").rows
    [(state, text)] = named(rows, "clock_source")
    assert state == "UNKNOWN" and "No such file" in text
    assert named(rows, "archive")


# the machine


def test_directories_are_private_and_writable(tmp_path, monkeypatch):
    """0700 and ours; what isn't there must be possible to make."""
    folder = tmp_path / "data"
    folder.mkdir(mode=0o700)
    [found] = checks.directories([folder])
    assert (found.state, found.text) == ("OK", str(folder))
    folder.chmod(0o755)
    [found] = checks.directories([folder])
    assert (found.state, found.todo) == ("WARNING", f"chmod 700 {folder}")
    [found] = checks.directories([tmp_path / "new" / "deeper"])
    assert found.state == "UNKNOWN" and "isn't there yet" in found.text
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert states(checks.directories([folder, tmp_path / "new"])) == ["CRITICAL", "CRITICAL"]
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    [found] = checks.directories([folder])
    assert found.state == "WARNING" and "belongs to" in found.text


@pytest.mark.parametrize(
    ("levels", "state"),
    [
        ({Severity.WARNING: 100.0}, "OK"),
        ({Severity.WARNING: 0.0, Severity.CRITICAL: 100.0}, "WARNING"),
        ({Severity.WARNING: -1.0, Severity.CRITICAL: 0.0}, "CRITICAL"),
    ],
)
def test_the_disk_is_judged_by_the_rule_that_watches_it(tmp_path, monkeypatch, levels, state):
    """Its levels are the operator's own; a folder that isn't there yet is where it would be."""
    monkeypatch.setattr(checks, "_LEAST_FREE_BYTES", 0)
    rule = Rule("disk_nearly_full", "disk_used_pct", {k: Level(v) for k, v in levels.items()})
    [found] = checks.disk([tmp_path, tmp_path / "new"], rule)
    assert found.state == state
    assert "GiB free" in found.text


def test_little_room_is_a_warning_without_any_rule(tmp_path, monkeypatch):
    """In bytes, because a percentage of a small disk is nothing."""
    monkeypatch.setattr(checks, "_LEAST_FREE_BYTES", 1 << 60)
    [found] = checks.disk([tmp_path], None)
    assert (found.state, found.todo != "") == ("WARNING", True)


def test_shared_memory_must_hold_the_rings_that_are_to_come(tmp_path):
    """A default ring takes 13 MiB; engines that have one need no more."""
    assert checks.shared_memory(0).text.endswith("a ring needs 13 MiB")
    assert checks.shared_memory(0, tmp_path).state == "OK"
    found = checks.shared_memory(1 << 30, tmp_path)
    assert found.state == "CRITICAL" and "--shm-size" in found.todo
    found = checks.shared_memory(0, tmp_path / "missing")
    assert (found.state, found.todo) == (
        "CRITICAL",
        "mount a tmpfs there: engines can't be monitored without",
    )


def test_a_full_shared_memory_that_nobody_needs_is_a_warning(monkeypatch):
    """The engines there are go on."""
    full = SimpleNamespace(f_bavail=10, f_frsize=4096)
    monkeypatch.setattr(os, "statvfs", lambda path: full)
    assert checks.shared_memory(0).state == "WARNING"
    assert checks.shared_memory(1).state == "CRITICAL"


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_logging_out_must_not_remove_rings(tmp_path):
    """systemd's default does; the strongest file that says something wins, as logind has it."""
    assert checks.remove_ipc(tmp_path, 1000).text.startswith("no systemd here")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    assert checks.remove_ipc(tmp_path, 0).state == "OK"
    found = checks.remove_ipc(tmp_path, 54321)
    assert found.state == "WARNING" and "yes (the default)" in found.text
    write(tmp_path / "etc/systemd/logind.conf", "[Login]\n#RemoveIPC=no\n RemoveIPC = no \n")
    assert checks.remove_ipc(tmp_path, 54321).state == "OK"
    write(tmp_path / "usr/lib/systemd/logind.conf.d/50.conf", "RemoveIPC=yes\n")
    assert checks.remove_ipc(tmp_path, 54321).state == "WARNING"
    write(tmp_path / "etc/systemd/logind.conf.d/50.conf", "")  # hides the file of its name
    assert checks.remove_ipc(tmp_path, 54321).state == "OK"
    write(tmp_path / "etc/systemd/logind.conf.d/60.conf", "RemoveIPC=true\n")
    assert checks.remove_ipc(tmp_path, 54321).state == "WARNING"
    write(tmp_path / "var/lib/systemd/linger/uid 54321", "")
    assert (
        checks.remove_ipc(tmp_path, 54321).text == "uid 54321 lingers: logging out removes nothing"
    )


@pytest.mark.parametrize(
    ("source", "state"), [("tsc", "OK"), ("kvm-clock", "OK"), ("hpet", "WARNING")]
)
def test_a_clock_that_takes_a_system_call_is_a_warning(tmp_path, source, state):
    """Each record pays for it; what a reading costs is shown."""
    write(tmp_path / checks._CLOCK, f"{source}\n")
    found = checks.clock_source(tmp_path)
    assert found.state == state
    assert found.text.startswith(f"{source}, ") and found.text.endswith("ns to read the time")


def test_where_the_clock_source_is_hidden_its_cost_decides(tmp_path, monkeypatch):
    """In many containers."""
    monkeypatch.setattr(checks, "_clock_cost_ns", lambda: 40.0)
    assert checks.clock_source(tmp_path).state == "OK"
    monkeypatch.setattr(checks, "_clock_cost_ns", lambda: 900.0)
    assert checks.clock_source(tmp_path).state == "WARNING"


def test_the_ring_store_is_seen_in_one_piece_by_a_second_process():
    """And a writer that stores as a ring must not is caught, so the probe can see it."""
    seen = PROBE()
    assert seen.changes > 0 and seen.torn == 0
    assert any(PROBE(broken=True).torn for _ in range(5))
    assert checks.ring_store().state == "OK"


def test_the_second_process_writes_until_the_first_is_gone(monkeypatch):
    """Whatever ends the first: nothing is left running."""
    descriptor = os.memfd_create("probe")
    os.ftruncate(descriptor, 4096)
    parents = iter([7, 7, 1, 7, 7, 1])
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    for broken in (False, True):
        probe._write(descriptor, broken=broken)
        os.lseek(descriptor, 64 * 8, os.SEEK_SET)
        assert os.read(descriptor, 8) == b"\x7f" * 8
    os.close(descriptor)


def test_a_store_in_pieces_is_critical(monkeypatch):
    """So is a machine that the layout isn't made for."""
    monkeypatch.setattr(probe, "run", lambda: probe.Probed(1000, 100, 3))
    found = checks.ring_store()
    assert found.state == "CRITICAL" and "3 in pieces" in found.text
    monkeypatch.setattr(checks.layout, "supported", lambda: False)
    assert checks.ring_store().text == "this machine is not little-endian"


def test_a_second_process_that_never_writes_is_no_verdict(monkeypatch):
    """The check says that it can't tell."""
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(OSError, match="didn't write"):
        PROBE()


def test_other_programs_called_like_ours_are_found(tmp_path, monkeypatch):
    """On the path, installed, or already loaded from elsewhere."""
    assert states(checks.packages([])) == ["OK"]
    write(tmp_path / "one/notifier/__init__.py", "")
    write(tmp_path / "two/cli.py", "")
    found = checks.packages([str(tmp_path / "one"), str(tmp_path / "two"), "", "/nonexistent"])
    assert [each.text.partition(":")[0] for each in found] == [
        "another 'notifier'",
        "another 'cli'",
    ]
    assert states(found) == ["WARNING", "WARNING"]
    both = {"cli": ["tickwatch", "clumsy"], "numpy": ["numpy"], "ringbuf": ["tickwatch"]}
    monkeypatch.setattr(checks.metadata, "packages_distributions", lambda: both)
    assert [each.text for each in checks.packages([])] == ["clumsy also installs 'cli'"]
    monkeypatch.setitem(sys.modules, "ringbuf", SimpleNamespace(__file__="/opt/x/ringbuf/a.py"))
    assert checks.packages([])[0].state == "CRITICAL"


# what is watched


def test_an_engine_that_was_killed_is_critical(well):
    """Seen in its lock and its ring, by another process, with the evidence to look at."""
    code = (
        "import os, sys; from ringbuf import Recorder;"
        "r = Recorder('swing', sys.argv[1], capacity=1024); r.metric('a').record(1);"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(well.data_dir)], check=False, env=clean_environment()
    )
    ended = well.run("health", "--json")
    [row] = [row for row in ended.rows if row["check"] == "engines" and row["state"] != "OK"]
    assert row["state"] == "CRITICAL" and row["message"].startswith("dead: engine swing")
    assert row["todo"] == "tickwatch ring dump swing, then restart"
    assert ended.code == 2


def test_an_engine_that_closed_leaves_nobody_writing(desk):
    """UNKNOWN: before the market opens somebody must start it."""
    Recorder("intraday", desk.data_dir, capacity=1024).close()
    rows = desk.run("health", "--json").rows
    assert named(rows, "engines") == [("UNKNOWN", "no engine writes: intraday is stopped")]


def test_an_engine_that_runs_without_its_ring_is_critical(desk):
    """Its mark says why."""
    rings = desk.data_dir / "rings"
    rings.mkdir(mode=0o700)
    with Recorder("intraday", desk.data_dir, capacity=1024) as first:
        first.metric("a").record(1)
        code = (
            "import sys; from ringbuf import Recorder;"
            "r = Recorder('intraday', sys.argv[1], capacity=1024); input()"
        )
        second = subprocess.Popen(
            [sys.executable, "-c", code, str(desk.data_dir)],
            env=clean_environment(),
            stdin=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        try:
            deadline = time.monotonic() + 20
            found = []
            while len(found) < 2 and time.monotonic() < deadline:
                found = named(desk.run("health", "--json").rows, "engines")
        finally:
            second.communicate(b"\n", timeout=20)
    assert found[0] == ("OK", "intraday is alive")
    assert found[1][0] == "CRITICAL" and "intraday is not monitored" in found[1][1]


MUMBAI = ZoneInfo("Asia/Kolkata")
NSE = Session(
    "NSE", "Asia/Kolkata", open=clock(9, 15), close=clock(15, 30), engines=("intraday", "swing")
)


def at(*fields):
    return int(datetime(*fields, tzinfo=MUMBAI).timestamp()) * NS


@pytest.mark.parametrize(
    ("now_ns", "state"),
    [
        (at(2026, 2, 2, 10, 0), "CRITICAL"),
        (at(2026, 2, 2, 8, 30), "WARNING"),
        (at(2026, 2, 2, 6, 0), None),
        (at(2026, 2, 1, 10, 0), None),
    ],
)
def test_engines_that_a_session_expects_are_missed_in_time(now_ns, state):
    """From an hour before it opens; not at night, nor at the weekend."""
    found = list(watched.engines([Engine("intraday", "alive", "")], [NSE], now_ns))
    assert states(found) == ["OK", state] if state else ["OK"]
    if state:
        assert "swing doesn't write" in found[1].text


def test_a_silent_and_an_unreadable_engine_are_critical():
    """Whatever the hour."""
    found = watched.engines(
        [Engine("a", "silent", "silent: engine a (pid 1)"), Engine("b", "unreadable", "layout 9")],
        [],
        0,
    )
    assert [(each.state, each.text) for each in found] == [
        ("CRITICAL", "silent: engine a (pid 1)"),
        ("CRITICAL", "b is not monitored: layout 9"),
        ("UNKNOWN", "no engine writes: a is silent, b is unreadable"),
    ]


def test_a_calendar_that_ends_is_a_warning_before_it_does():
    """A week ahead: on a holiday that isn't listed, everything would count as missing."""
    now_ns = at(2026, 12, 20, 8, 0)
    assert states(watched.calendars([], now_ns)) == ["OK"]
    [found] = watched.calendars([NSE], now_ns)
    assert found.state == "OK" and "no holidays listed" in found.text
    listed = dataclasses.replace(NSE, holidays=frozenset({date(2026, 12, 25)}))
    [found] = watched.calendars([listed], now_ns)
    assert found.state == "WARNING" and "the last holiday listed is 2026-12-25" in found.text
    listed = dataclasses.replace(NSE, holidays=frozenset({date(2027, 1, 26)}))
    [found] = watched.calendars([listed], at(2026, 12, 21, 10, 0))
    assert found.text == "NSE is open, closes in 5 h 30 min, holidays until 2027-01-26"
    never = dataclasses.replace(NSE, days=frozenset())
    assert states(watched.calendars([never], now_ns)) == ["WARNING"]
    always = Session("crypto", days=frozenset(range(7)))
    [found] = watched.calendars([always], now_ns)
    assert found.text == "crypto is open, no holidays listed"


def test_levels_far_above_or_below_an_ordinary_day_are_warnings(desk):
    """By rule and once, with the comparison of `rules check`; far means far from every series."""
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        fast = store.series_id("tick_latency", "ms", {"engine": "intraday"})
        slow = store.series_id("order_latency", "ms", {"engine": "intraday"})
        count = store.series_id("position_count", "", {"engine": "intraday"})
        store.commit(
            [
                rollup(fast, T0, [0.4] * 200),
                rollup(slow, T0, [400.0] * 200),
                rollup(count, T0, [3.0] * 200),
            ],
            {},
            {},
        )
    where = place.find({"--data-dir": str(desk.data_dir)})
    rules = builtin_rules(position_limit=10_000)
    [found] = watched.levels(where, rules, [])
    assert found.state == "OK"
    assert "1,000 ms is 2.5 times the p99 of the last 24 h (400 ms)" in found.text
    far = [Rule("fast", "tick_latency", {Severity.WARNING: Level(1000.0, "ms")})]
    [found] = watched.levels(where, far, [])
    assert found.state == "WARNING"
    assert "1,000 ms is 2,500 times the p99 of the last 24 h (0.4 ms), tick_latency" in found.text
    low = [Rule("slow", "order_latency", {Severity.WARNING: Level(100.0, "ms")})]
    [found] = watched.levels(where, low, [])
    assert found.state == "WARNING" and "slow: 100 ms was reached" in found.text
    right = [Rule("slow", "order_latency", {Severity.WARNING: Level(1.0, "s")})]
    [found] = watched.levels(where, right, [])
    assert (found.state, found.text) == (
        "OK",
        "slow: 1,000 ms is 2.5 times the p99 of the last 24 h (400 ms)",
    )


def day_file(folder, *, day="2026-01-31", count=10):
    lines = b"".join(
        b'{"time":"%sT00:00:00.%09dZ","metric":"a","labels":{},"value":1.0,"unit":""}\n'
        % (day.encode(), number)
        for number in range(count)
    )
    start_ns = int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp()) * NS
    cover = Cover({"ab" * 16: (0, count - 1)}, count, 0, start_ns, start_ns + count)
    DayFiles(folder).append(day, dayfile.pack(lines, cover))
    return folder / f"metrics_{day}.json.gz.part"


def test_the_newest_day_files_are_read_back(desk):
    """The open one and the last that was closed; others aren't ours to judge."""
    folder = desk.data_dir / "archive"
    assert [each.text for each in watched.archive(folder)] == ["no day file yet"]
    for day in ("2026-01-29", "2026-01-30", "2026-01-31"):
        day_file(folder, day=day)
    DayFiles(folder).close_day("2026-01-29")
    DayFiles(folder).close_day("2026-01-30")
    assert [(each.state, each.text) for each in watched.archive(folder)] == [
        ("OK", "metrics_2026-01-30.json.gz: 10 records in 1 members"),
        ("OK", "metrics_2026-01-31.json.gz.part: 10 records in 1 members"),
    ]
    (folder / "notes.txt").write_text("x")
    assert list(watched.archive(folder))[-1].state == "WARNING"


def test_a_damaged_day_file_is_a_warning(desk):
    """Its other members stay readable."""
    folder = desk.data_dir / "archive"
    path = day_file(folder)
    day_file(folder)
    content = bytearray(path.read_bytes())
    content[len(content) // 2 - 6] ^= 0xFF
    path.write_bytes(content)
    [found] = watched.archive(folder)
    assert found.state == "WARNING" and "1 damaged" in found.text


def test_a_day_file_that_is_being_written_is_no_damage(desk):
    """Its last member may be torn."""
    path = day_file(desk.data_dir / "archive")
    path.write_bytes(path.read_bytes() + path.read_bytes()[:-3])
    [found] = watched.archive(desk.data_dir / "archive")
    assert (found.state, found.text) == (
        "OK",
        "metrics_2026-01-31.json.gz.part: 10 records in 1 members",
    )


def test_a_huge_day_file_is_read_for_a_while(desk, monkeypatch):
    """How far it was read is said."""
    monkeypatch.setattr(watched, "_VERIFY_S", 0.0)
    day_file(desk.data_dir / "archive")
    [found] = watched.archive(desk.data_dir / "archive")
    assert found.text.endswith("10 records in 1 members, 0 of them read")


def test_an_archive_that_cannot_be_read_is_critical(desk):
    """Another user's, or no folder at all."""
    (desk.data_dir / "archive").write_text("a file")
    [found] = watched.archive(desk.data_dir / "archive")
    assert found.state == "CRITICAL"


def test_stores_that_are_out_of_date_or_in_trouble_are_critical(well):
    """The aggregator stands still, or can't write."""
    well.report(ago_s=120)
    [(state, text), _] = named(well.run("health", "--json").rows, "stores")
    assert state == "CRITICAL" and text.startswith("rollups.db: last report 2 min")
    well.report(disk_problem="No space left on device")
    [first, _] = named(well.run("health", "--json").rows, "stores")
    assert first == ("CRITICAL", "the aggregator can't write: No space left on device")


def test_trouble_with_day_files_is_a_warning(well):
    """As the aggregator reports it: nothing can be written, or some could not be closed."""
    counts = {"failed": 2, "damaged": 0}
    history = {"problem": "day files: No space left on device", "archive": {"counts": counts}}
    well.report(history=history)
    found = named(well.run("health", "--json").rows, "stores")
    assert found[1:3] == [
        ("WARNING", "records stay in memory: day files: No space left on device"),
        ("WARNING", "the last archive run found 2 failed day files"),
    ]
    well.report(history={"problem": None, "archive": None})
    assert len(named(well.run("health", "--json").rows, "stores")) == 2


def test_stores_that_are_damaged_are_critical(well):
    """Each by itself."""
    for name in ("rollups.db", "alerts.db"):
        for path in well.data_dir.glob(f"{name}*"):
            path.write_bytes(b"not a database, certainly" * 400)
            os.utime(path, (time.time() - 60,) * 2)  # nobody is just creating it
    found = named(well.run("health", "--json").rows, "stores")
    assert [state for state, _ in found] == ["CRITICAL", "CRITICAL"]


def test_bad_lines_of_the_alert_log_are_a_warning(well):
    """Something was written there that is no transition."""
    [path] = well.alerts_dir.glob("2*.jsonl")
    with path.open("a") as file:
        file.write("garbage\n")
    found = named(well.run("health", "--json").rows, "stores")
    assert found[-1][0] == "WARNING" and "1 bad lines" in found[-1][1]


# test messages


@pytest.fixture
def receiver():
    with HttpServer() as server:
        yield server


def webhook(server, path="/hooks/T0PS3CRETTOKEN", **more):
    return {
        "MONITORING_ENABLE_WEBHOOK_ALERTS": "true",
        "MONITORING_WEBHOOK_URL": server.url + path,
        "MONITORING_WEBHOOK_HEADERS": '{"Authorization": "Bearer hunter2hunter2"}',
        **more,
    }


def test_a_test_message_reaches_the_receiver_and_its_answer_is_shown(desk, receiver):
    """Marked as a test, through the real plugin, from another process; nothing else is sent."""
    receiver.default = Reply(202, "queued as 4711")
    ended = desk.run("health", "--send", "--json", **webhook(receiver))
    [request] = receiver.wait(1)
    body = request.json()
    assert body["test"] is True and body["rule"] == "delivery_test"
    assert body["text"].startswith("TEST message of tickwatch on ")
    assert body["text"].splitlines()[0].endswith("sent by asha")
    assert request.headers["authorization"] == "Bearer hunter2hunter2"
    assert named(ended.rows, "delivery") == [
        ("OK", "webhook accepted a test message: HTTP 202: queued as 4711")
    ]
    assert not (desk.data_dir / "alerts.db").exists()


def test_a_refusal_is_critical_and_shows_no_secret(desk, receiver):
    """What the other side said, without what it was sent."""
    receiver.default = Reply(403, "token T0PS3CRETTOKEN and hunter2hunter2 are unknown")
    for output in ([], ["--json"]):
        ended = desk.run("health", "--send", *output, **webhook(receiver))
        assert ended.code == 2
        assert "HTTP 403: token *** and *** are unknown" in ended.out
        assert "T0PS3CRET" not in ended.out + ended.err
        assert "hunter2" not in ended.out + ended.err


def test_a_plugin_that_never_answers_holds_up_no_other(desk, receiver):
    """Each has its own time limit, and they are tried at the same time."""
    receiver.default = lambda request: Reply(never=request.path.endswith("/never"))
    config = desk.folder / "tickwatch.toml"
    config.write_text(
        f'[[plugin]]\nkind = "webhook"\nname = "a"\nurl = "{receiver.url}/never"\ntimeout = "1s"\n'
        f'[[plugin]]\nkind = "webhook"\nname = "b"\nurl = "{receiver.url}/b"\n'
        f'[[plugin]]\nkind = "webhook"\nname = "c"\nurl = "{receiver.url}/c"\nenabled = false\n'
    )
    started = time.monotonic()
    found = named(desk.run("health", "--send", "--json", "--config", str(config)).rows, "delivery")
    assert [state for state, _ in found] == ["CRITICAL", "OK"]
    assert found[0][1].startswith("a (webhook): outcome unknown: no reply within ")
    assert found[1][1] == "b (webhook) accepted a test message: HTTP 200: ok"
    assert time.monotonic() - started < 30
    assert {request.path[-2:] for request in receiver.requests} == {"er", "/b"}


class Broken(AlertDeliveryPlugin):
    """Can't be prepared, and never comes back."""

    kind = "broken"

    def prepare(self):
        raise OSError("no such file: /secret/path")

    def deliver(self, message):
        time.sleep(30)
        return True


class Half(AlertDeliveryPlugin):
    """Lacks an option."""

    def check(self):
        return ["half: url is empty: set url in its [[plugin]] table"]

    def deliver(self, message):
        raise AssertionError("not to be tried")


def test_what_cannot_be_tried_is_told_and_what_hangs_is_left_behind(monkeypatch):
    """A half configuration isn't sent to; an attempt without an end ends."""
    monkeypatch.setattr(sending, "load", {"half": Half, "broken": Broken}.__getitem__)
    plugins = [PluginSettings("half", "half"), PluginSettings("b", "broken", timeout_s=0.1)]
    assert [(each.state, each.text) for each in sending.send(plugins)] == [
        ("CRITICAL", "half: url is empty: set url in its [[plugin]] table"),
        ("CRITICAL", "b (broken): outcome unknown: no end in time"),
    ]


def test_without_a_plugin_there_is_nothing_to_send(desk):
    """A warning, since nobody would be told either."""
    [(state, text)] = named(desk.run("health", "--send", "--json").rows, "delivery")
    assert (state, text) == ("WARNING", "no plugin is enabled: nobody is told of any alert")


def test_the_worst_state_counts_trouble_that_is_known_before_what_is_not():
    """And nothing at all is never healthy."""
    assert checks.worst(["OK", "WARNING"]) == "WARNING"
    assert checks.worst(["UNKNOWN", "WARNING"]) == "UNKNOWN"
    assert checks.worst(["UNKNOWN", "CRITICAL", "OK"]) == "CRITICAL"
    assert checks.worst([]) == "UNKNOWN"
    assert Check("a", "OK", "b").row() == {
        "check": "a", "state": "OK", "message": "b", "todo": None,
    }  # fmt: skip
    assert health.CODES["OK"] == 0
