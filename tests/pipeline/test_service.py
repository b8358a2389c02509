"""The service's processes under kills, restarts and a reboot, seen through commands of other
processes."""

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

from tests.pipeline.conftest import Desk
from tests.segments import unlink_segments
from tests.servers import HttpServer
from tests.waiting import wait_for

BREAKER = """
with Recorder("intraday", data_dir) as recorder:
    breaker = recorder.metric("circuit_breaker_active", desk="nifty")
    for value in sys.argv[2:]:
        hear()
        breaker.record(float(value))
        say("done")
    hear()
"""

VALUES = """
with Recorder("intraday", data_dir) as recorder:
    series = recorder.metric(sys.argv[2])
    while word := hear():
        series.record(float(word))
        say("done")
"""

COUNTER = """
recorder = Recorder("intraday", data_dir, capacity=int(sys.argv[2]))
latency = recorder.metric("tick_latency", unit="ms")
say("ready")
while (count := hear()) and count != "close":
    for number in range(int(count)):
        latency.record(number % 97)
    say(recorder.published)
if count == "close":
    recorder.close()
"""


def tell(process: subprocess.Popen[str], word: str) -> str:
    """Give an engine a line and return its answer."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def gone(pid: int) -> bool:
    """Whether the process has ended."""
    return not Path(f"/proc/{pid}").exists()


def counted(desk: Desk) -> int:
    """Records in all rollups of the engine's latency."""
    rows = desk.json("metrics", "show", "--metric", "tick_latency")
    return sum(row["count"] for row in rows)


def settled(desk: Desk, expected: int) -> bool:
    """Whether rollups and losses add up to *expected*."""
    try:
        rows = desk.json("metrics", "show", "--metric", "tick_latency")
    except AssertionError:
        return False
    by_interval = {row["interval_start"]: row["lost"] for row in rows}
    return sum(row["count"] for row in rows) + sum(by_interval.values()) == expected


def test_an_alert_reaches_the_receiver_and_other_processes_see_the_same(
    desk: Desk, sink: HttpServer
) -> None:
    """Fired once however often the condition repeats; resolved is told too; commands agree with the
    receiver."""
    desk.service()
    engine = desk.engine(BREAKER, "1", "1", "0")
    tell(engine, "")
    [fired] = sink.wait(1, 60)
    assert fired.json()["rule"] == "circuit_breaker_triggered"
    assert fired.json()["labels"] == {"engine": "intraday", "desk": "nifty"}
    tell(engine, "")
    rows = wait_for(lambda: desk.json("alerts", "list"), "the alert in the list")
    assert [(row["id"], row["severity"], row["state"]) for row in rows] == [
        (fired.json()["id"], "critical", "firing")
    ]
    status = desk.json("status", code=2)
    assert status["state"] == "CRITICAL" and status["score"] == 0
    tell(engine, "")
    [_, resolved] = sink.wait(2, 60)
    assert resolved.json()["id"] == fired.json()["id"]
    assert resolved.json()["state"] == "resolved"
    wait_for(lambda: desk.json("alerts", "list") == [], "no active alert")
    assert len(desk.json("alerts", "list", "--all")) == 1
    desk.json("status", code=0)


def test_an_engine_killed_is_told_within_seconds_and_goes_on_in_its_ring(
    desk: Desk, sink: HttpServer
) -> None:
    """SIGKILL: an alert says dead, the last records are kept, the successor continues the count."""
    desk.service()
    engine = desk.engine(COUNTER, "1024")
    tell(engine, "500")
    wait_for(lambda: settled(desk, 500), "500 records")
    engine.kill()
    engine.communicate()
    [fired] = sink.wait(1, 60)
    assert fired.json()["rule"] == "heartbeat_lapsed"
    assert "dead" in fired.json()["message"]
    assert len(list((desk.data_dir / "crashes").glob("intraday-*.json.gz"))) == 1
    successor = desk.engine(COUNTER, "1024")
    assert tell(successor, "250") == "ready"
    [_, resolved] = sink.wait(2, 60)
    assert resolved.json()["state"] == "resolved"
    wait_for(lambda: settled(desk, 750), "750 records")
    [status] = desk.status()["engines"]
    assert status["state"] == "alive"


