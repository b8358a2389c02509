"""The demo's parts without a service: engine, replay, incidents, sink, screen, options."""

import http.client
import io
import json
import math
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cli import incidents, replay
from cli.engine import Engine
from cli.feed import FeedFile
from cli.incidents import LOSS_RULE, STALL_RULE, Incidents, times_s
from cli.loopback import HOST
from cli.problems import Failed, UsageError
from cli.replay import FEED_ENDED, TIME_IS_UP, Options, Pace, Replay, open_feed
from cli.screen import Screen
from cli.sentiment import Ask
from cli.sink import Sink
from cli.synthetic import synthetic
from notifier.alert import Alert, Severity
from ringbuf import Recorder, RingReader
from tests.waiting import wait_for

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "btcusdt_20240808.gz"
SERIES = {
    ("tick_latency", "ms", "intraday"),
    ("tick_latency", "ms", "swing"),
    ("strategy_latency", "ms", "intraday"),
    ("strategy_latency", "ms", "swing"),
    ("order_latency", "ms", "intraday"),
    ("order_latency", "ms", "swing"),
    ("sentiment_latency", "ms", "local"),
    ("sentiment_failure", "", "local"),
    ("pnl", "USDT", ""),
    ("position_count", "", ""),
    ("daily_loss_pct", "%", ""),
    ("circuit_breaker_active", "", ""),
    ("connected", "", ""),
}


class Ring:
    """A real recorder, and what a reader finds in its ring by series."""

    def __init__(self, data_dir: Path) -> None:
        self.recorder = Recorder("demo", data_dir)
        self.engine = Engine(self.recorder)
        self.reader = RingReader.attach("demo", data_dir)

    def values(self) -> dict[tuple[str, str], list[float]]:
        """All records so far, by metric and strategy or provider."""
        found: dict[tuple[str, str], list[float]] = {}
        while len(records := self.reader.poll().records):
            for number, value in zip(
                records["series"].tolist(), records["value"].tolist(), strict=True
            ):
                series = self.reader.series[number]
                own = series.labels.get("strategy", series.labels.get("provider", ""))
                found.setdefault((series.name, own), []).append(value)
        return found


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[Ring]:
    made = Ring(tmp_path)
    yield made
    made.reader.close()
    made.recorder.close()


# The engine


def test_the_engine_records_every_series_of_the_demo(ring: Ring) -> None:
    """Names, units and labels are those that rules and commands know."""
    ring.values()
    known = {
        (s.name, s.unit, s.labels.get("strategy", s.labels.get("provider", "")))
        for s in ring.reader.series.values()
        if s.name != "overflow"
    }
    assert known == SERIES
    assert all(series.labels["engine"] == "demo" for series in ring.reader.series.values())


def test_each_message_is_one_tick_and_one_decision(ring: Ring) -> None:
    """Every message has a latency; bars, orders and seconds have theirs; the counts add up."""
    lines = list(synthetic(30))
    for line in lines:
        ring.engine.tick(line)
    published = ring.recorder.published
    counts = Counter({key: len(values) for key, values in ring.values().items()})
    assert counts["tick_latency", "intraday"] == len(lines)
    assert counts["strategy_latency", "intraday"] == len(lines)
    assert 20 <= counts["tick_latency", "swing"] == counts["strategy_latency", "swing"] <= 30
    fills = Counter(fill.strategy for fill in ring.engine.fills)
    assert fills["intraday"] > 0
    assert counts["order_latency", "intraday"] == fills["intraday"]
    assert counts["order_latency", "swing"] == fills["swing"]
    assert counts["pnl", ""] >= 30
    for name in ("position_count", "daily_loss_pct", "circuit_breaker_active", "connected"):
        assert counts[name, ""] == counts["pnl", ""]
    assert sum(counts.values()) == published
    assert ring.recorder.rejected == 0


def test_a_tick_takes_as_long_as_it_took(ring: Ring) -> None:
    """A tick held up for 80 ms is recorded with 80 ms or more, its neighbours with less."""
    lines = list(synthetic(1))
    ring.engine.tick(lines[0])
    ring.engine.stall(0.08)
    for line in lines[1:4]:
        ring.engine.tick(line)
    [before, held, *after] = ring.values()["tick_latency", "intraday"]
    assert 80 <= held < 2000
    assert all(0 < value < 80 for value in (before, *after))


