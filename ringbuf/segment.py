"""Shared memory on the writer's side: create, attach, remove.

The only user of ``multiprocessing.shared_memory``.  Three of its habits destroy rings and are
switched off here: registering a segment with the resource tracker (which unlinks it when this
process ends, or one second after it was killed), unlinking it when an attach fails, and starting
the tracker's process.  Nobody but a writer that replaces its own ring removes a segment.
"""

import mmap
import os
import secrets
import sys
import threading
from multiprocessing import resource_tracker, shared_memory

from ringbuf.mapping import check_private, posixshmem

PREFIX = "tickwatch-"

_HAS_TRACK = sys.version_info >= (3, 13)
_patching = threading.Lock()


class _Bystander:
    """Stands in for the resource tracker's module while one thread makes a segment.

    Other threads' own shared memory is registered as always.
    """

    def __init__(self) -> None:
        self._thread = threading.get_ident()

    def register(self, name: str, kind: str) -> None:
        if threading.get_ident() != self._thread:
            resource_tracker.register(name, kind)

    def unregister(self, name: str, kind: str) -> None:
        if threading.get_ident() != self._thread:
            resource_tracker.unregister(name, kind)


class Segment(shared_memory.SharedMemory):
    """A mapped segment that outlives the process that made it."""

    _created = False  # class-wide default: a failing attach already calls unlink()

    def __init__(self, name: str, *, create: bool = False, size: int = 0) -> None:
        self._created = create
        if _HAS_TRACK:
            super().__init__(name, create=create, size=size, track=False)  # type: ignore[call-arg,unused-ignore]
            return
        with _patching:
            shared_memory.resource_tracker = _Bystander()  # type: ignore[attr-defined]
            try:
                super().__init__(name, create=create, size=size)
            finally:
                shared_memory.resource_tracker = resource_tracker  # type: ignore[attr-defined]

    @property
    def memory(self) -> "memoryview[int]":
        """The mapped bytes.

        Raises:
            ValueError: the segment is closed.
        """
        if self.buf is None:
            raise ValueError("segment is closed")
        return self.buf

    @property
    def fd(self) -> int:
        """The segment's file descriptor."""
        return int(self._fd)

    def unlink(self) -> None:
        """Remove a segment whose creation failed; an attached one never."""
        if self._created:
            remove(self.name)

    def settle(self) -> None:
        """From now on the segment belongs to its descriptor: ``unlink`` does nothing any more."""
        self._created = False

    def close(self) -> None:
        """Unmap, as far as no view of it is alive; silent at interpreter exit."""
        try:
            super().close()
        except BufferError:
            # A view lives on; the mapping goes with it.  Exit must not print a traceback.
            fd, self._fd = self.fd, -1
            if fd >= 0:
                os.close(fd)

    def __del__(self) -> None:
        try:
            self.close()
        except Exception:  # noqa: BLE001 - whatever teardown has already taken apart
            return


def random_name() -> str:
    """A name that nobody can guess or take beforehand."""
    return PREFIX + secrets.token_hex(8)


def create(name: str, size: int) -> Segment:
    """Make a segment of *size* zero bytes whose memory is really there.

    A full /dev/shm raises no exception when it is mapped, it kills with SIGBUS when it is touched;
    so the blocks are allocated first and every page is touched, which also takes the page faults
    out of the hot path.

    Raises:
        OSError: no room, no shared memory, no permission.  Nothing is left behind.
    """
    segment = Segment(name, create=True, size=size)
    try:
        os.posix_fallocate(segment.fd, 0, size)
        touch(segment, size)
    except BaseException:
        segment.unlink()
        segment.close()
        raise
    segment.settle()
    return segment


def attach(name: str) -> Segment:
    """Map an existing segment for writing.

    Raises:
        OSError: it is gone (FileNotFoundError), another user's, or can't be mapped.
        ValueError: it has no size yet.
    """
    segment = Segment(name)
    try:
        check_private(os.fstat(segment.fd), f"segment {name}")
    except BaseException:
        segment.close()
        raise
    return segment


def touch(segment: Segment, size: int) -> None:
    """Fault in the first *size* bytes for writing, without changing any."""
    buffer = segment.memory
    for offset in range(0, size, mmap.PAGESIZE):
        buffer[offset] = buffer[offset]


def remove(name: str) -> bool:
    """Unlink the segment called *name*; False when there was none."""
    try:
        posixshmem.shm_unlink("/" + name)
    except OSError:
        return False
    return True


def _let_go_in_child() -> None:
    """Another thread may have been making a segment while this process was forked."""
    global _patching
    _patching = threading.Lock()
    shared_memory.resource_tracker = resource_tracker  # type: ignore[attr-defined]


os.register_at_fork(after_in_child=_let_go_in_child)