def test_kill_9_of_the_aggregator_loses_and_doubles_nothing(desk: Desk) -> None:
    """Killed again and again in mid-stream, counts still add up to what was written."""
    service = desk.service()
    engine = desk.engine(COUNTER, "65536")
    assert engine.stdout is not None
    assert engine.stdout.readline().strip() == "ready"
    written = 0
    for _ in range(3):
        written = int(tell(engine, "5000"))
        desk.kill_child(service.pid, "aggregator")
        written = int(tell(engine, "5000"))
        wait_for(lambda: desk.children(service.pid), "restarted children")
    wait_for(lambda: settled(desk, written), f"{written} records")
    assert counted(desk) == written


def test_kill_9_of_the_notifier_loses_no_alert(desk: Desk, sink: HttpServer) -> None:
    """An alert that fires while the notifier is dead is delivered, at most twice, with one id."""
    service = desk.service()
    engine = desk.engine(BREAKER, "1")
    desk.kill_child(service.pid, "notifier")
    tell(engine, "")
    sink.wait(1, 60)
    wait_for(lambda: desk.children(service.pid), "restarted children")
    wait_for(lambda: desk.status()["deliveries"].get("pending") == 0, "nothing pending")
    told = [(request.json()["rule"], request.headers["webhook-id"]) for request in sink.requests]
    ids = [identity for rule, identity in told if rule == "circuit_breaker_triggered"]
    assert len(set(ids)) == 1 and len(ids) <= 2
    # That one of ours died is told as well.
    assert {rule for rule, _ in told} <= {"circuit_breaker_triggered", "pipeline_crashing"}


def test_kill_9_of_the_service_ends_its_children_and_a_new_one_goes_on(
    desk: Desk, sink: HttpServer
) -> None:
    """Orphans drain and end; the next service continues the counts and tells nothing twice."""
    service = desk.service()
    engine = desk.engine(COUNTER, "65536")
    assert engine.stdout is not None
    assert engine.stdout.readline().strip() == "ready"
    written = int(tell(engine, "1000"))
    children = desk.children(service.pid)
    service.kill()
    service.communicate()
    for pid in children.values():
        wait_for(partial(gone, pid), "an orphan's end")
    assert desk.json("status", code=3)["state"] == "UNKNOWN"
    written = int(tell(engine, "1000"))
    desk.service()
    wait_for(lambda: settled(desk, written), f"{written} records")
    assert counted(desk) == written == 2000


def test_a_second_service_says_who_holds_the_directory(desk: Desk) -> None:
    """Exit code 1 and the pid of the first, which isn't disturbed."""
    service = desk.service()
    second = desk.start("-m", "cli", "--data-dir", str(desk.data_dir), "run")
    _, said = second.communicate(timeout=60)
    assert second.returncode == 1
    assert f"pid {service.pid}" in said and "Traceback" not in said
    assert service.poll() is None and desk.children(service.pid)


def test_two_data_directories_never_share_an_alert_log(desk: Desk) -> None:
    """The second service says whose log it is, and what to set."""
    service = desk.service()
    other = desk.start("-m", "cli", "--data-dir", str(desk.folder / "other"), "run")
    _, said = other.communicate(timeout=60)
    assert other.returncode == 1
    assert f"pid {service.pid}" in said and "MONITORING_LOG_DIR" in said
    assert service.poll() is None


