"""The folder of day files: which names there are and what they mean.

One file a day, by UTC date: ``metrics_2026-01-31.json.gz``, and while the day is open the same with
``.part`` behind it.  Two more endings exist for damage: ``.damaged`` (then ``.damaged-2``, ...) is
the original of a file that was repaired, ``.tmp`` the repaired copy while it is made.  Whatever
else lies in the folder isn't ours and is never touched.
"""

import errno
import os
import re
import stat
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import BinaryIO

from aggregator.interval import DAY_S, NS_PER_S

DAY_NS = DAY_S * NS_PER_S
FOLDER = "archive"  # in the data directory, beside the store of rollups
CLOSED, OPEN, DAMAGED, UNFINISHED = "", ".part", ".damaged", ".tmp"

_NAME = re.compile(
    r"metrics_(\d{4}-\d\d-\d\d)\.json\.gz(?:|(\.part)|(\.damaged)(?:-\d+)?|(\.tmp))", re.ASCII
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One of our files, by its name alone; *suffix* is CLOSED, OPEN, DAMAGED or UNFINISHED."""

    day: str
    suffix: str
    path: Path


def name_of(day: str, suffix: str = CLOSED) -> str:
    """The name of a day's file, such as metrics_2026-01-31.json.gz."""
    return f"metrics_{day}.json.gz{suffix}"


def parse_name(name: str) -> tuple[str, str] | None:
    """The day and the suffix in a file's name; None if it isn't one of ours."""
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    try:
        day = date.fromisoformat(found[1]).isoformat()
    except ValueError:
        return None
    return day, found[2] or found[3] or found[4] or CLOSED


def entries(directory: Path) -> tuple[list[Entry], list[str]]:
    """Our files, by day, and the names of whatever else lies there, sorted.

    Raises:
        OSError: the directory can't be read; a missing one is empty.
    """
    ours, others = [], []
    try:
        with os.scandir(directory) as found:
            for each in found:
                named = parse_name(each.name)
                if named is not None and each.is_file(follow_symlinks=False):
                    ours.append(Entry(*named, directory / each.name))
                else:
                    others.append(each.name)
    except FileNotFoundError:
        return [], []
    return sorted(ours, key=lambda entry: (entry.day, entry.suffix)), sorted(others)


def days(directory: Path) -> list[str]:
    """UTC dates of which there are records to read, in order.

    Raises:
        OSError: the directory can't be read; a missing one is empty.
    """
    return sorted({each.day for each in entries(directory)[0] if each.suffix in (OPEN, CLOSED)})


def day_of(at_ns: int) -> str:
    """The UTC date of a time, such as 2026-01-31."""
    return datetime.fromtimestamp(at_ns // NS_PER_S, UTC).date().isoformat()


def start_ns(day: str) -> int:
    """When a UTC date begins."""
    return (date.fromisoformat(day) - date(1970, 1, 1)).days * DAY_NS


def open_to_read(path: Path) -> BinaryIO:
    """Open a regular file, following no link and never waiting for a pipe.

    Raises:
        OSError: not possible, or it isn't one.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def fsync(path: Path) -> None:
    """Make the content of a file, or the names in a directory, durable.

    Raises:
        OSError: it may not be.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
