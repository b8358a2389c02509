"""The engine's hot path: one function per series, everything it needs bound when it is made.

Nothing in here may block, make a system call (reading the clock is none), log, format, grow or
raise.  The contract is narrow on purpose, so that a compiled one can take its place: a number in,
one slot and one cursor store out.
"""

import math
import threading
import time
from collections.abc import Callable

from ringbuf import layout
from ringbuf.fence import TOTAL_STORE_ORDER
from ringbuf.writer import RingWriter

LOCK_WAIT_S = 0.001


def record_function(
    ring: RingWriter, series: int, lock: "threading.Lock | None" = None
) -> Callable[[float], None]:
    """Build the hot path of one series: everything it needs is bound when it is made.

    The function takes a number and returns None, whatever happens: a value that is no finite
    number, a lock that isn't free within a millisecond and damaged memory are counted as rejected;
    after ``release`` (close, fork, interpreter exit) it does nothing.
    """
    if ring.static.fences != TOTAL_STORE_ORDER:
        return _fenced(ring, series, lock or threading.Lock())
    return _plain(ring, series) if lock is None else _locked(ring, series, lock)


# Three times nearly the same function: what they don't share would cost the hot path a call.


def _plain(ring: RingWriter, series: int) -> Callable[[float], None]:
    words, slots, mask, reject = ring.words, ring.slots, ring.static.capacity - 1, ring.reject
    pack_into, now, isfinite = layout.RECORD_SLOT.pack_into, time.monotonic_ns, math.isfinite
    published = layout.PUBLISHED

    def record(value: float) -> None:
        try:
            if isfinite(value):
                seq = words[published]
                pack_into(slots, (seq & mask) << 5, seq, now(), value, series)
                words[published] = seq + 1
                return
        except Exception:  # noqa: BLE001, S110 - the engine's boundary: nothing may reach it
            pass
        reject()

    return record


def _locked(ring: RingWriter, series: int, lock: threading.Lock) -> Callable[[float], None]:
    words, slots, mask, reject = ring.words, ring.slots, ring.static.capacity - 1, ring.reject
    pack_into, now, isfinite = layout.RECORD_SLOT.pack_into, time.monotonic_ns, math.isfinite
    published, acquire, release = layout.PUBLISHED, lock.acquire, lock.release

    def record(value: float) -> None:
        try:
            # Released memory ends it here: a forked child may have inherited a lock that is held.
            # A time limit, so that a signal handler that interrupts the holder can't deadlock.
            if (
                words[published] >= 0
                and isfinite(value)
                and (acquire(False) or acquire(True, LOCK_WAIT_S))
            ):
                try:
                    seq = words[published]
                    # Time is read under the lock: it never runs backward in seq.
                    pack_into(slots, (seq & mask) << 5, seq, now(), value, series)
                    words[published] = seq + 1
                    return
                finally:
                    release()
        except Exception:  # noqa: BLE001, S110 - the engine's boundary: nothing may reach it
            pass
        reject()

    return record


def _fenced(ring: RingWriter, series: int, lock: threading.Lock) -> Callable[[float], None]:
    words, slots, mask, reject = ring.words, ring.slots, ring.static.capacity - 1, ring.reject
    pack_into, now, isfinite = layout.RECORD_SLOT.pack_into, time.monotonic_ns, math.isfinite
    published, acquire, release = layout.PUBLISHED, lock.acquire, lock.release
    fence = ring.fence

    def record(value: float) -> None:
        try:
            if (
                words[published] >= 0
                and isfinite(value)
                and (acquire(False) or acquire(True, LOCK_WAIT_S))
            ):
                try:
                    seq = words[published]
                    pack_into(slots, (seq & mask) << 5, seq, now(), value, series)
                    fence()  # the payload before the cursor that publishes it ...
                    words[published] = seq + 1
                    fence()  # ... and the cursor before the payload that overwrites another
                    return
                finally:
                    release()
        except Exception:  # noqa: BLE001, S110 - the engine's boundary: nothing may reach it
            pass
        reject()

    return record
