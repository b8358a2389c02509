"""Settings: names, bounds, sources and the words of their errors."""

import json
import logging
import re
from pathlib import Path

import pytest

from aggregator import sources
from aggregator.settings import Settings, SettingsError

ROOT = Path(__file__).parents[2]

# The requirements' names, defaults and bounds (None: no bounds), written out a second time on
# purpose.
REQUIRED = {
    "monitoring_heartbeat_interval": (60, 10, 3600),
    "monitoring_max_sentiment_failures": (5, 1, 100),
    "monitoring_sentiment_failure_window": (3600, 60, 86400),
    "monitoring_artifact_staleness_hours": (24, 1, 168),
    "monitoring_heartbeat_lapse_seconds": (300, 30, 3600),
    "monitoring_daily_loss_alert_pct": (4.0, 0.5, 10),
    "monitoring_aggregation_interval_seconds": (300, 60, 3600),
    "monitoring_max_raw_metrics": (100, 50, 1000),
    "monitoring_max_archive_days": (30, 1, 365),
    "monitoring_archive_interval_hours": (24, 1, 168),
    "monitoring_disk_ceiling_pct": (95.0, 50.0, 99.9),
    "monitoring_performance_alert_threshold_ms": (1000.0, 100.0, 10000.0),
    "monitoring_ack_ttl_seconds": (86400, 3600, 604800),
    "monitoring_enable_aggregation": (True, None, None),
    "monitoring_enable_performance_tracking": (True, None, None),
    "monitoring_enable_email_alerts": (False, None, None),
    "monitoring_email_smtp_host": ("smtp.gmail.com", None, None),
    "monitoring_email_smtp_port": (587, 1, 65535),
    "monitoring_email_smtp_user": ("", None, None),
    "monitoring_email_smtp_password": ("", None, None),
    "monitoring_email_from": ("", None, None),
    "monitoring_email_to": ([], None, None),
    "monitoring_enable_slack_alerts": (False, None, None),
    "monitoring_slack_webhook_url": ("", None, None),
    "monitoring_enable_webhook_alerts": (False, None, None),
    "monitoring_webhook_url": ("", None, None),
    "monitoring_webhook_headers": ({}, None, None),
}


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test starts in an empty directory and without settings in its environment."""
    import os

    for name in list(os.environ):
        if name.startswith("MONITORING_"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", REQUIRED)
def test_required_settings_have_their_defaults(name: str) -> None:
    """Every name of the requirements exists with its default."""
    assert sources.revealed(getattr(Settings(), name)) == REQUIRED[name][0]


@pytest.mark.parametrize(
    ("name", "value", "fits"),
    [
        case
        for name, field in Settings.model_fields.items()
        if (limits := sources.bounds(field)) != (None, None)
        for case in (
            (name, limits[0], True),
            (name, limits[1], True),
            (name, limits[0] - 0.001 if isinstance(field.default, float) else limits[0] - 1, False),  # type: ignore[operator]
            (name, limits[1] + 0.001 if isinstance(field.default, float) else limits[1] + 1, False),  # type: ignore[operator]
        )
    ],
)
def test_every_bound_is_inclusive_and_enforced(
    name: str, value: float, fits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bounds themselves are accepted and the next value beyond is refused by name, value and
    range."""
    monkeypatch.setenv(name.upper(), f"{value:.10g}")
    low, high = sources.bounds(Settings.model_fields[name])
    if name in REQUIRED and REQUIRED[name][1] is not None:
        assert (low, high) == REQUIRED[name][1:]
    try:
        Settings()
        accepted = True
    except SettingsError as error:
        accepted = False
        # An aggregation interval inside its bounds may still not divide an hour.
        assert f"{name.upper()}={value:.10g}: must be {low:g}..{high:g}" in str(error)
    assert accepted == fits


