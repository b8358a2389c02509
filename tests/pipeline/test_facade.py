"""MonitoringService in engines that are processes of their own."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringbuf.ownership import holder
from tests.pipeline.conftest import Desk
from tests.servers import HttpServer
from tests.waiting import wait_for

ENGINE = """
import json
from datetime import datetime, timedelta, timezone
from aggregator import MonitoringService, Settings
monitoring = MonitoringService(Settings(), engine=sys.argv[2])
say(json.dumps({"problem": monitoring.recorder.problem}))
while command := hear():
    try:
        answer = eval(command)
    except Exception as error:
        answer = f"{type(error).__name__}: {error}"
    say(json.dumps(answer))
monitoring.close()
"""


class Engine:
    """An engine that evaluates what it is told."""

    def __init__(self, desk: Desk, name: str) -> None:
        self.process: subprocess.Popen[str] = desk.engine(ENGINE, name)
        assert self.process.stdout is not None
        first = self.process.stdout.readline()
        assert first, self.process.communicate()
        self.problem = json.loads(first)["problem"]

    def ask(self, expression: str) -> object:
        """What *expression* is in the engine."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(expression + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())


def service_pid(desk: Desk) -> int:
    """Who holds the service's lock, 0 for nobody."""
    return holder(desk.data_dir / "service.lock") or 0


@pytest.fixture
def started(desk: Desk) -> Iterator[Desk]:
    """A desk whose service is started by an engine; it is ended with the test."""
    yield desk
    if pid := service_pid(desk):
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not Path(f"/proc/{pid}").exists(), "the end of the service")


def test_the_first_engine_starts_the_service_and_the_second_joins_it(
    started: Desk, sink: HttpServer
) -> None:
    """One service whoever comes; it isn't the engine's child and outlives its SIGKILL to tell of
    it.
    """
    first = Engine(started, "intraday")
    assert first.problem is None
    pid = service_pid(started)
    assert pid and pid != first.process.pid
    children = Path(f"/proc/{first.process.pid}/task/{first.process.pid}/children").read_text()
    assert children.strip() == ""
    second = Engine(started, "swing")
    assert service_pid(started) == pid
    first.process.kill()
    first.process.wait()
    [alert] = [request.json() for request in sink.wait(1, 60)]
    assert (alert["rule"], alert["labels"]["engine"]) == ("heartbeat_lapsed", "intraday")
    assert service_pid(started) == pid
    assert second.process.poll() is None


def test_everything_the_contract_names_works_from_an_engine(
    started: Desk, sink: HttpServer
) -> None:
    """Ticks, latencies, alerts, acknowledgement at once after the alert, clearing, queries."""
    engine = Engine(started, "intraday")
    engine.ask(
        "monitoring.record_tick(pnl=-1250.0, position_count=3, daily_loss_pct=-1.2,"
        " circuit_breaker_active=False, connected=True)"
    )
    engine.ask("monitoring.record_performance_metric('sentiment_latency', 84.0, {'provider': 'x'})")
    engine.ask("monitoring.emit_alert('order_rejected', 'critical', 'RMS says no', symbol='A')")
    acked = "monitoring.acknowledge_alert('order_rejected', acknowledged_by='asha', reason='known')"
    assert engine.ask(acked) is None
    [row] = wait_for(lambda: started.json("alerts", "list"), "the alert")
    assert row["ack"]["by"] == "asha" and row["message"] == "RMS says no"
    assert "there are: order_rejected" in str(
        engine.ask("monitoring.acknowledge_alert('order_rejectd', acknowledged_by='asha')")
    )
    assert engine.ask("monitoring.clear_acknowledgement('order_rejected')") is None
    assert started.json("alerts", "list")[0]["ack"] is None
    engine.ask("monitoring.resolve_alert('order_rejected', symbol='A')")
    wait_for(lambda: started.json("alerts", "list") == [], "the end of the alert")
    query = (
        "sorted(row['metric'] for row in monitoring.get_aggregated_metrics("
        "datetime.now(timezone.utc) - timedelta(hours=1), datetime.now(timezone.utc)))"
    )
    everything = [
        "circuit_breaker_active", "connected", "daily_loss_pct", "pnl", "position_count",
        "sentiment_latency",
    ]  # fmt: skip
    wait_for(lambda: engine.ask(query) == everything, "all metrics")
    assert "multiple of the base interval" in str(
        engine.ask(
            "monitoring.get_aggregated_metrics(datetime.now(timezone.utc),"
            " datetime.now(timezone.utc), '7m')"
        )
    )


def test_settings_given_in_code_reach_the_service_and_no_process_list(started: Desk) -> None:
    """The service that an engine starts runs with the engine's settings, through a pipe."""
    started.environment["MONITORING_SLACK_WEBHOOK_URL"] = "https://hooks.example/hunter2"
    started.environment["MONITORING_DAILY_LOSS_ALERT_PCT"] = "7.5"
    Engine(started, "intraday")
    told = json.loads((started.data_dir / "service.json").read_text())
    assert told["settings"]["monitoring_daily_loss_alert_pct"] == 7.5
    command = Path(f"/proc/{service_pid(started)}/cmdline").read_bytes()
    assert b"hunter2" not in command and "hunter2" not in json.dumps(told)


def test_a_bad_setting_raises_before_anything_is_started(started: Desk) -> None:
    """Trading doesn't begin with a half-configured plugin."""
    started.environment["MONITORING_ENABLE_SLACK_ALERTS"] = "true"
    started.environment["MONITORING_ACK_TTL_SECONDS"] = "86400"
    engine = started.engine(ENGINE, "intraday")
    _, said = engine.communicate(timeout=60)
    assert engine.returncode != 0
    assert "SettingsError" in said and "MONITORING_SLACK_WEBHOOK_URL" in said
    assert not service_pid(started)
