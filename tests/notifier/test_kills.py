"""kill -9 at every persistence step of a transition and of a delivery, and at random moments.

First enumerated, with a clock of the test's own: each write, fsync, commit and attempt is a step,
and a run is repeated with the death at each of them in turn.  Then with a real process and SIGKILL
at moments that chance picks.  TICKWATCH_KILLS says how many; the check of a submission takes the
default, 200 are for whoever changed what they are about.
"""

import os
import random
import signal
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from notifier import journal, keeper
from notifier.alert import Severity
from notifier.alertlog import AlertLog, Position, read
from notifier.delivery import DEAD, DELIVERED, PENDING
from notifier.flush import Flush
from notifier.plugin import RetryableError
from notifier.settings import PluginSettings
from tests.notifier.running import Running
from tests.servers import HttpServer, Reply
from tests.waiting import wait_for

FAIL = RetryableError("HTTP 503")
AGGREGATOR, NOTIFIER, COMMAND = "aggregator", "notifier", "command"
EXPECTED = [
    ("one", "firing", "critical"),
    ("one", "resolved", "critical"),
    ("three", "resolved", "critical"),  # fired and resolved before it could be told
    ("two", "firing", "critical"),
    ("two", "firing", "critical"),  # the repeat
    ("two", "firing", "warning"),
    ("two", "resolved", "critical"),
]


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


class Fate:
    """Counts steps, and ends whoever takes number *moment*."""

    def __init__(self, moment: int) -> None:
        self.moment = moment
        self.steps = 0
        self.who = NOTIFIER

    def step(self, *_: Any) -> None:
        """One more persistence step begins or has ended."""
        self.steps += 1
        if self.steps == self.moment:
            raise Killed(self.who)

    def around(self, method: Callable[..., Any]) -> Callable[..., Any]:
        """*method* with a step before and after it."""

        def wrapped(*arguments: Any) -> Any:
            self.step()
            result = method(*arguments)
            self.step()
            return result

        return wrapped


