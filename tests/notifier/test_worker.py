"""Attempts in threads: outcomes, time limits, and one plugin not delaying another."""

import threading
import time

import pytest

from notifier.plugin import (
    AlertDeliveryPlugin,
    Message,
    PartialError,
    PermanentError,
    RetryableError,
    load,
)
from notifier.worker import THREADS_PER_PLUGIN, Job, Outcome, Threads, attempt
from tests.servers import HttpServer, Reply
from tests.waiting import wait_for

ROW = {
    "id": "a1", "rule": "slow", "labels": {}, "severity": "critical", "state": "firing",
    "message": "", "value": 1.0, "threshold": 0.5, "unit": "ms", "count": 1, "ack": None,
    "started_at": "2026-01-01T00:00:00.000000Z", "last_seen_at": "2026-01-01T00:00:00.000000Z",
    "resolved_at": None,
}  # fmt: skip


def message(delivery="d1", number=1):
    return Message("firing", ROW, delivery=delivery, attempt=number)


class Blocking(AlertDeliveryPlugin):
    """Blocks until it is let go, whatever the deadline."""

    def __init__(self, name):
        super().__init__(name)
        self.go = threading.Event()
        self.started = 0

    def deliver(self, message):
        self.started += 1
        self.go.wait(30)
        return True


class Ending(AlertDeliveryPlugin):
    """Ends as told."""

    def __init__(self, end):
        super().__init__("desk")
        self.end = end

    def deliver(self, message):
        if isinstance(self.end, Exception):
            raise self.end
        return self.end


@pytest.mark.parametrize(
    ("end", "outcome", "error"),
    [
        (True, Outcome.DELIVERED, ""),
        (False, Outcome.FAILED, "not accepted"),
        (PermanentError("HTTP 404"), Outcome.REFUSED, "HTTP 404"),
        (RetryableError("HTTP 503"), Outcome.FAILED, "HTTP 503"),
        (RetryableError("reset", unknown=True), Outcome.UNKNOWN, "reset"),
        (PartialError("451", ["b"]), Outcome.PARTIAL, "451"),
        (ZeroDivisionError("secret"), Outcome.UNKNOWN, "plugin error: ZeroDivisionError"),
    ],
)
def test_every_end_of_an_attempt_is_an_outcome(end, outcome, error):
    """Nothing that a plugin does gets out of it."""
    result = attempt(Ending(end), message())
    assert (result.outcome, result.error) == (outcome, error)


def test_a_partial_end_says_who_is_left_and_whether_anybody_has_it():
    """So that the rest gets it, once."""
    result = attempt(Ending(PartialError("451", ["b"], delivered=["a"])), message())
    assert (result.remaining, result.reached) == (("b",), True)


def _collect(workers, count=1):
    found = []

    def enough():
        found.extend(workers.collect())
        return len(found) >= count

    wait_for(enough, f"{count} results")
    return found


def test_a_result_wakes_the_loop():
    """It needn't poll."""
    woken = threading.Event()
    workers = Threads({"desk": Ending(True)}, woken.set)
    workers.submit(Job("desk", message(), 5.0))
    assert woken.wait(10)
    assert [one.outcome for one in _collect(workers)] == [Outcome.DELIVERED]
    assert workers.free("desk")
    workers.stop()


def test_an_attempt_that_ignores_its_deadline_is_given_up():
    """Its outcome is unknown, and what it says later is not heard."""
    stuck = Blocking("desk")
    workers = Threads({"desk": stuck}, lambda: None)
    workers.submit(Job("desk", message(), 0.1))
    assert not workers.free("desk")
    [result] = _collect(workers)
    assert (result.outcome, result.error) == (Outcome.UNKNOWN, "no end in time")
    assert workers.free("desk")
    stuck.go.set()
    time.sleep(0)
    workers.submit(Job("desk", message(number=2), 5.0))
    [second] = _collect(workers)
    assert (second.attempt, second.outcome) == (2, Outcome.DELIVERED)
    assert workers.collect() == []
    workers.stop()


def test_a_plugin_has_at_most_two_threads():
    """With both stuck it waits; when one returns it goes on."""
    stuck = Blocking("desk")
    stuck.name = "stuck"

    def threads():
        return sum(thread.name == "deliver-stuck" for thread in threading.enumerate())

    workers = Threads({"stuck": stuck}, lambda: None)
    for number in range(1, THREADS_PER_PLUGIN + 1):
        workers.submit(Job("stuck", message(number=number), 0.05))
        _collect(workers)
    assert not workers.free("stuck")
    assert threads() == THREADS_PER_PLUGIN == stuck.started
    stuck.go.set()
    wait_for(lambda: workers.collect() or workers.free("stuck"), "a thread that came back")
    workers.submit(Job("stuck", message(number=9), 5.0))
    [result] = _collect(workers)
    assert result.attempt == 9
    assert threads() <= THREADS_PER_PLUGIN
    workers.stop()


def test_a_stuck_plugin_delays_no_other():
    """Real servers: one never answers, one drips, the third gets its hundred messages meanwhile."""
    with HttpServer() as silent, HttpServer() as dripping, HttpServer() as good:
        silent.default = Reply(never=True)
        dripping.default = Reply(body=b"x" * 100, drip_headers_s=0.05)
        servers = {"silent": silent, "dripping": dripping, "good": good}
        plugins = {
            name: load("webhook")(name=name, options={"url": server.url})
            for name, server in servers.items()
        }
        workers = Threads(plugins, lambda: None)
        workers.submit(Job("silent", message(), 3.0))
        workers.submit(Job("dripping", message(), 3.0))
        started = time.monotonic()
        for number in range(100):
            workers.submit(Job("good", message(number=number), 3.0))
            wait_for(lambda: workers.free("good") or workers.collect(), "the good one")
        assert time.monotonic() - started < 30
        assert len(good.wait(100)) == 100
        wait_for(lambda: workers.collect() or workers.free("silent"), "the silent one's end")
        workers.stop()
