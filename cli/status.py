"""`status`: one screen that says whether all is well, and why not.

Exits like a monitoring plugin: 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN.
"""

import contextlib
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from cli import condition, interrupts, place, render, times
from cli.condition import CODES, CRITICAL, OK, Condition
from cli.gather import gather
from cli.render import Cell, Column, Look, Styled
from notifier.alert import Severity, parse_rfc3339

REDRAW_S = 1.0
_STYLES = {OK: "ok", CRITICAL: "critical"}
_ENGINE_STYLES = {"alive": "ok", "stopped": "dim"}
_SHOWN_REASONS = 8

_ENGINES = (
    Column("engine"),
    Column("state"),
    Column("pid", right=True),
    Column("last record", right=True),
    Column("rate/s", right=True),
    Column("written", right=True),
    Column("lost", right=True),
    Column("fill", right=True),
)
_LATENCY = (
    Column("latency, 1 h", whole=True),
    Column("labels"),
    Column("p50", right=True),
    Column("p99", right=True),
    Column("max", right=True),
    Column("p99 trend", whole=True),
)
_PLUGINS = (
    Column("told by"),
    Column("delivered", right=True),
    Column("success", right=True),
    Column("pending", right=True),
    Column("dead", right=True),
    Column("trouble"),
)


def main(args: Mapping[str, Any]) -> int:
    """Print the condition; the exit code is its state."""
    how = render.look(args)
    where = place.find(args)
    if args["--watch"]:
        return _watch(args, how)
    found = gather(where)
    try:
        _print(found, how)
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # the state still is the exit code; what is buffered is dealt with by the caller
    return CODES[found.state]


def _print(found: Condition, how: Look) -> None:
    if how.json:
        print(render.json_text(found.row()))
    else:
        show(found, how)


def _watch(args: Mapping[str, Any], how: Look) -> int:
    """Print it again and again until Ctrl-C; the exit code is that of the last state."""
    found: Condition | None = None
    try:
        with interrupts.only_while_waiting() as pause, _screen(how) as paint:
            while True:
                found = gather(place.find(args))
                paint(found)
                pause(_until_resized, REDRAW_S)
    except KeyboardInterrupt:
        return CODES[found.state] if found is not None else CODES[condition.UNKNOWN]


@contextlib.contextmanager
def _screen(how: Look) -> Iterator[Any]:
    """A function that paints a condition: over the last one on a terminal, below it in a pipe.

    At the end the terminal gets its own content and its cursor back.
    """
    if not how.terminal or how.json:
        yield lambda found: _append(found, how)
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGWINCH})  # it is waited for
    # xterm's control sequences: alternate screen, cursor off, no wrapping of long lines.
    sys.stdout.write("\x1b[?1049h\x1b[?25l\x1b[?7l")
    try:
        yield lambda found: _paint(found, how)
    finally:
        sys.stdout.write("\x1b[?7h\x1b[?25h\x1b[?1049l")
        sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _until_resized(seconds: float) -> None:
    """Wait, but not with a screen drawn for a window of another size."""
    signal.sigtimedwait({signal.SIGWINCH}, seconds)


def _append(found: Condition, how: Look) -> None:
    _print(found, how)
    if not how.json:
        print()
    sys.stdout.flush()


def _paint(found: Condition, how: Look) -> None:
    """Paint over what is there, without a flicker; what doesn't fit is cut at the bottom."""
    drawn = io.StringIO()
    with contextlib.redirect_stdout(drawn):
        show(found, how)
    lines = drawn.getvalue().splitlines()[: _height() - 1]
    # Cleared before it is written: behind a full line the cursor still stands on its last column.
    sys.stdout.write("\x1b[H" + "".join(f"\x1b[2K{line}\n" for line in lines) + "\x1b[J")
    sys.stdout.flush()


def _height() -> int:
    try:
        lines = os.get_terminal_size().lines
    except OSError:
        lines = 0
    return lines or 24  # what a terminal has that doesn't tell


