"""A report's figures as JSON: what the facts of a period, and of the one before, add up to."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from aggregator.store.course import Course
from cli import rollups
from cli.report_facts import Answered, Facts, Gap, ended_ns
from cli.times import NS
from notifier.alert import Alert, Severity, rfc3339
from notifier.delivery import DEAD, DELIVERED, PENDING, SKIPPED
from notifier.tally import Tally

_COMPARED = ("p50", "p99", "max")

Row = dict[str, Any]


def median(values: Sequence[float]) -> float | None:
    """The middle one, or the mean of the two in the middle; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def alert_counts(facts: Facts) -> Row:
    """How many alerts there were, and how fast people answered."""
    answers = [one.after_s for one in facts.alerts if one.after_s is not None]
    firing = [_firing_s(one.alert, facts.at_ns) for one in facts.alerts]
    counts = {
        severity.word: sum(one.alert.severity == severity for one in facts.alerts)
        for severity in reversed(Severity)
    }
    return {
        **counts,
        "acknowledged": len(answers),
        "median_seconds_to_ack": _rounded(median(answers)),
        "longest_seconds_to_ack": _rounded(max(answers, default=None)),
        "median_seconds_firing": _rounded(median(firing)),
    }


def _firing_s(alert: Alert, now_ns: int) -> float:
    return ((ended_ns(alert) or now_ns) - alert.started_ns) / NS


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 3)


def pnl_row(one: Course) -> Row:
    """A running total over the period: how it began and ended, its extremes, each day's end."""
    points = one.points
    return {
        "metric": one.metric,
        "labels": one.labels,
        "unit": one.unit,
        "first": points[0].first,
        "last": points[-1].last,
        "change": points[-1].last - points[0].first,
        "min": min(point.minimum for point in points),
        "max": max(point.maximum for point in points),
        "days": [*_days(one)],
    }


def _days(one: Course) -> Iterator[Row]:
    """The last value and the extremes of each day, in local time."""
    days: dict[str, Row] = {}
    for point in one.points:
        day = datetime.fromtimestamp(point.start_s).astimezone().date().isoformat()
        row = days.setdefault(day, {"day": day, "min": point.minimum, "max": point.maximum})
        row["min"] = min(row["min"], point.minimum)
        row["max"] = max(row["max"], point.maximum)
        row["last"] = point.last
    yield from days.values()


def latency_rows(facts: Facts, before: Facts) -> list[Row]:
    """Each latency series over the period, beside the period before."""
    earlier = {rollups.series_key(row): row for row in before.latency}
    found = []
    for row in facts.latency:
        old = earlier.get(rollups.series_key(row))
        kept = None if old is None else {stat: old[stat] for stat in ("count", *_COMPARED)}
        found.append({**row, "before": kept, "p99_change_pct": change_pct(row, old, "p99")})
    return found


def change_pct(row: Row, before: Row | None, stat: str) -> float | None:
    """By how many percent *stat* changed; None without something to compare with."""
    if before is None or not before[stat]:
        return None
    change = 100 * (row[stat] / abs(before[stat]) - before[stat] / abs(before[stat]))
    return round(change, 2) if abs(change) < 1e9 else None


def delivery_row(tally: Tally) -> Row:
    """What one plugin was given."""
    states = {name: tally.states.get(name, 0) for name in (DELIVERED, DEAD, SKIPPED, PENDING)}
    return {
        "plugin": tally.plugin,
        **states,
        "retried": tally.retried,
        "median_seconds": _rounded(median(tally.took_s)),
        "longest_seconds": _rounded(tally.took_s[-1] if tally.took_s else None),
    }


def gap_row(gap: Gap) -> Row:
    """A gap as JSON."""
    return {
        "engine": gap.engine,
        "kind": "silent" if gap.silent else "lost",
        "from": rfc3339(gap.start_s * NS),
        "to": rfc3339(gap.end_s * NS),
        "lost": gap.lost,
    }


def alert_row(one: Answered, now_ns: int) -> Row:
    """An alert with how it was answered."""
    alert = one.alert
    return {
        **{name: value for name, value in alert.row().items() if name != "ack"},
        "seconds_firing": _rounded(_firing_s(alert, now_ns)),
        "acked_by": one.by or None,
        "acked_at": rfc3339(one.at_ns),
        "seconds_to_ack": _rounded(one.after_s),
    }


def row(facts: Facts, before: Facts) -> Row:
    """The whole report as JSON."""
    return {
        "from": rfc3339(facts.start_s * NS),
        "to": rfc3339(facts.end_s * NS),
        "at": rfc3339(facts.at_ns),
        "data_dir": str(facts.where.data_dir),
        "missing": facts.missing,
        "records": facts.records,
        "records_lost": facts.lost,
        "alert_counts": alert_counts(facts),
        "alerts": [alert_row(one, facts.at_ns) for one in facts.alerts],
        "pnl": [pnl_row(one) for one in facts.pnl],
        "latency": latency_rows(facts, before),
        "deliveries": [delivery_row(tally) for tally in facts.deliveries],
        "gaps": [gap_row(gap) for gap in facts.gaps],
        "before": {
            "from": rfc3339(before.start_s * NS),
            "to": rfc3339(before.end_s * NS),
            "records": before.records,
            "records_lost": before.lost,
            "alert_counts": alert_counts(before),
            "pnl": [pnl_row(one) for one in before.pnl],
            "deliveries": [delivery_row(tally) for tally in before.deliveries],
        },
    }
