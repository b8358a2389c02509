"""Market sentiment for the demo: a provider on 127.0.0.1 and a client that asks it meanwhile.

The engine's thread never waits for either: the client's thread measures each ask and hands the
result over through a bounded deque, which the engine empties when it has time.  What was asked and
answered must never reach a trading decision, because its timing is not part of the feed.
"""

import http.client
import json
import random
import threading
import time
from collections import deque
from collections.abc import Collection
from time import perf_counter_ns
from typing import NamedTuple

from cli.loopback import HOST, Loopback, Replier

PROVIDER = "local"
_ANSWER_S = (0.005, 0.040)  # a hosted provider's usual range, shortened for the demo
_KEPT = 1_024
_STOP_S = 3.0


class Ask(NamedTuple):
    """One ask that came to an end: how long it took, and the score (-1..1), None when it failed."""

    latency_ms: float
    score: float | None


def provider(refuse: Collection[int] = (), seed: int = 7) -> Loopback:
    """Start a provider that answers ``GET /sentiment`` with a score, a few milliseconds later.

    Args:
        refuse: the asks, counted from 1, that are answered with 503.
    """
    chance = random.Random(seed)
    numbers = iter(range(1, 1 << 62))
    lock = threading.Lock()

    class Provider(Replier):
        def do_GET(self) -> None:
            if not self.path.startswith("/sentiment"):
                self.reply(404)
                return
            with lock:
                refused = next(numbers) in refuse
                wait_s, score = chance.uniform(*_ANSWER_S), chance.uniform(-1.0, 1.0)
            time.sleep(wait_s)
            if refused:
                self.reply(503)
            else:
                self.reply(200, json.dumps({"score": round(score, 3)}).encode())

    return Loopback(Provider)


class SentimentClient:
    """Asks the provider every *every_s* seconds on a thread of its own.

    ``asked`` and ``failed`` count asks that came to an end; ``score`` is the newest answer.
    """

    def __init__(self, port: int, every_s: float = 1.0, timeout_s: float = 2.0) -> None:
        self.asked = self.failed = 0
        self.score: float | None = None
        self._port = port
        self._every_s = every_s
        self._timeout_s = timeout_s
        self._results: deque[Ask] = deque(maxlen=_KEPT)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="sentiment", daemon=True)
        self._thread.start()

    def take(self) -> list[Ask]:
        """The asks that ended since the last call; never waits."""
        taken = []
        while self._results:  # only this thread takes, so one that is there stays there
            taken.append(self._results.popleft())
        return taken

    def close(self) -> None:
        """Stop asking; the ask under way may still end within the time limit."""
        self._stop.set()
        self._thread.join(self._timeout_s + _STOP_S)

    def _run(self) -> None:
        while not self._stop.is_set():
            before = perf_counter_ns()
            score = self._ask()
            latency_ms = (perf_counter_ns() - before) / 1e6
            self.asked += 1
            if score is None:
                self.failed += 1
            else:
                self.score = score
            self._results.append(Ask(latency_ms, score))
            self._stop.wait(self._every_s)

    def _ask(self) -> float | None:
        # the time limit is per read; a provider that drips holds up this thread and nothing else
        connection = http.client.HTTPConnection(HOST, self._port, timeout=self._timeout_s)
        try:
            connection.request("GET", "/sentiment")
            reply = connection.getresponse()
            if reply.status != 200:
                return None
            score = json.loads(reply.read(4_096))["score"]
            return float(score) if isinstance(score, int | float) and abs(score) <= 1 else None
        except (OSError, http.client.HTTPException, ValueError, TypeError, KeyError):
            return None
        finally:
            connection.close()
