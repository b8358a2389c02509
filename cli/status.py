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
    Column("metric", whole=True),
    Column("labels"),
    Column("p50", right=True),
    Column("p99", right=True),
    Column("max", right=True),
    Column("p99 trend", whole=True),
)
_PLUGINS = (
    Column("told by"),
    Column("delivered", right=True),
    Column("dead", right=True),
    Column("success, 1 h", right=True),
    Column("ever", right=True),
    Column("pending", right=True),
    Column("oldest", right=True),
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
    """Paint over what is there, without a flicker.

    What doesn't fit is left out among the latencies; only what still doesn't is cut at the bottom.
    """
    room, series = _height() - 1, len(found.performance)
    lines = _drawn(found, how, series)
    while len(lines) > room and series:
        series = max(0, series - max(1, (len(lines) - room) // 3))
        lines = _drawn(found, how, series)
    while series < len(found.performance):
        more = _drawn(found, how, series + 1)
        if len(more) > room:
            break
        series, lines = series + 1, more
    # Cleared before it is written: behind a full line the cursor still stands on its last column.
    shown = "".join(f"\x1b[2K{line}\n" for line in lines[:room])
    sys.stdout.write(f"\x1b[H{shown}\x1b[J")
    sys.stdout.flush()


def _drawn(found: Condition, how: Look, series: int) -> list[str]:
    drawn = io.StringIO()
    with contextlib.redirect_stdout(drawn):
        show(found, how, series)
    return drawn.getvalue().splitlines()


def _height() -> int:
    try:
        lines = os.get_terminal_size().lines
    except OSError:
        lines = 0
    return lines or 24  # what a terminal has that doesn't tell


def show(found: Condition, how: Look, series: int | None = None) -> None:
    """The screen, with the latency of at most so many *series*."""
    _head(found, how)
    if not found.where.data_dir.is_dir():
        return
    _service(found, how)
    if found.engines:
        print()
        render.table(how, _ENGINES, [_engine_cells(each, found) for each in found.engines])
    if found.performance:
        _latency(found, how, series)
    for row in found.pnl:
        low, high = render.number(row["min"]), render.number(row["max"])
        now = (
            f"{render.quantity(row['avg'], row['unit'])} ({low} to {high} since {_start(row, how)})"
        )
        render.line(how, f"pnl {render.labels(row['labels'])}: {now}")
    if found.unrolled:
        see = "see `tickwatch metrics summary --hours 1`"
        render.line(how, f"the last hour is in the day files, not all of it in rollups: {see}")
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
        str(each["pid"] or ""),  # unknown after a reboot
        f"{_age(each['last_record_at'], found)} ago" if each["last_record_at"] else "",
        render.number(each["rate"]),
        render.number(each["written"]),
        Styled(lost, "warning") if each["lost"] else lost,
        f"{100 * fill:.1f} %" if fill is not None else "",
    ]


def _latency(found: Condition, how: Look, series: int | None) -> None:
    rows: list[list[Cell]] = [
        [
            row["metric"],
            render.labels(row["labels"]),
            *(render.duration(row[stat], row["unit"]) for stat in ("p50", "p99", "max")),
            render.sparkline(course, how),
        ]
        for row, course in zip(found.performance, found.courses, strict=True)
    ]
    print()
    render.line(how, Styled("latency of the last hour of records", "bold"))
    if rows[:series]:
        render.table(how, _LATENCY, rows[:series])
    if rows[:series] != rows:
        more = f"and {len(rows) - len(rows[:series])} more" if series else f"{len(rows)}"
        render.line(how, f"{more} series: see `tickwatch metrics summary`")


def _deliveries(found: Condition, how: Look) -> None:
    plugins = found.deliveries.get("plugins", [])
    if plugins:
        render.table(how, _PLUGINS, [_plugin_cells(each, found) for each in plugins])
    else:
        render.line(how, "deliveries: no plugin is known: nobody is told of any alert")
    balance = found.deliveries.get("conservation")
    if balance is not None:
        ends = " + ".join(f"{balance[n]} {n}" for n in ("delivered", "dead", "skipped", "pending"))
        holds = "" if balance["holds"] else " (it does NOT add up)"
        render.line(how, f"ledger: {balance['routed']} to tell = {ends}{holds}")
        lines = f"{balance['lines']} lines, {balance['bad']} bad, {balance['gaps']} gaps"
        missing = found.deliveries["missing_lines"]
        render.line(how, f"alert log: {lines}" + (f", {missing} missing" if missing else ""))
    ping = found.deliveries.get("ping", {})
    if ping.get("sent") is not None:
        last = f", the last one {_age(ping['last_at'], found)} ago" if ping["last_at"] else ""
        trouble = f", but now: {ping['problem']}" if ping["problem"] else ""
        render.line(how, f"dead-man service: {render.number(ping['sent'])} pings{last}{trouble}")


def _plugin_cells(each: Mapping[str, Any], found: Condition) -> list[Cell]:
    oldest = each["oldest_pending_at"]
    trouble = str(each["last_error"] or "") if each["failing"] or each["pending"] else ""
    return [
        Styled(each["plugin"], "critical") if each["failing"] else each["plugin"],
        render.number(each["delivered"]),
        render.number(each["dead"] or 0),
        _percent(each["hour"]["rate"]),
        _percent(each["success_rate"]),
        render.number(each["pending"] or 0),
        _age(oldest, found) if oldest else "",
        trouble,
    ]


def _percent(rate: float | None) -> str:
    return f"{100 * rate:.1f} %" if rate is not None else ""


def _age(at: str, found: Condition) -> str:
    return times.spoken(max(0, found.at_ns - parse_rfc3339(at)) / times.NS)


def _start(row: Mapping[str, Any], how: Look) -> str:
    at_ns = parse_rfc3339(row["interval_start"])
    return times.show_ns(at_ns, utc=how.utc, precision="minutes")[11:]
