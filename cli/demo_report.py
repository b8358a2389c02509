"""The demo's end: what was measured and alerted, and what to try next.

Everything about records and alerts is read back from where every other command reads it, so that
the demo can't claim what the service doesn't know.
"""

import json
import shutil
import sqlite3
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cli import known, render, times
from cli.alerts import measured
from cli.engine import Engine
from cli.paper import MONEY
from cli.place import DEFAULT_DATA_DIR, Place
from cli.problems import Failed
from cli.render import Cell, Column, Look, Styled
from cli.sentiment import SentimentClient
from notifier.alert import Alert, parse_rfc3339

_STATS = ("min", "avg", "p50", "p99", "max")
_NARROW = ("avg", "p99", "max")  # what fits 80 columns
_WIDE_COLUMNS = 120
_LOOK_S = 0.05


@dataclass(frozen=True)
class Ring:
    """What the service says of one ring, in records since the ring was made."""

    written: int = 0
    read: int = 0
    lost: int = 0


@dataclass(frozen=True)
class Results:
    """What the demo itself counted and measured; ``before`` and ``after``: the service's counts."""

    name: str  # of the ring
    engine: Engine
    client: SentimentClient
    ended: str
    replayed_s: float
    began_ns: int  # wall clock
    damage: str
    received: int
    written: int
    rejected: int
    problem: str | None
    before: Ring
    after: Ring


def wait_for(where: Place, engine: str, published: int, limit_s: float) -> Ring:
    """What the service says of *engine*'s ring once it has taken in *published* records.

    After *limit_s* seconds: what it says then, which may be less.
    """
    deadline = time.monotonic() + limit_s
    while True:
        ring = reading(where, engine)
        drained = ring.written == published == ring.read + ring.lost
        if drained or time.monotonic() > deadline:
            return ring
        time.sleep(_LOOK_S)


def reading(where: Place, engine: str) -> Ring:
    """What the service last said of *engine*'s ring; nothing read before it says anything."""
    from aggregator.store import query
    from cli import rollups

    try:
        with rollups.opened(where) as db:
            health = json.loads(query.value(db, "health") or b"{}")
    except (OSError, ValueError, sqlite3.Error):
        return Ring()  # no service has been here yet
    for row in health.get("engines", ()):
        if row["engine"] == engine and row["read"] is not None:
            return Ring(row["written"], row["read"], row["lost"])
    return Ring()


def report(how: Look, where: Place, results: Results) -> None:
    """Print the end report."""
    _run(how, results)
    _rollups(how, where, results)
    _alerts(how, where, results)
    _records(how, results)
    _next(how, where)


def _run(how: Look, results: Results) -> None:
    engine = results.engine
    rate = engine.messages / max(results.replayed_s - engine.stalled_s, 1e-3)
    fees = sum(position.fees for position in engine.account.positions.values()) / MONEY
    _heading(how, f"Run: {results.ended} after {times.spoken(results.replayed_s)}")
    trades = f"{engine.trades:,} paper trades, PnL {render.number(engine.pnl)} USDT"
    lines = [
        f"{engine.messages:,} messages ({rate:,.0f} a second), {engine.malformed:,} malformed",
        f"{trades} after {render.number(fees)} fees",
        f"the position limit cut {engine.account.limited:,} orders",
        f"sentiment was asked {results.client.asked:,} times, {results.client.failed:,} failed",
    ]
    if results.damage:
        lines.append(f"the feed is damaged after that: {results.damage}")
    if results.problem:
        lines.append(f"nothing was recorded: {results.problem}")
    for text in lines:
        render.line(how, text)


def _rollups(how: Look, where: Place, results: Results) -> None:
    rows = list(_rollup_rows(how, where, results))
    spans = {row["interval_seconds"] for row in rows}
    spoken = " and ".join(times.spoken(seconds) for seconds in sorted(spans))
    shared = ", with what earlier runs recorded in them" if results.before.written else ""
    _heading(how, f"Rollups of {spoken or 'this run'}{shared}")
    stats = _STATS if _wide(how) else _NARROW
    columns = [Column("metric"), Column("of"), Column("count", right=True)]
    columns += [*(Column(stat, right=True) for stat in stats), Column("unit"), Column("from")]
    if len({row["interval_start"] for row in rows}) < 2 and not _wide(how):
        columns.pop()
    if rows:
        cells = [_rollup_cells(row, stats, how)[: len(columns)] for row in rows]
        render.table(how, columns, cells)
    else:
        render.line(how, "none")


