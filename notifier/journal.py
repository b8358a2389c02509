"""Append to, and read, files of JSON lines that other processes read while they grow.

A line counts once its newline is there.  Nothing is ever truncated or rewritten: whoever appends
ends a torn last line first, so that a line cut by a full disk or a kill spoils itself alone and
never the next one.
"""

import errno
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is read as an empty one: it can't be ours and must not fill the memory."""


def make_private(directory: Path) -> None:
    """Create *directory* and its missing parents, each for this user alone (0700).

    Raises:
        OSError: it can't be made.
    """
    missing = [directory]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for level in reversed(missing):
        level.mkdir(mode=0o700, exist_ok=True)


def open_append(path: Path) -> int:
    """Open *path* to append, creating it (0600) and its directory when missing; the caller closes.

    A link is refused, so that a planted one can't send our lines into another file, and so is
    anything that isn't a regular file, where a write could block for ever.

    Raises:
        OSError: it can't be opened.
    """
    make_private(path.parent)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file", str(path))
        if status.st_size == 0:  # perhaps just created: its name must survive a power cut as well
            _fsync_directory(path.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_at(descriptor: int, path: Path) -> bool:
    """Whether the file that *descriptor* has open is the one now found at *path*."""
    try:
        there = path.stat(follow_symlinks=False)
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def append(descriptor: int, lines: Sequence[bytes]) -> None:
    """Append *lines* (without their newlines) in one write and fsync.

    Raises:
        OSError: not all of it is known to be on disk; some of it may be, the last line torn.
    """
    data = b"".join(line + b"\n" for line in lines)
    size = os.fstat(descriptor).st_size
    if size and os.pread(descriptor, 1, size - 1) != b"\n":
        data = b"\n" + data
    rest = memoryview(data)
    while rest:  # a short write is how a full disk announces itself; the next one raises
        written = os.write(descriptor, rest)
        if written == 0:
            raise OSError(errno.EIO, "nothing was written")
        rest = rest[written:]
    os.fsync(descriptor)


def lines(path: Path, offset: int = 0, *, final: bool = False) -> Iterator[tuple[bytes, int, int]]:
    """Yield the complete lines of *path* from *offset* on, as (line without newline, start, end).

    Where *offset* isn't the start of a line, the file was replaced or truncated since it was noted,
    and reading starts over at 0: the first start then differs from *offset*.

    Args:
        final: nobody appends any more, so what follows the last newline is a line as well.

    Raises:
        OSError: the file can't be read; a missing one is FileNotFoundError.
    """
    with os.fdopen(_open_to_read(path), "rb") as file:
        start = offset if _is_line_start(file, offset) else 0
        file.seek(start)
        while True:
            line, length = _next_line(file)
            if not line.endswith(b"\n") and (not final or not length):
                return
            yield line.removesuffix(b"\n"), start, start + length
            start += length


def _next_line(file: BinaryIO) -> tuple[bytes, int]:
    """The next line with its newline, if any, and its length; of an overlong one its newline."""
    line = file.readline(MAX_LINE_BYTES)
    length = len(line)
    while len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
        line = file.readline(MAX_LINE_BYTES)
        length += len(line)
    return (line if length <= MAX_LINE_BYTES else line[-1:], length)


def _is_line_start(file: BinaryIO, offset: int) -> bool:
    if offset <= 0:
        return offset == 0
    file.seek(offset - 1)
    return file.read(1) == b"\n"


def _open_to_read(path: Path) -> int:
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    descriptor = os.open(path, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return descriptor


def _fsync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