def test_a_malformed_line_is_counted_and_no_tick(ring: Ring) -> None:
    """Noise reaches neither the ring nor the caller."""
    for line in (b"", b"\xff\x00", b"7 {}", next(synthetic(1))[:-2]):
        ring.engine.tick(line)
    assert (ring.engine.malformed, ring.engine.messages) == (4, 0)
    assert ring.recorder.published == 0


def test_asks_become_latencies_and_failures(ring: Ring) -> None:
    """An answered ask is a latency, a failed one a count of 1."""
    ring.engine.hear([Ask(12.5, 0.1), Ask(2000.0, None), Ask(7.0, -1.0)])
    assert ring.values() == {
        ("sentiment_latency", "local"): [12.5, 7.0],
        ("sentiment_failure", "local"): [1.0],
    }


def test_a_shown_loss_stands_beside_the_account(ring: Ring) -> None:
    """The recorded loss is the injected one, then follows the real one, then is it again."""
    for line in synthetic(5):
        ring.engine.tick(line)
    real = 100 * ring.engine.pnl / 10_000
    ring.values()
    ring.engine.show_loss(-4.5)
    ring.engine.mark()
    ring.engine.show_real_loss()
    values = ring.values()
    assert values["daily_loss_pct", ""] == pytest.approx([-4.5, -4.5, real])
    assert values["pnl", ""] == [ring.engine.pnl] * 3


def test_the_cost_of_a_record_is_measured_while_trading(ring: Ring) -> None:
    """Single calls, sorted, within anything a machine can do (the budget has a margin of 100)."""
    for line in synthetic(10):
        ring.engine.tick(line)
    costs = ring.engine.record_costs_ns()
    assert len(costs) == ring.engine.messages // 32
    assert costs == sorted(costs)
    assert 0 < costs[len(costs) // 2] < 100_000


def test_the_engine_is_fast_enough_for_a_feed(ring: Ring) -> None:
    """More than 2,000 messages a second, a tenth of what a slow machine does."""
    lines = list(synthetic(10))
    began_s = time.perf_counter()
    for line in lines:
        ring.engine.tick(line)
    assert len(lines) / (time.perf_counter() - began_s) > 2_000


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording isn't beside this checkout")
def test_the_default_ring_holds_the_whole_recording(ring: Ring) -> None:
    """93,954 messages without pause and without a reader: nothing lost, nothing rejected."""
    feed = FeedFile(RECORDING)
    for line in feed:
        ring.engine.tick(line)
    feed.close()
    assert (ring.engine.messages, ring.engine.malformed) == (93_954, 0)
    counts = {key: len(values) for key, values in ring.values().items()}
    assert counts["tick_latency", "intraday"] == 93_954
    assert sum(counts.values()) == ring.recorder.published
    assert (ring.reader.lost, ring.recorder.rejected) == (0, 0)


def test_an_engine_whose_ring_is_taken_trades_on(tmp_path: Path) -> None:
    """Monitoring that can't be had costs the engine nothing but its records."""
    with Recorder("demo", tmp_path), Recorder("demo", tmp_path) as second:
        assert second.problem
        engine = Engine(second)
        for line in synthetic(20):
            engine.tick(line)
        assert engine.trades > 0
        assert second.published == 0


# Replay and its options


def options(**given: Any) -> Options:
    args = {"--feed": None, "--seconds": None, "--speed": None, "--no-incidents": False}
    return replay.options({**args, **{f"--{name}": value for name, value in given.items()}})


def test_without_options_a_made_up_feed_runs_at_its_own_pace() -> None:
    """30 seconds at speed 1 with incidents; a recording lasts as long as it lasts."""
    plain = options()
    assert plain == Options(None, None, 1.0, True)
    assert plain.spans_s == 30
    assert 30 < plain.limit_s < 35
    assert options(feed="x").limit_s == math.inf
    assert options(feed="x", seconds="7").limit_s == 7
    assert options(seconds="6", speed="5").spans_s == 30
    assert options(seconds="6", speed="max").spans_s == 6
    assert options(speed="max").limit_s == math.inf
    assert options(speed="max").about == "a made-up one of 300 s, without pause"
    assert options(feed="x", speed="2").about == "x, 2 times its own pace"
    assert plain.about == "a made-up one of 30 s, at its own pace"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seconds": "abc"}, "--seconds=abc: use a number of seconds"),
        ({"seconds": "0"}, "--seconds=0"),
        ({"seconds": "nan"}, "--seconds=nan"),
        ({"seconds": "-3"}, "--seconds=-3"),
        ({"speed": "fast"}, "--speed=fast: use max, or a number from 0.01 to 10000"),
        ({"speed": "0"}, "--speed=0"),
        ({"speed": "inf"}, "--speed=inf"),
    ],
)
def test_a_wrong_value_is_a_usage_error(given: dict[str, str], said: str) -> None:
    """One line that says what is allowed."""
    with pytest.raises(UsageError) as wrong:
        options(**given)
    assert said in str(wrong.value)


