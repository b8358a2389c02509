"""Attempts in threads: outcomes, time limits, and one plugin not delaying another."""

import math
import subprocess
import sys
import threading
import time

import pytest

from notifier.plugin import (
    RESEND,
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


def test_each_thread_prepares_its_plugin_before_the_first_message():
    """So that no alert waits for an import; once each, also the one that replaces a stuck one."""

    class Prepared(Blocking):
        prepared = 0

        def prepare(self):
            self.prepared += 1

    plugin = Prepared("desk")
    workers = Threads({"desk": plugin}, lambda: None)
    wait_for(lambda: plugin.prepared == 1, "the preparation, with no message yet")
    workers.submit(Job("desk", message(), 0.05))
    _collect(workers)
    workers.submit(Job("desk", message(number=2), 30.0))
    wait_for(lambda: plugin.prepared == 2, "the second thread's")
    plugin.go.set()
    _collect(workers)
    workers.stop()


def test_a_plugin_that_cannot_be_prepared_is_tried_all_the_same(caplog):
    """What is wrong is told by the attempt; a secret in the error is not logged."""

    class Unprepared(Ending):
        def prepare(self):
            raise OSError("/secret/path")

    workers = Threads({"desk": Unprepared(True)}, lambda: None)
    workers.submit(Job("desk", message(), 5.0))
    assert [one.outcome for one in _collect(workers)] == [Outcome.DELIVERED]
    assert "can't be prepared" in caplog.text and "secret" not in caplog.text
    workers.stop()


@pytest.mark.parametrize("kind", ["webhook", "slack", "telegram", "alertmanager", "email"])
def test_a_prepared_plugin_imports_nothing_with_its_first_message(kind):
    """In an interpreter that has nothing of it loaded yet."""
    options = {
        "webhook": {"url": "http://127.0.0.1:9/x"},
        "slack": {"url": "http://127.0.0.1:9/x"},
        "telegram": {"token": "1:abcdefgh", "chat_id": "1", "api_url": "http://127.0.0.1:9"},
        "alertmanager": {"url": "http://127.0.0.1:9"},
        "email": {"host": "127.0.0.1", "port": "9", "security": "plain", "from": "a@b.example",
                  "to": ["c@d.example"]},
    }[kind]  # fmt: skip
    script = (
        "import sys, notifier.process; from notifier.plugin import Message, load;"
        f"plugin = load({kind!r})(name={kind!r}, options={options!r}, timeout_s=2.0);"
        "assert plugin.check() == [], plugin.check(); plugin.prepare(); before = set(sys.modules);"
        f"from notifier.worker import attempt; attempt(plugin, Message('firing', {ROW!r}, 'd1'));"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, check=True, text=True
    )
    assert done.stdout.split() == []


def test_telling_again_is_an_attempt_like_any_other():
    """Its rows go to resend(), never to deliver()."""

    class Telling(Ending):
        def resend(self, rows, deadline):
            return [row["id"] for row in rows] == ["a1"] and deadline < math.inf

    workers = Threads({"desk": Telling(False)}, lambda: None)
    workers.submit(Job("desk", Message(RESEND, ROW, delivery="", members=(ROW,)), 5.0))
    [result] = _collect(workers)
    assert (result.delivery, result.outcome) == ("", Outcome.DELIVERED)
    workers.stop()
