"""Read-only mappings of segments, for readers and the survey.

Nothing here imports multiprocessing, whose resource tracker unlinks what a process merely looked
at, and nothing here can write to or remove a segment.  Sizes and header are read through the file
first: touching a hole in a full /dev/shm would be SIGBUS, reading it is not.
"""

import mmap
import os
import stat
from dataclasses import dataclass
from typing import Any

from ringbuf.errors import RingMissing

posixshmem: Any
try:
    # What multiprocessing.shared_memory stands on; typeshed doesn't know it.
    import _posixshmem  # type: ignore[import-not-found]
except ImportError:  # a Python built without POSIX shared memory
    posixshmem = None
else:
    posixshmem = _posixshmem


@dataclass(slots=True)
class SegmentFile:
    """An open, read-only segment that has not been mapped yet."""

    name: str
    fd: int
    size: int
    inode: tuple[int, int]

    def read(self, count: int, offset: int = 0) -> bytes:
        """Up to *count* bytes at *offset*."""
        return os.pread(self.fd, count, offset)

    def map(self, count: int) -> mmap.mmap:
        """Map the first *count* bytes, which must not exceed the file."""
        return mmap.mmap(self.fd, count, access=mmap.ACCESS_READ)

    def close(self) -> None:
        os.close(self.fd)


def open_segment(name: str) -> SegmentFile:
    """Open the segment called *name* for reading.

    Raises:
        RingMissing: there is none, or no shared memory at all.
        PermissionError: it belongs to another user or others can write to it.
        OSError: whatever else the kernel says, such as EMFILE.
    """
    if posixshmem is None:
        raise RingMissing("this Python has no POSIX shared memory")
    try:
        fd = posixshmem.shm_open("/" + name, os.O_RDONLY, mode=0)
    except FileNotFoundError:
        raise RingMissing(f"segment {name} is gone") from None
    try:
        status = os.fstat(fd)
        check_private(status, f"segment {name}")
    except BaseException:
        os.close(fd)
        raise
    return SegmentFile(name, fd, status.st_size, (status.st_dev, status.st_ino))


def segment_inode(name: str) -> tuple[int, int] | None:
    """Device and inode that *name* stands for now; None when it is gone."""
    try:
        segment = open_segment(name)
    except (RingMissing, OSError):
        return None
    segment.close()
    return segment.inode


def check_private(status: os.stat_result, what: str) -> None:
    """Refuse anything that another user owns or may write to.

    Raises:
        PermissionError: naming *what* and the reason.
    """
    if not stat.S_ISREG(status.st_mode):
        raise PermissionError(f"{what} is no regular file")
    if status.st_uid != os.geteuid():
        raise PermissionError(f"{what} belongs to user {status.st_uid}, not to {os.geteuid()}")
    if status.st_mode & 0o022:
        raise PermissionError(f"{what} can be written by other users")
