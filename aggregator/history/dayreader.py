"""Read raw records back from the day files, while they are written or long after.

Streaming: one gzip member at a time, so memory stays flat on a month of data.  Nothing that is
damaged stops a reader; it is counted.  The torn end of a file that is just being written is no
damage.  Needs no numpy and changes nothing.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from aggregator.history import dayfile, dayfolder
from aggregator.history.dayfile import Member, MemberDamaged
from aggregator.history.dayfolder import CLOSED, DAY_NS, OPEN
from aggregator.history.dayline import Decoder, Record


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
    for day in dayfolder.days(directory):
        begin_ns = dayfolder.start_ns(day)
        if begin_ns >= end_ns or begin_ns + DAY_NS <= start_ns:
            continue
        with ExitStack() as stack:
            for name, file in _opened(directory, day, trouble, stack):
                try:
                    for member in dayfile.members(file):
                        yield from _records(file, member, decoder, start_ns, end_ns, trouble)
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
    file: BinaryIO,
    member: Member,
    decoder: Decoder,
    start_ns: int,
    end_ns: int,
    trouble: Trouble,
) -> Iterator[Record]:
    cover = member.cover
    if cover is not None and not (cover.last_ns >= start_ns and cover.first_ns < end_ns):
        return
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


class Windows:
    """Reads many windows of time, given in their order, without looking at all of a day's members
    for each: where they are and what they cover is remembered, of one day at a time.

    Args:
        decoder: for the wanted series.
        trouble: counts what had to be passed over, each of it once.
    """

    def __init__(self, directory: Path, decoder: Decoder, trouble: Trouble) -> None:
        self._directory = directory
        self._decoder = decoder
        self._trouble = trouble
        self._files = ExitStack()
        self._day = ""
        self._open: list[_Known] = []

    def records(self, days: Iterable[str], start_ns: int, end_ns: int) -> Iterator[Record]:
        """Records of [start_ns, end_ns) in the files of *days*, which are in order."""
        for day in days:
            if day != self._day:
                self._turn_to(day)
            for each in self._open:
                try:
                    yield from each.records(self._decoder, start_ns, end_ns, self._trouble)
                except OSError as error:
                    self._trouble.unreadable[each.name] = error.strerror or str(error)

    def close(self) -> None:
        """Close the files."""
        self._files.close()
        self._day, self._open = "", []

    def _turn_to(self, day: str) -> None:
        self.close()
        self._day = day
        for name, file in _opened(self._directory, day, self._trouble, self._files):
            try:
                self._open.append(_Known(name, file))
            except OSError as error:
                self._trouble.unreadable[name] = error.strerror or str(error)


class _Known:
    """The members of one file: offsets and covered times, 24 bytes each."""

    def __init__(self, name: str, file: BinaryIO) -> None:
        self.name = name
        self._file = file
        self._places = array("q")
        for member in dayfile.members(file):
            cover = member.cover
            span = (cover.first_ns, cover.last_ns) if cover else (-(1 << 63), (1 << 63) - 1)
            self._places.extend((member.offset, *span))
        self._seen = bytearray(len(self._places) // 3)

    def records(
        self, decoder: Decoder, start_ns: int, end_ns: int, trouble: Trouble
    ) -> Iterator[Record]:
        places = self._places
        for number in range(len(places) // 3):
            if places[3 * number + 2] < start_ns or places[3 * number + 1] >= end_ns:
                continue
            member = next(dayfile.members(self._file, places[3 * number]), None)
            if member is None:
                continue
            once = Trouble() if self._seen[number] else trouble
            self._seen[number] = 1
            yield from _records(self._file, member, decoder, start_ns, end_ns, once)


def newest_ns(directory: Path) -> int | None:
    """The time of the newest record in the day files, as their members say; None without any.

    Raises:
        OSError: the directory can't be read.
    """
    for day in reversed(dayfolder.days(directory)):
        newest = -1
        with ExitStack() as stack:
            for _, file in _opened(directory, day, Trouble(), stack):
                covers = (member.cover for member in dayfile.members(file))
                newest = max((c.last_ns for c in covers if c is not None), default=newest)
        if newest < 0:  # members that others made say nothing
            begin_ns = dayfolder.start_ns(day)
            records = read_records(directory, begin_ns, begin_ns + DAY_NS)
            newest = max((record.time_ns for record in records), default=newest)
        if newest >= 0:
            return newest
    return None