class Torn:
    """Stands for ``os`` where lines are appended: a write may end half-way."""

    def __init__(self, fate: Fate) -> None:
        self._fate = fate

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def write(self, descriptor: int, data: memoryview) -> int:
        self._fate.step()
        return os.write(descriptor, data[: max(1, len(data) // 2)])

    def fsync(self, descriptor: int) -> None:
        self._fate.step()  # all is written, nobody knows whether it will be there after a power cut
        self._fate.step()


class Lagging(Flush):
    """Brings commits to disk only when the world's time moves on: the most that a power cut takes.

    ``disk`` is what the disk then holds.
    """

    newest: "Lagging | None" = None

    def __init__(self, path: Path, wake: Any = None) -> None:
        super().__init__(path)
        self._files = (path.with_name("alerts.db"), path)
        self.disk: dict[Path, bytes] = {}
        Lagging.newest = self
        self.sync()

    def ask(self) -> None:
        self._asked += 1

    def reached(self, ticket: int) -> bool:
        self.sync()
        return True

    def sync(self) -> None:
        """All of it is on disk now."""
        self.disk = {path: path.read_bytes() for path in self._files if path.exists()}
        self._done = self._asked

    def cut(self) -> None:
        """The power goes: only what is on disk stays."""
        for path in self._files:
            path.unlink(missing_ok=True)
        for path, content in self.disk.items():
            path.write_bytes(content)


class Story:
    """Three alerts from the log to the receiver, with a failure, an ack, a repeat and ends.

    Args:
        forgetful: an aggregator that starts again appends everything it can't be sure of;
            otherwise it looks into the log first, as the real one does.
        cut: not a process dies but the machine.
    """

    def __init__(self, world: Any, fate: Fate, *, forgetful: bool, cut: bool) -> None:
        self.world, self.fate = world, fate
        self.forgetful, self.cut = forgetful, cut
        self.desk = world.plugins["desk"]
        self.deaths: list[str] = []
        self._mortal: Any = None

    def tell(self) -> None:
        """All of it."""
        world = self.world
        self.desk.script = [True, FAIL]
        self.log(world.transition("fired", "one", severity="critical"))
        self.log(world.transition("fired", "two", severity="warning"))
        self.go(3)
        self.log(world.transition("severity", "two", severity="critical"))
        self.go(3)
        self.as_who(COMMAND, lambda: world.ack("one"))
        self.desk.otherwise = FAIL
        self.log(world.transition("fired", "three", severity="critical"))
        self.go(2)
        self.log(
            world.transition("resolved", "one", severity="critical"),
            world.transition("resolved", "three", severity="critical"),
        )
        self.go(2)
        self.desk.otherwise = True
        self.go(40, each_s=5)
        self.log(world.transition("resolved", "two", severity="critical"))
        self.go(10)

    def log(self, *transitions: Any) -> None:
        """Have them appended by an aggregator that may die of it."""
        for again in (False, True):
            missing = list(transitions)
            if again and not self.forgetful:
                known = {one.id for one in read(self.world.settings.alerts_dir, Position(), 999)[0]}
                missing = [one for one in transitions if one.id not in known]
            if self.as_who(AGGREGATOR, lambda rows=missing: self.world.log_now(*rows)):
                return

    def go(self, seconds: float, each_s: float = 1.0) -> None:
        """Have the notifier work, which may die of it."""
        until_ns = self.world.now_ns + round(seconds * 10**9)
        while not self.as_who(NOTIFIER, lambda: self._work(until_ns, each_s)):
            pass

    def as_who(self, who: str, work: Callable[[], Any]) -> bool:
        """Do *work* as that process; False if it was killed, and started again since."""
        self.fate.who = who
        try:
            work()
            return True
        except Killed:
            self.deaths.append(who)
            self.world.now_ns += 10**9  # nobody starts again at the moment of his death
            if self.cut or who == NOTIFIER:
                self.world.crash()
                if self.cut and Lagging.newest is not None:
                    Lagging.newest.cut()
            if self.cut or who == AGGREGATOR:
                self.world.log.close()
                self.world.log = AlertLog(self.world.settings.alerts_dir)
            return False

    def _work(self, until_ns: int, each_s: float) -> None:
        world = self.world
        if world.running is None or world.running is not self._mortal:
            self._mortal = world.notifier
            flush = self._mortal._keeper.flush
            self._mortal._keeper.save = self.fate.around(self._mortal._keeper.save)
            self._mortal._workers.submit = self.fate.around(self._mortal._workers.submit)
            flush.ask = self.fate.around(flush.ask)
        world.work()
        while world.now_ns < until_ns:
            if self.cut:
                world.notifier._keeper.flush.sync()
            world.now_ns = min(until_ns, world.now_ns + round(each_s * 10**9))
            world.work()

    def check(self) -> None:
        """Everything was told, at most one message twice, with one id."""
        told = defaultdict(list)
        for message in self.desk.accepted:
            row = message.alert
            told[message.delivery].append((row["rule"], message.kind, row["severity"]))
        assert sorted(times[0] for times in told.values()) == EXPECTED
        assert all(len(times) <= 2 and len(set(times)) == 1 for times in told.values())
        doubled = sum(len(times) - 1 for times in told.values())
        assert doubled <= len(self.deaths) or self.cut
        assert self.world.balance()["delivered"] == 3
        assert not self.world.deliveries(state=PENDING)


@pytest.mark.parametrize(("forgetful", "cut"), [(False, False), (True, True)])
def test_killed_at_any_step_of_a_transition_or_delivery_nothing_is_lost(
    make_world, monkeypatch, caplog, forgetful, cut
):
    """Between any two steps of log, ledger and attempt; told twice at most once, under one id.

    After a power cut the same: what wasn't on disk yet is derived from the log again.
    """
    caplog.set_level("CRITICAL")
    killed: Counter[str] = Counter()
    for moment in range(1, 1000):
        world = make_world(repeats_s=dict.fromkeys(Severity, (30.0, 3600.0)))
        Lagging.newest = None
        fate = Fate(moment)
        with monkeypatch.context() as patched:
            patched.setattr(journal, "os", Torn(fate))
            if cut:
                patched.setattr(keeper, "Flush", Lagging)
            story = Story(world, fate, forgetful=forgetful, cut=cut)
            story.tell()
        story.check()
        world.crash()
        killed.update(story.deaths)
        if not story.deaths:
            break
    assert fate.steps < moment, "not all steps were died at"
    assert killed[AGGREGATOR] >= 20 and killed[NOTIFIER] >= 60 and killed[COMMAND] >= 3


class Lane:
    """One notifier process after the other, each killed at a random moment of a delivery."""

    def __init__(self, world: Any, server: HttpServer, seed: int) -> None:
        self.server = server
        self.running = Running(world.settings, world)
        self.random = random.Random(seed)
        self.kills: Counter[str] = Counter()  # by the alert that was under way
        self.fired: list[Any] = []
        self.problem: BaseException | None = None
        server.default = self._reply

    def run(self, kills: int) -> None:
        """Fire and kill, then let everything end; a failure is kept for the test's own thread."""
        try:
            for number in range(kills):
                self._round(number)
            self.running.start()
            wait_for(self._all_ended, "the end of all deliveries")
            assert self.running.end() == 0
        except Exception as problem:  # noqa: BLE001 - raised again by check()
            self.problem = problem

    def _round(self, number: int) -> None:
        """Start a notifier, fire while it starts or works, kill it some milliseconds later."""
        self.running.spawn()
        if self.random.random() < 0.7:
            wait_for(self.running.beats, "the notifier's first sign of life")
            wait_for(self._all_ended, "the end of what the last one left")
        rule = ("refused" if number % 7 == 3 else "flaky" if number % 5 == 2 else "slow") + str(
            number
        )
        self.fired.append(self.running.fire(rule))
        if self.random.random() < 0.5:
            wait_for(lambda: self._copies(self.fired[-1].id), "the message")
            time.sleep(self.random.uniform(0, 0.006))
        else:
            time.sleep(self.random.uniform(0, 0.025))
        open_ones = self._open()
        self.running.kill()
        self.kills.update(open_ones)

    def _open(self) -> list[str]:
        """Alerts that may be told again after a kill now: those that weren't known to be told."""
        ended = {one.alert for one in self._deliveries() if one.state != PENDING}
        return [one.id for one in self.fired if one.id not in ended]

    def _all_ended(self) -> bool:
        return not self._open()

    def _deliveries(self) -> list[Any]:
        return self.running.world.deliveries() if self.running.has_ledger() else []

    def _copies(self, alert: str) -> int:
        return sum(request.json()["id"] == alert for request in list(self.server.requests))

    def _reply(self, request: Any) -> Reply:
        body = request.json()
        if body["rule"].startswith("refused"):
            return Reply(404)
        flaky = body["rule"].startswith("flaky") and body["attempt"] == 1
        return Reply(503) if flaky else Reply()

    def check(self) -> None:
        """Each alert ended as it had to; for each kill in between it was told once more at most."""
        if self.problem is not None:
            raise self.problem
        ends = defaultdict(list)
        for one in self.running.world.deliveries(limit=10_000):
            ends[one.alert].append(one)
        told = defaultdict(list)
        for request in self.server.requests:
            told[request.json()["id"]].append(request.headers["webhook-id"])
        for fired in self.fired:
            [delivery] = ends[fired.id]
            refused = fired.rule.startswith("refused")
            assert delivery.state == (DEAD if refused else DELIVERED)
            assert delivery.reason == ("HTTP 404: ok" if refused else "")
            assert set(told[fired.id]) == {delivery.id}
            tries = 2 if fired.rule.startswith("flaky") else 1
            assert len(told[fired.id]) <= tries + self.kills[fired.id]
        balance = self.running.balance()
        assert balance["holds"] and balance["gaps"] == balance["bad"] == 0
        assert balance["fired"] == balance["routed"] == len(self.fired)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_random_moments_a_real_notifier_loses_nothing(make_world):
    """Each fired alert ends delivered, or dead with its reason; copies have one id, and there is at
    most one for each kill; conservation holds."""
    kills = int(os.environ.get("TICKWATCH_KILLS", "30"))
    lanes = min(4, kills)
    servers = [HttpServer() for _ in range(lanes)]
    runs = []
    for number, server in enumerate(servers):
        settings = PluginSettings(
            "webhook", "webhook", rate_per_s=100, burst=1000, options={"url": server.url}
        )
        world = make_world(plugins=[settings])
        runs.append(Lane(world, server, seed=number))
    threads = [
        threading.Thread(target=run.run, args=((kills + number) // lanes,))
        for number, run in enumerate(runs)
    ]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for run in runs:
            run.check()
    finally:
        for run in runs:
            run.running.kill()
        for server in servers:
            server.close()
    assert sum(len(run.fired) for run in runs) == kills


def test_a_kill_is_a_kill(running):
    """What the test above does is SIGKILL, and it is noticed when a process had ended before."""
    running.start()
    running.kill()
    assert running.process.exitcode == -signal.SIGKILL
