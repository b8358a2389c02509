"""The dead-man ping: only while all is well, never in the loop's way, never telling its URL."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from notifier import ping
from notifier.ping import RETRY_S, STALE_S, Ping, fail_url
from tests.servers import HttpServer, Reply, free_port
from tests.waiting import wait_for

SECRET = "3f1c2d4e-0000-4000-8000-0123456789ab"


@pytest.fixture
def outside() -> Iterator[HttpServer]:
    """The service outside."""
    with HttpServer() as server:
        yield server


class Life:
    """A ping, its heartbeat and a clock that only the test moves; all is well at first."""

    def __init__(self, folder: Path, url: str, every_s: float = 60.0) -> None:
        self.now_s = time.monotonic()
        self.heartbeat = folder / "aggregator.lock"
        self.beats = 0
        self.ping = Ping(url, every_s, self.heartbeat, started=False)

    def go(self, seconds: float, *, unwell: tuple[str, ...] = (), aggregator: bool = True) -> None:
        """Let time pass, a look each second."""
        for _ in range(round(seconds)):
            self.now_s += 1.0
            if aggregator:
                self.beats += 1
                self.heartbeat.touch()
                os.utime(self.heartbeat, ns=(self.beats, self.beats))
            self.ping._said = (self.now_s, unwell)
            self.ping.step(self.now_s)

    def hang(self, seconds: float) -> None:
        """As go(), but the notifier's loop stands still."""
        for _ in range(round(seconds)):
            self.now_s += 1.0
            self.beats += 1
            os.utime(self.heartbeat, ns=(self.beats, self.beats))
            self.ping.step(self.now_s)


@pytest.fixture
def life(tmp_path: Path, outside: HttpServer) -> Life:
    """A ping to *outside*."""
    return Life(tmp_path, f"{outside.url}/{SECRET}?from=desk")


def _paths(outside: HttpServer) -> list[str]:
    return [request.path for request in outside.requests]


GOOD = f"/hook/{SECRET}?from=desk"
BAD = f"/hook/{SECRET}/fail?from=desk"


def test_it_pings_each_interval_while_all_is_well(life: Life, outside: HttpServer) -> None:
    """The first time at once; the state is there for the report."""
    life.go(121)
    assert _paths(outside) == [GOOD] * 3
    assert outside.requests[0].method == "POST"
    state = life.ping.state()
    assert (state["sent"], state["problem"]) == (3, "") and state["last_at"].endswith("Z")


def test_trouble_is_told_once_with_its_reasons_and_its_end_at_once(
    life: Life, outside: HttpServer
) -> None:
    """In between it is silent, which is what a dead-man service alarms upon."""
    life.go(5)
    life.go(200, unwell=("plugin desk keeps failing: HTTP 503", "disk full"))
    assert _paths(outside) == [GOOD, BAD]
    assert outside.requests[1].body == b"plugin desk keeps failing: HTTP 503\ndisk full"
    life.go(1)
    assert _paths(outside) == [GOOD, BAD, GOOD]


def test_a_dead_aggregator_stops_it(life: Life, outside: HttpServer) -> None:
    """Its lock file's time stands still."""
    life.go(5)
    life.go(STALE_S + 2, aggregator=False)
    life.go(100, aggregator=False)
    assert _paths(outside) == [GOOD, BAD]
    assert b"the aggregator makes no progress" in outside.requests[1].body
    life.go(2)
    assert _paths(outside)[2:] == [GOOD]


def test_an_aggregator_that_never_was_is_dead(tmp_path: Path, outside: HttpServer) -> None:
    """A missing file is no heartbeat; a wall clock that is set back is one."""
    life = Life(tmp_path, outside.url)
    life.go(STALE_S + 2, aggregator=False)
    assert [path.endswith("/fail") for path in _paths(outside)] == [False, True]
    os.utime(life.heartbeat.parent)
    life.heartbeat.touch()
    os.utime(life.heartbeat, ns=(5, 5))
    life.go(1, aggregator=False)
    assert not _paths(outside)[-1].endswith("/fail")


def test_a_loop_that_stands_still_stops_it(life: Life, outside: HttpServer) -> None:
    """The ping's own thread goes on, so it must look."""
    life.go(5)
    life.hang(STALE_S + 100)
    assert _paths(outside) == [GOOD, BAD]
    assert b"the notifier makes no progress" in outside.requests[1].body


