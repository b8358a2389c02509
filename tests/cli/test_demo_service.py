"""Whose service the demo may use, how it is set up, and what the report says without one."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from aggregator.rules.builtin import builtin_rules
from aggregator.rules.rulefile import parse_rules
from aggregator.settings import Settings
from cli import demo_report, demo_service, incidents, place, render
from cli.demo_report import Results, Ring
from cli.demo_service import Claim
from cli.engine import Engine
from cli.place import Place
from cli.problems import Failed, UsageError
from cli.sentiment import SentimentClient
from cli.synthetic import synthetic
from ringbuf import Recorder
from ringbuf.ownership import WriterLock


@pytest.fixture(autouse=True)
def _bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings from the environment, and a working directory of one's own."""
    for name in list(os.environ):
        if name.startswith("MONITORING_"):
            monkeypatch.delenv(name)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def at(tmp_path: Path) -> Place:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    return Place(data_dir, tmp_path / "logs", "a test")


def hold(at: Place) -> WriterLock:
    """Be the service on *at*, as far as others can see."""
    return WriterLock.acquire("service", at.data_dir / "service.lock")


def test_without_a_service_the_demo_starts_its_own(at: Place) -> None:
    """Nothing runs: any port, and the service is the demo's to end."""
    assert demo_service.claim(at, True) == Claim(None, True)
    assert demo_service.claim(replace(at, data_dir=at.data_dir / "none"), True) == Claim(None, True)


@pytest.mark.parametrize("note", [None, b"", b"{", b"[]", b'{"pid": 1, "port": 5}', b'{"port": 5}'])
def test_somebody_elses_service_gets_no_injected_alerts(at: Place, note: bytes | None) -> None:
    """Without a note of its own for this very process the demo doesn't touch it."""
    if note is not None:
        (at.data_dir / "demo.json").write_bytes(note)
    lock = hold(at)
    try:
        with pytest.raises(Failed, match=f"pid {os.getpid()}.*--no-incidents"):
            demo_service.claim(at, True)
        assert demo_service.claim(at, False) == Claim(os.getpid(), False)
    finally:
        lock.release()


def test_a_killed_demos_service_is_taken_over_with_its_port(at: Place) -> None:
    """The note says where that service posts to, so the next demo listens there."""
    demo_service.remember(at, 4711, os.getpid())
    lock = hold(at)
    try:
        assert demo_service.claim(at, True) == Claim(os.getpid(), True, 4711)
    finally:
        lock.release()
    assert demo_service.claim(at, True) == Claim(None, True)


def test_a_demo_that_runs_is_left_alone(at: Place) -> None:
    """Its ring has a writer: the second demo says which."""
    with Recorder("demo", at.data_dir), pytest.raises(Failed, match=f"pid {os.getpid()}"):
        demo_service.claim(at, False)
    assert demo_service.claim(at, False) == Claim(None, True)


def test_the_logs_of_a_data_dir_stay_within_it(tmp_path: Path) -> None:
    """Unless somebody named a log directory, or a service was there before."""
    data_dir = tmp_path / "x"
    args = {"--data-dir": str(data_dir), "--config": None}
    assert demo_service.where(args).log_dir == data_dir / "logs"
    assert demo_service.where({**args, "--data-dir": None}).log_dir == Path("logs").absolute()
    data_dir.mkdir()
    content = {"data_dir": str(data_dir), "log_dir": str(tmp_path / "before")}
    (data_dir / "service.json").write_text(json.dumps(content))
    assert demo_service.where(args).log_dir == tmp_path / "before"


def test_a_named_log_directory_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that is the default's by chance; what else is wrong is said later."""
    args = {"--data-dir": str(tmp_path / "x"), "--config": None}
    monkeypatch.setenv("MONITORING_LOG_DIR", "logs")
    assert demo_service.where(args).log_dir == Path("logs").absolute()
    monkeypatch.setenv("MONITORING_ACK_TTL_SECONDS", "1")
    assert demo_service.where(args).log_dir == tmp_path / "x" / "logs"


