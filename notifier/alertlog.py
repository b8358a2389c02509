"""The alert log: one transition a line, a file per UTC day; the durable queue to the notifier.

One process appends; any number read.  A file older than the newest is never written, and every line
carries the next number, so a reader can tell that it has seen all of them.  Readers drop what they
know by its id: after trouble with the disk a transition may stand here twice, under two numbers.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from itertools import zip_longest
from pathlib import Path

from notifier import journal
from notifier.alert import Transition, decode, encode, rfc3339

_SUFFIX = ".jsonl"
_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Position:
    """How far a reader is: the day file, the offset behind the last line, the highest number."""

    day: str = ""
    offset: int = 0
    number: int = 0

    def encode(self) -> str:
        """The position as text, such as 2026-01-31/5120/17."""
        return f"{self.day}/{self.offset}/{self.number}"

    @classmethod
    def decode(cls, text: str) -> "Position":
        """The position that *text* stands for; an empty text is the beginning.

        Raises:
            ValueError: it is no position.
        """
        if not text:
            return cls()
        day, offset, number = text.split("/")
        if day and not _is_day(day):
            raise ValueError(f"position {text!r}: {day!r} is not a day")
        return cls(day, int(offset), int(number))


class AlertLog:
    """The writing side of the alert log in one directory.

    Args:
        directory: created (0700) at the first append.
        at_least: the last number known from elsewhere, for the case that the directory was emptied
            meanwhile.
    """

    def __init__(self, directory: Path, *, at_least: int = 0) -> None:
        self._directory = directory
        self._last = at_least
        self._day = ""
        self._descriptor = -1
        self._surveyed = False
        try:
            self._survey()
        except OSError:
            pass  # the first append looks again and reports it

    @property
    def last_number(self) -> int:
        """Number of the newest line; 0 while there is none."""
        return self._last

    def append(self, transitions: Sequence[Transition], now_ns: int) -> list[Transition]:
        """Number *transitions*, write them at once, return them numbered when they are on disk.

        Raises:
            OSError: they may not be on disk: append the same ones again later.  What did get there
                keeps its number and the next append takes the numbers behind it.
        """
        if not transitions:
            return []
        if not self._surveyed:
            self._survey()
        numbered = [replace(t, number=n) for n, t in enumerate(transitions, self._last + 1)]
        encoded = [encode(t) for t in numbered]
        try:
            self._open(str(rfc3339(now_ns))[:10])
            journal.append(self._descriptor, encoded)
        except OSError:
            self._surveyed = False
            self.close()
            raise
        self._last += len(numbered)
        return numbered

    def close(self) -> None:
        """Close the day file; a later append opens it again."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _survey(self) -> None:
        self._last = max(self._last, _newest(self._directory)[1])
        self._surveyed = True

    def _open(self, today: str) -> None:
        """Have the right day file open: today's, or the newest if the clock went back behind it."""
        if self._descriptor >= 0:
            path = self._directory / f"{self._day}{_SUFFIX}"
            if today <= self._day and journal.is_at(self._descriptor, path):
                return
            self.close()
        self._day = max([today, *_days(self._directory)])
        self._descriptor = journal.open_append(self._directory / f"{self._day}{_SUFFIX}")


def read(
    directory: Path, position: Position, limit: int = 1000
) -> tuple[list[Transition], Position, int]:
    """Read on from *position*: transitions in order, the new position, bad lines passed.

    What follows the last newline stays unread while its file is the newest; once there is a newer
    one it is a line as it stands, and bad unless only its newline is missing.  Where the files
    aren't those that the position was taken in, lines may come again, none is left out.

    Args:
        limit: of lines, good and bad, in one call.

    Raises:
        OSError: a file can't be read; a missing file or directory is simply empty.
    """
    days = _days(directory)
    if days and position.day > days[-1]:  # its file is gone, the log goes on under an earlier date
        position = Position(days[-1], 0, position.number)
    days = [day for day in days if day >= position.day]
    transitions: list[Transition] = []
    bad = 0
    for day, newer in zip_longest(days, days[1:], fillvalue=""):
        if day != position.day:
            position = Position(day, 0, position.number)
        room = limit - len(transitions) - bad
        found, position, skipped, ended = _read_file(directory, position, room, final=bool(newer))
        transitions += found
        bad += skipped
        if not ended:
            break
        if newer:
            position = Position(newer, 0, position.number)
    return transitions, position, bad


