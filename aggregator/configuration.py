"""From settings to what the two processes need: rules, sessions, and the notifier's own settings.

Everything that can be wrong is found here, before anything runs: an engine learns of a half-
configured plugin or a bad rule when it starts, never at its first alert.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator import sources
from aggregator.rules import ruleset
from aggregator.rules.rule import Rule
from aggregator.rules.rulefile import RuleFile, RuleFileError
from aggregator.rules.sessions import Session
from aggregator.settings import Settings, SettingsError
from notifier.alert import Severity
from notifier.plugin import load
from notifier.routes import TableError, parse_routes
from notifier.secret import url_problem
from notifier.settings import REPEATS_S, NotifierSettings, PluginSettings, parse_plugins


@dataclass(frozen=True, slots=True)
class Configuration:
    """All that the service hands to its children; picklable."""

    settings: Settings
    rules: tuple[Rule, ...]
    sessions: tuple[Session, ...]
    notifier: NotifierSettings


def configure(settings: Settings) -> Configuration:
    """Check and gather everything.

    Raises:
        SettingsError: with every problem of rules, sessions, routes and plugins.
    """
    problems: list[str] = []
    try:
        own = ruleset.in_force(settings, ruleset.configured_file(settings))
    except RuleFileError as error:
        problems += error.problems
        own = RuleFile((), ())
    plugins = [plugin for plugin in _plugins(settings) if plugin.enabled]
    tables = sources.read_config()
    try:
        plugins += parse_plugins(
            tables.get("plugin", []),
            timeout_s=settings.monitoring_delivery_timeout_seconds,
            rate_per_s=settings.monitoring_delivery_rate_per_second,
        )
    except TableError as error:
        problems += error.problems
    names = [plugin.name for plugin in plugins]
    problems += [
        f"plugin {name!r}: there are two of that name; give each [[plugin]] a name of its own"
        for name in sorted({name for name in names if names.count(name) > 1})
    ]
    try:
        routes = parse_routes(tables.get("route", []), names)
    except TableError as error:
        problems += error.problems
        routes = []
    problems += _half_configured(plugins)
    ping_url = settings.monitoring_ping_url.get_secret_value()
    if ping_url and (problem := url_problem(ping_url)):
        problems.append(f"MONITORING_PING_URL: {problem}")
    if problems:
        raise SettingsError(problems)
    notifier = NotifierSettings(
        data_dir=Path(settings.monitoring_data_dir),
        log_dir=Path(settings.monitoring_log_dir),
        plugins=tuple(plugins),
        routes=tuple(routes),
        repeats_s=_repeats(settings),
        reopen_s=float(settings.monitoring_reopen_window_seconds),
        ack_ttl_s=float(settings.monitoring_ack_ttl_seconds),
        ping_url=ping_url,
        ping_interval_s=float(settings.monitoring_heartbeat_interval),
        log_level=settings.monitoring_log_level,
        log_format=settings.monitoring_log_format,
    )
    return Configuration(settings, tuple(own.rules), tuple(own.sessions), notifier)


def _plugins(settings: Settings) -> Iterator[PluginSettings]:
    """The plugins that the plain settings describe, enabled or not."""

    def plugin(kind: str, **options: Any) -> PluginSettings:
        severities = getattr(settings, f"monitoring_{kind}_severities")
        return PluginSettings(
            name=kind,
            kind=kind,
            enabled=getattr(settings, f"monitoring_enable_{kind}_alerts"),
            severities=tuple(Severity.parse(word) for word in severities),
            rate_per_s=settings.monitoring_delivery_rate_per_second,
            timeout_s=settings.monitoring_delivery_timeout_seconds,
            options={name: sources.revealed(value) for name, value in options.items()},
        )

    yield plugin(
        "email",
        host=settings.monitoring_email_smtp_host,
        port=settings.monitoring_email_smtp_port,
        security=settings.monitoring_email_security,
        ca_file=settings.monitoring_email_ca_file,
        user=settings.monitoring_email_smtp_user,
        password=settings.monitoring_email_smtp_password,
        to=settings.monitoring_email_to,
        **{"from": settings.monitoring_email_from},
    )
    yield plugin("slack", url=settings.monitoring_slack_webhook_url)
    yield plugin(
        "webhook",
        url=settings.monitoring_webhook_url,
        headers=settings.monitoring_webhook_headers,
        secret=settings.monitoring_webhook_secret,
    )
    yield plugin(
        "telegram",
        token=settings.monitoring_telegram_token,
        chat_id=settings.monitoring_telegram_chat_id,
    )
    yield plugin("alertmanager", url=settings.monitoring_alertmanager_url)
    yield plugin("apprise", urls=settings.monitoring_apprise_urls)


def _half_configured(plugins: Sequence[PluginSettings]) -> list[str]:
    problems = []
    for plugin in plugins:
        made = load(plugin.kind)(
            name=plugin.name,
            enabled=plugin.enabled,
            options=dict(plugin.options),
            timeout_s=plugin.timeout_s,
        )
        problems += made.check() if plugin.enabled else []
    return problems


def _repeats(settings: Settings) -> Mapping[Severity, tuple[float, ...]]:
    return {
        **REPEATS_S,
        Severity.CRITICAL: tuple(60.0 * m for m in settings.monitoring_repeat_critical_minutes),
        Severity.WARNING: tuple(60.0 * m for m in settings.monitoring_repeat_warning_minutes),
    }


def secret_free(settings: Settings) -> dict[str, Any]:
    """The settings that commands may read from service.json: every one that is no secret."""
    hidden = sources.secret_names(Settings.model_fields)
    return {name: value for name, value in settings.revealed().items() if name not in hidden}
