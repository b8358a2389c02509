"""One process of a kind for each data directory: the service's and the aggregator's lock files."""

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path

from ringbuf.errors import WriterBusy
from ringbuf.ownership import WriterLock


class Held(RuntimeError):
    """Another process holds the lock; ``pid`` is its id."""

    def __init__(self, path: Path, pid: int) -> None:
        super().__init__(f"{path} is held by process {pid}")
        self.pid = pid


@contextlib.contextmanager
def hold(path: Path, wait_s: float = 0.0) -> Iterator[None]:
    """Hold the lock in *path* for the block, waiting up to *wait_s* seconds for an old process to
    end.

    The kernel frees it however the process ends.

    Raises:
        Held: another process still has it.
    """
    deadline = time.monotonic() + wait_s
    while True:
        try:
            lock = WriterLock.acquire(path.name, path)
            break
        except WriterBusy as busy:
            if time.monotonic() >= deadline:
                raise Held(path, busy.pid) from None
            time.sleep(0.02)
    try:
        yield
    finally:
        lock.release()