def gaps(position: Position, transitions: Sequence[Transition]) -> list[tuple[int, int]]:
    """Numbers missing in *transitions*, read on from *position*: (first, last) of each gap.

    A number that goes back is no gap: lines came again, or the log was begun anew.
    """
    missing = []
    last = position.number if position.day else None
    for transition in transitions:
        if last is not None and transition.number > last + 1:
            missing.append((last + 1, transition.number - 1))
        last = transition.number
    return missing


def expire(directory: Path, before_day: str, position: Position) -> list[str]:
    """Delete the day files before *before_day* and return their days.

    The file of *position* and later ones stay, and so does the newest that holds a number:
    numbering goes on from it. A file that can't be deleted stops none of the others.
    """
    keep_from = min(before_day, position.day, _newest(directory)[0])
    gone = []
    for day in _days(directory):
        if day >= keep_from:
            break
        try:
            (directory / f"{day}{_SUFFIX}").unlink(missing_ok=True)
        except OSError:
            continue
        gone.append(day)
    return gone


def _read_file(
    directory: Path, position: Position, limit: int, *, final: bool
) -> tuple[list[Transition], Position, int, bool]:
    """As read() for the file of *position* alone, and whether *limit* let it read to the end."""
    path = directory / f"{position.day}{_SUFFIX}"
    transitions: list[Transition] = []
    bad = 0
    anew = None  # whether the file is read from its beginning, and its numbers count from there
    try:
        for transition, start, end in _unread(path, position, final=final):
            if len(transitions) + bad >= limit:
                return transitions, position, bad, False
            anew = start == 0 if anew is None else anew
            number = position.number
            if transition is None:
                bad += 1
            else:
                transitions.append(transition)
                number = transition.number if anew else max(number, transition.number)
                anew = False
            position = Position(position.day, end, number)
    except FileNotFoundError:
        pass  # expired between listing and opening
    return transitions, position, bad, True


def _unread(
    path: Path, position: Position, *, final: bool
) -> Iterator[tuple[Transition | None, int, int]]:
    """The lines of *path* from *position* on, as (transition, start, end), None for a bad line.

    Another file may lie there now.  If the next line hasn't the next number, one that is still
    unread is looked for before the offset.
    """
    source = journal.lines(path, position.offset, final=final)
    for line, start, end in source:
        transition = _decoded(line)
        expected = transition is None or transition.number == position.number + 1
        if start == position.offset > 0 and not expected:
            earlier = _first_above(path, position.number, start)
            if earlier is not None:
                source = journal.lines(path, earlier, final=final)
                break
        yield transition, start, end
        break
    for line, start, end in source:
        yield _decoded(line), start, end


def _first_above(path: Path, number: int, before: int) -> int | None:
    """Offset of the first line with a number above *number* that begins before *before*."""
    for line, start, _ in journal.lines(path):
        if start >= before:
            break
        transition = _decoded(line)
        if transition is not None and transition.number > number:
            return start
    return None


def _newest(directory: Path) -> tuple[str, int]:
    """Day and number of the newest line that has a number; ("", 0) when there is none."""
    for day in reversed(_days(directory)):
        try:
            number = _last_number(directory / f"{day}{_SUFFIX}")
        except FileNotFoundError:
            continue  # expired since it was listed
        if number is not None:
            return day, number
    return "", 0


def _last_number(path: Path) -> int | None:
    """Number of the last good line of *path*, also if only its newline is missing."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail = _TAIL_BYTES
        while True:
            start = max(0, size - tail)
            file.seek(start)
            pieces = file.read(size - start).split(b"\n")
            for line in reversed(pieces if start == 0 else pieces[1:]):
                transition = _decoded(line)
                if transition is not None:
                    return transition.number
            if start == 0:
                return None
            tail *= 8


def _decoded(line: bytes) -> Transition | None:
    try:
        return decode(line)
    except ValueError:
        return None


def _days(directory: Path) -> list[str]:
    """Days that have a file, oldest first; whatever else lies in the directory is not ours."""
    try:
        with os.scandir(directory) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    except FileNotFoundError:
        return []
    stems = [name.removesuffix(_SUFFIX) for name in names if name.endswith(_SUFFIX)]
    return sorted(stem for stem in stems if _is_day(stem))


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
