"""Does the service's memory stay flat while records and alerts keep coming?

Usage:
  soak [--minutes N] [--rate R] [--alerts A]

Options:
  --minutes N   how long [default: 10]
  --rate R      records a second, over 20 series [default: 20000]
  --alerts A    alerts that fire and resolve each minute [default: 30]

Budget: in the second half no process of the service grows by more than 5 %, and every record is
read.  Memory is what only the process itself uses (Private in /proc/PID/smaps_rollup): the ring's
pages aren't counted.
"""

import queue
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.pipeline import SERIES, count, receiver, service
from ringbuf import Metric, Recorder

_SLICE_S = 0.01


def main(arguments: Mapping[str, Any]) -> int:
    """Record, watch, count."""
    print(describe())
    arrivals: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    minutes = float(arguments["--minutes"])
    with tempfile.TemporaryDirectory() as folder, receiver(arrivals) as port:
        with service(folder, port) as pids:
            written, seen = _soak(folder, pids, minutes, arguments)
            time.sleep(3)
        read = count(Path(folder) / "rollups.db")
    print(f"{written:,} records written, {read:,} in the rollups, {arrivals.qsize()} messages")
    assert read == written, "void: records are missing in the rollups"
    half = len(seen["aggregator"]) // 2
    for name, sizes in seen.items():
        growth = 100 * (max(sizes[half:]) / sizes[half] - 1)
        print(f"{name:11} grew by {growth:.1f} % in the second half (at most 5 %)")
    return 0


def _soak(
    folder: str, pids: Mapping[str, int], minutes: float, arguments: Mapping[str, Any]
) -> tuple[int, dict[str, list[float]]]:
    """Records written, and the memory of each process in MB, twelve times."""
    seen: dict[str, list[float]] = {name: [] for name in pids}
    with Recorder("bench", folder) as recorder:
        metrics = [recorder.metric("tick_latency", "ms", n=str(n)) for n in range(SERIES)]
        breaker = recorder.metric("circuit_breaker_active", n="0")
        for part in range(12):
            until = time.monotonic() + minutes * 5
            _record(
                until, metrics, breaker, float(arguments["--rate"]), float(arguments["--alerts"])
            )
            for name, pid in pids.items():
                seen[name].append(_private_mb(pid))
            sizes = ", ".join(f"{name} {sizes[-1]:.1f} MB" for name, sizes in seen.items())
            print(f"{(part + 1) * minutes / 12:5.1f} min  {sizes}", flush=True)
        return recorder.published, seen


def _record(
    until: float, metrics: list[Metric], breaker: Metric, rate: float, alerts: float
) -> None:
    flip_s = 30 / alerts
    next_flip, active = time.monotonic(), 0.0
    while (now := time.monotonic()) < until:
        if now >= next_flip:
            next_flip, active = now + flip_s, 1.0 - active
            breaker.record(active)
        for number in range(int(rate * _SLICE_S)):
            metrics[number % SERIES].record(number % 89 + 0.25)
        time.sleep(_SLICE_S)


def _private_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    kilobytes = sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return kilobytes / 1024
