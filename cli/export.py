"""`metrics export`: rows of rollups as CSV or JSON lines, for spreadsheets and programs.

Rows are written as they are read, so memory stays flat however long the range is.  A file appears
under its name only when it is complete.
"""

import csv
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from cli import known, place, render, rollups
from cli.problems import UsageError, suggestion
from cli.rollups import Row
from notifier.printable import printable

FIELDS = (
    "metric", "labels", "unit", "interval_start", "interval_end", "interval_seconds",
    "count", "min", "max", "avg", "sum", "p50", "p90", "p99", "p999", "lost", "partial",
)  # fmt: skip
_FORMATS = ("csv", "json")
# A cell that begins so is a formula to a spreadsheet, whatever quotes are around it.
# Source: OWASP, "CSV Injection".
_FORMULA = tuple("=+-@\t\r\n＝＋－＠")
_PROGRESS_S = 0.5


def main(args: Mapping[str, Any]) -> int:
    """Write rows to stdout or to a file."""
    render.look(args)
    write = _writer(args)
    where = place.find(args)
    known.require(where)
    with rollups.opened(where) as db:
        asked = rollups.question(args, db)
        with _destination(args["--output"]) as file:
            count = write(_counted(rollups.intervals(db, asked)), file)
    if args["--output"] is not None:
        render.note(f"{count:,} rows in {args['--output']}")
    elif not count:
        render.note("no records in that range: see `tickwatch metrics export --help`")
    return 0


def _writer(args: Mapping[str, Any]) -> Callable[[Iterator[Row], TextIO], int]:
    word = args["--format"] or ("json" if args["--json"] else "csv")
    if word not in _FORMATS:
        raise UsageError(f"--format={word}: use csv or json{suggestion(word, _FORMATS)}")
    return write_csv if word == "csv" else write_json


def write_json(rows: Iterator[Row], file: TextIO) -> int:
    """One object a line; how many."""
    count = 0
    for row in rows:
        file.write(render.json_text(row) + "\n")
        count += 1
    return count


def write_csv(rows: Iterator[Row], file: TextIO) -> int:
    """A header and one line a row; how many rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(FIELDS)
    texts: dict[tuple[str, str, int], tuple[str, str, str]] = {}
    count = 0
    for row in rows:
        # The labels of all rows of a series are one and the same object.
        key = (row["metric"], row["unit"], id(row["labels"]))
        known_texts = texts.get(key)
        if known_texts is None:
            labels = json.dumps(row["labels"], ensure_ascii=True, sort_keys=True)
            known_texts = (harmless(row["metric"]), labels, harmless(row["unit"]))
            texts[key] = known_texts
        partial = "true" if row["partial"] else "false"
        writer.writerow([*known_texts, *map(row.__getitem__, FIELDS[3:-1]), partial])
        count += 1
    return count


def harmless(text: str) -> str:
    """*text* so that no spreadsheet takes it for a formula and no terminal for a command."""
    return f"'{printable(text)}" if text.lstrip(" ").startswith(_FORMULA) else printable(text)


def _counted(rows: Iterator[Row]) -> Iterator[Row]:
    """*rows*, with a count on a terminal's stderr while it takes long."""
    if not sys.stderr.isatty():
        yield from rows
        return
    due_s, shown = time.monotonic() + _PROGRESS_S, False
    for number, row in enumerate(rows):
        if number % 1000 == 0 and time.monotonic() >= due_s:
            due_s, shown = time.monotonic() + _PROGRESS_S, True
            print(f"\r{number:,} rows", end="", file=sys.stderr, flush=True)
        yield row
    if shown:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def _destination(named: str | None) -> Iterator[TextIO]:
    """Stdout, or a file beside *named* that takes its name at the end.

    Raises:
        OSError: it can't be written; nothing is left behind.
    """
    if named is None or named == "-":
        yield sys.stdout
        return
    path = Path(named)
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory", named)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