class Drive:
    """A replay of an engine that keeps nothing, with its chores counted."""

    def __init__(self, ring: Ring, **given: Any) -> None:
        self.chores: list[float] = []
        self.beats = 0
        self.run = Replay(ring.engine, options(**given), self.chores.append, self.beat)

    def beat(self) -> None:
        self.beats += 1


def test_a_replay_without_pace_never_waits(ring: Ring) -> None:
    """Ten minutes of feed are over in a moment, with chores and a sign of life in between."""
    line = next(synthetic(1))
    body = line.split(b" ", 1)[1]
    drive = Drive(ring, feed="x", speed="max")
    lines = [str(1_700_000_000 + s).encode() + b"000000000 " + body for s in range(600)]
    drive.run.run(lines)
    assert drive.run.elapsed_s < 60
    assert drive.run.ended == FEED_ENDED
    assert ring.engine.messages == 600
    assert drive.beats >= 1


def test_a_paced_replay_takes_the_feeds_time(ring: Ring) -> None:
    """Four seconds of feed at ten times its pace take 0.4 s or more, and chores go on meanwhile."""
    drive = Drive(ring, speed="10")
    drive.run.run(synthetic(4))
    assert drive.run.elapsed_s >= 0.39
    assert len(drive.chores) >= 2
    assert drive.chores == sorted(drive.chores)


def test_a_replay_ends_when_the_time_is_up(ring: Ring) -> None:
    """In the middle of a feed, and in the middle of a wait for its next message."""
    drive = Drive(ring, feed="x", seconds="0.2", speed="max")
    line = next(synthetic(1))
    drive.run.run(iter(lambda: line, None))
    assert drive.run.ended == TIME_IS_UP
    assert 0.2 <= drive.run.elapsed_s < 10
    waiting = Drive(ring, feed="x", seconds="0.2", speed="0.01")
    waiting.run.run(synthetic(30))
    assert waiting.run.ended == TIME_IS_UP
    assert waiting.run.elapsed_s < 10


def test_a_replay_can_be_stopped(ring: Ring) -> None:
    """From a chore, as from a signal handler: the next tick is the last, and nothing lingers."""
    drive = Drive(ring, speed="1")
    timer = threading.Timer(0.1, lambda: drive.run.stop("interrupted"))
    timer.start()
    drive.run.run(synthetic(60))
    timer.join()
    assert drive.run.ended == "interrupted"
    assert drive.run.elapsed_s < 30
    drive.run.linger(lambda: False, until_s=math.inf)


def test_a_replay_lingers_until_enough(ring: Ring) -> None:
    """After the feed chores go on until what was waited for is there, or the time is over."""
    drive = Drive(ring, feed="x", speed="max")
    drive.run.run([])
    drive.run.linger(lambda: len(drive.chores) >= 3, until_s=60)
    assert len(drive.chores) == 3
    drive.run.linger(lambda: False, until_s=0.2)
    assert drive.run.ended == FEED_ENDED


def test_a_line_without_clock_is_not_waited_for(ring: Ring) -> None:
    """A torn line in a paced replay is counted and costs no time."""
    drive = Drive(ring, feed="x", speed="0.01")
    drive.run.run([b"noise", b"{}"])
    assert ring.engine.malformed == 2


def test_gaps_and_steps_back_are_not_waited_for() -> None:
    """A recording that pauses for an hour, or whose clock is set back, goes on at once."""
    pace = Pace(2.0)
    s = 1_000_000_000
    assert pace.due_s(100 * s, now_s=10.0) == 10.0
    assert pace.due_s(104 * s, now_s=10.5) == 12.0
    assert pace.due_s(3_704 * s, now_s=12.5) == 12.5
    assert pace.due_s(3_000 * s, now_s=13.0) == 13.0
    assert pace.due_s(3_001 * s, now_s=20.0) == 13.5


