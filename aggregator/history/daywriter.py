"""The one writer of the day files.

A day has one file.  Closing it takes ``.part`` off its name; a late record puts it back, so nothing
is ever merged or copied, and a crash between any two steps leaves one whole file.  What a kill left
of the last member is cut off before the next is appended: its records come again from the ring.
"""

import errno
import itertools
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from aggregator.history import dayfile, dayfolder
from aggregator.history.dayfile import Member, State
from aggregator.history.dayfolder import CLOSED, DAMAGED, OPEN, UNFINISHED, Entry
from notifier import journal

_log = logging.getLogger("aggregator")

_NEWEST_DAYS = 2
_PASSING = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)  # they say nothing about a file
_COPY_BYTES = 1 << 20
_BLOCK_BYTES = 512  # unit of st_blocks, whatever the file system's is


class DayFiles:
    """Appends to the day files of one directory and closes them.

    Several threads of one process may call it; they take turns.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.Lock()
        self._ends: dict[str, tuple[int, int, int]] = {}  # day -> device, inode, size when good

    def covered(self) -> dict[str, int]:
        """Ring uuid -> first seq that no member covers, as the open and the newest days tell.

        Of each ring seqs are dealt with in order, so one number says it.

        Raises:
            OSError: it can't be known now.
        """
        following: dict[str, int] = {}
        with self._lock:
            ours, _ = dayfolder.entries(self.directory)
            newest = sorted({entry.day for entry in ours})[-_NEWEST_DAYS:]
            for entry in ours:
                if entry.suffix == OPEN or (entry.suffix == CLOSED and entry.day in newest):
                    self._take_cover(entry, following)
        return following

    def append(self, day: str, member: bytes) -> None:
        """Append *member* to a day's file, which is made, or opened again, if need be.

        Raises:
            OSError: it is not in the file; append it again later.
        """
        path, closed = self._path(day, OPEN), self._path(day, CLOSED)
        with self._lock:
            if not path.exists() and closed.exists():
                closed.rename(path)
                _log.info("day opened again", extra={"component": "monitoring", "day": day})
            descriptor = journal.open_append(path)
            try:
                end = self._good_end(day, descriptor)
                if end is None:  # nothing of ours: never appended to, never lost
                    self._keep_original(day)
                    path.unlink()
                    os.close(descriptor)
                    descriptor = journal.open_append(path)
                    end = 0
                _write(descriptor, member, end)
                self._remember(day, descriptor)
            except BaseException:
                self._ends.pop(day, None)
                raise
            finally:
                os.close(descriptor)

    def close_day(self, day: str) -> dayfile.Verified:
        """Read an open day back, make it durable and take ``.part`` off its name.

        What a kill left at its end is cut off.  Of a file that is damaged the readable members stay
        and the original is kept beside it.  The day stays open if somebody appended meanwhile.

        Returns:
            what was read.

        Raises:
            OSError: not possible; FileExistsError: somebody put a closed file of that day there.
        """
        path, copy = self._path(day, OPEN), self._path(day, UNFINISHED)
        self._repair(day)
        with dayfolder.open_to_read(path) as file:
            verified = dayfile.verify(file)
            if verified.damaged and verified.good:
                _copy_good(file, verified, copy)
        whole = bool(verified.good) and not verified.damaged
        if verified.good:  # may take long: outside the lock
            dayfolder.fsync(path if whole else copy)
        with self._lock:
            size = path.stat(follow_symlinks=False).st_size
            if size == verified.size and not verified.torn:
                self._finish(day, verified, whole)
        return verified

    def delete(self, entry: Entry) -> int:
        """Delete a file; the bytes that this frees.

        Raises:
            OSError: not possible; FileNotFoundError: it is gone.
        """
        with self._lock:
            status = entry.path.stat(follow_symlinks=False)
            entry.path.unlink()
            self._ends.pop(entry.day, None)
        return status.st_blocks * _BLOCK_BYTES if status.st_nlink == 1 else 0

    def _path(self, day: str, suffix: str) -> Path:
        return self.directory / dayfolder.name_of(day, suffix)

    def _finish(self, day: str, verified: dayfile.Verified, whole: bool) -> None:
        """The last steps of closing a day: after each of them the next run can go on."""
        path, closed = self._path(day, OPEN), self._path(day, CLOSED)
        if closed.exists():
            raise FileExistsError(errno.EEXIST, "a closed file of that day is there", str(closed))
        if verified.damaged:
            self._keep_original(day)
        if not verified.good:  # nothing in it, or nothing of ours
            path.unlink()
        else:
            if not whole:
                self._path(day, UNFINISHED).rename(path)
            path.rename(closed)
        self._ends.pop(day, None)
        dayfolder.fsync(self.directory)

    def _repair(self, day: str) -> None:
        """Cut off what a kill left of the last member."""
        with self._lock:
            descriptor = os.open(
                self._path(day, OPEN), os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
            )
            try:
                if self._good_end(day, descriptor) is not None:
                    self._remember(day, descriptor)
            finally:
                os.close(descriptor)

    def _good_end(self, day: str, descriptor: int) -> int | None:
        """Cut off a torn end and return the size; None for content that isn't ours at all."""
        status = os.fstat(descriptor)
        if self._ends.get(day) == (status.st_dev, status.st_ino, status.st_size):
            return status.st_size
        with os.fdopen(os.dup(descriptor), "rb") as file:
            end = 0
            for member in _kept(file):
                end = member.end
            if end == status.st_size:
                return end
            if not end and next(dayfile.members(file)).state is not State.TORN:
                return None
        os.ftruncate(descriptor, end)
        _log.warning(
            "unfinished end of a day file cut off",
            extra={"component": "monitoring", "day": day, "bytes": status.st_size - end},
        )
        return end

    def _take_cover(self, entry: Entry, following: dict[str, int]) -> None:
        """Add what a file covers to *following*; a file that can't be read can't say it."""
        try:
            with dayfolder.open_to_read(entry.path) as file:
                end = 0
                for member in _kept(file):
                    end = member.end
                    if member.cover is not None:
                        for ring, (_, last) in member.cover.rings.items():
                            following[ring] = max(following.get(ring, 0), last + 1)
                if entry.suffix == OPEN and end == os.fstat(file.fileno()).st_size:
                    self._remember(entry.day, file.fileno())
        except OSError as error:
            if error.errno in _PASSING:
                raise
            _log.warning(
                "day file can't be read",
                extra={"component": "monitoring", "file": entry.path.name, "problem": str(error)},
            )

    def _remember(self, day: str, descriptor: int) -> None:
        status = os.fstat(descriptor)
        self._ends[day] = (status.st_dev, status.st_ino, status.st_size)

    def _keep_original(self, day: str) -> None:
        """Give an open day's file a second name, under which it stays as it is."""
        path = self._path(day, OPEN)
        for number in itertools.count(1):
            name = dayfolder.name_of(day, DAMAGED if number == 1 else f"{DAMAGED}-{number}")
            try:
                os.link(path, self.directory / name, follow_symlinks=False)
                break
            except FileExistsError:
                if path.samefile(self.directory / name):
                    break
        _log.error(
            "day file damaged, original kept", extra={"component": "monitoring", "file": name}
        )


