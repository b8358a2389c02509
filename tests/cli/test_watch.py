"""`watch`: the feed step by step, and the command in a process of its own."""

import json
import queue
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest

from cli import place, watch
from notifier.alert import Kind, Severity
from tests.environments import clean_environment

DAY_S = 86_400


@pytest.fixture
def feed(desk):
    def made():
        return watch.Feed(place.find({"--data-dir": str(desk.data_dir)}))

    return made


def names(found):
    return [(event.name, event.rules[0] if event.rules else "") for event in found]


def test_what_is_there_comes_first_then_what_happens(desk, feed):
    """Each event once, acks and resolutions among them."""
    desk.tell("a", ago_s=50)
    tail = feed()
    assert names(tail.first()) == [("fired", "a")]
    assert tail.step() == []
    desk.run("alerts", "ack", "a")
    desk.tell("a", Kind.RESOLVED)
    desk.tell("b")
    assert names(tail.step()) == [("acked", "a"), ("resolved", "a"), ("fired", "b")]
    assert tail.step() == []


def test_old_days_are_looked_at_until_there_are_ten(desk, feed):
    """A quiet month hides nothing; updates of values don't count."""
    for i in range(3):
        desk.tell(f"old_{i}", ago_s=20 * DAY_S, written_ago_s=20 * DAY_S)
        desk.tell(f"old_{i}", Kind.UPDATE, ago_s=20 * DAY_S, written_ago_s=20 * DAY_S)
    desk.tell("new")
    found = [name for name in names(feed().first()) if name[0] != "update"]
    assert [rule for _, rule in found] == ["old_0", "old_1", "old_2", "new"]
    assert len(list(desk.alerts_dir.glob("2*.jsonl"))) == 2


def test_the_log_goes_on_after_midnight(desk, feed):
    """A new day's file is the same story."""
    desk.tell("a", written_ago_s=DAY_S)
    tail = feed()
    assert names(tail.first()) == [("fired", "a")]
    desk.tell("b")
    assert len(list(desk.alerts_dir.glob("2*.jsonl"))) == 2
    assert names(tail.step()) == [("fired", "b")]
    assert tail.step() == []


def test_a_half_written_line_is_shown_once_it_is_whole(desk, feed):
    """Neither lost nor shown twice."""
    desk.tell("a")
    tail = feed()
    tail.first()
    [today] = desk.alerts_dir.glob("2*.jsonl")
    whole = json.dumps(json.loads(today.read_bytes()) | {"n": 2, "id": "1" * 36, "rule": "b"})
    with today.open("a") as file:
        file.write(whole[:40])
        file.flush()
        assert tail.step() == []
        file.write(whole[40:] + "\n")
    assert names(tail.step()) == [("fired", "b")]


def test_a_damaged_line_is_skipped_and_said(desk, feed, capsys):
    """What follows it is shown."""
    desk.tell("a")
    tail = feed()
    tail.first()
    [today] = desk.alerts_dir.glob("2*.jsonl")
    with today.open("a") as file:
        file.write("{damaged\n")
    desk.tell("b")
    assert names(tail.step()) == [("fired", "b")]
    assert "1 lines of the alert log are damaged" in capsys.readouterr().err


def test_a_missing_directory_is_waited_for(desk, feed):
    """The service may not have logged anything yet."""
    tail = feed()
    assert tail.first() == []
    assert tail.step() == []
    desk.tell("a")
    assert names(tail.step()) == [("fired", "a")]


def test_rows_carry_the_id_of_their_alert(desk, feed):
    """Whatever transition they are."""
    fired = desk.tell("a", ago_s=20)
    desk.tell("a", Kind.SEVERITY, Severity.WARNING, ago_s=10)
    tail = feed()
    assert {event.row["id"] for event in tail.first()} == {fired.id}
    desk.tell("a", Kind.RESOLVED)
    desk.tell("a")
    assert {event.row["id"] for event in tail.step()} == {fired.id}


def test_filters_apply_to_severity_and_rule(desk, feed):
    """An ack of a filtered alert is filtered as well; values that only moved are never shown."""
    desk.tell("daily_loss", severity=Severity.WARNING)
    desk.tell("connection", severity=Severity.CRITICAL)
    desk.run("alerts", "ack", "daily_loss")
    desk.tell("connection", Kind.UPDATE)
    found = feed().first()

    def kept(least, pattern):
        return names(e for e in found if watch.wanted(e, least, pattern))

    assert len(found) == 4
    assert len(kept(Severity.INFO, "*")) == 3
    assert kept(Severity.CRITICAL, "*") == [("fired", "connection")]
    assert kept(Severity.INFO, "daily_*") == [("fired", "daily_loss"), ("acked", "daily_loss")]


