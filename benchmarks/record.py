"""What does one measurement cost the engine?

Usage:
  record [--calls N] [--runs N] [--store FILE]

Options:
  --calls N     calls per run [default: 100000]
  --runs N      runs of each measurement [default: 7]
  --store FILE  write the numbers and the machine's facts to FILE as JSON

Budget: the median of ``record()`` is at most half of prometheus_client's ``Histogram.observe`` in
the same run, its p99 under 1 us.  After every run a reader must have got every record, right and in
order, or the number is void.  Exit code 1 when the budget is missed.
"""

import multiprocessing
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.machine import (
    SLICES,
    Quantiles,
    Runs,
    describe,
    in_turn,
    per_call_ns,
    show,
    single_calls,
    store,
)
from ringbuf import Recorder, RingReader, descriptor, segment

VALUE = 0.412
OURS = "record()"
PEER = "prometheus_client Histogram.observe"
BUDGET_RATIO = 0.5
BUDGET_P99_NS = 1000.0


@dataclass(frozen=True)
class Subject:
    """One way to take a measurement: the call, and what must be done and checked after a run."""

    call: Callable[[float], object]
    after: Callable[[int], None]
    share: int = 1  # one in so many calls, for the slow ones


def main(arguments: Mapping[str, Any]) -> int:
    """Measure, verify, print; 0 within the budget, 1 beyond it, 2 for wrong use."""
    calls, runs = arguments["--calls"], arguments["--runs"]
    if not (calls.isdecimal() and 1000 <= int(calls) <= 250_000):
        print(f"--calls {calls}: use 1000..250000, what the ring holds", file=sys.stderr)
        return 2
    if not (runs.isdecimal() and int(runs)):
        print(f"--runs {runs}: use a number from 1", file=sys.stderr)
        return 2
    return measure(int(calls), int(runs), arguments["--store"])


def measure(calls: int, runs: int, file: str | None) -> int:
    """All subjects in turn, then their single calls, then the tables."""
    with ExitStack() as stack:
        subjects = {
            OURS: stack.enter_context(_ours(threads=False)),
            "record(), threads=True": stack.enter_context(_ours(threads=True)),
            "with metric.time()": stack.enter_context(_timed()),
            PEER: Subject(_prometheus(), _nothing),
            "opentelemetry Histogram.record": Subject(_opentelemetry(), _nothing, share=2),
            "multiprocessing.Queue.put": stack.enter_context(_queue()),
        }
        loops = in_turn({name: _loop(one, calls) for name, one in subjects.items()}, runs)
        rounds = [
            {name: _quantiles(one, calls // runs) for name, one in subjects.items()}
            for _ in range(runs)
        ]
    spreads = {name: Quantiles.median([one[name] for one in rounds]) for name in subjects}
    return _report(loops, spreads, file)


def _loop(subject: Subject, calls: int) -> Callable[[], float]:
    count = calls // subject.share // SLICES

    def once() -> float:
        cost = per_call_ns(subject.call, VALUE, count)
        subject.after(count)
        return cost

    return once


def _quantiles(subject: Subject, calls: int) -> Quantiles:
    count = max(1, calls // subject.share)
    found = single_calls(subject.call, VALUE, count)
    subject.after(count)
    return found


@contextmanager
def _recorder(threads: bool) -> Iterator[tuple[Recorder, Callable[[int], None]]]:
    """A recorder, and the check that a reader got each of its records since the last check."""
    with tempfile.TemporaryDirectory() as folder:
        with Recorder("benchmark", folder, threads=threads, strict=True) as recorder:
            recorder.metric("latency", unit="ms")
            with RingReader.attach("benchmark", folder) as reader:

                def verify(count: int) -> None:
                    got = 0
                    while reader.unread:
                        batch = reader.poll()
                        got += len(batch.records)
                        if not np.isfinite(batch.records["value"]).all():
                            raise SystemExit("void: a wrong value arrived")
                    if got != count or reader.lost or recorder.rejected:
                        raise SystemExit(f"void: {got} of {count} records arrived")

                yield recorder, verify
        for name in descriptor.read(Path(folder, "rings"), "benchmark").segments:
            segment.remove(name)


@contextmanager
def _ours(*, threads: bool) -> Iterator[Subject]:
    with _recorder(threads) as (recorder, verify):
        yield Subject(recorder.metric("latency", unit="ms").record, verify)


@contextmanager
def _timed() -> Iterator[Subject]:
    with _recorder(threads=False) as (recorder, verify):
        metric = recorder.metric("latency", unit="ms")

        def timed(_: float) -> None:
            with metric.time():
                pass

        yield Subject(timed, verify)


def _prometheus() -> Callable[[float], object]:
    import prometheus_client

    registry = prometheus_client.CollectorRegistry()
    observe: Callable[[float], object] = prometheus_client.Histogram(
        "latency", "of the benchmark", registry=registry
    ).observe
    return observe


def _opentelemetry() -> Callable[[float], object]:
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader

    provider = MeterProvider([InMemoryMetricReader()])
    return provider.get_meter("benchmark").create_histogram("latency", unit="ms").record


@contextmanager
def _queue() -> Iterator[Subject]:
    queue: Queue[Any] = multiprocessing.get_context("spawn").Queue()

    def drain(count: int) -> None:
        for _ in range(count):
            queue.get(timeout=60)

    try:
        yield Subject(queue.put, drain, share=10)
    finally:
        queue.close()
        queue.join_thread()


def _nothing(count: int) -> None:
    """What a peer that keeps only sums needs after a run."""


def _report(loops: dict[str, Runs], spreads: dict[str, Quantiles], file: str | None) -> int:
    print(describe())
    peer = loops[PEER]
    rows = []
    for name, runs in loops.items():
        spread = spreads[name]
        numbers = (runs.median, runs.minimum, runs.maximum, spread.p50, spread.p99, spread.p999)
        rows.append([name, *(f"{number:,.0f}" for number in numbers), f"{runs.ratio(peer):.2f}"])
    heading = f"ns per call: a loop ({len(loops[OURS].values)} runs, in turn), and single calls"
    columns = ["", "median", "min", "max", "p50", "p99", "p99.9", "x peer"]
    show(heading, columns, rows)
    print("\nevery run of ours, ns:", *(f"{value:.0f}" for value in loops[OURS].values))
    print("a reader got every record of every run")
    ratio, p99 = loops[OURS].ratio(peer), spreads[OURS].p99
    good = ratio <= BUDGET_RATIO and p99 < BUDGET_P99_NS
    print(
        f"budget: {ratio:.2f} x {PEER} (at most {BUDGET_RATIO}), "
        f"p99 {p99:.0f} ns (under {BUDGET_P99_NS:.0f}): {'met' if good else 'MISSED'}"
    )
    if file:
        loops_found = {name: runs.values for name, runs in loops.items()}
        spreads_found = {name: asdict(spread) for name, spread in spreads.items()}
        store(file, {"loop_ns": loops_found, "single_call_ns": spreads_found})
    return 0 if good else 1