def test_the_demo_keeps_to_itself(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the operator's plugins, rules and secrets nothing reaches the demo's service."""
    for name, value in {
        "MONITORING_ENABLE_SLACK_ALERTS": "true",
        "MONITORING_SLACK_WEBHOOK_URL": "https://hooks.slack.com/services/T/B/secret",
        "MONITORING_ENABLE_EMAIL_ALERTS": "true",
        "MONITORING_WEBHOOK_URL": "https://example.org/operators",
        "MONITORING_WEBHOOK_HEADERS": "Authorization: secret",
        "MONITORING_WEBHOOK_SEVERITIES": "critical",
        "MONITORING_DAILY_LOSS_ALERT_PCT": "9",
        "MONITORING_REOPEN_WINDOW_SECONDS": "600",
        "MONITORING_CONFIG": "operators.toml",
        "MONITORING_AGGREGATION_INTERVAL_SECONDS": "60",
    }.items():
        monkeypatch.setenv(name, value)
    with demo_service.own_rules(at):
        assert os.environ["MONITORING_CONFIG"] == str(at.data_dir / "demo.toml")
        settings = demo_service.configure(at, "http://127.0.0.1:9/alerts")
    assert os.environ["MONITORING_CONFIG"] == "operators.toml"
    values = settings.revealed()
    assert {
        name for name, value in values.items() if name.startswith("monitoring_enable_") and value
    } == {
        "monitoring_enable_webhook_alerts",
        "monitoring_enable_aggregation",
        "monitoring_enable_performance_tracking",
    }
    assert values["monitoring_webhook_url"] == "http://127.0.0.1:9/alerts"
    assert values["monitoring_webhook_headers"] == {}
    assert values["monitoring_daily_loss_alert_pct"] == incidents.LOSS_LIMIT_PCT
    assert values["monitoring_reopen_window_seconds"] == 0
    assert values["monitoring_aggregation_interval_seconds"] == 60  # harmless, so the operator's


def test_the_demos_rules_shorten_one_window(at: Place) -> None:
    """The built-in rules, the one on latency over 5 s and with the threshold of the settings."""
    with demo_service.own_rules(at):
        pass
    assert "MONITORING_CONFIG" not in os.environ
    builtin = builtin_rules(performance_threshold_ms=incidents.LATENCY_LIMIT_MS)
    rules = parse_rules(at.data_dir / "demo.toml", builtin).rules
    changed = [(a, b) for a, b in zip(builtin, rules, strict=True) if a != b]
    [(before, after)] = changed
    assert after == replace(before, window_s=incidents.LATENCY_WINDOW_S)
    assert after.name == incidents.STALL_RULE
    assert incidents.LOSS_RULE in {rule.name for rule in rules}


def test_a_wrong_setting_is_a_usage_error(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the demo doesn't set itself can still be wrong in the environment."""
    monkeypatch.setenv("MONITORING_ACK_TTL_SECONDS", "60")
    with pytest.raises(UsageError, match="MONITORING_ACK_TTL_SECONDS=60"):
        demo_service.configure(at, "http://127.0.0.1:9/alerts")


def test_a_service_that_doesnt_start_is_told(at: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The operator reads what the service said, not a traceback; nothing is left running."""
    settings = demo_service.configure(at, "http://127.0.0.1:9/alerts")
    wrong = {**settings.revealed(), "monitoring_ack_ttl_seconds": 1}
    monkeypatch.setattr(Settings, "revealed", lambda self: wrong)
    with (
        pytest.raises(Failed, match="the service didn't start: MONITORING_ACK_TTL_SECONDS=1"),
        demo_service.start_service(settings, at, Claim(None, True)),
    ):
        pytest.fail("it started")


def test_the_report_says_what_isnt_there(
    at: Place, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No service, no rollups, no alerts, a damaged feed: each is a line, none a traceback."""
    client = SentimentClient(1, every_s=60.0)
    with Recorder("demo", at.data_dir) as recorder:
        engine = Engine(recorder)
        for line in synthetic(3):
            engine.tick(line)
        written = recorder.published
    client.close()
    assert demo_report.wait_for(at, "demo", written, limit_s=0.1) == Ring()
    results = Results(
        name="demo",
        engine=engine,
        client=client,
        ended="the feed ended",
        replayed_s=3.0,
        began_ns=0,
        damage="cut",
        received=0,
        written=written,
        rejected=0,
        problem="no room",
        before=Ring(),
        after=Ring(read=10, lost=5),
    )
    monkeypatch.setattr("sys.argv", ["/x/cli/__main__.py"])
    demo_report.report(render.Look(), at, results)
    out = capsys.readouterr().out
    assert f"{engine.messages:,} messages" in out
    assert "the feed is damaged after that: cut" in out
    assert "nothing was recorded: no room" in out
    assert f"{written - 15:,} were not read when the demo ended" in out
    assert "a record cost" in out
    assert out.count("none") == 2
    assert f"python -m cli status --data-dir {at.data_dir}" in out
    monkeypatch.setattr("sys.argv", ["/x/bin/tickwatch"])
    at_default = replace(at, data_dir=place.DEFAULT_DATA_DIR.absolute())
    demo_report.report(render.Look(), at_default, results)
    assert capsys.readouterr().out.endswith("\ntickwatch status\n")
