"""The notifier as a real process: signals, kills, a real webhook, and other processes that ack."""

import dataclasses
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from notifier import process
from notifier.alert import encode
from notifier.decisions import Journal, decide
from notifier.process import Bell, Clock, Scribe
from notifier.settings import PluginSettings
from tests.notifier.running import Running
from tests.servers import HttpServer, Reply
from tests.waiting import wait_for


def test_a_bell_brings_an_alert_to_the_receiver(running, server):
    """With the id of its delivery, from the log that the bell points to."""
    running.start()
    one = running.fire()
    [request] = server.wait(1)
    assert request.json()["id"] == one.id
    assert request.headers["webhook-id"]
    assert running.end() == 0
    assert running.balance()["delivered"] == 1


def test_the_log_is_read_without_a_bell(running, server):
    """The bell may be lost with the process that rings it."""
    running.start()
    running.fire(ring=False)
    assert len(server.wait(1)) == 1


def test_a_copy_is_delivered_while_the_log_cannot_be_written(running, server):
    """And counts once when its line comes later."""
    running.start()
    running.world.now_ns = time.time_ns()
    one = running.world.transition("fired", "slow", severity="critical")
    running.doorbell.put((0, [encode(one)]))
    server.wait(1)
    running.log.append([one], time.time_ns())
    running.fire("other")
    server.wait(2)
    assert running.end() == 0
    balance = running.balance()
    assert (balance["copies"], balance["duplicates"], balance["holds"]) == (1, 1, True)
    assert len(server.requests) == 2


def test_killed_after_the_reply_the_message_goes_again_under_the_same_id(running, server):
    """kill -9 while the attempt is open: at most one duplicate, and the receiver can tell."""
    running.start()

    def reply_and_kill(request):
        if len(server.requests) == 1:
            os.kill(running.process.pid, signal.SIGKILL)
        return Reply()

    server.default = reply_and_kill
    running.fire()
    server.wait(1)
    running.process.join(30)
    running.start()
    first, second = server.wait(2)
    wait_for(lambda: running.balance()["delivered"] == 1, "the delivery's end")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert (first.json()["attempt"], second.json()["attempt"]) == (1, 2)
    running.fire("other")
    server.wait(3)
    assert running.end() == 0
    assert len(server.requests) == 3
    balance = running.balance()
    assert (balance["delivered"], balance["holds"]) == (2, True)


def test_sigterm_finishes_what_is_under_way(running, server):
    """The receiver's slow answer is waited for; nothing is left pending."""
    server.default = Reply(delay_s=1.0)
    running.start()
    running.fire()
    server.wait(1)
    assert running.end() == 0
    assert running.balance()["delivered"] == 1


def test_a_second_sigterm_ends_at_once(running, server):
    """What is under way is told again by the next process."""
    server.default = Reply(never=True)
    running.settings = running.world.settings = _patient(running.settings)
    running.start()
    running.fire()
    server.wait(1)
    os.kill(running.process.pid, signal.SIGINT)
    os.kill(running.process.pid, signal.SIGTERM)
    running.process.join(0.5)
    assert running.process.is_alive()
    assert running.end() == 0
    assert running.balance()["pending"] == 1


def _patient(settings):
    plugins = tuple(dataclasses.replace(one, timeout_s=60.0) for one in settings.plugins)
    return dataclasses.replace(settings, plugins=plugins, drain_s=61.0)


def test_it_ends_when_its_parent_is_gone(running, server, tmp_path):
    """A killed service must not leave a notifier behind that nobody supervises."""
    script = tmp_path / "parent.py"
    script.write_text(
        "import multiprocessing, os, pickle, sys, time\n"
        "import notifier.process\n"
        "if __name__ == '__main__':\n"
        "    settings = pickle.load(open(sys.argv[1], 'rb'))\n"
        "    context = multiprocessing.get_context('spawn')\n"
        "    doorbell = context.Queue()\n"
        "    child = context.Process(\n"
        "        target=notifier.process.main, args=(settings, doorbell, os.getpid()))\n"
        "    child.start()\n"
        "    print(child.pid, flush=True)\n"
        "    time.sleep(60)\n"
    )
    (tmp_path / "settings").write_bytes(pickle.dumps(running.settings))
    root = Path(__file__).parents[2]
    parent = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "settings")],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(root)},
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    wait_for(running.has_ledger, "the notifier's first sign of life")
    parent.kill()
    parent.wait(10)
    parent.stdout.close()
    wait_for(lambda: not Path(f"/proc/{child}").exists(), "the end of the child")


