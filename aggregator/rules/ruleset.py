"""The rules and sessions that settings and a rule file add up to.

Loads no numpy: commands ask what is in force without evaluating anything.
"""

from pathlib import Path

from aggregator import sources
from aggregator.rules.builtin import builtin_rules
from aggregator.rules.rule import Rule
from aggregator.rules.rulefile import RuleFile, parse_rules
from aggregator.settings import Settings


def builtin(settings: Settings) -> list[Rule]:
    """The built-in rules with the levels that *settings* give them."""
    tracked = settings.monitoring_enable_performance_tracking
    return builtin_rules(
        max_sentiment_failures=settings.monitoring_max_sentiment_failures,
        sentiment_failure_window_s=settings.monitoring_sentiment_failure_window,
        artifact_staleness_hours=settings.monitoring_artifact_staleness_hours,
        daily_loss_alert_pct=settings.monitoring_daily_loss_alert_pct,
        position_limit=settings.monitoring_position_limit,
        performance_threshold_ms=settings.monitoring_performance_alert_threshold_ms
        if tracked
        else None,
        disk_alert_pct=settings.monitoring_disk_alert_pct,
    )


def configured_file(settings: Settings) -> Path | None:
    """The file that rules and sessions are read from; None without one."""
    named = settings.monitoring_rules_file
    return Path(named) if named else sources.config_path()


def in_force(settings: Settings, path: Path | None) -> RuleFile:
    """What applies with the rule file *path*, or with the built-in rules alone.

    Raises:
        RuleFileError: with a line for every problem of the file.
    """
    own = builtin(settings)
    return RuleFile(tuple(own), ()) if path is None else parse_rules(path, own)