def test_all_problems_are_told_at_once_by_variable_and_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One start shows everything that is wrong."""
    monkeypatch.setenv("MONITORING_ACK_TTL_SECONDS", "60")
    monkeypatch.setenv("MONITORING_EMAIL_SECURITY", "tls")
    monkeypatch.setenv("MONITORING_ENABLE_AGGREGATION", "maybe")
    monkeypatch.setenv("MONITORING_HEARTBEAT_INTERVL", "30")
    monkeypatch.setenv("MONITORING_AGGREGATION_INTERVAL_SECONDS", "nan")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert caught.value.problems == [
        (
            "MONITORING_HEARTBEAT_INTERVL: no such setting; "
            "did you mean MONITORING_HEARTBEAT_INTERVAL?"
        ),
        "MONITORING_ENABLE_AGGREGATION=maybe: must be true or false",
        (
            "MONITORING_AGGREGATION_INTERVAL_SECONDS=nan: "
            "must be 60..3600 seconds (1 minute to 1 hour)"
        ),
        "MONITORING_ACK_TTL_SECONDS=60: must be 3600..604800 seconds (1 hour to 7 days)",
        "MONITORING_EMAIL_SECURITY=tls: must be one of 'starttls', 'smtps' or 'plain'",
    ]


def test_an_interval_that_does_not_divide_an_hour_is_refused() -> None:
    """Hourly rollups merge whole base intervals."""
    with pytest.raises(SettingsError, match="SECONDS=700: must divide an hour"):
        Settings(monitoring_aggregation_interval_seconds=700)


def test_an_unknown_name_that_resembles_nothing_is_only_warned_about(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Another program may use the prefix."""
    monkeypatch.setenv("MONITORING_XYZZY", "1")
    with caplog.at_level(logging.WARNING):
        Settings()
    assert [vars(record)["variable"] for record in caplog.records] == ["MONITORING_XYZZY"]


def test_lists_and_headers_take_commas_or_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """Operators write a, b; programs write JSON; both work."""
    monkeypatch.setenv("MONITORING_EMAIL_TO", "a@desk.example, b@desk.example")
    monkeypatch.setenv("MONITORING_ARTIFACT_PATHS", '["/models/a,b", "/models/c"]')
    monkeypatch.setenv("MONITORING_WEBHOOK_HEADERS", "Authorization: Bearer abc, X-Desk: nifty")
    monkeypatch.setenv("MONITORING_REPEAT_WARNING_MINUTES", "")
    settings = Settings()
    assert settings.monitoring_email_to == ["a@desk.example", "b@desk.example"]
    assert settings.monitoring_artifact_paths == ["/models/a,b", "/models/c"]
    assert settings.revealed()["monitoring_webhook_headers"] == {
        "Authorization": "Bearer abc",
        "X-Desk": "nifty",
    }
    assert settings.monitoring_repeat_warning_minutes == []