def test_the_feed_is_the_file_or_made_up(tmp_path: Path) -> None:
    """A missing file is told before anything is started."""
    with pytest.raises(Failed, match="No such file"):
        open_feed(options(feed=str(tmp_path / "none.gz")))
    assert next(iter(open_feed(options()))) == next(synthetic(1))


# Incidents


def test_incidents_come_in_their_order_and_are_announced(ring: Ring) -> None:
    """Each step is done once, when its time has come, and said to be injected."""
    said: list[str] = []
    planned = Incidents(ring.engine, said.append, (1.0, 2.0, 3.0, 4.0), least_stall_s=0.03)
    for line in synthetic(1):
        ring.engine.tick(line)
    ring.values()
    planned.step(0.9)
    assert said == []
    planned.step(1.0)
    ring.engine.tick(next(synthetic(1)))
    assert max(ring.values()["tick_latency", "intraday"]) >= 30
    planned.step(2.5)
    planned.step(3.5)
    assert len(said) == 3
    planned.step(99)
    planned.step(100)
    assert planned.done
    assert len(said) == 4
    assert all(text.startswith("INJECTED") for text in said)
    real = 100 * ring.engine.pnl / 10_000
    assert ring.values()["daily_loss_pct", ""] == pytest.approx([-4.5, -6.5, real])


def test_without_a_plan_nothing_is_injected(ring: Ring) -> None:
    """--no-incidents leaves nothing to do."""
    planned = Incidents(ring.engine, lambda text: None, ())
    planned.step(1e9)
    assert planned.done
    assert ring.recorder.published == 0


@pytest.mark.parametrize(("run_s", "paced"), [(None, True), (30, True), (10, True), (None, False)])
def test_incidents_leave_time_to_resolve(run_s: float | None, paced: bool) -> None:
    """The stall is first, with its window over before a short run ends."""
    stall, warning, critical, recovery = times_s(run_s, paced)
    assert stall < warning < critical < recovery
    if paced:
        assert stall + 1 + incidents.LATENCY_WINDOW_S < (run_s or 30)
        assert recovery < 0.7 * (run_s or 30)


# The sink


def row(**changes: Any) -> dict[str, Any]:
    at_ns = time.time_ns() - 5_000_000
    alert = Alert(
        "id1",
        changes.pop("rule", LOSS_RULE),
        {"engine": changes.pop("engine", "demo")},
        Severity.WARNING,
        "firing",
        at_ns,
        at_ns,
        value=-4.5,
        threshold=-4.0,
        unit="%",
    )
    if changes.get("state") == "resolved":
        alert.resolved_ns = at_ns
    return {**alert.row(), "delivery": "d", "attempt": 1, **changes}


