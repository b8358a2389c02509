"""Order of memory accesses between writer and readers.

x86-64 keeps stores and loads in order (TSO), the plain protocol is right there.  Elsewhere both
sides pass a fence around the cursor access; the ring's header says which, and a reader that can't
honour the mode refuses the ring.
"""

import platform
import threading
from collections.abc import Callable

TOTAL_STORE_ORDER = 0
LOCK_PAIR = 1

_TSO_MACHINES = frozenset({"x86_64", "AMD64", "i686", "i386"})


def required_mode() -> int:
    """The mode that a writer on this machine must use."""
    return TOTAL_STORE_ORDER if platform.machine() in _TSO_MACHINES else LOCK_PAIR


def honours(mode: int) -> bool:
    """Whether a reader on this machine is safe with a writer in *mode*."""
    return mode == LOCK_PAIR or (mode == TOTAL_STORE_ORDER == required_mode())


def make_fence(mode: int) -> Callable[[], object]:
    """A function that no memory access moves across.

    Releasing and taking a private, permanently held lock is a release store followed by an acquire
    load of the same word, which orders everything before against everything after.  ``with lock``
    (the other way round) is not a full barrier on LL/SC machines.
    """
    if mode == TOTAL_STORE_ORDER:
        return _nothing
    lock = threading.Lock()
    lock.acquire()
    release, acquire = lock.release, lock.acquire

    def fence() -> None:
        release()
        acquire()

    return fence


def _nothing() -> None:
    return None