def test_a_message_that_repeats_the_rule_is_left_out(desk, feed):
    """One name is enough, and "connection lost" would look odd behind "resolved"."""
    desk.tell("connection_lost", value=0.0, threshold=0.0, message="connection lost")
    desk.tell("connection_lost", Kind.RESOLVED, value=1.0, message="connection lost")
    desk.tell("order_rejected", message="RMS says no")
    assert [event.detail for event in feed().first()] == ["0 (limit 0)", "1", "RMS says no"]


def test_without_room_for_a_watcher_the_loop_still_looks(desk, monkeypatch, capsys):
    """inotify's limits are the system's business, alerts are ours."""
    import watchdog.observers

    class Full:
        def __init__(self):
            raise OSError(24, "inotify instance limit reached")

    monkeypatch.setattr(watchdog.observers, "Observer", Full)
    with watch.woken(desk.alerts_dir) as bell:
        assert not bell.is_set()
    assert "looking once a second: inotify instance limit reached" in capsys.readouterr().err


@contextmanager
def watching(desk, *argv):
    """A `watch` in a process of its own, its lines in a queue."""
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "watch", "--data-dir", str(desk.data_dir), *argv],
        cwd="/",
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    lines = queue.Queue()
    reader = threading.Thread(target=lambda: [lines.put(line) for line in process.stdout])
    reader.start()
    try:
        yield SimpleNamespace(process=process, next=lambda: lines.get(timeout=30))
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(30)
        reader.join(30)
        process.stdout.close()
        process.stderr.close()


def test_alerts_appear_in_another_process_as_they_happen(desk):
    """JSON lines, the newest ten first; Ctrl-C ends it without a word."""
    for i in range(12):
        desk.tell(f"rule_{i}", ago_s=100 - i)
    with watching(desk, "--json") as other:
        rows = [json.loads(other.next()) for _ in range(10)]
        assert [row["rule"] for row in rows] == [f"rule_{i}" for i in range(2, 12)]
        began = time.monotonic()
        desk.tell("new", value=3.0, unit="ms")
        row = json.loads(other.next())
        assert time.monotonic() - began < 20
        assert (row["event"], row["rule"], row["value"]) == ("fired", "new", 3.0)
        desk.run("alerts", "ack", "new")
        row = json.loads(other.next())
        assert (row["event"], row["rules"], row["by"]) == ("ack", ["new"], "asha")
        other.process.send_signal(signal.SIGINT)
        assert other.process.wait(30) == 0
        assert other.process.stderr.read() == ""


def test_piped_lines_are_plain(desk):
    """Time, severity, event, rule, labels, value; no colour."""
    desk.tell("latency", value=812.0, threshold=250.0, unit="ms", message="slow")
    with watching(desk) as other:
        line = other.next()
        assert "critical" in line and "fired" in line
        assert "latency engine=intraday 812 ms (limit 250) slow" in line
        assert "\x1b" not in line
        other.process.send_signal(signal.SIGINT)
        assert other.process.wait(30) == 0


def test_what_watchdog_says_of_itself_is_no_message(desk):
    """It warns of events that come while it ends."""
    script = (
        "import logging, pathlib, sys\nfrom cli import watch\n"
        "with watch.woken(pathlib.Path(sys.argv[1])):\n"
        "    logging.getLogger('watchdog.observers.inotify').warning('the thread is inactive')\n"
    )
    desk.tell("a")
    command = [sys.executable, "-c", script, str(desk.alerts_dir)]
    ended = subprocess.run(
        command, check=False, env=clean_environment(), capture_output=True, text=True, timeout=60
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


def test_a_reader_that_leaves_ends_the_watch(desk):
    """`watch | head -1` prints no traceback."""
    desk.tell("a")
    command = f"{sys.executable} -m cli watch --data-dir {desk.data_dir} | head -1"
    with subprocess.Popen(
        ["sh", "-c", command],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert "fired" in process.stdout.readline()
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            desk.tell("b")
            time.sleep(0.2)
        assert process.poll() == 0
        assert "Traceback" not in process.stderr.read()


def test_a_wrong_directory_or_filter_is_refused(desk):
    """At once, not after waiting."""
    assert desk.run("watch", "--severity", "high").code == 2
    desk.data_dir.rename(desk.folder / "gone")
    ended = desk.run("watch")
    assert ended.code == 1
    assert "no such directory" in ended.err