def test_rules_are_read_again_on_sighup_whole_or_not_at_all(desk: Desk, sink: HttpServer) -> None:
    """A rule of the file named by --config fires after SIGHUP; a faulty file changes nothing."""
    rules = desk.folder / "own.toml"
    rules.write_text("")
    service = desk.start(
        "-m", "cli", "--data-dir", str(desk.data_dir), "--config", "own.toml", "run"
    )
    wait_for(lambda: desk.children(service.pid), "the service's children")
    rules.write_text('[[rule]]\nname = "many"\nmetric = "pnl"\nabove = {critical = 10}\n')
    service.send_signal(signal.SIGHUP)
    engine = desk.engine(VALUES, "pnl")

    def fired() -> bool:
        tell(engine, "11")
        return bool(sink.requests)

    wait_for(fired, "the new rule's alert")
    assert sink.requests[0].json()["rule"] == "many"
    rules.write_text('[[rule]]\nname = "many"\nmetrik = "pnl"\n')
    service.send_signal(signal.SIGHUP)
    tell(engine, "11")
    assert desk.json("alerts", "list")[0]["state"] == "firing"
    assert service.poll() is None


def test_sigterm_ends_the_service_in_order(desk: Desk) -> None:
    """Exit code 0, both children gone, no traceback; commands still read what it left."""
    service = desk.service()
    children = desk.children(service.pid)
    service.terminate()
    _, said = service.communicate(timeout=60)
    assert service.returncode == 0
    assert "Traceback" not in said and 'component="monitoring"' in said
    assert all(gone(pid) for pid in children.values())


def test_a_stopped_aggregator_loses_exactly_what_the_ring_overwrote(
    desk: Desk, sink: HttpServer
) -> None:
    """Capacity 1,024 and a reader that stands still: the lost count is exact, and one alert tells
    it."""
    service = desk.service()
    engine = desk.engine(COUNTER, "1024")
    assert engine.stdout is not None
    assert engine.stdout.readline().strip() == "ready"
    written = int(tell(engine, "10"))
    wait_for(lambda: settled(desk, written), "the first records")
    aggregator = desk.children(service.pid)["aggregator"]
    os.kill(aggregator, signal.SIGSTOP)
    written = int(tell(engine, "5000"))
    os.kill(aggregator, signal.SIGCONT)
    wait_for(lambda: settled(desk, written), "losses that add up")
    lost = {row["interval_start"]: row["lost"] for row in desk.json("metrics", "show")}
    # The newest capacity - 1 records are still there; the rest of the 5,000 was overwritten.
    assert sum(lost.values()) == 5000 - 1023
    [alert] = [request.json() for request in sink.wait(1, 60)]
    assert alert["rule"] == "records_lost" and str(5000 - 1023) in alert["message"]
    assert desk.status()["records_lost"] == 5000 - 1023


def test_after_a_reboot_the_new_ring_is_read_from_its_beginning(desk: Desk) -> None:
    """Shared memory empty, checkpoint kept: nothing is waited for, mixed up or doubled."""
    service = desk.service()
    engine = desk.engine(COUNTER, "1024")
    assert engine.stdout is not None
    assert engine.stdout.readline().strip() == "ready"
    tell(engine, "700")
    wait_for(lambda: settled(desk, 700), "700 records")
    service.terminate()
    service.communicate(timeout=60)
    engine.kill()
    engine.communicate()
    unlink_segments(desk.data_dir)
    desk.service()
    successor = desk.engine(COUNTER, "1024")
    assert tell(successor, "300") == "ready"
    wait_for(lambda: settled(desk, 1000), "1,000 records")
    assert counted(desk) == 1000


def test_service_json_tells_where_everything_is_and_no_secret(desk: Desk) -> None:
    """Absolute paths, the settings that commands need, mode 0600."""
    desk.environment["MONITORING_SLACK_WEBHOOK_URL"] = "https://hooks.example/hunter2"
    service = desk.service()
    path = desk.data_dir / "service.json"
    told = json.loads(path.read_text())
    assert told["pid"] == service.pid
    assert told["data_dir"] == str(desk.data_dir)
    assert told["log_dir"] == str(desk.folder / "logs")
    assert "hunter2" not in path.read_text() and "127.0.0.1" not in path.read_text()
    assert path.stat().st_mode & 0o777 == 0o600
    for folder in (desk.data_dir, desk.folder / "logs", desk.folder / "logs" / "alerts"):
        assert folder.stat().st_mode & 0o777 == 0o700