def _kept(file: BinaryIO) -> Iterator[Member]:
    """What stays in a file when its end is repaired: all up to its last readable member.

    One in the middle may be damaged all the same: its head says what it was to cover.
    """
    waiting: list[Member] = []
    for member in dayfile.members(file):
        waiting.append(member)
        if member.state is State.WHOLE and len(waiting) > 1:
            yield from waiting[:-1]
            waiting = waiting[-1:]
    while waiting and not dayfile.is_readable(file, waiting[-1]):
        waiting.pop()
    yield from waiting


def _write(descriptor: int, data: bytes, end: int) -> None:
    """Append *data* at *end*, all or nothing."""
    rest = memoryview(data)
    try:
        while rest:  # a short write is how a full disk announces itself; the next one raises
            written = os.write(descriptor, rest)
            if written == 0:
                raise OSError(errno.EIO, "nothing was written")
            rest = rest[written:]
    except OSError:
        os.ftruncate(descriptor, end)
        raise


def _copy_good(file: BinaryIO, verified: dayfile.Verified, path: Path) -> None:
    """Copy the readable members of a damaged file to a new one at *path*."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as copy:
        for start, end in verified.good:
            file.seek(start)
            while start < end:
                data = file.read(min(end - start, _COPY_BYTES))
                if not data:
                    raise OSError(errno.EIO, "shorter than a moment ago", file.name)
                copy.write(data)
                start += len(data)