class Told:
    """A sink and what it said."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.sink = Sink(self.said.append)

    def post(self, body: bytes | dict[str, Any], method: str = "POST") -> int:
        connection = http.client.HTTPConnection(HOST, self.sink.port, timeout=5)
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        connection.request(method, "/alerts", data)
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture
def told() -> Iterator[Told]:
    made = Told()
    yield made
    made.sink.close()


def test_the_sink_says_what_fired_worsened_and_resolved(told: Told) -> None:
    """One line for each message, with the time since the record."""
    changes: list[dict[str, Any]] = [
        {},
        {"severity": "critical"},
        {"severity": "critical"},
        {"severity": "warning"},
        {"state": "resolved"},
        {"attempt": 2},
    ]
    for number, change in enumerate(changes, start=1):
        assert told.post(row(**change)) == 200
        wait_for(lambda count=number: len(told.said) == count, "the line")  # type: ignore[misc]
    words = [text.split()[:3] for text in told.said]
    assert words == [
        ["WARNING", "fired", LOSS_RULE],
        ["CRITICAL", "worse", LOSS_RULE],
        ["CRITICAL", "still", LOSS_RULE],
        ["WARNING", "better", LOSS_RULE],
        ["RESOLVED", "resolved", LOSS_RULE],
        ["WARNING", "fired", LOSS_RULE],
    ]
    assert "engine=demo" in told.said[0]
    assert "-4.5 %, limit -4 %" in told.said[0]
    after_ms = float(told.said[0].split()[-5])
    assert 5 <= after_ms < 60_000
    assert told.said[-1].endswith("attempt 2")
    assert told.sink.received == 6


def test_the_sink_knows_when_the_injected_alerts_are_over(told: Told) -> None:
    """Settled: each rule fired for this engine, and none of its alerts still fires."""

    def settled() -> bool:
        return told.sink.settled("demo", LOSS_RULE, STALL_RULE)

    def take(**changes: Any) -> None:
        told.sink.take(json.dumps(row(**changes)).encode(), time.time_ns())

    assert not settled()
    take(state="resolved")
    assert not settled()
    take(id="id2", rule=STALL_RULE)
    take(id="id3", rule=STALL_RULE)
    assert not settled()
    take(id="id2", rule=STALL_RULE, state="resolved")
    assert not settled()
    take(id="id3", rule=STALL_RULE, state="resolved")
    assert settled()
    take(id="id4", rule=STALL_RULE, engine="other")
    assert settled()


def test_the_sink_shows_a_digest_as_one_line(told: Told) -> None:
    """A digest has counts instead of an alert."""
    told.sink.take(
        json.dumps(row(rule="digest", members={"total": 7}, message="7 alerts")).encode(), 0
    )
    assert told.said == ["WARNING   digest    7 alerts"]


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b"\xff", b'{"severity": "loud"}', b"7"])
def test_the_sink_survives_what_is_no_alert(told: Told, body: bytes) -> None:
    """It is answered, so that nobody sends it again, and shown as such."""
    assert told.post(body) == 200
    wait_for(lambda: told.said, "the line")
    assert told.said[0].startswith("not an alert: ")
    assert told.post(b"", method="PUT") == 501


def test_a_sink_whose_port_is_taken_takes_another(told: Told) -> None:
    """A demo that follows a killed one wants its port, but can do without."""
    second = Sink(told.said.append, told.sink.port)
    assert second.port != told.sink.port
    second.close()
    again = Sink(told.said.append, second.port)
    assert again.port == second.port
    again.close()


# The screen


class Terminal(io.StringIO):
    """A stream that can break."""

    broken = False

    def write(self, text: str) -> int:
        if self.broken:
            raise BrokenPipeError
        return super().write(text)


def streams(monkeypatch: pytest.MonkeyPatch) -> tuple[Terminal, Terminal]:
    """New stdout and stderr; from the test itself, as a fixture's would be replaced again."""
    out, err = Terminal(), Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    return out, err


def test_the_screen_prints_lines_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was said comes out as said, made safe to show, on stdout alone."""
    out, err = streams(monkeypatch)
    screen = Screen(live=False)
    screen.say("one")
    screen.say("two \x1b[31m")
    screen.close()
    assert out.getvalue() == "one\ntwo \\x1b[31m\n"
    assert err.getvalue() == ""


def test_the_progress_line_is_overwritten_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines push it away, and nothing of it is left at the end."""
    out, err = streams(monkeypatch)
    monkeypatch.setattr("cli.screen._LIVE_S", 0.01)
    screen = Screen(live=True)
    screen.progress = lambda: "7 messages"
    wait_for(lambda: "7 messages" in err.getvalue(), "the progress line")
    screen.say("line")
    screen.close()
    shown = err.getvalue()
    assert shown.startswith("\r7 messages")
    assert shown.endswith("\r          \r")
    assert out.getvalue() == "line\n"


def test_progress_is_lines_in_a_pipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal nothing is overwritten."""
    _, err = streams(monkeypatch)
    monkeypatch.setattr("cli.screen._PLAIN_S", 0.01)
    screen = Screen(live=False)
    screen.progress = lambda: "7 messages"
    wait_for(lambda: err.getvalue().count("7 messages\n") > 1, "progress")
    screen.close()
    assert "\r" not in err.getvalue()


def test_a_screen_that_nobody_reads_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A closed pipe ends neither the thread nor the demo; the demo asks and stops."""
    out, err = streams(monkeypatch)
    out.broken = err.broken = True
    screen = Screen(live=True)
    screen.progress = lambda: "x"
    screen.say("one")
    wait_for(lambda: screen.broken, "the broken pipe")
    screen.close()
