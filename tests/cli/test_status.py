"""`status`: states, reasons and exit codes, on what other processes left or hold."""

import contextlib
import json
import os
import pty
import re
import select
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from aggregator.history.dayfolder import FOLDER
from aggregator.store.store import Store
from cli import condition, place, render, status
from cli.gather import gather
from notifier.alert import Severity, rfc3339
from ringbuf import Recorder
from tests.cli.conftest import SECOND_NS, Terminal
from tests.cli.test_metrics import rollup
from tests.daywrite import record, write_days
from tests.environments import clean_environment, unmeasured

CONTRACT = {
    "state", "score", "reasons", "engines", "alerts", "deliveries", "performance", "records_lost",
}  # fmt: skip


@pytest.fixture
def engine(desk):
    with Recorder("intraday", desk.data_dir, capacity=1024) as recorder:
        recorder.metric("tick_latency", "ms").record(0.4)
        yield recorder


@pytest.fixture
def well(desk, engine):
    """A service that runs, an engine that writes, a report that is fresh."""
    desk.service_runs()
    desk.report(engines=[{"engine": "intraday", "rate": 12.5, "lost": 0, "read": 1, "fill": 0.0}])
    return desk


def test_all_is_well_is_exit_code_0(well):
    """With the contract's fields and the engine's facts."""
    ended = well.run("status", "--json")
    assert (ended.code, ended.err) == (0, "")
    row = ended.rows
    assert set(row) >= CONTRACT
    assert (row["state"], row["score"], row["reasons"]) == ("OK", 100, [])
    [one] = row["engines"]
    assert (one["engine"], one["state"], one["pid"]) == ("intraday", "alive", os.getpid())
    assert (one["written"], one["lost"], one["rate"]) == (1, 0, 12.5)
    assert one["last_record_at"] is not None
    assert row["records_lost"] == 0


def test_the_screen_names_the_absolute_path(well):
    """Whatever the state is, one sees where it looked."""
    os.chdir(well.folder)
    ended = well.run("status")
    assert ended.code == 0
    assert ended.out.startswith(f"OK {well.data_dir}  20")
    assert re.search(r"intraday +alive +\d+ +\d+ ms ago +12\.5 +1 +0 +0\.0 %", ended.out)
    assert "disk: " in ended.out and "GiB free" in ended.out


def test_a_firing_critical_alert_is_critical(well):
    """Exit code 2, score 0, named in the reasons."""
    well.tell("connection_lost", ago_s=90)
    ended = well.run("status", "--json")
    assert ended.code == 2
    assert (ended.rows["state"], ended.rows["score"]) == ("CRITICAL", 0)
    assert ended.rows["reasons"] == ["connection_lost engine=intraday: critical for 1 min 30 s"]
    assert ended.rows["alerts"]["critical"] == 1


def test_a_firing_warning_is_a_warning(well):
    """Exit code 1, score 50; information alone is no reason."""
    well.tell("note", severity=Severity.INFO)
    assert well.run("status").code == 0
    well.tell("daily_loss_high", severity=Severity.WARNING)
    ended = well.run("status", "--json")
    assert (ended.code, ended.rows["score"]) == (1, 50)
    assert ended.rows["alerts"]["info"] == 1


@pytest.mark.parametrize(
    ("argv", "text"),
    [
        (["alerts", "ack", "connection_lost"], "acknowledged by asha"),
        (["silences", "add", "rule=connection_*", "--for", "1h"], "silenced by asha"),
    ],
)
def test_an_acknowledged_critical_alert_stays_a_warning(well, argv, text):
    """Somebody knows of it, but it is not well."""
    well.tell("connection_lost")
    well.run(*argv)
    ended = well.run("status", "--json")
    assert ended.code == 1
    assert text in ended.rows["reasons"][0]


def test_without_a_service_nothing_is_known(desk, engine):
    """UNKNOWN, exit code 3, no score, whatever the files say."""
    desk.tell("connection_lost")
    ended = desk.command("status", "--json")
    assert ended.code == 3
    assert (ended.rows["state"], ended.rows["score"]) == ("UNKNOWN", None)
    assert f"no service runs on {desk.data_dir}" in ended.rows["reasons"][0]
    assert "connection_lost" in ended.rows["reasons"][1]
    out = desk.command("status").out
    assert "service: not running; alerts firing: 1 critical" in out


def test_a_wrong_directory_is_unknown(desk):
    """And named, with where the name came from."""
    ended = desk.command("status", "--json", MONITORING_DATA_DIR="/nowhere")
    assert ended.code == 3
    desk.data_dir.rename(desk.folder / "gone")
    ended = desk.run("status")
    assert ended.code == 3
    assert f"no such directory: {desk.data_dir} (--data-dir)" in ended.out
    assert ended.out.count("\n") == 2