@pytest.mark.parametrize("name", sorted(sources.secret_names(Settings.model_fields)))
def test_a_secret_shows_in_no_repr_and_no_error(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is wrong with a secret, its value isn't in the message; a good one isn't in the
    repr."""
    value = '{"Authorization": "hunter2"}' if name.endswith("headers") else "hunter2"
    monkeypatch.setenv(name.upper(), value)
    assert "hunter2" not in repr(Settings())
    monkeypatch.setenv(name.upper(), "[hunter2")
    monkeypatch.setenv("MONITORING_ACK_TTL_SECONDS", "1")
    with pytest.raises(SettingsError) as caught:
        Settings()
    assert "hunter2" not in str(caught.value)


def test_a_secret_can_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NAME_FILE is read without its newline; one that can't be read is an error that names it."""
    (tmp_path / "slack").write_text("https://hooks.example/T/B/X\n")
    monkeypatch.setenv("MONITORING_SLACK_WEBHOOK_URL_FILE", str(tmp_path / "slack"))
    assert (
        Settings().monitoring_slack_webhook_url.get_secret_value() == "https://hooks.example/T/B/X"
    )
    monkeypatch.setenv("MONITORING_SLACK_WEBHOOK_URL_FILE", str(tmp_path / "nowhere"))
    with pytest.raises(SettingsError, match=r"MONITORING_SLACK_WEBHOOK_URL_FILE=.*nowhere"):
        Settings()


def test_the_environment_wins_over_dotenv_and_that_over_toml(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Strongest first: arguments, environment, .env, TOML."""
    (tmp_path / "tickwatch.toml").write_text(
        "monitoring_heartbeat_interval = 11\nmonitoring_max_raw_metrics = 51\n"
        "monitoring_max_archive_days = 2\nmonitoring_max_sentiment_failures = 7\n"
    )
    (tmp_path / ".env").write_text(
        "MONITORING_HEARTBEAT_INTERVAL=12\nMONITORING_MAX_RAW_METRICS=52\n"
        "MONITORING_MAX_ARCHIVE_DAYS=3\nOTHER_SECRET=hunter2\n"
    )
    monkeypatch.setenv("MONITORING_HEARTBEAT_INTERVAL", "13")
    monkeypatch.setenv("MONITORING_MAX_RAW_METRICS", "53")
    settings = Settings(monitoring_heartbeat_interval=14)
    assert settings.monitoring_heartbeat_interval == 14
    assert settings.monitoring_max_raw_metrics == 53
    assert settings.monitoring_max_archive_days == 3
    assert settings.monitoring_max_sentiment_failures == 7


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("monitoring_heartbeat_intervall = 20", "did you mean monitoring_heartbeat_interval?"),
        ("[[rulez]]\nname = 'x'", "rulez: no such setting or table"),
        ("monitoring_heartbeat_interval = ", "not TOML"),
        ("monitoring_heartbeat_interval = 5", "MONITORING_HEARTBEAT_INTERVAL=5: must be 10..3600"),
    ],
)
def test_a_wrong_toml_file_is_named_with_what_is_wrong(
    text: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Names, syntax and values of the file are checked like the environment's."""
    (tmp_path / "own.toml").write_text(text)
    monkeypatch.setenv("MONITORING_CONFIG", str(tmp_path / "own.toml"))
    with pytest.raises(SettingsError, match=re.escape(message)):
        Settings()


def test_a_config_file_that_is_named_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A typo in the path isn't a start with defaults."""
    monkeypatch.setenv("MONITORING_CONFIG", "nowhere.toml")
    with pytest.raises(SettingsError, match=r"nowhere\.toml: can't be read"):
        Settings()


def test_an_argument_that_is_no_setting_is_refused() -> None:
    """A typo in code isn't silently ignored either."""
    with pytest.raises(SettingsError, match="did you mean monitoring_log_dir"):
        Settings(monitorin_log_dir="x")


def test_settings_survive_the_pipe_to_the_service() -> None:
    """What an engine was given in code reaches the service that it starts, secrets included."""
    settings = Settings(
        monitoring_slack_webhook_url="https://hooks.example/X",
        monitoring_webhook_headers={"A": "b"},
        monitoring_position_limit=5,
        monitoring_email_to=["a@b"],
    )
    again = Settings(**json.loads(json.dumps(settings.revealed())))
    assert again.revealed() == settings.revealed()


def test_the_example_file_documents_every_setting_with_its_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """.env.example is complete, has no other name, and works with every line uncommented."""
    text = (ROOT / ".env.example").read_text()
    lines = re.findall(r"^#(MONITORING_\w+)=(.*)$", text, re.MULTILINE)
    names = [name for name, _ in lines]
    assert names == ["MONITORING_CONFIG", *(name.upper() for name in Settings.model_fields)]
    uncommented = "\n".join(f"{name}={value}" for name, value in lines[1:])
    (tmp_path / ".env").write_text(uncommented)
    from_file = Settings().revealed()
    (tmp_path / ".env").unlink()
    assert from_file == Settings().revealed()
