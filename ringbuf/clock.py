"""Time on one machine: the monotonic clock, its anchor to wall time, boots and processes.

Records carry CLOCK_MONOTONIC, which is one clock for all processes of a boot.  Wall time is only
ever derived through an anchor; nothing is ordered or measured by it.
"""

import os
import time
from pathlib import Path
from typing import NamedTuple

monotonic_ns = time.monotonic_ns
wall_ns = time.time_ns

_PROC = Path("/proc")


class Anchor(NamedTuple):
    """One moment on both clocks; ``error_ns`` bounds how far apart the two readings were."""

    mono_ns: int
    wall_ns: int
    error_ns: int

    def wall(self, mono_ns: int) -> int:
        """Wall time of the monotonic *mono_ns*, as this anchor sees it."""
        return self.wall_ns + (mono_ns - self.mono_ns)


def take_anchor() -> Anchor:
    """The best of three readings of wall time between two readings of the monotonic clock."""
    best: Anchor | None = None
    for _ in range(3):
        before = monotonic_ns()
        wall = wall_ns()
        after = monotonic_ns()
        half = (after - before + 1) // 2
        if best is None or half < best.error_ns:
            best = Anchor(before + (after - before) // 2, wall, half)
    assert best is not None
    return best


def boot_id() -> bytes:
    """The kernel's 16-byte id of this boot.

    Source: random(4), /proc/sys/kernel/random/boot_id.
    """
    text = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    return bytes.fromhex(text.replace("-", ""))


def start_ticks(pid: int) -> int | None:
    """When process *pid* started, in clock ticks since boot; None when it doesn't run any more.

    A pid alone proves nothing, the kernel gives it away again; pid and start time together do.
    Zombies count as gone: they can't write.  Source: proc(5), /proc/pid/stat, fields 3 and 22.
    """
    if pid <= 0:
        return None
    try:
        stat = (_PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    # The command's name stands in parentheses and may itself hold any character but NUL.
    fields = stat[stat.rfind(b")") + 2 :].split()
    if len(fields) < 20 or fields[0] in (b"Z", b"X", b"x"):
        return None
    return int(fields[19])


def own_identity() -> tuple[int, int]:
    """This process's pid and start time in ticks (0 where /proc is missing)."""
    pid = os.getpid()
    return pid, start_ticks(pid) or 0
