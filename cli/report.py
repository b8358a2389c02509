"""`report`: hand-over, end of day and month end in one, as text, as JSON, or as a page.

All three say the same; the page adds plots.  Nothing is written but the page, which appears under
its name when it is complete.
"""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aggregator.store import fetch, query
from cli import known, place, render, report_facts, report_rows, rollups, times
from cli.place import Place
from cli.problems import Failed, UsageError
from cli.render import Cell, Column, Look, Styled
from cli.report_facts import Answered, Facts, Gap
from cli.report_rows import Row
from cli.times import NS
from notifier.alert import Severity
from notifier.delivery import DEAD, DELIVERED, PENDING, SKIPPED

_SHOWN_GAPS = 30
_TOLD_S = 60

_ALERTS = (
    Column("began", whole=True),
    Column("severity", whole=True),
    Column("rule", whole=True),
    Column("labels"),
    Column("lasted", right=True),
    Column("count", right=True),
    Column("worst"),
    Column("acknowledged"),
)
_PNL = tuple(
    Column(title, right=title not in ("pnl", "unit"))
    for title in ("pnl", "unit", "first", "last", "change", "lowest", "highest", "change before")
)
_DAYS = tuple(Column(title, right=title != "day") for title in ("day", "last", "lowest", "highest"))
_LATENCY = (
    Column("latency"),
    Column("labels"),
    Column("count", right=True),
    *(Column(stat, right=True) for stat in ("p50", "p99", "p99.9", "max")),
    Column("p99 before", right=True),
    Column("p99 over time", whole=True),
)
_DELIVERIES = (
    Column("told by"),
    *(
        Column(title, right=True)
        for title in (DELIVERED, DEAD, SKIPPED, PENDING, "retried", "median", "longest")
    ),
)
_GAPS = (Column("engine"), Column("from", whole=True), Column("to", whole=True), Column("what"))


def main(args: Mapping[str, Any]) -> int:
    """Print the report, or write the page."""
    how = render.look(args)
    where = place.find(args)
    known.require(where)
    page = _page(args)
    facts, before = _both(args, where)
    if page is not None:
        from cli.report_html import page as made  # brings matplotlib, 0.5 s

        _publish(page, made(facts, before, how))
        render.note(f"report in {page}")
    elif how.json:
        render.json_rows([report_rows.row(facts, before)])
    else:
        _show(facts, before, how)
    return 0


def _page(args: Mapping[str, Any]) -> Path | None:
    """Where the page is to be written.

    Raises:
        UsageError: --json as well.
        Failed: it can't be made here.
    """
    if args["--html"] is None:
        return None
    if args["--json"]:
        raise UsageError("--html can't be combined with --json: use one or the other")
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise Failed("--html needs the package matplotlib: pip install 'tickwatch[report]'")
    path = Path(args["--html"])
    if path.is_dir():
        raise Failed(f"{path}: is a directory")
    return path


