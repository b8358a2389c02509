"""Put results on a screen, into a pipe, or out as JSON.

On a terminal: tables that fold, and colour, by rich, which is imported nowhere else and only then
(it takes 48 ms).  In a pipe: aligned plain text without colour, boxes or truncation.  Text from
outside passes :func:`printable` here, in every cell, so that no label or message can act on a
terminal.
"""

import json
import math
import os
import sys
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from notifier.printable import printable

_STYLES = {
    "critical": "bold red",
    "warning": "yellow",
    "info": "cyan",
    "ok": "green",
    "dim": "dim",
    "bold": "bold",
}
_FINER = {"s": "ms", "ms": "us", "us": "ns"}
_BLOCKS = "▁▂▃▄▅▆▇█"
_ASCII_BLOCKS = "_.:-=+*#"
SPARK_WIDTH = 24
_INDENT = 2  # columns before the rest of a line that doesn't fit
_CLEAR = frozenset({"metric", "labels", "id", "rule", "severity", "state", "time", "check"})
_FOLDED = 12  # columns that a text still needs to be readable when it folds


@dataclass(frozen=True)
class Look:
    """How output may look: decided once per command from options, environment and stdout."""

    json: bool = False
    terminal: bool = False
    colour: bool = False
    unicode: bool = True
    utc: bool = False


@dataclass(frozen=True)
class Styled:
    """Text with one of the styles above; the plain text in a pipe."""

    text: str
    style: str


Cell = str | Styled


@dataclass(frozen=True)
class Column:
    """A column's title; numbers (``right``) and what must stay ``whole`` never fold."""

    title: str
    right: bool = False
    whole: bool = False


def look(args: Mapping[str, Any]) -> Look:
    """The look of this command's output; no character can make printing fail afterwards."""
    stream = sys.stdout
    if hasattr(stream, "reconfigure"):
        stream.reconfigure(errors="backslashreplace")
    # The variables' meaning: no-color.org, and terminfo's "dumb" for a terminal without cursor
    # control.
    smart = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    return Look(
        json=bool(args.get("--json")),
        terminal=smart,
        colour=smart and not os.environ.get("NO_COLOR") and not args.get("--no-color"),
        unicode=(stream.encoding or "ascii").lower().replace("_", "-") in ("utf-8", "utf8"),
        utc=bool(args.get("--utc")),
    )


def note(text: str) -> None:
    """One line for the operator on stderr; stdout stays data."""
    print(printable(text), file=sys.stderr)


def json_rows(rows: Iterable[Mapping[str, Any]]) -> None:
    """One array, a row a line, written as the rows come; ASCII, so nothing acts on a terminal."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json_text(row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


def json_text(value: object) -> str:
    """*value* as JSON on one line; a number that JSON doesn't have is refused."""
    return json.dumps(value, ensure_ascii=True, allow_nan=False, default=str)


def line(how: Look, *cells: Cell) -> None:
    """Print one line of *cells*, joined by spaces; on a terminal what doesn't fit is indented."""
    if not how.terminal:
        print(" ".join(_plain(cell) for cell in cells))
        return
    from rich.text import Text

    text = Text(" ").join(Text(_plain(cell), style=_style(cell)) for cell in cells)
    screen = console(how)
    if text.cell_len > screen.width > 2 * _INDENT:
        pieces = text.wrap(screen, screen.width - _INDENT, overflow="fold")
        text = Text("\n" + " " * _INDENT).join(pieces)
    screen.print(text, overflow="fold")


