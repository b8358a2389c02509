"""The rows of the benchmark ``alerting``: what is done to a peer, and what must come of it."""

import signal
import statistics
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks._peers import Alertmanager, Peer, Tickwatch
from benchmarks._receiver import DROP, NEVER, Arrival, Receiver, free_port
from benchmarks.machine import RUNS

PATIENCE_S = 15.0  # how long something may take to arrive before it counts as lost
GAP_S = 0.02  # between alerts that are timed
P50_MS, P99_MS, FIRST_MS = 5.0, 20.0, 20.0
RESUME_S = 5.0
GROWTH_MB = 50.0
STUCK_RATIO = 2.0
_SLACK_S = 0.5  # an attempt and this benchmark's own steps


@dataclass(frozen=True)
class Answer:
    """What one peer did in one row, and whether that is what is demanded."""

    text: str
    good: bool
    void: str = ""


class Stage:
    """Makes peers of one kind, each with a folder of its own."""

    def __init__(self, kind: type[Peer], folder: Path) -> None:
        self.kind = kind
        self._folder = folder
        self._number = 0
        self._lock = threading.Lock()

    def peer(self, *urls: str, **options: Any) -> Peer:
        """A peer that tells *urls*, not started yet."""
        with self._lock:
            self._number += 1
            made = self.kind(self._folder / f"{self.kind.__name__}{self._number}", urls)
        for name, value in options.items():
            setattr(made, name, value)
        return made


Row = Callable[[Stage], Answer]


def refused(status: int) -> Row:
    """The receiver refuses, the alert fires and ends, the receiver recovers."""

    def row(stage: Stage) -> Answer:
        with Receiver(status=status) as receiver, stage.peer(receiver.url) as peer:
            peer.fire("a")
            receiver.wait(len, PATIENCE_S)
            peer.resolve("a")
            time.sleep(3.0)
            attempts = len(receiver.arrivals)
            receiver.status = 200
            receiver.wait(lambda arrivals: len(arrivals) > attempts, PATIENCE_S)
            late = [peer.told(one) for one in receiver.arrivals[attempts:]]
            states = ", ".join(state for told in late for _, state in told)
            dead = peer.dead()
            text = f"{attempts} attempts, then told: {states or 'nothing'}"
            good = late == [[("a", "resolved")]] if status == 429 else bool(dead)
            return Answer(text + (f"; dead: {dead}" if dead else ""), good)

    return row


def killed(number: int) -> Row:
    """Accepted while the receiver is down; the process is ended and started again."""

    def row(stage: Stage) -> Answer:
        port = free_port()
        with stage.peer(f"http://127.0.0.1:{port}/") as peer:
            peer.fire("a")
            time.sleep(1.0)
            peer.end(number)
            with Receiver(port) as receiver:
                peer.start()
                receiver.wait(len, PATIENCE_S)
                told = [one for arrival in receiver.arrivals for one in peer.told(arrival)]
        return Answer("delivered" if told else "lost", told == [("a", "firing")])

    return row


def silenced(stage: Stage) -> Answer:
    """A silence is accepted, the process killed 5 s later; then the alert fires."""
    with Receiver() as receiver, stage.peer(receiver.url) as peer:
        peer.silence()
        time.sleep(5.0)
        peer.end(signal.SIGKILL)
        peer.start()
        peer.fire("a")
        told = receiver.wait(len, 5.0)
    return Answer("silence gone, alert told" if told else "silence holds", not told)


def unanswered(stage: Stage) -> Answer:
    """The receiver processes each message, but its reply is lost, for 14 s."""
    with Receiver(status=DROP) as receiver, stage.peer(receiver.url) as peer:
        peer.fire("a")
        time.sleep(14.0)
        receiver.status = 200
        copies = len(receiver.arrivals)
        receiver.wait(lambda arrivals: len(arrivals) > copies, 4 * PATIENCE_S)
        ids = {arrival.delivery for arrival in receiver.arrivals}
        named = "with one id" if len(ids) == 1 and "" not in ids else "without an id"
        void = "" if copies else "no copy arrived"
    return Answer(f"{copies} copies in 14 s {named}", named == "with one id", void)