def test_nothing_is_said_before_the_loop_has_spoken(life: Life, outside: HttpServer) -> None:
    """Neither that all is well nor that it isn't; a loop that never speaks is told."""
    life.heartbeat.touch()
    life.hang(STALE_S - 2)
    assert _paths(outside) == []
    life.hang(4)
    assert _paths(outside) == [BAD]


def test_a_ping_that_fails_is_tried_again_soon_and_logged_once(
    life: Life, outside: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its URL, which is a secret."""
    outside.default = Reply(503, f"no {SECRET} today")
    life.go(3 * RETRY_S)
    assert len(outside.requests) == 3
    assert life.ping.state()["problem"] == "HTTP 503: no *** today"
    assert len(caplog.records) == 1 and SECRET not in caplog.text + str(vars(caplog.records[0]))
    outside.default = Reply()
    life.go(RETRY_S)
    assert life.ping.state()["problem"] == "" and life.ping.state()["sent"] == 1


def test_a_service_without_failures_is_told_by_silence(life: Life, outside: HttpServer) -> None:
    """Not every dead-man service knows /fail: a 404 there is no trouble of ours."""
    life.go(5)
    outside.default = Reply(404)
    life.go(100, unwell=("disk full",))
    assert _paths(outside) == [GOOD, BAD]
    assert life.ping.state()["problem"] == ""
    life.go(5)
    assert life.ping.state()["problem"] == "HTTP 404: ok"


def test_the_thread_pings_and_the_loop_never_waits(
    tmp_path: Path, outside: HttpServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A service outside that never answers delays no beat."""
    monkeypatch.setattr(ping, "_TICK_S", 0.01)
    monkeypatch.setattr(ping, "TIMEOUT_S", 0.3)
    heartbeat = tmp_path / "lock"
    heartbeat.touch()
    outside.answer(Reply(never=True))
    one = Ping(outside.url, 60.0, heartbeat)
    started = time.monotonic()
    one.beat([])
    outside.wait(1)
    one.beat([])
    assert time.monotonic() - started < 10
    problem = wait_for(lambda: one.state()["problem"], "the time limit")
    assert problem == "no reply within 0.3 s"
    monkeypatch.setattr(ping, "RETRY_S", 0.0)
    one.close()


def test_an_unexpected_error_ends_no_ping(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one is tried."""
    monkeypatch.setattr(ping, "_TICK_S", 0.01)
    seen: list[float] = []

    def step(self: Ping, now_s: float) -> None:
        seen.append(now_s)
        raise ZeroDivisionError

    monkeypatch.setattr(Ping, "step", step)
    one = Ping(f"http://127.0.0.1:{free_port()}", 60.0, tmp_path / "lock")
    wait_for(lambda: len(seen) > 2, "several tries")
    one.close()
    assert "ping failed" in caplog.text


@pytest.mark.parametrize(
    ("url", "failed"),
    [
        ("https://hc-ping.com/uuid", "https://hc-ping.com/uuid/fail"),
        ("https://hc-ping.com/key/slug/?create=1", "https://hc-ping.com/key/slug/fail?create=1"),
        ("http://a", "http://a/fail"),
    ],
)
def test_a_failure_has_a_path_of_its_own(url: str, failed: str) -> None:
    """Before the query, where there is one."""
    assert fail_url(url) == failed


def test_the_notifier_tells_its_ping_how_deliveries_are(make_world) -> None:
    """Each second, from the report; a plugin that fails, an alert that waits, a file in trouble."""

    class Listening(Ping):
        heard: list[list[str]] = []  # noqa: RUF012 - of this test alone

        def beat(self, unwell):
            self.heard.append(list(unwell))

    world = make_world()
    world.options["ping"] = Listening("http://x", 60.0, world.path, started=False)
    heard = Listening.heard
    world.go(3)
    assert heard[-1] == [] and len(heard) >= 3
    assert world.health()["ping"] == {"last_at": None, "sent": 0, "problem": ""}
    desk = world.plugins["desk"]
    desk.otherwise = False
    world.fire()
    world.go(30)
    assert heard[-1] == ["plugin desk keeps failing: not accepted"]
    world.go(300)
    assert any("an alert waits since" in line for line in heard[-1])
    desk.otherwise = True
    world.go(10)
    assert heard[-1] == []
    world.notifier._keeper.save = _full  # nothing is saved, nothing may be called well
    world.fire("other")
    world.go(2)
    count = len(heard)
    world.go(5)
    assert len(heard) == count


def _full(*arguments):
    import sqlite3

    raise sqlite3.OperationalError("database or disk is full")
