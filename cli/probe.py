"""Does this interpreter store a ring's cursor in one piece?  Try it: one process writes, one reads.

Nothing in Python's documentation promises that an aligned 8-byte store through a memoryview is one
store, and everything rests on it.  Every value that is written has eight equal bytes, none of them
zero; a reader that sees anything else has seen a store in pieces.  The writer is this very file run
by itself, so it imports nothing of ours.
"""

import mmap
import os
import struct
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

PROBE_S = 0.2
LONGEST_S = 1.0  # where both have to share one processor, few reads meet a store
_ENOUGH = 10_000  # new values seen
_PATIENCE_S = 10.0  # until the writer writes: a machine under load starts processes slowly
_BYTES = 4096
_WORD = 64  # of eight bytes: on a cache line of its own, as a ring's cursor is
_PATTERNS = tuple(n * 0x0101010101010101 for n in range(1, 128))
_ROUND = 10_000  # stores or reads between two looks at the clock


@dataclass(frozen=True)
class Probed:
    """What the reader saw: how many reads, how many of them new values, how many in pieces."""

    reads: int
    changes: int
    torn: int


def run(seconds: float = PROBE_S, *, broken: bool = False) -> Probed:
    """Read for *seconds*, or up to LONGEST_S, what another process writes meanwhile.

    Args:
        broken: let the writer store as a ring must not; shows that this reader would notice.

    Raises:
        OSError: no shared memory, or no second process.
    """
    descriptor = os.memfd_create("tickwatch-probe")
    try:
        os.ftruncate(descriptor, _BYTES)
        command = [sys.executable, "-I", str(Path(__file__)), str(descriptor), str(int(broken))]
        with mmap.mmap(descriptor, _BYTES) as shared:
            writer = subprocess.Popen(
                command,
                pass_fds=[descriptor],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                return _read(shared, writer, seconds)
            finally:
                writer.kill()
                writer.wait()
    finally:
        os.close(descriptor)


def _read(shared: mmap.mmap, writer: "subprocess.Popen[bytes]", seconds: float) -> Probed:
    allowed = frozenset(_PATTERNS)
    with memoryview(shared) as raw, raw.cast("q") as words:
        deadline = time.monotonic() + _PATIENCE_S
        while not words[_WORD]:
            if writer.poll() is not None or time.monotonic() > deadline:
                raise OSError("the second process didn't write")
            time.sleep(0.001)
        reads = changes = torn = before = 0
        started = time.monotonic()
        while (lasted := time.monotonic() - started) < LONGEST_S:
            if lasted > seconds and changes > _ENOUGH:
                break
            for _ in range(_ROUND):
                value = words[_WORD]
                if value != before:
                    changes += 1
                    torn += value not in allowed
                    before = value
            reads += _ROUND
    return Probed(reads, changes, torn)


def _write(descriptor: int, *, broken: bool) -> None:
    """Write until the parent is gone, which also kills this process when it has seen enough."""
    parent = os.getppid()
    with mmap.mmap(descriptor, _BYTES) as shared, memoryview(shared) as raw, raw.cast("q") as words:
        while os.getppid() == parent:
            for _ in range(_ROUND // len(_PATTERNS)):
                for pattern in _PATTERNS:
                    if broken:
                        struct.pack_into("<q", raw, _WORD * 8, pattern)
                    else:
                        words[_WORD] = pattern


if __name__ == "__main__":
    _write(int(sys.argv[1]), broken=sys.argv[2] == "1")