def resent(stage: Stage) -> Answer:
    """Delivered, killed, and the source says the same again."""
    with Receiver() as receiver, stage.peer(receiver.url) as peer:
        peer.fire("a")
        receiver.wait(len, PATIENCE_S)
        time.sleep(2.0)
        peer.end(signal.SIGKILL)
        peer.start()
        peer.fire("a")
        receiver.wait(lambda arrivals: len(arrivals) > 1, 8.0)
        copies = len(receiver.arrivals)
    return Answer("told once" if copies == 1 else f"told {copies} times", copies == 1)


def recovered(outage_s: float) -> Row:
    """503 for a while, then healthy."""

    def row(stage: Stage) -> Answer:
        default = {"interval": "5m"} if stage.kind is Alertmanager else {}
        with Receiver(status=503) as receiver, stage.peer(receiver.url, **default) as peer:
            peer.fire("a")
            time.sleep(outage_s)
            attempts = len(receiver.arrivals)
            receiver.status = 200
            back_ns = time.perf_counter_ns()
            came = receiver.wait(lambda arrivals: len(arrivals) > attempts, 100.0)
            took_s = (receiver.arrivals[-1].at_ns - back_ns) / 1e9
        if not came:
            return Answer(f"{attempts} attempts, nothing in 100 s", False)
        text = f"told {took_s:.1f} s later ({attempts} attempts before)"
        return Answer(text, took_s <= RESUME_S + _SLACK_S)

    return row


def timed(alerts: int) -> Row:
    """From the hand-over to the bytes at the receiver, one alert at a time."""

    def row(stage: Stage) -> Answer:
        with Receiver() as receiver, stage.peer(receiver.url) as peer:
            _warm_up(peer, receiver)
            took_ms = [_latency(peer, receiver, str(number)) for number in range(alerts)]
        p50, p99 = _quantile(took_ms, 0.5), _quantile(took_ms, 0.99)
        text = f"p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max(took_ms):.1f} ms"
        return Answer(text, p50 <= P50_MS and p99 <= P99_MS)

    return row


