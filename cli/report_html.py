"""A report as a page of its own: one file, nothing loaded from anywhere, made for a phone first.

Every text from outside is escaped here, and the page forbids scripts and requests, so that neither
a label nor a message can do anything in it.
"""

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime
from typing import Any

from cli import render, report_plots, report_rows, rollups, times
from cli.render import Look
from cli.report import answer, what
from cli.report_facts import Answered, Facts, ended_ns
from cli.report_rows import Row
from cli.times import NS
from notifier.alert import Severity
from notifier.delivery import DEAD, DELIVERED, PENDING
from notifier.printable import printable

_MOST_PLOTS = 8
_FOLDED = 12  # rows above which a table shows only when it is asked for
_MOST_ALERTS = 200
_MOST_GAPS = 50

_STYLE = """
:root { color-scheme: light dark; --back: #fff; --card: #f4f5f7; --ink: #1c1e21; --dim: #666;
  --line: #d8dadd; --critical: #d1495b; --warning: #d98e04; --info: #3d85c6; --ok: #2a9d8f; }
@media (prefers-color-scheme: dark) { :root { --back: #16181b; --card: #22252a; --ink: #e6e7e9;
  --dim: #9a9fa6; --line: #383c42; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 16px; max-width: 1100px; background: var(--back);
  color: var(--ink); font: 16px/1.45 system-ui, sans-serif; }
h1 { font-size: 1.3rem; margin: 0 0 4px; }
h2 { font-size: 1.1rem; margin: 28px 0 8px; }
h3 { font-size: .95rem; margin: 0 0 2px; font-weight: 600; overflow-wrap: anywhere; }
p { margin: 4px 0; }
.dim { color: var(--dim); font-size: .85rem; overflow-wrap: anywhere; }
.figures { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr));
  margin: 16px 0; }
.figure, .alert, figure { background: var(--card); border-radius: 8px; padding: 10px 12px; }
.figure b { display: block; font-size: 1.35rem; font-variant-numeric: tabular-nums; }
.cards { display: grid; gap: 8px; grid-template-columns: repeat(auto-fit, minmax(320px, 1fr)); }
.alert { border-left: 5px solid var(--info); }
.alert.critical { border-color: var(--critical); }
.alert.warning { border-color: var(--warning); }
.word { font-weight: 600; text-transform: uppercase; font-size: .75rem; letter-spacing: .04em; }
.critical .word, .bad { color: var(--critical); }
.warning .word { color: var(--warning); }
figure { margin: 0; max-width: 620px; }
svg { display: block; width: 100%; height: auto; stroke-linejoin: round; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .84rem;
  font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: 5px 0 5px 8px; border-bottom: 1px solid var(--line);
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal;
  min-width: 5rem; overflow-wrap: break-word; }
.texts th, .texts td { text-align: left; }
@media (max-width: 430px) { table { font-size: .76rem; } th, td { padding-left: 5px; } }
.texts td:last-child { white-space: normal; }
summary { cursor: pointer; padding: 6px 0; color: var(--dim); }
th { font-weight: 600; color: var(--dim); white-space: normal; vertical-align: bottom; }
"""