def test_without_an_engine_it_is_unknown(desk):
    """Nobody who writes means nobody who could say that something is wrong."""
    desk.service_runs()
    desk.report()
    ended = desk.run("status", "--json")
    assert ended.code == 3
    assert "no engine has ever written" in ended.rows["reasons"][0]


def test_engines_that_closed_or_never_recorded_are_unknown(desk):
    """Stopped isn't dead, and silence isn't health."""
    desk.service_runs()
    desk.report()
    with Recorder("intraday", desk.data_dir, capacity=1024):
        assert "no engine has recorded anything yet" in desk.run("status").out
    ended = desk.run("status", "--json")
    assert ended.code == 3
    assert ended.rows["engines"][0]["state"] == "stopped"
    assert "no engine writes: intraday is stopped" in ended.rows["reasons"]


def test_a_dead_engine_is_dead_and_known_trouble_counts_more(desk):
    """UNKNOWN for want of an engine, CRITICAL once the alert about its death fires."""
    code = (
        "import os, signal, sys; from ringbuf import Recorder;"
        "Recorder('swing', sys.argv[1], capacity=1024); os.kill(os.getpid(), signal.SIGKILL)"
    )
    argv = [sys.executable, "-c", code, str(desk.data_dir)]
    subprocess.run(argv, check=False, env=clean_environment(), timeout=60)
    desk.service_runs()
    desk.report()
    ended = desk.run("status", "--json")
    assert (ended.code, ended.rows["engines"][0]["state"]) == (3, "dead")
    desk.tell("heartbeat_lapsed", labels={"engine": "swing"})
    assert desk.run("status").code == 2


def test_an_old_report_is_unknown(well):
    """An aggregator that stands still sees nothing."""
    well.report(ago_s=60)
    ended = well.run("status", "--json")
    assert ended.code == 3
    assert "the aggregator's last report is 1 min" in ended.rows["reasons"][0]


def test_a_service_that_has_just_started_is_unknown(desk, engine):
    """Before the first report."""
    desk.service_runs()
    Store.open(desk.data_dir / "rollups.db", 300).close()
    ended = desk.run("status")
    assert ended.code == 3
    assert "just started" in ended.out


def test_missing_children_are_reasons(desk, engine):
    """Without the notifier nobody is told; without the aggregator nothing is known."""
    desk.service_runs()
    desk.report()
    for lock in desk.locks:
        if lock.name == "notifier":
            lock.release()
    ended = desk.run("status", "--json")
    assert ended.code == 2
    assert "nobody is told of alerts" in ended.rows["reasons"][0]
    for lock in desk.locks:
        if lock.name == "aggregator":
            lock.release()
    assert desk.run("status").code == 3


def test_an_engine_that_runs_without_its_ring_is_critical(well):
    """The mark that it left is an engine of its own, missing."""
    with Recorder("intraday", well.data_dir) as second:
        assert second.problem
        ended = well.run("status", "--json")
    assert ended.code == 2
    assert "missing" in [each["state"] for each in ended.rows["engines"]]
    assert "engine intraday is not monitored" in ended.rows["reasons"][0]


def test_trouble_of_the_pipeline_is_a_reason(well):
    """What could not be written or logged is said."""
    well.report(disk_problem="No space left on device", transitions_dropped=0)
    assert "can't write: No space left" in well.run("status").out
    assert well.run("status").code == 1
    well.report(transitions_dropped=2)
    assert well.run("status").code == 2


def test_deliveries_are_shown_per_plugin_with_the_ledger(well):
    """Success rate, what waits and since when, what is dead, and that it all adds up."""
    well.tell("connection_lost", severity=Severity.WARNING)
    well.notify(webhook="", slack="again: HTTP 503", email="550 no such user", later_s=-600)
    ended = well.run("status", "--json")
    assert ended.code == 1
    told = ended.rows["deliveries"]
    assert (told["pending"], told["delivered"], told["dead"]) == (1, 1, 1)
    assert told["conservation"]["holds"]
    rates = {each["plugin"]: each["success_rate"] for each in told["plugins"]}
    assert rates == {"webhook": 1.0, "slack": 0.0, "email": 0.0}
    reasons = "\n".join(ended.rows["reasons"])
    assert "email could not be told of connection_lost: 550 no such user" in reasons
    assert "a message for slack has been waiting for" in reasons
    out = well.run("status").out
    assert re.search(r"webhook +1 +0 +100\.0 % +100\.0 % +0 +-", out)
    assert re.search(r"slack +0 +0 +0\.0 % +0\.0 % +1 +1\d min.* +HTTP 503", out)
    assert "HTTP 503" in out
    assert "ledger: 3 to tell = 1 delivered + 1 dead + 0 skipped + 1 pending\n" in out
    assert "alert log: 1 lines" in out


