"""From settings to rules, sessions, routes and plugins: found at start, all problems at once."""

import pickle
from pathlib import Path

import pytest

from aggregator.configuration import configure, secret_free
from aggregator.settings import Settings, SettingsError
from notifier.alert import Severity


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No settings file of the checkout takes part."""
    monkeypatch.chdir(tmp_path)


def test_without_anything_the_built_in_rules_hold_and_nobody_is_told() -> None:
    """Switched off is switched off; position limit and feed rules need a limit and a session."""
    made = configure(Settings())
    names = {rule.name for rule in made.rules}
    assert {"circuit_breaker_triggered", "daily_loss_high", "heartbeat_lapsed"} <= names
    assert not names & {"position_limit_breached", "feed_stale"}
    assert made.notifier.plugins == ()
    assert made.sessions == ()


def test_switches_mean_what_they_say() -> None:
    """No performance rule without tracking; a position limit brings its rule."""
    made = configure(
        Settings(monitoring_enable_performance_tracking=False, monitoring_position_limit=5)
    )
    names = {rule.name for rule in made.rules}
    assert "performance_degradation" not in names
    assert "position_limit_breached" in names


def test_plain_settings_make_plugins_with_their_severities() -> None:
    """Each enabled plugin gets its options and the severities that it is to hear of."""
    made = configure(
        Settings(
            monitoring_enable_slack_alerts=True,
            monitoring_slack_webhook_url="https://hooks.example/X",
            monitoring_slack_severities="critical",
            monitoring_repeat_critical_minutes="1,2",
        )
    )
    [slack] = made.notifier.plugins
    assert (slack.name, slack.kind) == ("slack", "slack")
    assert slack.severities == (Severity.CRITICAL,)
    assert slack.options == {"url": "https://hooks.example/X"}
    assert made.notifier.repeats_s[Severity.CRITICAL] == (60.0, 120.0)
    assert "hooks.example" not in repr(made)


def test_tables_of_one_file_make_rules_sessions_routes_and_plugins(tmp_path: Path) -> None:
    """tickwatch.toml holds everything, beside plain settings."""
    (tmp_path / "tickwatch.toml").write_text(
        "monitoring_heartbeat_interval = 20\n"
        '[[session]]\nname = "NSE"\ntz = "Asia/Kolkata"\ndays = "mon-fri"\n'
        'open = "09:15"\nclose = "15:30"\n'
        '[[rule]]\nname = "rejects"\nmetric = "rejects"\nabove = {warning = 3}\nsession = "NSE"\n'
        '[[plugin]]\nname = "desk"\nkind = "webhook"\nurl = "https://desk.example/hook"\n'
        '[[route]]\nmatch = {severity = "critical"}\nsteps = [["desk"]]\n'
    )
    made = configure(Settings())
    assert made.settings.monitoring_heartbeat_interval == 20
    assert {"rejects", "feed_stale"} <= {rule.name for rule in made.rules}
    assert [session.name for session in made.sessions] == ["NSE"]
    assert [plugin.name for plugin in made.notifier.plugins] == ["desk"]
    assert len(made.notifier.routes) == 1
    assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301 - what the children get


def test_every_problem_of_every_part_is_told_at_once(tmp_path: Path) -> None:
    """A start shows all that is wrong with rules, routes, plugins and the ping."""
    (tmp_path / "tickwatch.toml").write_text(
        '[[rule]]\nname = "rejects"\nmetrc = "rejects"\n'
        '[[plugin]]\nname = "webhook"\nkind = "webhook"\nurl = "https://desk.example/hook"\n'
        '[[route]]\nsteps = [["nobody"]]\n'
    )
    with pytest.raises(SettingsError) as caught:
        configure(
            Settings(
                monitoring_enable_webhook_alerts=True,
                monitoring_webhook_url="https://a.example",
                monitoring_enable_slack_alerts=True,
                monitoring_ping_url="ftp://hunter2.example",
            )
        )
    said = str(caught.value)
    assert "metrc" in said and "did you mean metric" in said
    assert "'webhook': there are two of that name" in said
    assert "nobody" in said
    assert "MONITORING_SLACK_WEBHOOK_URL" in said
    assert "MONITORING_PING_URL: must begin with http" in said
    assert "hunter2" not in said


def test_what_commands_may_read_holds_no_secret() -> None:
    """service.json gets the rest."""
    told = secret_free(Settings(monitoring_slack_webhook_url="https://hunter2.example"))
    assert told["monitoring_ack_ttl_seconds"] == 86_400
    assert not any("hunter2" in str(value) for value in told.values())
    assert "monitoring_slack_webhook_url" not in told
