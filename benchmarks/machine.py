"""What a number was measured on, and how: the same seven runs for every benchmark.

A number without its machine means nothing, and one whose answer wasn't checked is void.  Peers
run in the same process and in turn, so that a slow moment of the machine hits all of them.
"""

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

RUNS = 7
SLICES = 20


@dataclass(frozen=True)
class Runs:
    """The results of all runs of one measurement, in one unit."""

    values: tuple[float, ...]

    @property
    def minimum(self) -> float:
        return min(self.values)

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    @property
    def maximum(self) -> float:
        return max(self.values)

    def ratio(self, peer: "Runs") -> float:
        """Median of the ratios to *peer*, run by run: both had the same moment of the machine."""
        return statistics.median(a / b for a, b in zip(self.values, peer.values, strict=True))


@dataclass(frozen=True)
class Quantiles:
    """Quantiles of single calls, in ns."""

    p50: float
    p99: float
    p999: float

    @classmethod
    def median(cls, rounds: Sequence["Quantiles"]) -> "Quantiles":
        """Each quantile's median over several rounds."""
        p50s, p99s, p999s = zip(*((one.p50, one.p99, one.p999) for one in rounds), strict=True)
        return cls(*(statistics.median(values) for values in (p50s, p99s, p999s)))


def facts() -> dict[str, str]:
    """The machine, its load and this Python, as text."""
    return {
        "cpu": _cpu(),
        "cores": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "clock": _first_line("/sys/devices/system/clocksource/clocksource0/current_clocksource"),
        "load": " ".join(f"{load:.2f}" for load in os.getloadavg()),
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def in_turn(measurements: Mapping[str, Callable[[], float]], runs: int = RUNS) -> dict[str, Runs]:
    """Do the measurements by turns: each run is the mean of many short slices of each.

    Whatever else the machine does then falls on all of them alike.  One extra run warms up.
    """
    values: dict[str, list[float]] = {name: [] for name in measurements}
    for number in range(runs + 1):
        slices: dict[str, list[float]] = {name: [] for name in measurements}
        for _ in range(SLICES):
            for name, measure in measurements.items():
                slices[name].append(measure())
        for name, found in slices.items() if number else ():
            values[name].append(statistics.fmean(found))
    return {name: Runs(tuple(found)) for name, found in values.items()}


def per_call_ns(call: Callable[[float], object], argument: float, count: int) -> float:
    """Mean time of *count* calls in a plain loop; the loop's own cost is part of it."""
    rounds = range(count)
    started = time.perf_counter_ns()
    for _ in rounds:
        call(argument)
    return (time.perf_counter_ns() - started) / count


def single_calls(call: Callable[[float], object], argument: float, count: int) -> Quantiles:
    """Quantiles of *count* single calls; the clock's own cost is part of each."""
    clock = time.perf_counter_ns
    took = [0] * count
    for number in range(count):
        started = clock()
        call(argument)
        took[number] = clock() - started
    took.sort()
    return Quantiles(*(float(took[int(count * q)]) for q in (0.5, 0.99, 0.999)))


def show(heading: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table: the first column to the left, numbers to the right."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[place]) for line in lines) for place in range(len(columns))]
    print(f"\n{heading}")
    for line in lines:
        cells = [line[0].ljust(widths[0])]
        cells += [cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)]
        print("  " + "  ".join(cells).rstrip())


def describe() -> str:
    """The machine's facts, a line each."""
    return "\n".join(f"{name:>8}: {value}" for name, value in facts().items())


def spread(values: Iterable[float]) -> str:
    """Median, minimum and maximum of the runs, as text."""
    runs = Runs(tuple(values))
    return f"median {runs.median:.3g}  min {runs.minimum:.3g}  max {runs.maximum:.3g}"


def store(path: str, results: Mapping[str, object]) -> None:
    """Write results and the machine's facts as one JSON object."""
    content = {"machine": facts(), "command": sys.argv, "results": results}
    Path(path).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _first_line(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()[0]
    except (OSError, IndexError):
        return "unknown"
