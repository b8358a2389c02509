"""A report's plots, as SVG inside a page: nothing to load, readable on a phone, day or night.

Only this module imports matplotlib (0.5 s, numpy), and no global state of it is used.  Text stays
text, in the page's own font and colour.
"""

import io
import logging
import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from matplotlib import rc_context
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

from aggregator.store.course import Course, Point
from cli import render, rollups
from cli.report_facts import Answered, ended_ns
from cli.times import NS

Row = Mapping[str, Any]
Axes = Any  # what matplotlib says of its types changes with each version
Draw = Callable[[Axes], None]

_SIZE_IN = (4.0, 2.1)
_ROW_IN = 0.26  # of one rule in the timeline of alerts
_INK = "#123457"  # stands for the page's own text colour, which depends on day or night
_BLUE, _GREEN, _YELLOW, _RED = "#3d85c6", "#2a9d8f", "#d98e04", "#d1495b"
SEVERITY_COLOURS = {"critical": _RED, "warning": _YELLOW, "info": _BLUE}
_LATENCY = (("p50", _GREEN), ("p99", _YELLOW), ("max", _RED))
_MOST_POINTS = 400
_MOST_TICKS = 6
_DAY_S = 86_400
_TICKS_S = (
    300, 600, 900, 1800, 3600, 7200, 10_800, 14_400, 21_600, 43_200,
    *(days * _DAY_S for days in (1, 2, 7, 14, 28, 91, 365)),
)  # fmt: skip
_LOG_FROM = 20.0  # a max so many times the median needs a logarithmic scale
_LOOK: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": 8.0,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _INK,
    "axes.linewidth": 0.5,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "grid.color": _INK,
    "grid.alpha": 0.15,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
}

logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells of caches it builds


def latency(rows: Sequence[Row], span_s: tuple[int, int], *, utc: bool) -> str:
    """p50, p99 and max of one series over time.

    Args:
        rows: of intervals, in order of time; where one is missing the lines break.
    """
    unit = rows[0]["unit"]

    def draw(axes: Axes) -> None:
        at = _middles(rows)
        worst = max(row["max"] for row in rows)
        for stat, colour in _LATENCY:
            values = rollups.course([dict(row) for row in rows], stat)
            _line(axes, at, values, color=colour, label=stat)
        middle = sorted(row["p50"] for row in rows)[len(rows) // 2]
        if middle > 0 and worst > _LOG_FROM * middle and min(r["p50"] for r in rows) > 0:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(numticks=6))
            axes.minorticks_off()
        axes.legend(ncols=3, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0)

    return _svg(f"latency {series_name(rows[0])}", draw, span_s, unit, utc=utc)