def page(facts: Facts, before: Facts, how: Look) -> str:
    """The whole page."""
    since, until = (
        times.show_s(at, utc=how.utc, precision="minutes") for at in (facts.start_s, facts.end_s)
    )
    length = times.spoken(facts.end_s - facts.start_s)
    body = [
        f"<h1>{_text(since)} to {_text(until)}</h1>",
        f'<p class="dim">{_text(length)} of {_text(str(facts.where.data_dir))}</p>',
        *(f'<p class="bad">not in this report: {_text(each)}</p>' for each in facts.missing),
        _figures(facts, before),
        *_alerts(facts, how),
        *_pnl(facts, before, how),
        *_latency(facts, before, how),
        *_deliveries(facts),
        *_gaps(facts, how),
        _footer(facts, before, how),
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>tickwatch report {_text(since)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{chr(10).join(part for part in body if part)}\n</body>\n</html>\n"
    )


def _footer(facts: Facts, before: Facts, how: Look) -> str:
    made = _text(times.show_ns(facts.at_ns, utc=how.utc))
    began = _text(_time(before.start_s, how))
    return f'<p class="dim">tickwatch report, made {made}; the period before began {began}</p>'


def _text(text: str) -> str:
    return html.escape(printable(text))


def _time(at_s: float, how: Look) -> str:
    """Day and time; year and zone stand at the top of the page."""
    return f"{_moment(at_s, how):%d %b %H:%M}"


def _moment(at_s: float, how: Look) -> datetime:
    moment = datetime.fromtimestamp(at_s, UTC)
    return moment if how.utc else moment.astimezone()


def _figures(facts: Facts, before: Facts) -> str:
    """The few numbers that everybody looks for, each beside the period before."""
    counts, earlier = report_rows.alert_counts(facts), report_rows.alert_counts(before)
    total, old = (sum(each[s.word] for s in Severity) for each in (counts, earlier))
    rows = [report_rows.delivery_row(tally) for tally in facts.deliveries]
    dead = sum(row[DEAD] for row in rows)
    ack = counts["median_seconds_to_ack"]
    lost = "unknown" if facts.lost is None else f"{facts.lost:,}"
    figures = [
        ("alerts", f"{total:,}", f"{counts['critical']} critical, before {old}", False),
        (
            "time to acknowledge",
            "-" if ack is None else times.spoken(ack),
            f"median, {counts['acknowledged']} of {total} acknowledged",
            False,
        ),
        *(_pnl_figure(row, before) for row in map(report_rows.pnl_row, facts.pnl)),
        ("records", f"{facts.records:,}", f"before {before.records:,}", False),
        ("lost records", lost, "overwritten before they were read", facts.lost != 0),
        ("messages", f"{sum(r[DELIVERED] for r in rows):,}", f"delivered, {dead} dead", dead > 0),
    ]
    cards = (
        f'<div class="figure"><span class="dim">{_text(name)}</span>'
        f"<b{' class=bad' if bad else ''}>{_text(value)}</b>"
        f'<span class="dim">{_text(more)}</span></div>'
        for name, value, more, bad in figures
    )
    return f'<div class="figures">{"".join(cards)}</div>'


def _pnl_figure(row: Row, before: Facts) -> tuple[str, str, str, bool]:
    engine = row["labels"].get("engine", "")
    low, high = (render.number(_short(row[name])) for name in ("min", "max"))
    value = f"{render.number(_short(row['last']))} {row['unit']}".rstrip()
    return f"pnl {engine}".rstrip(), value, f"{low} to {high}", row["last"] < 0


def _short(value: float) -> float:
    """Money without fractions that nobody reads on a phone."""
    return round(value) if abs(value) >= 1000 else round(value, 2)


def _alerts(facts: Facts, how: Look) -> Iterable[str]:
    yield f"<h2>Alerts ({len(facts.alerts)})</h2>"
    if not facts.alerts:
        yield '<p class="dim">none</p>'
        return
    span = (facts.start_s, facts.end_s)
    plot = report_plots.alerts(facts.alerts, span, facts.at_ns, utc=how.utc)
    yield _figure("when which rule was firing; a tick marks the acknowledgement", plot)
    shown = sorted(facts.alerts, key=_urgency)
    cards = "".join(_alert(one, facts, how) for one in shown[:_MOST_ALERTS])
    yield f'<div class="cards" style="margin-top:8px">{cards}</div>'
    if len(shown) > _MOST_ALERTS:
        yield f'<p class="dim">and {len(shown) - _MOST_ALERTS} more: see report --json</p>'


def _urgency(one: Answered) -> tuple[bool, int, int]:
    """Sorts what still fires first, then by severity, then by age."""
    return ended_ns(one.alert) is not None, -one.alert.severity, one.alert.started_ns


def _alert(one: Answered, facts: Facts, how: Look) -> str:
    alert, row = one.alert, report_rows.alert_row(one, facts.at_ns)
    lasted = times.spoken(row["seconds_firing"])
    when = f"{_time(alert.started_ns / NS, how)}, for {lasted}"
    when += "" if row["resolved_at"] else ", still firing"
    when += f", {row['count']:,} times" if row["count"] > 1 else ""
    said = answer(one)
    lines = [
        f'<span class="word">{_text(row["severity"])}</span>',
        f"<h3>{_text(row['rule'])}</h3>",
        f"<p>{_text(row['message'])}</p>" if row["message"] else "",
        f'<p class="dim">{_text(render.labels(row["labels"]))}</p>',
        f'<p class="dim">{_text(when)}</p>',
        f'<p class="dim">acknowledged by {_text(said)}</p>'
        if said
        else '<p class="dim">not acknowledged</p>',
    ]
    return f'<div class="alert {_text(row["severity"])}">{"".join(lines)}</div>'


def _figure(caption: str, svg: str) -> str:
    text = _text(caption)
    labelled = svg.replace("<svg", f'<svg role="img" aria-label="{text}"', 1)
    return f'<figure><p class="dim">{text}</p>{labelled}</figure>'


def _pnl(facts: Facts, before: Facts, how: Look) -> Iterable[str]:
    if not facts.pnl:
        return
    span = (facts.start_s, facts.end_s)
    yield "<h2>PnL</h2>"
    plots = (
        _figure(render.labels(one.labels), report_plots.pnl(one, span, utc=how.utc))
        for one in facts.pnl[:_MOST_PLOTS]
    )
    yield f'<div class="cards">{"".join(plots)}</div>'
    rows = []
    for row in map(report_rows.pnl_row, facts.pnl):
        name = " ".join(row["labels"].values())
        for day in row["days"]:
            title = f"{name} {date.fromisoformat(day['day']):%d %b}"
            rows.append([title, *_numbers(day, ("last", "min", "max"))])
    table = _table(("", "last", "lowest", "highest"), rows)
    if len(rows) > _FOLDED:
        table = f"<details><summary>day by day</summary>{table}</details>"
    yield table


def _numbers(row: Row, names: Sequence[str]) -> list[str]:
    return [render.number(_short(row[name])) for name in names]


def _latency(facts: Facts, before: Facts, how: Look) -> Iterable[str]:
    rows = report_rows.latency_rows(facts, before)
    if not rows:
        return
    span = (facts.start_s, facts.end_s)
    yield "<h2>Latency</h2>"
    busiest = sorted(rows, key=lambda row: -row["count"])[:_MOST_PLOTS]
    plots = []
    for row in busiest:
        over_time = facts.over_time.get(rollups.series_key(row), [])
        if len(over_time) > 1:
            plot = report_plots.latency(over_time, span, utc=how.utc)
            plots.append(_figure(report_plots.series_name(row), plot))
    yield f'<div class="cards">{"".join(plots)}</div>' if plots else ""
    yield _table(
        ("", "p50", "p99", "max", "p99 vs before"),
        [
            [
                f"{row['metric']} {' '.join(row['labels'].values())} ({row['unit']})",
                *(render.number(float(f"{row[stat]:.3g}")) for stat in ("p50", "p99", "max")),
                _change(row),
            ]
            for row in rows
        ],
    )


def _change(row: Row) -> str:
    change = row["p99_change_pct"]
    return "-" if change is None else f"{change:+,.0f} %"


def _deliveries(facts: Facts) -> Iterable[str]:
    rows = [report_rows.delivery_row(tally) for tally in facts.deliveries]
    if not rows:
        return
    yield "<h2>Messages</h2>"
    yield _table(
        ("", DELIVERED, DEAD, PENDING, "median"),
        [
            [
                row["plugin"],
                *(f"{row[name]:,}" for name in (DELIVERED, DEAD, PENDING)),
                "-" if row["median_seconds"] is None else times.spoken(row["median_seconds"]),
            ]
            for row in rows
        ],
    )


def _gaps(facts: Facts, how: Look) -> Iterable[str]:
    if not facts.gaps:
        return
    yield "<h2>Gaps</h2>"
    rows = [[gap.engine, _time(gap.start_s, how), what(gap)] for gap in facts.gaps[:_MOST_GAPS]]
    yield _table(("", "from", "what"), rows, "texts")
    if len(facts.gaps) > _MOST_GAPS:
        yield f'<p class="dim">and {len(facts.gaps) - _MOST_GAPS} more: see report --json</p>'


def _table(titles: Sequence[str], rows: Iterable[Sequence[Any]], kind: str = "") -> str:
    head = "".join(f"<th>{_text(title)}</th>" for title in titles)
    lines = (f"<tr>{''.join(f'<td>{_text(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f'<div class="wide {kind}"><table><tr>{head}</tr>{"".join(lines)}</table></div>'
