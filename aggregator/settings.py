"""Every setting of tickwatch: names, defaults and bounds.

Sources, strongest first: arguments, environment, files of secrets (``NAME_FILE``), ``.env``, the
TOML file.  All problems are reported at once, each with the variable's name, its value (never a
secret's) and what is allowed.  Nothing else reads the environment: the service parses once and
hands the result to its children.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from aggregator import sources
from aggregator.sources import SettingsError

__all__ = ["Settings", "SettingsError"]


_HEADERS = 'use JSON such as {"Authorization": "..."}, or Name: value, Name: value'


def _json(text: str, allowed: str) -> object:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        # The decoder's own words quote the text, which may hold a secret.
        raise ValueError(allowed) from None


def _split(value: object) -> object:
    """A list given as text: JSON, or words between commas."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("["):
        return _json(text, 'use a JSON list such as ["a", "b"], or a, b')
    return [word for part in text.split(",") if (word := part.strip())]


def _off(value: object) -> object:
    return (
        None if isinstance(value, str) and value.strip().lower() in {"", "off", "none"} else value
    )


def _pairs(value: object) -> object:
    """Headers given as text: JSON, or ``Name: value`` between commas."""
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.startswith("{"):
        return _json(text, _HEADERS)
    pairs = [part.partition(":") for part in text.split(",") if part.strip()]
    if any(not colon for _, colon, _ in pairs):
        raise ValueError(_HEADERS)
    return {name.strip(): rest.strip() for name, _, rest in pairs}


Words = Annotated[list[str], NoDecode, BeforeValidator(_split)]
Minutes = Annotated[list[Annotated[int, Field(ge=1, le=10_080)]], NoDecode, BeforeValidator(_split)]
SeverityWord = Literal["info", "warning", "critical"]
Severities = Annotated[list[SeverityWord], NoDecode, BeforeValidator(_split)]
Headers = Annotated[dict[str, SecretStr], NoDecode, BeforeValidator(_pairs)]
SecretWords = Annotated[list[SecretStr], NoDecode, BeforeValidator(_split)]
Limit = Annotated[float | None, BeforeValidator(_off)]
_EVERY: list[SeverityWord] = ["info", "warning", "critical"]


def _field(default: Any, about: str, unit: str = "", **bounds: Any) -> Any:
    return Field(default, description=about, json_schema_extra={"unit": unit}, **bounds)


class Settings(BaseSettings):
    """All settings, validated.

    Raises:
        SettingsError: listing every problem at once.
    """

    model_config = SettingsConfigDict(
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        hide_input_in_errors=True,
        validate_default=False,
        env_ignore_empty=False,
    )

    # Where things are
    monitoring_data_dir: Path = _field(Path("data/monitoring"), "rings, rollups, archives")
    monitoring_log_dir: Path = _field(Path("logs"), "alert log and decisions journal")
    monitoring_rules_file: Annotated[str, BeforeValidator(str)] = _field(
        "", "TOML file with rules and sessions; empty: those of the settings' own TOML file"
    )
    monitoring_log_format: Literal["text", "json"] = _field("text", "format of the program's log")
    monitoring_log_level: Literal["debug", "info", "warning", "error"] = _field(
        "info", "least level that is logged"
    )

    # Liveness
    monitoring_heartbeat_interval: int = _field(
        60, "how often the service logs and pings a sign of life", "seconds", ge=10, le=3600
    )
    monitoring_ping_url: SecretStr = _field(
        SecretStr(""), "dead-man service that is pinged while all is well; empty: none"
    )
    monitoring_heartbeat_lapse_seconds: int = _field(
        300,
        "an engine without record or heartbeat for so long is silent",
        "seconds",
        ge=30,
        le=3600,
    )

    # Built-in rules
    monitoring_max_sentiment_failures: int = _field(
        5, "sentiment failures in the window that raise a warning", ge=1, le=100
    )
    monitoring_sentiment_failure_window: int = _field(
        3600, "window of that count", "seconds", ge=60, le=86_400
    )
    monitoring_artifact_staleness_hours: int = _field(
        24, "age at which an artifact is stale", "hours", ge=1, le=168
    )
    monitoring_artifact_paths: Words = _field([], "files or folders whose age is watched")
    monitoring_daily_loss_alert_pct: float = _field(
        4.0,
        "daily loss that raises a warning; 1.5 times it is critical",
        "percent",
        ge=0.5,
        le=10.0,
    )
    monitoring_position_limit: Limit = _field(
        None, "position count above which an alert is critical; empty: off", gt=0
    )
    monitoring_enable_performance_tracking: bool = _field(True, "the rule on latency series")
    monitoring_performance_alert_threshold_ms: float = _field(
        1000.0, "latency above which performance is degraded", "ms", ge=100.0, le=10_000.0
    )
    monitoring_disk_alert_pct: float = _field(
        90.0, "disk use that raises a warning; critical halfway from there to full", "percent",
        ge=50.0, le=99.0,
    )  # fmt: skip

    # Rollups and history
    monitoring_enable_aggregation: bool = _field(True, "compute and keep rollups")
    monitoring_aggregation_interval_seconds: int = _field(
        300, "base interval of rollups; must divide an hour", "seconds", ge=60, le=3600
    )
    monitoring_max_raw_metrics: int = _field(
        100, "newest raw records of each series kept in memory", ge=50, le=1000
    )
    monitoring_max_archive_days: int = _field(
        30, "days that base rollups and day files are kept", "days", ge=1, le=365
    )
    monitoring_archive_interval_hours: int = _field(
        24, "how often old data is archived and expired", "hours", ge=1, le=168
    )
    monitoring_disk_ceiling_pct: float = _field(
        95.0, "disk use at which the oldest day files are deleted", "percent", ge=50.0, le=99.9
    )

    # Acknowledgement and repeats
    monitoring_ack_ttl_seconds: int = _field(
        86_400, "how long an acknowledgement holds", "seconds", ge=3600, le=604_800
    )
    monitoring_reopen_window_seconds: int = _field(
        600, "an alert that fires again so soon is the same alert", "seconds", ge=0, le=86_400
    )
    monitoring_repeat_critical_minutes: Minutes = _field(
        [5, 15, 30, 60], "when a firing critical alert is told again; the last repeats", "minutes"
    )
    monitoring_repeat_warning_minutes: Minutes = _field(
        [240], "the same for warnings; empty: never", "minutes"
    )

    # Delivery
    monitoring_delivery_timeout_seconds: float = _field(
        10.0, "total time limit of one delivery attempt", "seconds", ge=1.0, le=60.0
    )
    monitoring_delivery_rate_per_second: float = _field(
        1.0, "messages a second and plugin before digests begin", ge=0.01, le=100.0
    )
    monitoring_enable_email_alerts: bool = _field(False, "deliver by e-mail")
    monitoring_email_smtp_host: str = _field("smtp.gmail.com", "mail server")
    monitoring_email_smtp_port: int = _field(587, "its port", ge=1, le=65_535)
    monitoring_email_security: Literal["starttls", "smtps", "plain"] = _field(
        "starttls", "how the connection to the mail server is protected"
    )
    monitoring_email_ca_file: str = _field(
        "", "certificate authorities to trust; empty: the system's"
    )
    monitoring_email_smtp_user: str = _field("", "user name; empty: no login")
    monitoring_email_smtp_password: SecretStr = _field(SecretStr(""), "its password")
    monitoring_email_from: str = _field("", "sender's address")
    monitoring_email_to: Words = _field([], "recipients")
    monitoring_email_severities: Severities = _field(_EVERY, "severities that are mailed")
    monitoring_enable_slack_alerts: bool = _field(False, "deliver to Slack")
    monitoring_slack_webhook_url: SecretStr = _field(SecretStr(""), "incoming webhook of Slack")
    monitoring_slack_severities: Severities = _field(_EVERY, "severities that go to Slack")
    monitoring_enable_webhook_alerts: bool = _field(False, "deliver by HTTP POST")
    monitoring_webhook_url: SecretStr = _field(SecretStr(""), "where alerts are posted")
    monitoring_webhook_headers: Headers = _field({}, "additional headers, such as Authorization")
    monitoring_webhook_secret: SecretStr = _field(
        SecretStr(""), "key of the Standard Webhooks signature (whsec_...)"
    )
    monitoring_webhook_severities: Severities = _field(_EVERY, "severities that are posted")
    monitoring_enable_telegram_alerts: bool = _field(False, "deliver to Telegram")
    monitoring_telegram_token: SecretStr = _field(SecretStr(""), "token of the bot")
    monitoring_telegram_chat_id: str = _field("", "chat that the bot writes to")
    monitoring_telegram_severities: Severities = _field(_EVERY, "severities that go to Telegram")
    monitoring_enable_alertmanager_alerts: bool = _field(False, "deliver to an Alertmanager")
    monitoring_alertmanager_url: SecretStr = _field(SecretStr(""), "its base URL")
    monitoring_alertmanager_severities: Severities = _field(
        _EVERY, "severities that are sent to it"
    )
    monitoring_enable_apprise_alerts: bool = _field(False, "deliver through Apprise")
    monitoring_apprise_urls: SecretWords = _field([], "Apprise URLs")
    monitoring_apprise_severities: Severities = _field(_EVERY, "severities sent through Apprise")

    def __init__(self, **values: Any) -> None:
        problems = sources.misnamed(type(self), values)
        try:
            super().__init__(**values)
        except ValidationError as error:
            problems += [sources.explain(type(self), each, values) for each in error.errors()]
        else:
            problems += self._contradictions()
        if problems:
            raise SettingsError(problems) from None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, NAME_FILE, .env, TOML."""
        return (
            init_settings,
            env_settings,
            sources.SecretFiles(settings_cls),
            dotenv_settings,
            sources.TomlFile(settings_cls),
        )

    def _contradictions(self) -> Iterator[str]:
        if 3600 % self.monitoring_aggregation_interval_seconds:
            yield (
                f"MONITORING_AGGREGATION_INTERVAL_SECONDS="
                f"{self.monitoring_aggregation_interval_seconds}: must divide an hour, "
                f"such as 60, 300, 900 or 3600 seconds"
            )

    def revealed(self) -> dict[str, Any]:
        """All values, secrets in the clear: only ever written to the service's own pipe."""
        return {name: sources.revealed(getattr(self, name)) for name in type(self).model_fields}
