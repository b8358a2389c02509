"""`metrics export`: rows of rollups, or raw records, as CSV or JSON lines.

They are written as they are read, so memory stays flat however long the range is.  A file appears
under its name only when it is complete.
"""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

from cli import known, lines, place, render, rollups
from cli.place import Place
from cli.problems import UsageError, suggestion

_FORMATS = ("csv", "json")
_PROGRESS_S = 0.5
_PROGRESS_ROWS = 1000
_BUFFER_BYTES = 1 << 18

Item = TypeVar("Item")


def main(args: Mapping[str, Any]) -> int:
    """Write rows to stdout or to a file."""
    render.look(args)
    word = args["--format"] or ("json" if args["--json"] else "csv")
    if word not in _FORMATS:
        raise UsageError(f"--format={word}: use csv or json{suggestion(word, _FORMATS)}")
    where = place.find(args)
    known.require(where)
    if args["--raw"]:
        count = _raw(args, where, lines.csv_records if word == "csv" else lines.json_records)
    else:
        count = _rows(args, where, lines.csv_rows if word == "csv" else lines.json_rows)
    if args["--output"] is not None:
        what = "records" if args["--raw"] else "rows"
        render.note(f"{count:,} {what} in {args['--output']}")
    return 0


def _rows(
    args: Mapping[str, Any], where: Place, lines: Callable[[Iterable[rollups.Row]], Iterable[str]]
) -> int:
    days = rollups.day_rows(where)
    with rollups.opened(where) as db:
        asked = rollups.question(args, db, days)
        found = _Counted(rollups.intervals(db, asked, days))
        _write(lines(found), args["--output"])
    rollups.say_trouble(days)
    if args["--output"] is None and not found.count:
        render.note("no records in that range: see `tickwatch metrics export --help`")
    return found.count


def _raw(
    args: Mapping[str, Any], where: Place, lines: Callable[[Iterable[Any]], Iterable[str]]
) -> int:
    if args["--interval"]:
        raise UsageError("--interval can't be combined with --raw: raw records have no intervals")
    days = rollups.day_rows(where)
    asked = rollups.raw_question(args, days)
    found = _Counted(rollups.raw_records(days, asked))
    _write(lines(found), args["--output"])
    rollups.say_trouble(days)
    if args["--output"] is None and not found.count:
        hint = rollups.hint(where, asked.metric)
        render.note(f"no such raw records in that range: day files are in {days.directory}{hint}")
    return found.count


def _write(lines: Iterable[str], named: str | None) -> None:
    with _destination(named) as file:
        file.writelines(lines)


class _Counted(Iterable[Item]):
    """Items, counted; on a terminal's stderr as well while it takes long."""

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self.count = 0

    def __iter__(self) -> Iterator[Item]:
        shown = False
        due_s = time.monotonic() + _PROGRESS_S
        watched = sys.stderr.isatty()
        for item in self._items:
            if watched and self.count % _PROGRESS_ROWS == 0 and time.monotonic() >= due_s:
                due_s, shown = time.monotonic() + _PROGRESS_S, True
                print(f"\r{self.count:,} rows", end="", file=sys.stderr, flush=True)
            self.count += 1
            yield item
        if shown:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


@contextmanager
def _destination(named: str | None) -> Iterator[TextIO]:
    """Stdout, or a file beside *named* that takes its name at the end.

    Raises:
        OSError: it can't be written; its name is *named*, and nothing is left behind.
    """
    if named is None or named == "-":
        yield sys.stdout
        return
    path = Path(named)
    if path.is_dir():
        raise IsADirectoryError(21, "is a directory", named)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
    except OSError as problem:
        problem.filename = named
        raise
    try:
        with os.fdopen(descriptor, "w", _BUFFER_BYTES, encoding="utf-8", newline="") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as problem:
        temporary.unlink(missing_ok=True)
        if isinstance(problem, OSError):
            problem.filename = problem.filename or named
        raise
