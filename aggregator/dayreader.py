"""Read raw records back from the day files, while they are written or long after.

Streaming: one gzip member at a time, so memory stays flat on a month of data.  Nothing that is
damaged stops a reader; it is counted.  The torn end of a file that is just being written is no
damage.  Needs no numpy and changes nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aggregator import dayfile, dayfolder
from aggregator.dayfile import MemberDamaged
from aggregator.dayfolder import CLOSED, DAY_NS, OPEN
from aggregator.dayline import Decoder, Record


@dataclass(slots=True)
class Trouble:
    """What a reader had to pass over; false if nothing."""

    damaged_members: int = 0
    bad_lines: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)  # file name -> why

    def __bool__(self) -> bool:
        return bool(self.damaged_members or self.bad_lines or self.unreadable)


def read_records(
    directory: Path,
    start_ns: int,
    end_ns: int,
    *,
    metric: str = "*",
    match: Mapping[str, str] | None = None,
    trouble: Trouble | None = None,
) -> Iterator[Record]:
    """Records of [start_ns, end_ns), day by day, of each ring in the order they were recorded.

    Members outside the range aren't inflated.

    Args:
        metric: pattern of the metric's name, with * ? [].
        match: label -> pattern; a series without the label doesn't match.
        trouble: counts what had to be passed over.

    Raises:
        OSError: the directory can't be read; a missing one is empty.
    """
    trouble = Trouble() if trouble is None else trouble
    decoder = Decoder(metric, match)
    for day in sorted({entry.day for entry in dayfolder.entries(directory)[0]}):
        begin_ns = dayfolder.start_ns(day)
        if begin_ns >= end_ns or begin_ns + DAY_NS <= start_ns:
            continue
        with ExitStack() as stack:
            for name, file in _opened(directory, day, trouble, stack):
                try:
                    yield from _records(file, decoder, start_ns, end_ns, trouble)
                except OSError as error:
                    trouble.unreadable[name] = error.strerror or str(error)


def _opened(
    directory: Path, day: str, trouble: Trouble, stack: ExitStack
) -> list[tuple[str, BinaryIO]]:
    """The day's file under either name; both, should somebody have put a second one there.

    It may be renamed between two attempts, either way: the first name is tried again at last.
    """
    found: dict[tuple[int, int], tuple[str, BinaryIO]] = {}
    for suffix in (CLOSED, OPEN, CLOSED):
        path = directory / dayfolder.name_of(day, suffix)
        try:
            file = stack.enter_context(dayfolder.open_to_read(path))
        except FileNotFoundError:
            continue
        except OSError as error:
            trouble.unreadable[path.name] = error.strerror or str(error)
            continue
        status = os.fstat(file.fileno())
        found.setdefault((status.st_dev, status.st_ino), (path.name, file))
    return list(found.values())


def _records(
    file: BinaryIO, decoder: Decoder, start_ns: int, end_ns: int, trouble: Trouble
) -> Iterator[Record]:
    for member in dayfile.members(file):
        cover = member.cover
        if cover is not None and not (cover.last_ns >= start_ns and cover.first_ns < end_ns):
            continue
        try:
            for block in dayfile.lines(file, member):
                for line in block:
                    try:
                        record = decoder.decode(line)
                    except ValueError:
                        trouble.bad_lines += 1
                        continue
                    if record is not None and start_ns <= record.time_ns < end_ns:
                        yield record
        except MemberDamaged:
            trouble.damaged_members += 1