def table(how: Look, columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> None:
    """Print *rows* under *columns*' titles; an empty cell is "-", so columns can be counted.

    Where a terminal is too narrow for a table even when texts fold, each row becomes a few lines.
    """
    if how.terminal:
        rows = list(rows)
        screen = console(how)
        fits = _narrowest(columns, rows) <= screen.width
        screen.print(rich_table(columns, rows) if fits else rich_cards(columns, rows, screen.width))
        return
    cells = [[column.title for column in columns]]
    cells += [[_plain(cell) or "-" for cell in row] for row in rows]
    for text in aligned(columns, cells):
        print(text)


def _narrowest(columns: Sequence[Column], rows: Sequence[Sequence[Cell]]) -> int:
    """Columns of a screen that the table needs when every text that may fold does."""
    total = 2 * (len(columns) - 1)
    for index, column in enumerate(columns):
        width = max(_width(column.title), *(_width(_plain(row[index])) for row in rows), 1)
        total += width if column.right or column.whole else min(width, _FOLDED)
    return total


def aligned(columns: Sequence[Column], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """*rows* as lines with aligned columns, two spaces between them."""
    widths = [max(map(_width, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            " " * (width - _width(cell)) + cell
            if column.right
            else cell + " " * (width - _width(cell))
            for column, width, cell in zip(columns, widths, row, strict=True)
        )
        yield "  ".join(padded).rstrip()


def rich_table(columns: Sequence[Column], rows: Iterable[Sequence[Cell]]) -> Any:
    """The same as a rich table; markup in data stays text."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        shown.add_column(
            column.title,
            justify="right" if column.right else "left",
            no_wrap=column.right or column.whole,
            overflow="fold",
        )
    for row in rows:
        shown.add_row(*(Text(_plain(cell) or "-", style=_style(cell)) for cell in row))
    return shown


def rich_cards(columns: Sequence[Column], rows: Iterable[Sequence[Cell]], width: int) -> Any:
    """Each row as lines of "title value" pairs, which stay together; what is clear has no title."""
    from rich.text import Text

    cards = Text()
    for row in rows:
        used = 0
        for column, cell in zip(columns, row, strict=True):
            text = _plain(cell)
            if not text:
                continue
            title = "" if column.title in _CLEAR else f"{column.title} "
            pair = Text.assemble((title, "dim"), (text, _style(cell)))
            if used and used + 2 + pair.cell_len > width:
                cards.append("\n  ")
                used = 2
            elif used:
                cards.append("  ")
                used += 2
            cards.append_text(pair)
            used += pair.cell_len
        cards.append("\n")
    cards.rstrip()
    return cards


def console(how: Look) -> Any:
    """A rich console on stdout that colours only when it may."""
    from rich.console import Console

    return Console(no_color=not how.colour, highlight=False, markup=False, emoji=False)


def _plain(cell: Cell) -> str:
    return printable(cell.text if isinstance(cell, Styled) else cell)


def _style(cell: Cell) -> str:
    return _STYLES[cell.style] if isinstance(cell, Styled) else ""


def _width(text: str) -> int:
    """Columns that *text* takes on a screen: two for wide characters, none for combining ones."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def number(value: float | None) -> str:
    """*value* for people: about four digits, thousands separated, rarely an exponent."""
    if value is None or not math.isfinite(value):
        return "-"
    size = abs(value)
    if value == int(value) and size < 1e15:
        return f"{int(value):,}"
    if size >= 1e15 or size < 1e-6:
        return f"{value:.3e}"
    # Four significant digits, but never fewer than two decimals above 1000: money counts.
    decimals = max(2 if size >= 1000 else 0, 3 - math.floor(math.log10(size)))
    text = f"{value:,.{decimals}f}"
    return text.rstrip("0").rstrip(".") if size < 1000 else text


def quantity(value: float | None, unit: str) -> str:
    """*value* with its unit, such as ``812.4 ms`` or ``4.5 %``."""
    text = number(value)
    return text if not unit or value is None else f"{text} {'%' if unit in ('pct', '%') else unit}"


def duration(value: float | None, unit: str) -> str:
    """*value* with its unit, a short time in a readable one: 0.00083 ms is 830 ns."""
    while value is not None and unit in _FINER and 0 < abs(value) < 1:
        value, unit = value * 1000, _FINER[unit]
    return quantity(value, unit)


def share(part: float, whole: float) -> str:
    """*part* of *whole* in percent; "-" of nothing."""
    return f"{100 * part / whole:.1f} %" if whole else "-"


def labels(of: Mapping[str, str]) -> str:
    """Labels as ``engine=intraday strategy=swing``: the engine first, the rest by name."""
    names = sorted(of, key=lambda name: (name != "engine", name))
    return " ".join(f"{name}={of[name]}" for name in names)


def sparkline(values: Sequence[float | None], how: Look, width: int = SPARK_WIDTH) -> str:
    """The course of *values* in at most *width* characters, each the mean of its share.

    A gap stays a space.
    """
    blocks = _BLOCKS if how.unicode else _ASCII_BLOCKS
    shrunk = _shrink(values, width)
    known = [value for value in shrunk if value is not None]
    if not known:
        return ""
    low, high = min(known), max(known)
    # Scaled first: the difference of two large finite numbers may not be finite.
    size = max(abs(low), abs(high)) or 1.0
    spread = high / size - low / size
    top = len(blocks) - 1
    return "".join(
        " "
        if value is None
        else blocks[round(top * (value / size - low / size) / spread) if spread else top // 2]
        for value in shrunk
    ).rstrip()


def _shrink(values: Sequence[float | None], width: int) -> list[float | None]:
    if len(values) <= width:
        return list(values)
    shares = (
        [
            v
            for v in values[i * len(values) // width : (i + 1) * len(values) // width]
            if v is not None
        ]
        for i in range(width)
    )
    return [sum(v / len(share) for v in share) if share else None for share in shares]
