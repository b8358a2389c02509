"""Ask the rollup store what the metrics commands and `status` show."""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aggregator import query
from aggregator.fetch import Wanted
from cli import times
from cli.place import Place
from cli.problems import Failed, UsageError, suggestion
from cli.silences import parse_matchers
from notifier.alert import Alert, Severity, parse_rfc3339

# The aggregator reports each second; it is killed and restarted after 30 s without progress.
_REPORT_STALE_S = 15

Row = dict[str, Any]


@dataclass(frozen=True)
class Question:
    """What a command asks for: series, range (epoch seconds, half open) and interval."""

    metric: str
    match: Mapping[str, str]
    start_s: int
    end_s: int
    interval_s: int


@contextmanager
def opened(where: Place) -> Iterator[sqlite3.Connection]:
    """The store, open to read.

    Raises:
        StoreError: it isn't there or can't be read; the text says what to do.
    """
    db = query.open_readonly(where.rollups)
    try:
        yield db
    finally:
        db.close()


def question(args: Mapping[str, Any], db: sqlite3.Connection) -> Question:
    """The question that the options ask.

    Raises:
        UsageError: a value is wrong.
        Failed: no series is called like that; the message suggests one.
    """
    metric = args["--metric"] or "*"
    match = parse_matchers(args["--match"])
    base_s = query.base_s(db)
    interval_s = base_s
    if args.get("--interval"):
        try:
            interval_s = query.parse_interval(args["--interval"], base_s)
        except ValueError as error:
            text = str(error).partition(": ")[2]
            raise UsageError(f"--interval={args['--interval']}: {text}") from None
    start_s, end_s = times.span_s(args, query.newest_s(db) or times.now_ns() // times.NS)
    everything = Wanted(db, "*", {}).series.values()
    if everything and not Wanted(db, metric, match).series:
        raise Failed(_no_series(metric, match, sorted({series.metric for series in everything})))
    return Question(metric, match, start_s, end_s, interval_s)


def _no_series(metric: str, match: Mapping[str, str], known: list[str]) -> str:
    asked = [f"--metric={metric}"] if metric != "*" else []
    asked += [f"--match {label}={pattern}" for label, pattern in match.items()]
    hint = suggestion(metric, known) if metric != "*" else ""
    return f"no series matches {' '.join(asked)}{hint} (metrics: {', '.join(known)})"


def intervals(db: sqlite3.Connection, asked: Question) -> Iterator[Row]:
    """One row per series and interval, by time."""
    return query.metrics(
        db,
        interval_s=asked.interval_s,
        start_s=asked.start_s,
        end_s=asked.end_s,
        metric=asked.metric,
        match=asked.match,
    )


def summaries(db: sqlite3.Connection, asked: Question) -> list[Row]:
    """One row per series for the whole range."""
    return list(
        query.summary(
            db,
            start_s=asked.start_s,
            end_s=asked.end_s,
            metric=asked.metric,
            match=asked.match,
        )
    )


def series_key(row: Row) -> tuple[Any, ...]:
    """What tells one series from another: metric, unit, labels."""
    return (row["metric"], row["unit"], *sorted(row["labels"].items()))


def start_of(row: Row) -> int:
    """Epoch second at which the row's interval starts."""
    return times.time_ns(row["interval_start"], "interval_start") // times.NS


def course(rows: list[Row], stat: str) -> list[float | None]:
    """*stat* of one series' *rows* in order of time, None for each interval without records."""
    values: list[float | None] = []
    expected: int | None = None
    for row in rows:
        start_s, step_s = start_of(row), row["interval_seconds"]
        if expected is not None:
            values += [None] * min(1000, max(0, (start_s - expected) // step_s))
        values.append(row[stat])
        expected = start_s + step_s
    return values


def report_of(db: sqlite3.Connection) -> Row:
    """What the aggregator last reported of itself; empty before the first time."""
    blob = query.value(db, "health")
    content = json.loads(blob) if blob else {}
    return content if isinstance(content, dict) else {}


def is_fresh(report: Mapping[str, Any], now_ns: int) -> bool:
    """Whether *report* is about now."""
    at = str(report.get("at", ""))
    return bool(at) and now_ns - parse_rfc3339(at) <= _REPORT_STALE_S * times.NS


def pending(where: Place, now_ns: int) -> list[Alert]:
    """Alerts whose condition holds but not for long enough to fire, as the aggregator reports them.

    They have no id: nothing was logged of them yet.
    """
    if not where.rollups.exists() or where.service_pid() is None:
        return []
    with opened(where) as db:
        report = report_of(db)
    rows = report.get("pending", ()) if is_fresh(report, now_ns) else ()
    return [
        Alert(
            id="",
            rule=row["rule"],
            labels=dict(row["labels"]),
            severity=Severity.parse(row["severity"]),
            state="pending",
            started_ns=parse_rfc3339(row["since"]),
            last_seen_ns=parse_rfc3339(report["at"]),
            value=row["value"],
            threshold=row["threshold"],
            unit=row["unit"],
            message=row["message"],
            count=row["count"],
        )
        for row in rows
    ]
