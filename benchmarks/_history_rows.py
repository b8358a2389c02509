"""The stores of the benchmark ``history``, what is asked of them, and what must come back."""

import multiprocessing
import os
import resource
import sqlite3
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.interval import DAY_S, HOUR_S
from benchmarks.machine import RUNS

END_S = 1_769_817_600  # a midnight
BASE_S = 300
COUNT = 100  # records in each rollup
_KINDS = 50  # different rollups, so that not every number is the same

Row = tuple[Any, ...]


def make_store(folder: Path, series: int, base_days: int, days: int) -> None:
    """A store of *series* with base rollups of the last *base_days*, hourly and daily of *days*."""
    from aggregator.store.schema import COLUMNS
    from aggregator.store.store import Store

    with Store.open(folder / "rollups.db", BASE_S) as store:
        ids = [
            store.series_id("tick_latency", "ms", {"engine": "intraday", "strategy": f"s{number}"})
            for number in range(series)
        ]
        store.commit([], {}, {"made": b"1"})
    kinds = _kinds()
    with closing(sqlite3.connect(folder / "rollups.db")) as db:
        names = f"series, {COLUMNS}, buckets"
        marks = ", ".join("?" * (len(names.split(",")) + 1))
        db.executemany(
            f"INSERT INTO base (interval_s, {names}) VALUES ({marks})",
            ((BASE_S, *row) for row in _rows(kinds, ids, base_days, BASE_S, by_time=True)),
        )
        for table, step_s in (("hourly", HOUR_S), ("daily", DAY_S)):
            db.executemany(
                f"INSERT INTO {table} ({names}) VALUES ({marks[3:]})",
                _rows(kinds, ids, days, step_s, by_time=False),
            )
        db.commit()


def _kinds() -> list[Row]:
    """Rows of different numbers, from the code that makes them."""
    from aggregator.rollup import RollupBuffer
    from aggregator.store import tiers

    rng = np.random.default_rng(1)
    buffer = RollupBuffer(BASE_S)
    for number in range(_KINDS):
        values = np.round(rng.lognormal(0, 1, COUNT), 4)
        buffer.add(np.full(COUNT, number), np.arange(COUNT), values)
    return [tiers.row_of(rollup) for rollup in buffer.drain()]


def _rows(
    kinds: list[Row], ids: Sequence[int], days: int, step_s: int, *, by_time: bool
) -> Iterator[Row]:
    starts = range(END_S - days * DAY_S, END_S, step_s)
    places: Iterator[tuple[int, int]] = (
        ((each, at_s) for at_s in starts for each in ids)
        if by_time
        else ((each, at_s) for each in ids for at_s in starts)
    )
    for number, (each, at_s) in enumerate(places):
        kind = kinds[number % _KINDS]
        first_ns, last_ns = at_s * 10**9, (at_s + step_s - 1) * 10**9
        yield (each, at_s, *kind[1:6], first_ns, kind[7], last_ns, *kind[9:])


def ask(folder: Path, series: int, days: int) -> dict[str, list[float]]:
    """Milliseconds of each question to a year's store, every answer counted."""
    from aggregator.history.dayfolder import FOLDER
    from aggregator.store import query
    from aggregator.store.dayrows import DayRows

    one = {"match": {"strategy": f"s{series // 2}"}}
    year = {"start_s": END_S - days * DAY_S, "end_s": END_S}
    hour = {"start_s": END_S - HOUR_S, "end_s": END_S}
    questions: dict[str, tuple[dict[str, Any], int]] = {
        "last hour of everything": ({"interval_s": BASE_S, **hour}, series * 12),
        "one series, the year by hour": ({"interval_s": HOUR_S, **year, **one}, days * 24),
        "one series, the year by day": ({"interval_s": DAY_S, **year, **one}, days),
    }
    took: dict[str, list[float]] = {name: [] for name in questions}
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        for _ in range(RUNS):
            for name, (asked, expected) in questions.items():
                started = time.perf_counter()
                rows = list(query.metrics(db, **asked, days=DayRows(folder / FOLDER)))
                took[name].append((time.perf_counter() - started) * 1e3)
                counts = sum(row["count"] for row in rows)
                right = len(rows) == expected and counts == expected * COUNT
                assert right, f"void: {name}: {len(rows)} rows of {expected}"
    return took


def export(folder: Path, rows: int) -> tuple[list[float], float]:
    """Seconds of each `metrics export` of a day, start included, and the largest peak in MB."""
    took, peak_mb = [], 0.0
    for _ in range(RUNS):
        seconds, lines, memory_mb = in_process(_export, str(folder))
        assert lines == rows + 1, f"void: {lines} lines of {rows} rows"
        took.append(seconds)
        peak_mb = max(peak_mb, memory_mb)
    return took, peak_mb


def _export(folder: str, answer: Connection) -> None:
    from cli.__main__ import main

    target = Path(folder) / "out.csv"
    started = time.perf_counter()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    main(["metrics", "export", "--data-dir", folder, "--hours", "24", "-o", str(target)])
    took_s = time.perf_counter() - started
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with target.open("rb") as file:
        lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    answer.send((took_s, lines, peak_mb))


def make_up(folder: Path, records: int) -> float:
    """Records a second of one core that day files make rows of, when the store is new."""
    from aggregator.history.dayfolder import FOLDER
    from aggregator.store import query
    from aggregator.store.dayrows import DayRows
    from aggregator.store.store import Store

    Store.open(folder / "rollups.db", BASE_S).close()
    started = time.process_time()
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        days = DayRows(folder / FOLDER)
        asked: dict[str, Any] = {"start_s": END_S, "end_s": END_S + DAY_S, "days": days}
        found = sum(row["count"] for row in query.summary(db, **asked))
    took_s = time.process_time() - started
    assert found == records, f"void: {found} of {records} records in the summary"
    return records / took_s


def in_process(target: Callable[..., None], *args: object) -> Any:
    """What *target* sends from a process of its own, whose memory it can measure."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=target, args=(*args, there))
    process.start()
    there.close()  # so that its end is noticed here
    try:
        return here.recv()
    finally:
        process.join(60)
