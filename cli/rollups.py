"""Ask history what the metrics commands show, and the rollup store what `status` does."""

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from aggregator.history.dayfolder import FOLDER
from aggregator.history.dayline import Record
from aggregator.history.dayreader import read_records
from aggregator.store import query
from aggregator.store.dayrows import DayRows
from aggregator.store.fetch import Named, Wanted
from cli import render, times
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


def day_rows(where: Place) -> DayRows:
    """The day files, for times of which the store hasn't all."""
    return DayRows(where.data_dir / FOLDER)


def question(
    args: Mapping[str, Any], db: sqlite3.Connection, days: DayRows | None = None
) -> Question:
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
    start_s, end_s = times.span_s(args, query.newest_s(db, days) or times.now_ns() // times.NS)
    everything = Wanted(db, "*", {}).series.values()
    unnamed = days is not None and query.lacking(db, days, start_s, end_s)
    if everything and not unnamed and not Wanted(db, metric, match).series:
        raise Failed(_no_series(metric, match, _recorded(everything)))
    return Question(metric, match, start_s, end_s, interval_s)


def raw_question(args: Mapping[str, Any], days: DayRows) -> Question:
    """The same for raw records, of which the day files alone know.

    Raises:
        UsageError: a value is wrong.
    """
    start_s, end_s = times.span_s(args, days.newest_s() or times.now_ns() // times.NS)
    return Question(
        args["--metric"] or "*", parse_matchers(args["--match"]), start_s, end_s, interval_s=0
    )


def raw_records(days: DayRows, asked: Question) -> Iterator[Record]:
    """Raw records, day by day, of each ring in the order they were recorded."""
    found = read_records(
        days.directory,
        asked.start_s * times.NS,
        asked.end_s * times.NS,
        metric=asked.metric,
        match=asked.match,
        trouble=days.trouble,
    )
    for record in found:
        days.skipped += record.skipped
        yield record


def hint(where: Place, metric: str) -> str:
    """What *metric* may have been meant to be, going by the store; nothing without one."""
    try:
        with opened(where) as db:
            known = _recorded(Wanted(db, "*", {}).series.values())
    except query.StoreError:
        return ""
    return "" if metric in {"*", *known} else suggestion(metric, known)


def _recorded(series: Iterable[Named]) -> list[str]:
    """Names of metrics that engines record."""
    from aggregator.rules.builtin import OWN_METRICS  # only a mistake needs it

    return sorted({each.metric for each in series} - OWN_METRICS)


def _no_series(metric: str, match: Mapping[str, str], known: list[str]) -> str:
    asked = [f"--metric={metric}"] if metric != "*" else []
    asked += [f"--match {label}={pattern}" for label, pattern in match.items()]
    hint = suggestion(metric, known) if metric != "*" else ""
    return f"no series matches {' '.join(asked)}{hint} (metrics: {', '.join(known)})"


def intervals(
    db: sqlite3.Connection, asked: Question, days: DayRows | None = None
) -> Iterator[Row]:
    """One row per series and interval, by time."""
    return query.metrics(
        db,
        interval_s=asked.interval_s,
        start_s=asked.start_s,
        end_s=asked.end_s,
        metric=asked.metric,
        match=asked.match,
        days=days,
    )


def summaries(db: sqlite3.Connection, asked: Question, days: DayRows | None = None) -> list[Row]:
    """One row per series for the whole range."""
    return list(
        query.summary(
            db,
            start_s=asked.start_s,
            end_s=asked.end_s,
            metric=asked.metric,
            match=asked.match,
            days=days,
        )
    )


def say_trouble(days: DayRows) -> None:
    """Say on stderr what the day files left out and what could not be read, if anything."""
    if days.skipped:
        render.note(
            f"{days.skipped:,} records were left out of the day files when they came too fast: "
            f"counted, but in no other figure"
        )
    trouble = days.trouble
    if not trouble:
        return
    numbers = (
        (trouble.damaged_members, "damaged member"),
        (trouble.bad_lines, "damaged line"),
        (len(trouble.unreadable), "unreadable file"),
    )
    counted = ", ".join(f"{n:,} {what}{'s' * (n > 1)}" for n, what in numbers if n)
    files = "; ".join(f"{name}: {why}" for name, why in sorted(trouble.unreadable.items())[:3])
    render.note(f"day files: passed over {counted}{f' ({files})' if files else ''}")


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
