"""How fast is the way from a record to rollups, and from a record to a receiver?

Usage:
  pipeline [--alerts N] [--idle SECONDS]

Options:
  --alerts N        alerts that are timed from record to receipt [default: 200]
  --idle SECONDS    how long the idle aggregator's use of the processor is watched [default: 10]

Budgets: 10 million records a second from the ring to rollups on one core; record to receipt p50 <=
5 ms and p99 <= 20 ms; an idle aggregator at most 1.5 % of a core.  Each answer is checked, or the
number is void: rollups hold every record, the receiver got every alert once.
"""

import contextlib
import json
import os
import queue
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.machine import RUNS, describe, spread
from ringbuf import Recorder
from ringbuf.ownership import holder

ROOT = Path(__file__).parents[1]
SERIES = 20
ROUNDS = 8
CAPACITY = 1 << 18
_SILENCE_S = 22  # after which the aggregator polls no more slowly


def main(arguments: Mapping[str, Any]) -> int:
    """Run all three measurements and print them."""
    print(describe())
    rollups("ring to rollups, million records/s  ", day_files=False)
    rollups("the same beside writing day files   ", day_files=True)
    receipt(int(arguments["--alerts"]), float(arguments["--idle"]))
    return 0


def rollups(title: str, *, day_files: bool) -> None:
    """Drain full rings through the aggregator's own step, rules included.

    Without *day_files* raw records are dropped where they would be handed to the thread that writes
    them, which competes for the same interpreter.
    """
    from aggregator.configuration import configure
    from aggregator.cycle import Aggregator
    from aggregator.memory import keep_freed
    from aggregator.settings import Settings

    keep_freed()  # as the aggregator's process does
    rates = []
    with tempfile.TemporaryDirectory() as folder:
        settings = Settings(
            monitoring_data_dir=folder, monitoring_log_dir=str(Path(folder) / "logs")
        )
        recorder = Recorder("bench", folder, capacity=CAPACITY)
        records = [
            recorder.metric("tick_latency" if number % 2 else "depth", "ms", n=str(number)).record
            for number in range(SERIES)
        ]
        aggregator = Aggregator(configure(settings), queue.Queue())  # type: ignore[arg-type]
        if not day_files:
            aggregator._historian.add = lambda *_: None  # type: ignore[method-assign]
        records[0](1.0)
        while not aggregator.step(time.monotonic_ns()):
            pass
        written = 1
        for _ in range(RUNS):
            spent_ns = 0
            for _ in range(ROUNDS):
                for number in range(CAPACITY - 1):
                    records[number % SERIES](float(number % 89) + 0.25)
                written += CAPACITY - 1
                started = time.perf_counter_ns()
                while aggregator.step(time.monotonic_ns()):
                    pass
                spent_ns += time.perf_counter_ns() - started
            rates.append(ROUNDS * (CAPACITY - 1) / spent_ns * 1e3)
        aggregator.close()
        recorder.close()
        counted = count(Path(folder) / "rollups.db")
        unlink_rings(folder)
    assert counted == written, f"void: {counted} of {written} records in the rollups"
    print(f"{title} {spread(rates)}   ({SERIES} series, rules on)")


def receipt(alerts: int, idle_s: float) -> None:
    """Time alerts from `record()` here to bytes at a receiver, in the real processes."""
    arrivals: queue.SimpleQueue[tuple[int, str]] = queue.SimpleQueue()
    with (
        tempfile.TemporaryDirectory() as folder,
        receiver(arrivals) as port,
        service(folder, port) as pids,
    ):
        recorder = Recorder("bench", folder)
        breakers = [
            recorder.metric("circuit_breaker_active", n=str(number)) for number in range(alerts)
        ]
        time.sleep(1.5)  # let the aggregator find the ring: a start isn't what is measured
        taken_ms, seen = [], set()
        for number, breaker in enumerate(breakers):
            started = time.perf_counter_ns()
            breaker.record(1.0)
            arrived_ns, name = arrivals.get(timeout=30)
            taken_ms.append((arrived_ns - started) / 1e6)
            seen.add(name)
            assert name == str(number), f"void: {name} came for {number}"
            time.sleep(0.005)
        assert len(seen) == alerts and arrivals.empty(), "void: lost or doubled"
        time.sleep(_SILENCE_S)
        busy = _busy(pids["aggregator"], idle_s)
        recorder.close()
    taken_ms.sort()
    quantile = [taken_ms[min(alerts - 1, int(alerts * q))] for q in (0.5, 0.9, 0.99)]
    print(
        f"record to receipt, ms                p50 {quantile[0]:.2f}  p90 {quantile[1]:.2f}  "
        f"p99 {quantile[2]:.2f}  max {taken_ms[-1]:.2f}   ({alerts} alerts, webhook on loopback)"
    )
    print(f"idle aggregator, % of a core         {busy:.2f}   (over {idle_s:g} s)")


@contextlib.contextmanager
def receiver(arrivals: "queue.SimpleQueue[tuple[int, str]]") -> Iterator[int]:
    """A webhook receiver on loopback that puts (time, label n) of each message; its port.

    As lean as can be: what is measured ends when the last byte is here.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        thread = threading.Thread(target=_receive, args=(listener, arrivals))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def _receive(listener: socket.socket, arrivals: "queue.SimpleQueue[tuple[int, str]]") -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return  # shut down
        with connection:
            head, _, body = connection.recv(65_536).partition(b"\r\n\r\n")
            length = int(re.search(rb"(?i)content-length: *([0-9]+)", head)[1])  # type: ignore[index]
            while len(body) < length:
                body += connection.recv(65_536)
            arrived_ns = time.perf_counter_ns()
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        arrivals.put((arrived_ns, json.loads(body)["labels"]["n"]))


@contextlib.contextmanager
def service(folder: str, port: int) -> Iterator[dict[str, int]]:
    """The real service on *folder*, posting to *port*; the pids of its children by name.

    At the end the rings that were made there meanwhile are removed.
    """
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "MONITORING_LOG_DIR": str(Path(folder) / "logs"),
        "MONITORING_ENABLE_WEBHOOK_ALERTS": "true",
        "MONITORING_WEBHOOK_URL": f"http://127.0.0.1:{port}/",
        "MONITORING_DELIVERY_RATE_PER_SECOND": "100",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "--data-dir", folder, "run"],
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    try:
        locks = {name: Path(folder) / f"{name}.lock" for name in ("aggregator", "notifier")}
        while not all(holder(lock) for lock in locks.values()):
            assert process.poll() is None, "the service ended"
            time.sleep(0.02)
        yield {name: holder(lock) or 0 for name, lock in locks.items()}
    finally:
        process.terminate()
        process.wait(60)
        unlink_rings(folder)


def _busy(pid: int, seconds: float) -> float:
    """Use of the processor by *pid* over *seconds*, in percent of a core."""

    def spent() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before, started = spent(), time.monotonic()
    time.sleep(seconds)
    ticks = os.sysconf("SC_CLK_TCK")
    return 100 * (spent() - before) / ticks / (time.monotonic() - started)


def count(path: Path) -> int:
    """Records in the base rollups at *path*."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as db:
        return int(db.execute("SELECT sum(count) FROM base").fetchone()[0])


def unlink_rings(folder: str) -> None:
    """Remove the ring's shared memory: only this benchmark's own."""
    for descriptor in (Path(folder) / "rings").glob("*.json"):
        current = json.loads(descriptor.read_text())["current"]
        for name in (current["segment"], current["text_segment"]):
            (Path("/dev/shm") / name.lstrip("/")).unlink(missing_ok=True)