def reported(desk, **fields):
    """Let the notifier's last report say something else."""
    with contextlib.closing(sqlite3.connect(desk.data_dir / "alerts.db")) as db, db:
        [[text]] = db.execute("SELECT value FROM meta WHERE key = 'health'").fetchall()
        changed = json.dumps(json.loads(text) | fields)
        db.execute("UPDATE meta SET value = ? WHERE key = 'health'", [changed])


def test_lines_missing_in_the_alert_log_are_critical(well):
    """Each of them may be an alert that nobody has heard of."""
    well.tell("note", severity=Severity.INFO)
    well.notify(webhook="")
    assert well.run("status").code == 0
    reported(well, missing={"lines": 3, "newest": "5..7"})
    ended = well.run("status", "--json")
    assert ended.code == 2
    assert ended.rows["deliveries"]["missing_lines"] == 3
    [reason] = ended.rows["reasons"]
    assert reason == (
        "3 lines are missing in the alert log of the last hour (the newest gap: 5..7): "
        "alerts may be lost"
    )
    assert "gaps, 3 missing\n" in well.run("status").out


def test_the_dead_man_service_is_shown_and_its_trouble_a_reason(well):
    """When it last heard from here; who can't reach it will be called for nothing."""
    well.tell("note", severity=Severity.INFO)
    well.notify(webhook="")
    assert "dead-man" not in well.run("status").out
    last = rfc3339(time.time_ns() - 20 * SECOND_NS)
    reported(well, ping={"last_at": last, "sent": 1200, "problem": ""})
    ended = well.run("status")
    assert ended.code == 0
    assert re.search(r"^dead-man service: 1,200 pings, the last one 2\d.* s ago$", ended.out, re.M)
    reported(well, ping={"last_at": None, "sent": 0, "problem": "HTTP 404"})
    ended = well.run("status", "--json")
    assert (ended.code, ended.rows["deliveries"]["ping"]["problem"]) == (1, "HTTP 404")
    assert ended.rows["reasons"] == ["the dead-man service can't be pinged: HTTP 404"]


def test_the_success_rate_is_that_of_the_last_hour(well):
    """An old outage doesn't hide what works now, nor a good year a bad hour."""
    well.tell("note", severity=Severity.INFO)
    well.notify(webhook="")
    [plugin] = well.run("status", "--json").rows["deliveries"]["plugins"]
    assert plugin["hour"] == {"accepted": 1, "failed": 0, "rate": 1.0}
    reported(well, plugins=[plugin | {"hour": {"accepted": 1, "failed": 3, "rate": 0.25}}])
    assert re.search(r"webhook +1 +0 +25\.0 % +100\.0 %", well.run("status").out)


def test_a_live_screen_leaves_latencies_out_rather_than_deliveries(well, monkeypatch):
    """What doesn't fit is said; as many series are shown as fit."""
    start_s = int(time.time()) // 300 * 300
    with Store.open(well.data_dir / "rollups.db", 300) as store:
        ids = [store.series_id("tick_latency", "ms", {"n": str(n)}) for n in range(40)]
        store.commit([rollup(one, start_s, [1.0]) for one in ids], {}, {})
    found = gather(place.find({"--data-dir": str(well.data_dir)}))
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(status, "_height", lambda: 24)
    status._paint(found, render.look({}))
    lines = stream.text.splitlines()
    assert len(lines) == 24  # the 24th only clears what is below
    assert "disk: " in lines[-2]
    shown = sum("tick_latency" in line for line in lines)
    assert shown > 3 and f"and {40 - shown} more series" in stream.text


