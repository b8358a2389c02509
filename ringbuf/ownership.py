"""Who may write a ring, and who does: lock files, kept by the kernel.

A POSIX record lock is freed by ``kill -9`` even while a forked child lives, which flock and open
file description locks are not.  The price: closing *any* descriptor of the file drops it, and the
same process is granted it twice.  So lock files are opened in this module alone, and a registry
answers for what this process itself holds.
"""

import fcntl
import os
import struct
import threading
from pathlib import Path

from ringbuf.errors import WriterBusy
from ringbuf.mapping import check_private

# struct flock on 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.  Source: fcntl(2).
_FLOCK = struct.Struct("hhqqi4x")

Inode = tuple[int, int]

_mutex = threading.Lock()
_held: dict[Inode, "WriterLock"] = {}


class WriterLock:
    """The right to write one ring, held until ``release`` or the end of the process."""

    def __init__(self, name: str, path: Path, fd: int, inode: Inode) -> None:
        self.name = name
        self._path = path
        self._fd = fd
        self._inode = inode

    @classmethod
    def acquire(cls, name: str, path: Path) -> "WriterLock":
        """Take the lock in the file *path*, which is made if it is missing.

        Raises:
            WriterBusy: with the pid of the process that holds it (this one, too).
            OSError: the file can't be made or isn't ours.
        """
        with _mutex:
            for held in _held.values():
                if held._path == path:
                    raise WriterBusy(name, os.getpid())
            fd, inode = _lock_file(name, path)
            lock = cls(name, path, fd, inode)
            _held[inode] = lock
            return lock

    def confirm(self) -> None:
        """Make sure that the lock is still ours and still the one that others ask for.

        A removed or replaced lock file is made and locked again; a lock that was dropped because
        foreign code closed a descriptor of the file is taken again.

        Raises:
            WriterBusy: somebody else has it now.
            OSError: the file can't be opened.
        """
        with _mutex:
            if self._fd < 0:
                return
            if _inode_of(self._path) == self._inode:
                try:
                    fcntl.lockf(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise WriterBusy(self.name, _asked(self._fd) or 0) from None
                return
            fd, inode = _lock_file(self.name, self._path)
            os.close(self._fd)
            _held.pop(self._inode, None)
            self._fd, self._inode = fd, inode
            _held[inode] = self

    def release(self) -> None:
        """Give the lock back; more than once is fine."""
        with _mutex:
            if self._fd >= 0:
                _held.pop(self._inode, None)
                os.close(self._fd)
                self._fd = -1


def holder(path: Path) -> int | None:
    """The pid that holds the lock in *path* (0: one in another PID namespace), None for nobody.

    Asking takes nothing: the kernel is asked with F_GETLK.

    Raises:
        OSError: the file can't be opened or isn't ours; a missing file is held by nobody.
    """
    # Under the mutex: closing the descriptor would drop a lock that another thread is just taking.
    with _mutex:
        inode = _inode_of(path)
        if inode is None:
            return None
        if inode in _held:
            return os.getpid()
        try:
            fd = open_private(path, os.O_RDWR)
        except FileNotFoundError:
            return None
        try:
            return _asked(fd)
        finally:
            os.close(fd)


def open_private(path: Path, flags: int) -> int:
    """Open a file of our own: no symbolic link, no other user's, 0600 when it is made.

    Raises:
        OSError: it can't be opened; PermissionError when it isn't ours alone to write.
    """
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        check_private(os.fstat(fd), str(path))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _lock_file(name: str, path: Path) -> tuple[int, Inode]:
    """Open and lock *path*; again when the file was replaced in between."""
    for _ in range(5):
        inode = _inode_of(path)
        if inode in _held:
            raise WriterBusy(name, os.getpid())
        fd = open_private(path, os.O_RDWR | os.O_CREAT)
        try:
            fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            pid = _asked(fd)
            os.close(fd)
            if pid is None:  # freed in this very moment
                continue
            raise WriterBusy(name, pid) from None
        status = os.fstat(fd)
        if _inode_of(path) == (status.st_dev, status.st_ino):
            return fd, (status.st_dev, status.st_ino)
        os.close(fd)
    raise OSError(f"lock file {path} keeps being replaced")


def _asked(fd: int) -> int | None:
    question = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = _FLOCK.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, question))
    return None if kind == fcntl.F_UNLCK else max(0, pid)


def _inode_of(path: Path) -> Inode | None:
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _forget_in_child() -> None:
    """A forked child holds none of its parent's locks, and must not share its mutex."""
    global _mutex
    _mutex = threading.Lock()
    for lock in _held.values():
        os.close(lock._fd)
        lock._fd = -1
    _held.clear()


os.register_at_fork(after_in_child=_forget_in_child)