def _both(args: Mapping[str, Any], where: Place) -> tuple[Facts, Facts]:
    """The period asked for, grown to whole intervals, and the equal one before.

    It ends at the newest record, or a minute after the newest alert: that of an engine's death
    comes after its last record, and people are told of it a moment later.
    """
    base_s, newest_s = 1, None
    days = rollups.day_rows(where)
    if where.rollups.exists():
        with rollups.opened(where) as db:
            base_s, newest_s = query.base_s(db), query.newest_s(db, days)
    alerts_s = [
        alert.started_ns // NS + _TOLD_S for alert in known.load(where, everything=True).alerts
    ]
    newest_s = max([*alerts_s, *filter(None, [newest_s])], default=times.now_ns() // NS)
    start_s, end_s = times.span_s(args, newest_s)
    if end_s <= start_s:
        raise UsageError("--to must be after --from")
    start_s, end_s = fetch.down(start_s, base_s), fetch.up(end_s, base_s)
    facts = report_facts.gather(where, start_s, end_s, days)
    before = report_facts.gather(where, 2 * start_s - end_s, start_s, days)
    rollups.say_trouble(days)
    return facts, before


def _publish(path: Path, text: str) -> None:
    """Write a file that only its owner reads and that appears when it is complete.

    Raises:
        Failed, OSError: it can't be written; nothing is left behind.
    """
    if not path.parent.is_dir():
        raise Failed(f"{path}: there is no directory {path.parent}")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _show(facts: Facts, before: Facts, how: Look) -> None:
    since, until = (times.show_s(at, utc=how.utc) for at in (facts.start_s, facts.end_s))
    length = times.spoken(facts.end_s - facts.start_s)
    render.line(how, Styled(f"{since} to {until}", "bold"), f"({length})  {facts.where.data_dir}")
    for text in headlines(facts, before):
        render.line(how, text)
    for problem in facts.missing:
        render.line(how, Styled(f"not in this report: {problem}", "warning"))
    _section(how, _ALERTS, [_alert_cells(one, facts, how) for one in facts.alerts])
    pnl = [_pnl_cells(row, before) for row in map(report_rows.pnl_row, facts.pnl)]
    _section(how, _PNL, pnl)
    _days(facts, how)
    _section(how, _LATENCY, _latency_cells(facts, before, how))
    _section(how, _DELIVERIES, [_delivery_cells(row) for row in _deliveries(facts)])
    shown = facts.gaps[:_SHOWN_GAPS]
    _section(how, _GAPS, [_gap_cells(gap, how) for gap in shown])
    if len(facts.gaps) > len(shown):
        render.line(how, f"and {len(facts.gaps) - len(shown)} more gaps: see --json")


def headlines(facts: Facts, before: Facts) -> list[str]:
    """What everybody reads: records, alerts and answers, messages; beside the period before."""
    counts, earlier = report_rows.alert_counts(facts), report_rows.alert_counts(before)
    lost = "an unknown number" if facts.lost is None else f"{facts.lost:,}"
    alerts = ", ".join(f"{counts[s.word]} {s.word}" for s in reversed(Severity) if counts[s.word])
    texts = [
        f"records: {facts.records:,} (before: {before.records:,}), {lost} lost",
        f"alerts: {alerts or 'none'} (before: {sum(earlier[s.word] for s in Severity)})",
    ]
    if facts.alerts:
        answered = f"{counts['acknowledged']} of {len(facts.alerts)} acknowledged"
        if counts["acknowledged"]:
            answered += (
                f", median after {times.spoken(counts['median_seconds_to_ack'])}"
                f" (before: {_spoken(earlier['median_seconds_to_ack'])})"
            )
        texts[-1] += f"; {answered}"
    rows, old = _deliveries(facts), _deliveries(before)
    ends = ", ".join(f"{_total(rows, name)} {name}" for name in (DELIVERED, DEAD, SKIPPED, PENDING))
    texts.append(f"messages: {ends} (before: {_total(old, DELIVERED)} {DELIVERED})")
    return texts


def _deliveries(facts: Facts) -> list[Row]:
    return [report_rows.delivery_row(tally) for tally in facts.deliveries]


def _total(rows: Sequence[Row], name: str) -> int:
    return sum(row[name] for row in rows)


def _spoken(seconds: float | None) -> str:
    return "-" if seconds is None else times.spoken(seconds)


def _section(how: Look, columns: tuple[Column, ...], rows: Sequence[Sequence[Cell]]) -> None:
    if rows:
        print()
        render.table(how, columns, rows)


def _alert_cells(one: Answered, facts: Facts, how: Look) -> list[Cell]:
    row = report_rows.alert_row(one, facts.at_ns)
    firing = "" if row["resolved_at"] else " so far"
    return [
        times.show_ns(one.alert.started_ns, utc=how.utc),
        Styled(row["severity"], row["severity"]),
        row["rule"],
        render.labels(row["labels"]),
        f"{times.spoken(row['seconds_firing'])}{firing}",
        f"{row['count']:,}",
        worst(one),
        answer(one),
    ]


def worst(one: Answered) -> str:
    """An alert's worst value against its level; its message where numbers alone say nothing."""
    alert = one.alert
    if alert.value is None or (alert.message and not alert.unit):
        return alert.message
    value = alert.evidence[0][1] if alert.evidence else alert.value
    text = render.quantity(value, alert.unit)
    return text if alert.threshold is None else f"{text} (limit {render.number(alert.threshold)})"


def answer(one: Answered) -> str:
    """Who acknowledged an alert, and how soon."""
    if one.after_s is None:
        return ""
    return f"{one.by} in advance" if not one.after_s else f"{one.by} after {_spoken(one.after_s)}"


def _pnl_cells(row: Row, before: Facts) -> list[Cell]:
    old = [each for each in map(report_rows.pnl_row, before.pnl) if each["labels"] == row["labels"]]
    stats = [render.number(row[name]) for name in ("first", "last", "change", "min", "max")]
    change = render.number(old[0]["change"]) if old else ""
    return [render.labels(row["labels"]), row["unit"], *stats, change]


def _days(facts: Facts, how: Look) -> None:
    """Each day's end, where there is more than one."""
    for row in map(report_rows.pnl_row, facts.pnl):
        if len(row["days"]) < 2:
            continue
        print()
        render.line(how, f"pnl by day, {render.labels(row['labels'])}")
        cells = [
            [day["day"], *(render.number(day[name]) for name in ("last", "min", "max"))]
            for day in row["days"]
        ]
        render.table(how, _DAYS, cells)


def _latency_cells(facts: Facts, before: Facts, how: Look) -> list[list[Cell]]:
    found: list[list[Cell]] = []
    for row in report_rows.latency_rows(facts, before):
        over_time = rollups.course(facts.over_time.get(rollups.series_key(row), []), "p99")
        change = row["p99_change_pct"]
        old = "" if row["before"] is None else render.duration(row["before"]["p99"], row["unit"])
        found.append(
            [
                row["metric"],
                render.labels(row["labels"]),
                f"{row['count']:,}",
                *(render.duration(row[s], row["unit"]) for s in ("p50", "p99", "p999", "max")),
                old if change is None else f"{old} ({change:+.0f} %)",
                render.sparkline(over_time, how),
            ]
        )
    return found


def _delivery_cells(row: Row) -> list[Cell]:
    dead = str(row[DEAD])
    return [
        row["plugin"],
        str(row[DELIVERED]),
        Styled(dead, "critical") if row[DEAD] else dead,
        *(str(row[name]) for name in (SKIPPED, PENDING, "retried")),
        _spoken(row["median_seconds"]),
        _spoken(row["longest_seconds"]),
    ]


def _gap_cells(gap: Gap, how: Look) -> list[Cell]:
    since, until = (
        times.show_s(at, utc=how.utc, precision="minutes") for at in (gap.start_s, gap.end_s)
    )
    return [gap.engine, since, until, what(gap)]


def what(gap: Gap) -> str:
    """What a gap is, in words."""
    if gap.silent:
        return f"wrote nothing for {times.spoken(gap.end_s - gap.start_s)}"
    return (
        "records lost, nobody knows how many" if gap.lost is None else f"{gap.lost:,} records lost"
    )