def show(found: Condition, how: Look) -> None:
    """The screen."""
    _head(found, how)
    if not found.where.data_dir.is_dir():
        return
    _service(found, how)
    if found.engines:
        print()
        render.table(how, _ENGINES, [_engine_cells(each, found) for each in found.engines])
    if found.performance:
        print()
        render.table(how, _LATENCY, _latency_cells(found, how))
    for row in found.pnl:
        low, high = render.number(row["min"]), render.number(row["max"])
        now = (
            f"{render.quantity(row['avg'], row['unit'])} ({low} to {high} since {_start(row, how)})"
        )
        render.line(how, f"pnl {render.labels(row['labels'])}: {now}")
    print()
    _deliveries(found, how)
    free = f"{found.disk.get('free_bytes', 0) / (1 << 30):,.1f} GiB free"
    render.line(how, f"disk: {render.number(found.disk.get('used_pct'))} % used, {free}")


def _head(found: Condition, how: Look) -> None:
    style = _STYLES.get(found.state, "warning")
    at = times.show_ns(found.at_ns, utc=how.utc)
    render.line(how, Styled(found.state, style), f"{found.where.data_dir}  {at}")
    for reason in found.reasons[:_SHOWN_REASONS]:
        render.line(how, f"  {reason}")
    more = len(found.reasons) - _SHOWN_REASONS
    if more > 0:
        render.line(how, f"  and {more} more: see `tickwatch alerts list`")


def _service(found: Condition, how: Look) -> None:
    if found.service.get("running"):
        text = f"pid {found.service['pid']}"
        if found.service["started_at"]:
            text += f", for {_age(found.service['started_at'], found)}"
    else:
        text = "not running"
    counts = [(found.alerts.get(each.word, 0), each.word) for each in reversed(Severity)]
    counts += [(found.alerts.get(word, 0), word) for word in ("acknowledged", "silenced")]
    said = ", ".join(f"{count} {word}" for count, word in counts if count) or "none"
    render.line(how, f"service: {text}; alerts firing: {said}")


def _engine_cells(each: Mapping[str, Any], found: Condition) -> list[Cell]:
    lost = render.number(each["lost"])
    fill = each["fill"]
    return [
        each["engine"],
        Styled(each["state"], _ENGINE_STYLES.get(each["state"], "critical")),
        str(each["pid"]),
        f"{_age(each['last_record_at'], found)} ago" if each["last_record_at"] else "",
        render.number(each["rate"]),
        render.number(each["written"]),
        Styled(lost, "warning") if each["lost"] else lost,
        f"{100 * fill:.1f} %" if fill is not None else "",
    ]


def _latency_cells(found: Condition, how: Look) -> list[list[Cell]]:
    return [
        [
            row["metric"],
            render.labels(row["labels"]),
            *(render.quantity(row[stat], row["unit"]) for stat in ("p50", "p99", "max")),
            render.sparkline(course, how),
        ]
        for row, course in zip(found.performance, found.courses, strict=True)
    ]


def _deliveries(found: Condition, how: Look) -> None:
    plugins = found.deliveries.get("plugins", [])
    if plugins:
        render.table(how, _PLUGINS, [_plugin_cells(each, found) for each in plugins])
    else:
        render.line(how, "deliveries: no plugin has told anybody anything yet")
    balance = found.deliveries.get("conservation")
    if balance is not None:
        ends = " + ".join(f"{balance[n]} {n}" for n in ("delivered", "dead", "skipped", "pending"))
        holds = "" if balance["holds"] else " (it does NOT add up)"
        render.line(how, f"ledger: {balance['routed']} to tell = {ends}{holds}")
        lines = f"{balance['lines']} lines, {balance['bad']} bad, {balance['gaps']} gaps"
        render.line(how, f"alert log: {lines}")


def _plugin_cells(each: Mapping[str, Any], found: Condition) -> list[Cell]:
    pending = str(each["pending"] or 0)
    if each["oldest_pending_at"]:
        pending += f" ({_age(each['oldest_pending_at'], found)})"
    rate = each["success_rate"]
    trouble = str(each["last_error"] or "") if each["failing"] or each["pending"] else ""
    return [
        Styled(each["plugin"], "critical") if each["failing"] else each["plugin"],
        str(each["delivered"]),
        f"{100 * rate:.1f} %" if rate is not None else "",
        pending,
        str(each["dead"] or 0),
        trouble,
    ]


def _age(at: str, found: Condition) -> str:
    return times.spoken(max(0, found.at_ns - parse_rfc3339(at)) / times.NS)


def _start(row: Mapping[str, Any], how: Look) -> str:
    at_ns = parse_rfc3339(row["interval_start"])
    return times.show_ns(at_ns, utc=how.utc, precision="minutes")[11:]
