"""How fast do raw records become day files, whom does that disturb, and how fast are answers?

Usage:
  history [--records N] [--seconds N] [--days N] [--json FILE]

Options:
  --records N   records in the day that is closed [default: 10000000]
  --seconds N   how long an engine is timed in each run [default: 2]
  --days N      days of rollups that are asked [default: 365]
  --json FILE   store the results, with the machine's facts

Budgets: at least 200,000 records a second on one core, with the engine's p99 within 10 %; a day of
10 million records closed in 60 s and 200 MB.  Of a year of 200 series, the last hour of everything,
and one series by hour or by day, each in 50 ms; a million rows exported in 10 s, memory flat.  What
was written is read back and counted, and so is every answer, or the number is void.
"""

import multiprocessing
import resource
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.history.background import Background
from aggregator.history.dayfolder import FOLDER
from benchmarks import _history_rows
from benchmarks.machine import RUNS, Runs, describe, spread, store

SERIES = 20
ASKED_SERIES, EXPORTED_SERIES = 200, 3473
RECORDS = 400_000  # of one run
BATCH = 4096
RATE = 200_000  # records a second while others are timed
START_NS = 1_769_817_600 * 10**9  # a midnight
SLICES = 4  # of a run of the engine
IDLE_S = 0.002  # the aggregator's loop sleeps as long

Result = dict[str, float]


def main(arguments: Mapping[str, Any]) -> int:
    """Run all measurements and print them."""
    print(describe())
    results: dict[str, object] = {
        "flush": flush(),
        "close": close(int(arguments["--records"])),
        "queries": queries(int(arguments["--days"])),
        "export": export(),
        "engine": engine(float(arguments["--seconds"])),
    }
    if arguments["--json"]:
        store(arguments["--json"], results)
    return 0


def flush() -> dict[str, Result]:
    """Write a day file in the caller's thread, then read it back."""
    written, handed, read, made_up, size = [], [], [], [], 0.0
    for number in range(RUNS):
        with tempfile.TemporaryDirectory() as folder:
            archive = str(Path(folder) / FOLDER)
            history = _history(archive)
            feed = Feed(number)
            started = time.perf_counter()
            for start in range(0, RECORDS, BATCH):
                feed.hand_over(history, min(BATCH, RECORDS - start))
            handed.append((time.perf_counter() - started) / RECORDS * 1e9)
            started = time.process_time()
            while history.waiting:
                history.step()
            written.append(RECORDS / (time.process_time() - started))
            started = time.process_time()
            found = _count(archive)
            read.append(RECORDS / (time.process_time() - started))
            assert found == (RECORDS, 0), f"void: {found} of {RECORDS} records in the day file"
            size = _size(archive) / RECORDS
            made_up.append(_history_rows.make_up(Path(folder), RECORDS))
    print(f"loop's side, ns/record               {spread(handed)}   (batches of {BATCH})")
    print(f"day file, records/s of one core      {spread(written)}   ({size:.1f} bytes/record)")
    print(f"read back, records/s of one core     {spread(read)}")
    print(f"summed up without rollups, records/s {spread(made_up)}")
    return {
        "handed_ns": _row(handed),
        "written": _row(written),
        "read": _row(read),
        "made_up": _row(made_up),
    }


def queries(days: int) -> dict[str, Result]:
    """Ask a store of 200 series, whose base rollups are kept for 30 days."""
    with tempfile.TemporaryDirectory() as folder:
        _history_rows.make_store(Path(folder), ASKED_SERIES, min(30, days), days)
        took = _history_rows.ask(Path(folder), ASKED_SERIES, days)
    for name, found in took.items():
        print(f"{name:<29}, ms      {spread(found)}")
    return {name: _row(found) for name, found in took.items()}


def export() -> Result:
    """Export a day of a million rows to a file, in a process of its own."""
    rows = EXPORTED_SERIES * 288
    with tempfile.TemporaryDirectory() as folder:
        _history_rows.make_store(Path(folder), EXPORTED_SERIES, 1, 0)
        took, peak_mb = _history_rows.export(Path(folder), rows)
    print(f"export of {rows:,} rows, s           {spread(took)}   ({peak_mb:.0f} MB)")
    return {**_row(took), "rows": rows, "memory_mb": peak_mb}


def close(records: int) -> Result:
    """Write a day, then close it in a process of its own, whose memory is measured."""
    with tempfile.TemporaryDirectory() as folder:
        history = _history(folder)
        feed = Feed(0)
        started = time.perf_counter()
        for start in range(0, records, BATCH):
            feed.hand_over(history, min(BATCH, records - start))
            if history.waiting >= RECORDS or start + BATCH >= records:
                while history.waiting:
                    history.step()
        wrote_s = time.perf_counter() - started
        closed, took_s, memory_mb = _history_rows.in_process(_close, folder)
        assert closed == records, f"void: {closed} of {records} records in the closed day"
    print(f"a day of {records:,} records: written in {wrote_s:.1f} s, closed in {took_s:.1f} s")
    print(f"memory of the process that closed it {memory_mb:.0f} MB")
    return {"records": records, "written_s": wrote_s, "closed_s": took_s, "memory_mb": memory_mb}