def _wide(how: Look) -> bool:
    return not how.terminal or shutil.get_terminal_size().columns >= _WIDE_COLUMNS


def _of(labels: Mapping[str, str]) -> str:
    """What tells series of one metric apart: all but the engine, which is the same for all."""
    return " ".join(labels[name] for name in sorted(labels) if name != "engine")


def _rollup_rows(how: Look, where: Place, results: Results) -> Iterator[Mapping[str, Any]]:
    from aggregator.store import query
    from cli import rollups

    began_s = results.began_ns // times.NS
    try:
        with rollups.opened(where) as db:
            yield from query.metrics(
                db,
                interval_s=query.base_s(db),
                start_s=began_s,
                end_s=times.now_ns() // times.NS + 1,
                match={"engine": results.name},
            )
    except (OSError, sqlite3.Error) as problem:
        render.line(how, str(problem))


def _rollup_cells(row: Mapping[str, Any], stats: Sequence[str], how: Look) -> list[Cell]:
    start_ns = parse_rfc3339(row["interval_start"])
    return [
        row["metric"],
        _of(row["labels"]),
        f"{row['count']:,}",
        *(render.number(row[stat]) for stat in stats),
        row["unit"],
        times.show_ns(start_ns, utc=how.utc, precision="minutes")[11:16],
    ]


def _alerts(how: Look, where: Place, results: Results) -> None:
    try:
        everything = known.load(where, everything=True).alerts
    except (Failed, OSError, sqlite3.Error) as problem:
        everything = []
        render.line(how, str(problem))
    shown = [alert for alert in everything if alert.last_seen_ns >= results.began_ns]
    _heading(how, f"Alerts ({results.received:,} messages reached the sink)")
    columns = [Column("rule"), Column("of"), Column("severity"), Column("state")]
    columns += [Column("lasted", right=True), *([Column("value")] if _wide(how) else [])]
    if shown:
        render.table(how, columns, [_alert_cells(alert, how) for alert in reversed(shown)])
    else:
        render.line(how, "none")


def _alert_cells(alert: Alert, how: Look) -> list[Cell]:
    lasted_ns = (alert.resolved_ns or times.now_ns()) - alert.started_ns
    return [
        alert.rule,
        _of(alert.labels),
        Styled(alert.severity.word, alert.severity.word),
        alert.state,
        times.spoken(lasted_ns / times.NS),
        *([measured(alert)] if _wide(how) else []),
    ]


def _records(how: Look, results: Results) -> None:
    _heading(how, "Records")
    read = results.after.read - results.before.read
    lost = results.after.lost - results.before.lost
    render.line(
        how,
        f"{results.written:,} written, {read:,} read by the service, {lost:,} lost, "
        f"{results.rejected:,} rejected",
    )
    if unread := results.written - read - lost:
        render.line(
            how, f"{unread:,} were not read when the demo ended; the service takes them in later"
        )
    if costs := results.engine.record_costs_ns():
        render.line(
            how,
            f"a record cost {costs[len(costs) // 2] / 1000:.2f} us (median of {len(costs):,} "
            f"measured while trading; p99 {costs[len(costs) * 99 // 100] / 1000:.2f} us)",
        )


def _next(how: Look, where: Place) -> None:
    program = "python -m cli" if sys.argv[0].endswith("__main__.py") else "tickwatch"
    where_else = where.data_dir != DEFAULT_DATA_DIR.absolute()
    option = f" --data-dir {where.data_dir}" if where_else else ""
    _heading(how, "Try next")
    for command in ("metrics show --interval 5m", "alerts list --all", "status"):
        render.line(how, f"{program} {command}{option}")


def _heading(how: Look, text: str) -> None:
    render.line(how, "")
    render.line(how, Styled(text, "bold"))