def _middles(rows: Sequence[Row]) -> list[float]:
    """Epoch seconds of the middle of each interval from the first on, missing ones included."""
    at: list[float] = []
    expected: int | None = None
    for row in rows:
        start_s, step_s = rollups.start_of(dict(row)), row["interval_seconds"]
        if expected is not None:
            gaps = min(1000, max(0, (start_s - expected) // step_s))
            at += [expected + (i + 0.5) * step_s for i in range(gaps)]
        at.append(start_s + step_s / 2)
        expected = start_s + step_s
    return at


def _line(axes: Axes, at: Sequence[float], values: Sequence[float | None], **look: Any) -> None:
    """A line that breaks where a value is missing; one that stands alone is a dot."""
    known = [value is not None and not math.isnan(value) for value in values]
    around = [False, *known, False]
    alone = [i for i, here in enumerate(known) if here and not around[i] and not around[i + 2]]
    if alone:
        look |= {"marker": "o", "markersize": 3, "markevery": alone}
    axes.plot(at, values, **look)


def pnl(one: Course, span_s: tuple[int, int], *, utc: bool) -> str:
    """A running total over time, with its extremes in each interval."""

    points = thinned(one.points)

    def draw(axes: Axes) -> None:
        at: list[float] = []
        last: list[float] = []
        low: list[float] = []
        high: list[float] = []
        for point in points:
            if at and point.start_s > at[-1]:  # nothing was recorded: the line breaks
                at.append(point.start_s)
                for values in (last, low, high):
                    values.append(float("nan"))
            at.append(point.end_s)
            last.append(point.last)
            low.append(point.minimum)
            high.append(point.maximum)
        axes.fill_between(at, low, high, color=_BLUE, alpha=0.25, linewidth=0)
        _line(axes, at, last, color=_BLUE)
        axes.axhline(0.0, color=_INK, linewidth=0.5)
        axes.yaxis.set_major_locator(MaxNLocator(5))

    return _svg(f"pnl {series_name(one)}", draw, span_s, one.unit, utc=utc)


def thinned(points: Sequence[Point]) -> list[Point]:
    """At most about _MOST_POINTS, each the merge of some that follow each other without a gap."""
    share = -(-len(points) // _MOST_POINTS)
    found: list[Point] = []
    merged = share
    for point in points:
        if merged >= share or found[-1].end_s != point.start_s:
            found.append(point)
            merged = 1
            continue
        before = found[-1]
        low, high = min(before.minimum, point.minimum), max(before.maximum, point.maximum)
        found[-1] = Point(before.start_s, point.end_s, before.first, low, high, point.last)
        merged += 1
    return found


def alerts(found: Sequence[Answered], span_s: tuple[int, int], now_ns: int, *, utc: bool) -> str:
    """When which rule was firing; a tick marks the acknowledgement."""
    rules = list(dict.fromkeys(one.alert.rule for one in found))

    def draw(axes: Axes) -> None:
        least_s = (span_s[1] - span_s[0]) / 150  # so that a short one can be seen
        for one in found:
            alert = one.alert
            begins_s = alert.started_ns / NS
            lasts_s = max(least_s, ((ended_ns(alert) or now_ns) / NS) - begins_s)
            place = rules.index(alert.rule)
            colour = SEVERITY_COLOURS[alert.severity.word]
            axes.barh(place, lasts_s, left=begins_s, height=0.6, color=colour, alpha=0.85)
            if one.at_ns is not None and one.after_s:
                axes.plot([one.at_ns / NS] * 2, [place - 0.4, place + 0.4], color=_INK)
        axes.set_yticks(range(len(rules)), rules)
        axes.set_ylim(len(rules) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)

    height = 0.5 + _ROW_IN * max(2, len(rules))
    return _svg("alerts", draw, span_s, None, utc=utc, height=height)


def series_name(of: Any) -> str:
    """A series' name for its plot."""
    labels = of["labels"] if isinstance(of, Mapping) else of.labels
    metric = of["metric"] if isinstance(of, Mapping) else of.metric
    return f"{metric} {render.labels(labels)}"


def _svg(
    name: str,
    draw: Draw,
    span_s: tuple[int, int],
    unit: str | None,
    *,
    utc: bool,
    height: float = _SIZE_IN[1],
) -> str:
    """One plot as an <svg> element that takes the width it is given.

    Args:
        unit: of the vertical axis; None: it has names.
    """
    with rc_context({**_LOOK, "svg.hashsalt": name}):
        figure = Figure(figsize=(_SIZE_IN[0], height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        draw(axes)
        axes.set_xlim(*span_s)
        at = ticks(span_s, utc=utc)
        axes.set_xticks([each for each, _ in at], [label for _, label in at])
        axes.grid(axis="both" if unit is not None else "x")
        if unit is not None:
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: render.number(value)))
            axes.set_title(unit, loc="right", fontsize=8)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True)
    return _inline(written.getvalue())


def ticks(span_s: tuple[int, int], *, utc: bool) -> list[tuple[float, str]]:
    """A few round local times in [start, end] and what is written at them.

    The first one, and each that begins a day, is written with its date.
    """
    start_s, end_s = span_s
    step_s = next((s for s in _TICKS_S if (end_s - start_s) / s <= _MOST_TICKS), _TICKS_S[-1])
    begins = datetime.fromtimestamp(start_s, UTC)
    if not utc:  # without a zone from here on: adding a day is a day, whatever the clocks do
        begins = begins.astimezone().replace(tzinfo=None)
    wall = begins.replace(hour=0, minute=0, second=0, microsecond=0)
    found: list[tuple[float, str]] = []
    while (at_s := wall.timestamp()) <= end_s:
        if at_s >= start_s:
            day = f"{wall:%d %b}"
            label = day if step_s >= _DAY_S else f"{wall:%H:%M}"
            if label != day and (not found or wall.hour == wall.minute == 0):
                label += f"\n{day}"
            found.append((at_s, label))
        wall += timedelta(seconds=step_s)
    return found


def _inline(svg: str) -> str:
    """matplotlib's file as an element of a page: no prologue, no metadata, no fixed size or font,
    and the page's own colour for text and axes."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = re.sub(r' id="[a-zA-Z0-9.]+_\d+"', "", svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", r"font: \1 system-ui, sans-serif", svg)
    svg = re.sub(r"font-family: [^;\"]+", "font-family: system-ui, sans-serif", svg)
    return svg.replace(_INK, "currentColor")