def stuck(alerts: int) -> Row:
    """One of two receivers never answers: how late is the other?

    Both ways in turn, so that both have the same moments of the machine; the worst of each run,
    because one bad moment of the disk would be the p99 of all.
    """

    def row(stage: Stage) -> Answer:
        free_ms: list[list[float]] = []
        hindered_ms: list[list[float]] = []
        with (
            Receiver() as alone,
            Receiver() as beside,
            Receiver(status=NEVER) as silent,
            stage.peer(alone.url) as free,
            stage.peer(silent.url, beside.url) as hindered,
        ):
            _warm_up(free, alone)
            _warm_up(hindered, beside)
            for run in range(RUNS):
                names = [f"{run}/{number}" for number in range(alerts // RUNS)]
                pairs = [(_latency(free, alone, n), _latency(hindered, beside, n)) for n in names]
                free_ms.append([one for one, _ in pairs])
                hindered_ms.append([one for _, one in pairs])
            void = "" if silent.arrivals else "the silent receiver got nothing"
        worst = [statistics.median(map(max, runs)) for runs in (free_ms, hindered_ms)]
        middle = [statistics.median(chain(*runs)) for runs in (free_ms, hindered_ms)]
        text = f"p50 x {middle[1] / middle[0]:.2f}, worst of {alerts // RUNS} x "
        text += f"{worst[1] / worst[0]:.2f} ({worst[0]:.1f} -> {worst[1]:.1f} ms)"
        return Answer(text, worst[1] <= STUCK_RATIO * worst[0], void)

    return row


def storm(alerts: int) -> Row:
    """Thousands at once."""

    def row(stage: Stage) -> Answer:
        calm = {"rate_per_s": 10.0, "burst": 20} if stage.kind is Tickwatch else {}
        answer = _storm(stage.peer, alerts, calm)
        if stage.kind is Alertmanager:
            grouped = _storm(stage.peer, alerts, {"grouped": True})
            answer = Answer(f"{answer.text}; grouped: {grouped.text}", answer.good, answer.void)
        return answer

    return row


def _storm(make: Callable[..., Peer], alerts: int, options: Mapping[str, Any]) -> Answer:
    names = [str(number) for number in range(alerts)]
    with Receiver() as receiver, make(receiver.url, **options) as peer:
        if not options.get("grouped"):  # where it would be a member of the same group
            peer.fire("warm-up")
            receiver.wait(len, PATIENCE_S)
        warm = len(receiver.arrivals)
        before_mb, threads = peer.memory_mb(), peer.threads()
        peak = _Peak(peer)
        peer.fire(*names)
        accepted_ns = time.perf_counter_ns()
        counted = _Counted(peer, warm)
        receiver.wait(lambda arrivals: counted.take(arrivals) >= alerts, 4 * PATIENCE_S)
        grown_mb = peak.stop() - before_mb
        more = peer.threads() - threads
        void = "" if counted.total == alerts else f"{counted.total} of {alerts} arrived"
        storm = receiver.arrivals[warm:]
        first_ms = max(0.0, (storm[0].at_ns - accepted_ns) / 1e6) if storm else float("inf")
        last_s = (storm[-1].at_ns - accepted_ns) / 1e9 if storm else float("inf")
        if isinstance(peer, Tickwatch) and not peer.conservation()["holds"]:
            void = "the ledger doesn't add up"
    biggest = max((len(one.body) for one in storm), default=0)
    text = f"{len(storm):,} messages (biggest {biggest / 1000:,.0f} kB), "
    text += f"first {first_ms:,.0f} ms, last {last_s:.1f} s, +{grown_mb:.0f} MB, +{more} threads"
    good = first_ms <= FIRST_MS and grown_mb < GROWTH_MB and more <= 0
    return Answer(text, good, void)


class _Counted:
    """Counts alerts in messages, each message once, those after the first *seen*."""

    def __init__(self, peer: Peer, seen: int) -> None:
        self._peer = peer
        self._seen = seen
        self.total = 0

    def take(self, arrivals: list[Arrival]) -> int:
        """Alerts so far."""
        for arrival in arrivals[self._seen :]:
            self.total += self._peer.count(arrival)
        self._seen = len(arrivals)
        return self.total


class _Peak:
    """The most memory that a peer had until ``stop``."""

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._over = threading.Event()
        self._peak_mb = 0.0
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def stop(self) -> float:
        """In MB."""
        self._over.set()
        self._thread.join()
        return self._peak_mb

    def _watch(self) -> None:
        while True:
            self._peak_mb = max(self._peak_mb, self._peer.memory_mb())
            if self._over.wait(0.05):
                return


def _warm_up(peer: Peer, receiver: Receiver) -> None:
    """A start isn't what is measured."""
    _latency(peer, receiver, "warm-up")
    time.sleep(1.5)


def _latency(peer: Peer, receiver: Receiver, name: str) -> float:
    """Milliseconds from the hand-over of an alert to its arrival."""
    before = len(receiver.arrivals)
    started_ns = time.perf_counter_ns()
    peer.fire(name)
    came = receiver.wait(lambda arrivals: len(arrivals) > before, PATIENCE_S)
    assert came, f"alert {name} did not arrive"
    arrival = receiver.arrivals[before]
    assert peer.told(arrival) == [(name, "firing")], f"another alert than {name} arrived"
    time.sleep(GAP_S)
    return (arrival.at_ns - started_ns) / 1e6


def _quantile(values: list[float], q: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * q))]
