"""A trader's day, from the pre-market check to the report, with nothing but commands: each one a
process of its own, against a service and an engine that are real and die for real."""

import signal
import subprocess

from tests.pipeline.conftest import Desk
from tests.servers import HttpServer
from tests.waiting import wait_for

ENGINE = """
recorder = Recorder("intraday", data_dir, labels={"desk": "nifty"})
latency = recorder.metric("tick_latency", unit="ms", strategy="mean_reversion")
breaker = recorder.metric("circuit_breaker_active")
pnl = recorder.metric("pnl", unit="INR")
say("ready")
while word := hear():
    for number in range(200):
        latency.record(0.4 + number / 1000)
    breaker.record(float(word))
    pnl.record(100.0 * float(word))
    say("done")
"""


def tell(process: subprocess.Popen[str], word: str) -> str:
    """Give the engine a line and return its answer."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(word + "\n")
    process.stdin.flush()
    return process.stdout.readline().strip()


def checks(desk: Desk, *arguments: str) -> dict[str, list[str]]:
    """States by check."""
    found: dict[str, list[str]] = {}
    for row in desk.json("health", *arguments, code=(0, 1, 2, 3)):
        found.setdefault(row["check"], []).append(row["state"])
    return found


def test_an_operators_day(desk: Desk, sink: HttpServer) -> None:
    """Check, test message, incident, ack, post-mortem, replay and report tell one and the same
    story."""
    # Before the market: nothing runs, so nothing is well; then everything that can be is.
    assert set(checks(desk)["service"]) == {"UNKNOWN"}
    service = desk.service()
    engine = desk.engine(ENGINE)
    assert engine.stdout is not None and engine.stdout.readline().strip() == "ready"
    tell(engine, "0")
    wait_for(lambda: checks(desk)["stores"] == ["OK", "OK"], "the first report")
    before = checks(desk, "--send")
    assert (before["service"], before["engines"], before["settings"]) == (["OK"], ["OK"], ["OK"])
    assert before["delivery"] == ["OK"]
    [test] = sink.wait(1)
    assert test.json()["test"] is True and test.json()["text"].startswith("TEST ")
    rules = {row["rule"]: row for row in desk.json("rules", "check")}
    assert rules["circuit_breaker_triggered"]["from"] == "built-in"

    # The incident: told, acknowledged, over.
    tell(engine, "1")
    fired = sink.wait(2)[1].json()
    assert (fired["rule"], fired["state"]) == ("circuit_breaker_triggered", "firing")
    desk.command("alerts", "ack", "circuit_breaker_triggered", "--operator", "asha")
    tell(engine, "0")
    resolved = sink.wait(3)[2].json()
    assert (resolved["id"], resolved["state"]) == (fired["id"], "resolved")

    # The engine dies in the middle: its last records are there, and somebody is told.
    engine.send_signal(signal.SIGKILL)
    engine.wait()
    died = sink.wait(4)[3].json()
    assert died["rule"] == "heartbeat_lapsed" and "dead" in died["message"]
    assert desk.json("ring", "dump", "intraday", "--last", "1")[0]["metric"] == "pnl"
    assert "CRITICAL" in checks(desk)["engines"]

    # What the rules would have told is what they told; what can't be replayed isn't.
    service.send_signal(signal.SIGTERM)
    service.wait()
    replayed = desk.json("rules", "replay", "--hours", "1")
    assert [(row["rule"], row["state"], row["at"]) for row in replayed] == [
        ("circuit_breaker_triggered", "firing", fired["started_at"]),
        ("circuit_breaker_triggered", "resolved", resolved["resolved_at"]),
    ]
    assert all(row["exact"] for row in replayed)
    assert replayed[0]["message"] == fired["text"].splitlines()[0]

    # The day's report.
    [report] = desk.json("report", "--hours", "1")
    assert report["missing"] == [] and report["records"] == 3 * 202
    alerts = {alert["rule"]: alert for alert in report["alerts"]}
    assert alerts.keys() == {"circuit_breaker_triggered", "heartbeat_lapsed"}
    assert alerts["circuit_breaker_triggered"]["acked_by"] == "asha"
    assert alerts["heartbeat_lapsed"]["state"] == "firing"
    [delivered] = report["deliveries"]
    assert (delivered["plugin"], delivered["delivered"], delivered["dead"]) == ("webhook", 3, 0)
    assert (report["pnl"][0]["max"], report["pnl"][0]["last"]) == (100.0, 0.0)
    page = desk.folder / "day.html"
    desk.command("report", "--hours", "1", "--html", str(page))
    assert page.read_text().count("<svg") == 2  # alerts and PnL: one interval is no course