def engine(seconds: float) -> dict[str, Result]:
    """Time an engine's single records, and a loop's 2 ms naps here, with and without the day files.

    In turn, several times a run, in the same processes: a slow moment of the machine hits both.
    """
    p99: dict[str, list[float]] = {"off": [], "on": []}
    late: dict[str, list[float]] = {"off": [], "on": []}
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        here, there = context.Pipe()
        process = context.Process(target=_engine, args=(folder, there))
        process.start()
        there.close()  # so that its end is noticed here
        history = _history(str(Path(folder) / "archive"))
        work = Background("history", history.step)
        history.wake = work.wake
        feed = Feed(0)
        assert here.recv() == "ready"
        for number in range(2 * RUNS * SLICES):
            which = ("off", "on")[number % 2]
            here.send(seconds / SLICES)
            delays = _loop(feed, history if which == "on" else None, here.poll)
            p99[which].append(here.recv())
            late[which].append(delays[int(len(delays) * 0.99)] * 1e3)
            while history.waiting:
                time.sleep(IDLE_S)
        here.send(0.0)
        process.join(60)
        assert work.close(60)
        assert history.stored == feed.handed > 0, "void: not all was written"
    for which in p99:
        print(f"day files {which:>3}: record() p99, ns         {spread(p99[which])}")
        print(f"day files {which:>3}: loop's delay p99, ms     {spread(late[which])}")
    ratio = statistics.median(p99["on"]) / statistics.median(p99["off"])
    print(f"engine's p99, on / off               {ratio:.3f}   ({RATE:,} records/s to day files)")
    return {
        **{f"p99_ns_{which}": _row(found) for which, found in p99.items()},
        **{f"delay_ms_{which}": _row(found) for which, found in late.items()},
    }


class Feed:
    """Records as a busy engine's reader hands them over."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.handed = 0
        self._values = np.round(rng.lognormal(0, 1, 1 << 16), 4)
        self._series = rng.integers(0, SERIES, 1 << 16)

    def hand_over(self, history: Any, count: int) -> None:
        """The next *count* records, 7 us apart."""
        seqs = np.arange(self.handed, self.handed + count)
        self.handed += count
        place = seqs & 0xFFFF
        history.add(
            "ab" * 16, self._series[place], seqs, START_NS + seqs * 7001, self._values[place]
        )


def _history(folder: str, budget: float = 1e12) -> Any:
    """A history that writes all it gets."""
    from aggregator.history.daywriter import DayFiles
    from aggregator.history.history import History

    history = History(DayFiles(Path(folder)), 100, budget=budget, clock=_Standing())
    for number in range(SERIES):
        labels = {"engine": "intraday", "strategy": f"strategy_{number}"}
        history.add_series(number, "tick_latency", "ms", labels)
    return history


class _Standing:
    """A clock that never moves: nothing is measured, so nothing is thinned."""

    def __call__(self) -> float:
        return 0.0


def _count(folder: str) -> tuple[int, int]:
    from aggregator.history.dayreader import Trouble, read_records

    trouble = Trouble()
    count = sum(1 for _ in read_records(Path(folder), 0, 1 << 62, trouble=trouble))
    return count, trouble.damaged_members + trouble.bad_lines


def _size(folder: str) -> int:
    return sum(each.stat().st_size for each in Path(folder).iterdir())


def _close(folder: str, answer: Connection) -> None:
    from aggregator.history.archive import Archive
    from aggregator.history.daywriter import DayFiles

    keeper = Archive(DayFiles(Path(folder)), 30, 24, wall_ns=lambda: START_NS + 2 * 86_400 * 10**9)
    started = time.perf_counter()
    report = keeper.run()
    took_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    answer.send((sum(report.closed.values()), took_s, peak_mb))


def _loop(feed: Feed, history: Any, done: Callable[[], bool]) -> list[float]:
    """What the aggregator's loop does when it is idle, besides handing records over; how much later
    than wished it woke up each time, in seconds, sorted."""
    delays: list[float] = []
    handed = 0
    began = time.perf_counter()
    while not done():
        due = int((time.perf_counter() - began) * RATE)
        if history is not None and due > handed:
            feed.hand_over(history, due - handed)
            handed = due
        before = time.perf_counter()
        time.sleep(IDLE_S)
        delays.append(time.perf_counter() - before - IDLE_S)
    return sorted(delays)


def _engine(folder: str, answer: Connection) -> None:
    """An engine that records a burst of 2,000 each 10 ms or so, times each call, and answers the
    p99 in ns for each number of seconds that it is sent, until that is 0."""
    from ringbuf import Recorder

    clock = time.perf_counter_ns
    pause = threading.Event()
    with Recorder("bench", folder) as recorder:
        record = recorder.metric("tick_latency", "ms").record
        answer.send("ready")
        while seconds := answer.recv():
            took: list[int] = []
            until = time.perf_counter() + seconds
            while time.perf_counter() < until:
                for _ in range(2000):
                    started = clock()
                    record(0.25)
                    took.append(clock() - started)
                pause.wait(0.01)
            took.sort()
            answer.send(float(took[int(len(took) * 0.99)]))
    _unlink(folder)


def _unlink(folder: str) -> None:
    """Remove the ring's shared memory: only this benchmark's own."""
    import json

    for descriptor in (Path(folder) / "rings").glob("*.json"):
        current = json.loads(descriptor.read_text())["current"]
        for name in (current["segment"], current["text_segment"]):
            (Path("/dev/shm") / name.lstrip("/")).unlink(missing_ok=True)


def _row(values: list[float]) -> Result:
    runs = Runs(tuple(values))
    return {"minimum": runs.minimum, "median": runs.median, "maximum": runs.maximum}