def test_latency_and_pnl_of_the_last_hour_are_shown(well):
    """Merged percentiles per series and their course; PnL as it is now."""
    start_s = (int(time.time()) // 300 - 2) * 300
    with Store.open(well.data_dir / "rollups.db", 300) as store:
        latency = store.series_id("tick_latency", "ms", {"engine": "intraday"})
        pnl = store.series_id("pnl", "INR", {"engine": "intraday"})
        store.commit(
            [
                rollup(latency, start_s, [1.0, 2.0]),
                rollup(latency, start_s + 300, [800.0]),
                rollup(pnl, start_s + 300, [-1250.0]),
            ],
            {},
            {},
        )
    ended = well.run("status", "--json")
    [row] = ended.rows["performance"]
    assert (row["metric"], row["count"], row["max"]) == ("tick_latency", 3, 800.0)
    assert ended.rows["pnl"][0]["avg"] == -1250.0
    out = well.run("status").out
    assert re.search(r"tick_latency +engine=intraday +[12].* ms +800 ms +800 ms +▁█", out)
    assert "pnl engine=intraday: -1,250 INR" in out


def test_an_hour_that_was_not_rolled_up_is_not_passed_over_in_silence(well):
    """Day files have it: where to look is said, and only then."""
    assert "day files" not in well.run("status").out
    Store.open(well.data_dir / "rollups.db", rolling=False).close()
    assert "day files" not in well.run("status").out
    write_days(well.data_dir / FOLDER, [record(time.time(), 0.4, "tick_latency")])
    assert "see `tickwatch metrics summary --hours 1`" in well.run("status").out


def test_a_damaged_store_makes_it_unknown_and_hides_nothing_else(well):
    """Each part is looked at by itself."""
    well.tell("connection_lost")
    (well.data_dir / "rollups.db").write_bytes(b"no database at all, but long enough" * 100)
    ended = well.run("status", "--json")
    assert ended.code == 3
    assert "damaged" in ended.rows["reasons"][0]
    assert "connection_lost" in ended.rows["reasons"][1]
    assert ended.rows["engines"][0]["state"] == "alive"


def test_a_long_list_of_reasons_is_cut_on_the_screen(well):
    """The JSON has them all."""
    for i in range(12):
        well.tell(f"rule_{i}")
    assert "and 4 more" in well.run("status").out
    assert len(well.run("status", "--json").rows["reasons"]) == 12


def test_the_exit_code_survives_a_reader_that_leaves(desk):
    """`status | head -0` is still UNKNOWN."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as broken:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "status", "--data-dir", str(desk.data_dir)],
            check=False,
            env=clean_environment(),
            stdout=broken,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (3, b"")


def test_watching_in_a_pipe_repeats_json_lines(desk, engine):
    """One a second; Ctrl-C ends with the last state's exit code."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "status", "--watch", "--json", "--data-dir", desk.data_dir],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        lines = [process.stdout.readline() for _ in range(2)]
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 3
    assert all('"UNKNOWN"' in line for line in lines)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_watching_on_a_terminal_gives_it_back(desk, engine, number):
    """Alternate screen and hidden cursor end with the command, however it ends."""
    main_end, other_end = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "status", "--watch", "--data-dir", str(desk.data_dir)],
        env=clean_environment() | {"TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"},
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        close_fds=True,
    )
    os.close(other_end)
    seen = b""
    deadline = time.monotonic() + 60
    try:
        while seen.count(b"\x1b[H") < 2 and time.monotonic() < deadline:
            if select.select([main_end], [], [], 1)[0]:
                seen += os.read(main_end, 65_536)
        process.send_signal(number)
        while time.monotonic() < deadline:
            try:
                seen += os.read(main_end, 65_536)
            except OSError:
                break
        assert process.wait(30) == 3
    finally:
        os.close(main_end)
        if process.poll() is None:
            process.kill()
            process.wait()
    text = seen.decode()
    assert text.startswith("\x1b[?1049h\x1b[?25l")
    assert text.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")
    assert "UNKNOWN" in text and "Traceback" not in text


def test_status_loads_nothing_heavy():
    """Start-up time is the modules that are loaded; asserted on sys.modules, not on the clock."""
    code = (
        "import sys; from cli.__main__ import main;"
        "main(['metrics', 'show']); main(['alerts', 'list']); main(['status']);"
        "heavy = {'numpy', 'requests', 'watchdog', 'smtplib', 'multiprocessing', 'pydantic',"
        " 'rich', 'asyncio', 'email', 'urllib3'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        check=False,
        env=unmeasured() | {"MONITORING_DATA_DIR": "/nowhere"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_a_condition_without_trouble_is_ok():
    """The state is the worst of what was found."""
    found = condition.Condition(where=None)
    assert found.state == "OK"
    for name, state in (
        ("warning", "WARNING"),
        ("quiet", "UNKNOWN"),
        ("critical", "CRITICAL"),
        ("blind", "UNKNOWN"),
    ):
        getattr(found, name).append(name)
        assert found.state == state
    assert found.reasons == ["blind", "critical", "quiet", "warning"]
    assert SECOND_NS == 10**9


def test_the_screen_fits_80_columns(well):
    """Path aside, no line of the status is wider."""
    well.tell("connection_lost")
    well.notify(webhook="")
    lines = well.screen("status").splitlines()[1:]
    assert max(map(len, lines)) <= 80
    assert len(lines) <= 23