def test_two_notifiers_never_work_at_once(running, server):
    """The second waits for the first, then goes on where it ended."""
    running.start()
    first = Running(running.settings, running.world)
    first.process, first.doorbell = running.process, running.doorbell
    running.doorbell = running.context.Queue(10)
    arguments = (running.settings, running.doorbell, os.getpid())
    running.process = running.context.Process(target=process.main, args=arguments)
    running.process.start()
    first.fire("one")
    server.wait(1)
    assert first.end() == 0
    running.fire("two")
    server.wait(2)
    assert running.end() == 0
    assert running.balance()["delivered"] == 2


def test_a_plugin_that_cannot_be_made_refuses_and_the_others_work(running, server):
    """Its messages are dead with the reason; it is not silently missing."""
    broken = [
        PluginSettings("broken", "webhook", options={"url": "ftp://nowhere"}),
        PluginSettings("pigeon", "pigeon"),
    ]
    running.settings = running.world.settings = dataclasses.replace(
        running.settings, plugins=(*running.settings.plugins, *broken)
    )
    running.start()
    running.fire()
    server.wait(1)
    wait_for(lambda: running.balance()["dead"] == 2, "two dead deliveries")
    reasons = {one.reason for one in running.world.deliveries(state="dead")}
    assert "pigeon: can't be made: ValueError" in reasons
    assert any(reason.startswith("broken: url") for reason in reasons)
    assert running.end() == 0


def test_a_ledger_that_is_taken_away_has_the_process_start_again(running, server):
    """Exit code 1 tells the parent; the next start rebuilds and tells nothing that is over."""
    running.start()
    running.fire()
    server.wait(1)
    running.settings.ledger_path.unlink()
    running.process.join(30)
    assert running.process.exitcode == 1
    running.start()
    first, second = server.wait(2)
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert running.end() == 0


def test_a_dead_man_service_is_pinged_while_the_aggregator_lives(running, server):
    """From the real process, whose log shows no URL."""
    with HttpServer() as outside:
        running.settings = running.world.settings = dataclasses.replace(
            running.settings, ping_url=f"{outside.url}/secret-of-the-ping", ping_interval_s=10.0
        )
        assert "secret-of-the-ping" not in repr(running.settings)
        running.settings.data_dir.mkdir(parents=True)
        running.settings.heartbeat_path.touch()
        running.start()
        [request] = outside.wait(1, 60)
        assert request.path == "/hook/secret-of-the-ping"
        report = wait_for(lambda: running.world.health().get("ping"), "the report of it")
        assert report["problem"] == ""
        assert running.end() == 0


class _Doorbell:
    """Brings what it was given, then ends as a pipe whose other end is gone."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)

    def get(self) -> Any:
        item = self.items.pop(0) if self.items else EOFError()
        if isinstance(item, Exception):
            raise item
        return item


def test_the_bell_outlives_half_a_message_and_the_end_of_the_pipe():
    """What it brought is kept, in order; afterwards the log is still polled."""
    bell = Bell(_Doorbell((1, [b"a"]), ValueError("half"), (2, [b"b"])))  # type: ignore[arg-type]
    items: list[Any] = []
    wait_for(lambda: items.extend(bell.wait(0.01)) or len(items) == 2, "two items")
    assert items == [(1, [b"a"]), (2, [b"b"])]
    bell.ring()
    assert bell.wait(5.0) == []
    assert bell.wait(0.0) == []


def test_the_end_of_an_ack_is_written_by_a_thread(tmp_path, caplog):
    """A journal that can't be written is told and ends nothing."""
    good, bad = Scribe(tmp_path / "journal"), Scribe(tmp_path)
    bad.write([decide("expired", "tickwatch", of="x")])
    good.write([decide("expired", "tickwatch", of="y")])
    wait_for(lambda: "could not be written down" in caplog.text, "the warning")
    wait_for(lambda: Journal(tmp_path / "journal").read_all(), "the line")


def test_the_clock_goes_on_whatever_the_wall_clock_is_set_to(monkeypatch):
    """Deadlines and repeats are measured by it."""
    clock = Clock()
    before = clock.now_ns()
    monkeypatch.setattr(time, "time_ns", lambda: 0)
    assert 0 <= clock.now_ns() - before < 60 * 10**9


def test_the_lock_is_given_up_when_asked_to_end(tmp_path, monkeypatch):
    """A notifier that waits for another one doesn't outlive its parent, nor wait for ever."""

    class Never:
        asked = False

    class Asked:
        asked = True

    path = tmp_path / "lock"
    script = (
        "import fcntl, sys; file = open(sys.argv[1], 'w'); fcntl.lockf(file, fcntl.LOCK_EX);"
        "print('held', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout is not None
    holder.stdout.readline()
    assert process._lock(path, Asked()) is None  # type: ignore[arg-type]
    monkeypatch.setattr(process, "LOCK_S", 0.05)
    assert process._lock(path, Never()) is None  # type: ignore[arg-type]
    holder.communicate()
    lock = process._lock(path, Never())  # type: ignore[arg-type]
    assert lock is not None
    os.close(lock)
