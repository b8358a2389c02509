"""The rules that are there without a rule file.

Data like those of a file, which can change or replace each by its name.  They watch what every
engine records, and ``OWN_METRICS``.
"""

from collections.abc import Iterable, Iterator

from aggregator.rules.rule import ABSENT, Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from notifier.alert import Severity

WARNING, CRITICAL = Severity.WARNING, Severity.CRITICAL
# What the aggregator samples itself: rules watch it, no rollup and no day file has it.
OWN_METRICS = frozenset({
    "engine_down", "records_lost", "alerts_lost", "disk_used_pct", "day_files_evicted",
    "artifact_age_hours", "delivery_failing", "pipeline_restarts", "history_problem",
    "history_dropped", "alert_lines_missing",
})  # fmt: skip
FEED_STALE_S = 30
# How much worse than the warning a daily loss is when it is critical.
_LOSS_FACTOR = 1.5
# The window of what the aggregator counts itself: an alert is over so long after the last time.
_COUNTED_S = 60
_CRASHES_S, _CRASHES = 300, 3
_EVICTED_S = 3600


def builtin_rules(
    *,
    max_sentiment_failures: int = 5,
    sentiment_failure_window_s: int = 3600,
    artifact_staleness_hours: float = 24,
    daily_loss_alert_pct: float = 4.0,
    position_limit: float | None = None,
    performance_threshold_ms: float | None = 1000.0,
    disk_alert_pct: float = 90.0,
) -> list[Rule]:
    """The rules of the contract for these settings; None switches a rule off."""
    rules = [
        Rule(
            "circuit_breaker_triggered",
            "circuit_breaker_active",
            above={CRITICAL: Level(0.0)},
            strict=True,
            message="circuit breaker triggered",
        ),
        Rule(
            "daily_loss_high",
            "daily_loss_pct",
            below={
                WARNING: Level(-daily_loss_alert_pct),
                CRITICAL: Level(-_LOSS_FACTOR * daily_loss_alert_pct),
            },
            message="daily loss {value} %, limit {threshold} %",
        ),
        Rule(
            "connection_lost",
            "connected",
            below={CRITICAL: Level(0.0)},
            message="connection lost",
        ),
        Rule(
            "sentiment_failures_high",
            "sentiment_failure",
            stat=("sum",),
            window_s=sentiment_failure_window_s,
            above={WARNING: Level(max_sentiment_failures)},
            message="{value} sentiment failures in {window}, limit {threshold}",
        ),
    ]
    if performance_threshold_ms is not None:
        rules.append(_performance(performance_threshold_ms))
    if position_limit is not None:
        rules.append(
            Rule(
                "position_limit_breached",
                "position_count",
                above={CRITICAL: Level(position_limit)},
                strict=True,
                message="{value} positions, limit {threshold}",
            )
        )
    return [*rules, *_own_health(artifact_staleness_hours, disk_alert_pct)]


def _performance(threshold_ms: float) -> Rule:
    return Rule(
        "performance_degradation",
        "*_latency",
        stat=("avg", "p99", "max"),
        window_s=60,
        above={WARNING: Level(threshold_ms, "ms")},
        strict=True,
        message="{metric} {stat} {value} {unit} > {threshold} {unit}"
        " (avg {avg}, p99 {p99}, max {max} in {window})",
    )


def _own_health(artifact_staleness_hours: float, disk_alert_pct: float) -> Iterator[Rule]:
    """Rules on what the aggregator samples itself."""
    yield Rule(
        "stale_artifacts",
        "artifact_age_hours",
        above={WARNING: Level(artifact_staleness_hours)},
        message="{note}, limit {threshold} h",
    )
    yield Rule(
        "heartbeat_lapsed",
        "engine_down",
        above={CRITICAL: Level(0.0)},
        strict=True,
        message="{note}",
    )
    for metric, severity in (("records_lost", WARNING), ("alerts_lost", CRITICAL)):
        yield Rule(
            "records_lost",
            metric,
            stat=("sum",),
            window_s=_COUNTED_S,
            above={severity: Level(0.0)},
            strict=True,
            message="{value} lost in {window}: {note}",
        )
    yield Rule(
        "records_lost",
        "alert_lines_missing",
        above={CRITICAL: Level(0.0)},
        strict=True,
        message="{value} lines missing in the alert log within an hour{note}",
    )
    yield Rule(
        "delivery_failing",
        "delivery_failing",
        above={WARNING: Level(1.0), CRITICAL: Level(2.0)},
        message="{note}",
    )
    yield Rule(
        "disk_nearly_full",
        "disk_used_pct",
        above={WARNING: Level(disk_alert_pct), CRITICAL: Level((disk_alert_pct + 100.0) / 2)},
        clear=Level(disk_alert_pct - 1.0),
        message="disk of {path} {value} % full, limit {threshold} %",
    )
    yield Rule(
        "disk_nearly_full",
        "day_files_evicted",
        stat=("sum",),
        window_s=_EVICTED_S,
        above={WARNING: Level(0.0)},
        strict=True,
        message="{value} of the oldest day files deleted to make room",
    )
    yield Rule(
        "history_failing",
        "history_problem",
        above={WARNING: Level(0.0)},
        strict=True,
        message="{note}",
    )
    yield Rule(
        "history_failing",
        "history_dropped",
        stat=("sum",),
        window_s=_COUNTED_S,
        above={WARNING: Level(0.0)},
        strict=True,
        message="{value} {note}",
    )
    yield Rule(
        "pipeline_crashing",
        "pipeline_restarts",
        stat=("sum",),
        window_s=_CRASHES_S,
        above={WARNING: Level(1.0), CRITICAL: Level(_CRASHES)},
        message="{process} crashed: {value} restarts in {window} {note}",
    )


def session_rules(sessions: Iterable[Session]) -> list[Rule]:
    """What can be told only while a session is open: that the feed stands still."""
    return [
        Rule(
            "feed_stale",
            "tick_latency",
            stat=(ABSENT,),
            above={CRITICAL: Level(FEED_STALE_S, "s")},
            match={"engine": session.engines} if session.engines else {},
            by=("engine",),
            when="connected",
            session=session.name,
            message="no tick for {value} s while {session} is open",
        )
        for session in sessions
    ]
