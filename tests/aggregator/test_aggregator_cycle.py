"""The aggregator's step, driven by the test: real rings, real stores, no other process."""

import contextlib
import gzip
import json
import queue
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aggregator.configuration import configure
from aggregator.cycle import SECOND_NS, Aggregator
from aggregator.history.dayline import Record
from aggregator.history.dayreader import read_records
from aggregator.settings import Settings
from aggregator.store import query
from notifier.alert import Kind, Severity, Transition
from notifier.alertlog import Position, read
from notifier.keeper import Keeper
from ringbuf import Recorder
from tests.segments import unlink_segments
from tests.waiting import wait_for


class Desk:
    """One data directory; the aggregator can be dropped and made again at any moment."""

    def __init__(self, folder: Path, **own: Any) -> None:
        self.folder = folder
        self.settings = Settings(
            monitoring_data_dir=folder / "data", monitoring_log_dir=folder / "logs", **own
        )
        self.bell: queue.Queue[Any] = queue.Queue()
        self.recorder = Recorder("intraday", folder / "data", {"desk": "nifty"}, capacity=1024)
        # The aggregator's clock is the machine's until a test asks for the next second.
        self.now_ns = time.monotonic_ns()
        self.aggregator = self._made()

    def _made(self) -> Aggregator:
        return Aggregator(configure(self.settings), self.bell, inline_disk=True)  # type: ignore[arg-type]

    def run(self) -> None:
        """Look around once, then step until nothing is left."""
        self.now_ns += SECOND_NS
        self.aggregator.step(self.now_ns)
        while self.aggregator.step(self.now_ns):
            pass

    def crash(self) -> None:
        """Lose whatever the aggregator had in memory, as a kill would, and start another."""
        self.aggregator._rings.close()
        self.aggregator._store.close()
        self.aggregator = self._made()

    def transitions(self) -> list[Transition]:
        """What the alert log says."""
        return read(self.folder / "logs" / "alerts", Position())[0]

    def story(self) -> list[tuple[str, str]]:
        """Rule and kind of each transition, updates left out."""
        return [(t.rule, t.kind.value) for t in self.transitions() if t.kind is not Kind.UPDATE]

    def counted(self) -> int:
        """Records in the base rollups."""
        path = self.folder / "data" / "rollups.db"
        with contextlib.closing(sqlite3.connect(path)) as db:
            return int(db.execute("SELECT coalesce(sum(count), 0) FROM base").fetchone()[0])

    def raw(self) -> list[Record]:
        """Records in the day files."""
        return list(read_records(self.folder / "data" / "archive", 0, 2**62))

    def close(self) -> None:
        """Leave nothing behind."""
        self.aggregator.close()
        self.recorder.close()
        unlink_segments(self.folder / "data")


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk in the test's folder."""
    made = Desk(tmp_path)
    yield made
    made.close()


def test_records_of_a_ring_that_appears_later_are_found_rolled_up_and_judged(desk: Desk) -> None:
    """No configuration names an engine; a breaker's change is one alert with the series' labels."""
    breaker = desk.recorder.metric("circuit_breaker_active")
    for value in (0.0, 1.0, 1.0, 0.0):
        breaker.record(value)
    desk.run()
    desk.run()
    assert desk.counted() == 4
    assert desk.story() == [
        ("circuit_breaker_triggered", "fired"),
        ("circuit_breaker_triggered", "resolved"),
    ]
    assert dict(desk.transitions()[0].labels) == {"engine": "intraday", "desk": "nifty"}


def test_what_is_due_on_a_quiet_ring_does_not_wait_for_the_second(tmp_path: Path) -> None:
    """Only a ring with news or with something due is looked into between two seconds."""
    rules = tmp_path / "rules.toml"
    rules.write_text(
        '[[rule]]\nname = "held"\nmetric = "spread"\nabove = {warning = 5.0}\nfor = "300ms"\n'
    )
    desk = Desk(tmp_path, monitoring_rules_file=str(rules))
    desk.recorder.metric("spread").record(6.0)
    desk.run()
    desk.aggregator._next_second_ns = 1 << 62  # no second comes any more
    assert desk.story() == []

    def told() -> bool:
        desk.aggregator.step(time.monotonic_ns())
        return desk.story() == [("held", "fired")]

    wait_for(told, "the alert")
    desk.close()


def test_a_value_that_is_no_number_stops_nothing(desk: Desk) -> None:
    """NaN, None and text are counted as rejected; the records beside them are judged."""
    loss = desk.recorder.metric("daily_loss_pct", unit="%")
    for value in (float("nan"), None, "x", float("inf"), -4.5):
        loss.record(value)  # type: ignore[arg-type]
    desk.run()
    desk.run()
    assert desk.counted() == 1
    assert desk.recorder.rejected == 4
    assert desk.story() == [("daily_loss_high", "fired")]


def test_a_gain_is_no_loss(desk: Desk) -> None:
    """daily_loss_pct is negative for a loss."""
    desk.recorder.metric("daily_loss_pct").record(4.5)
    desk.run()
    desk.run()
    assert desk.story() == []


def test_free_text_alerts_fire_and_resolve_by_word(desk: Desk) -> None:
    """emit_alert and resolve_alert reach the log with the engine's labels."""
    desk.recorder.emit_alert("order_rejected", "critical", "RMS says no", symbol="RELIANCE")
    desk.run()
    desk.recorder.resolve_alert("order_rejected", symbol="RELIANCE")
    desk.run()
    assert desk.story() == [("order_rejected", "fired"), ("order_rejected", "resolved")]
    assert desk.transitions()[0].message == "RMS says no"


def test_lost_records_are_counted_once_shown_on_the_engines_rows_and_told(desk: Desk) -> None:
    """The newest capacity - 1 records are kept; the loss is booked and fires one alert."""
    desk.run()
    tick = desk.recorder.metric("tick_latency", unit="ms")
    for _ in range(3000):
        tick.record(1.0)
    desk.run()
    desk.run()
    assert desk.counted() == 1023
    with contextlib.closing(query.open_readonly(desk.folder / "data" / "rollups.db")) as db:
        rows = list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40))
    assert {row["lost"] for row in rows} == {3000 - 1023}


def test_lines_missing_in_the_alert_log_are_critical_until_an_hour_has_passed(desk: Desk) -> None:
    """The notifier counts them, the aggregator tells; zero is no alert."""
    keeper, book = Keeper.open(desk.folder / "data" / "alerts.db")

    def report(lines: int, newest: str | None) -> None:
        missing = {"lines": lines, "newest": newest}
        book.changes.meta["health"] = json.dumps({"plugins": [], "missing": missing})
        keeper.save(book.changes, {})
        desk.run()

    report(0, None)
    report(3, "5..7")
    report(0, None)
    keeper.close()
    assert desk.story() == [("records_lost", "fired"), ("records_lost", "resolved")]
    fired = desk.transitions()[0]
    assert fired.severity is Severity.CRITICAL
    assert fired.message.endswith(
        "3 lines missing in the alert log within an hour, the newest are 5..7"
    )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    values=st.lists(st.sampled_from([0.0, 1.0]), min_size=1, max_size=30),
    cuts=st.sets(st.integers(0, 29)),
)
def test_restart_anywhere_changes_nothing(
    tmp_path_factory: pytest.TempPathFactory, values: list[float], cuts: set[int]
) -> None:
    """Killed between any records, with or without a commit since, the same transitions come out,
    once each.
    """
    desk = Desk(tmp_path_factory.mktemp("desk"))
    try:
        breaker = desk.recorder.metric("circuit_breaker_active")
        for index, value in enumerate(values):
            breaker.record(value)
            if index in cuts:
                if index % 2:
                    desk.aggregator.step(desk.now_ns)
                else:
                    desk.run()
                desk.crash()
        desk.run()
        desk.run()
        seen = desk.transitions()
        changes = [b for a, b in zip([0.0, *values], values, strict=False) if a != b]
        expected = ["fired" if value else "resolved" for value in changes]
        assert [t.kind.value for t in seen if t.kind is not Kind.UPDATE] == expected
        assert len({t.id for t in seen}) == len(seen)
        assert desk.counted() == len(values)
        desk.aggregator.close()
        assert [record.value for record in desk.raw()] == values
    finally:
        desk.close()


def test_an_engine_that_dies_is_an_alert_and_its_last_records_are_kept(desk: Desk) -> None:
    """Dead means the lock is gone without close(); the file names the series."""
    engine = (
        "import os, sys, ringbuf\n"
        "recorder = ringbuf.Recorder('swing', sys.argv[1], capacity=1024)\n"
        "recorder.metric('tick_latency', unit='ms').record(2.5)\n"
        "sys.stdout.write('up')\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", engine, str(desk.folder / "data")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.read(2) == b"up"
        desk.run()
        process.kill()
        process.wait()
    desk.run()
    assert desk.story() == [("heartbeat_lapsed", "fired")]
    assert "dead" in desk.transitions()[0].message
    [crash] = (desk.folder / "data" / "crashes").iterdir()
    lines = gzip.decompress(crash.read_bytes()).splitlines()
    head, record = [json.loads(line) for line in lines]
    assert head["engine"] == "swing" and head["published"] == 1
    assert (record["metric"], record["value"]) == ("tick_latency", 2.5)


def test_aggregation_switched_off_keeps_no_rollups_yet_judges(tmp_path: Path) -> None:
    """enable_aggregation=false means what it says, and no more."""
    desk = Desk(tmp_path, monitoring_enable_aggregation=False)
    desk.recorder.metric("circuit_breaker_active").record(1.0)
    desk.run()
    desk.run()
    assert desk.counted() == 0
    assert desk.story() == [("circuit_breaker_triggered", "fired")]
    desk.close()


def test_a_batch_that_keeps_killing_the_aggregator_is_skipped_and_counted(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three starts without reaching the next checkpoint: the fourth passes over what is unread."""
    tick = desk.recorder.metric("tick_latency", unit="ms")
    tick.record(1.0)
    desk.run()
    desk.run()
    for _ in range(7):
        tick.record(1.0)
    for _ in range(3):
        desk.crash()
    desk.crash()
    desk.run()
    desk.run()
    assert desk.counted() == 1
    with contextlib.closing(query.open_readonly(desk.folder / "data" / "rollups.db")) as db:
        rows = list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40))
    assert sum(row["lost"] for row in rows) == 7
    tick.record(1.0)
    desk.run()
    desk.run()
    assert desk.counted() == 2


def test_a_wall_clock_that_is_set_dates_later_rollups_and_moves_no_window(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An hour's step: records after it are dated after it, and nothing fires or is lost."""
    from aggregator import cycle

    tick = desk.recorder.metric("tick_latency", unit="ms")
    tick.record(1.0)
    desk.run()
    real = cycle.wall_offset_ns
    monkeypatch.setattr(cycle, "wall_offset_ns", lambda: real() + 3600 * 10**9)
    desk.run()
    tick.record(2.0)
    desk.run()
    desk.run()
    with contextlib.closing(query.open_readonly(desk.folder / "data" / "rollups.db")) as db:
        rows = list(query.metrics(db, interval_s=3600, start_s=0, end_s=2**40))
    assert [row["count"] for row in rows] == [1, 1]
    assert desk.story() == []


def test_after_a_reboot_the_gap_is_unknown_not_zero(desk: Desk) -> None:
    """Nobody can know how many records were lost with the old ring's memory."""
    desk.recorder.metric("tick_latency", unit="ms").record(1.0)
    desk.run()
    desk.run()
    [(key, value)] = desk.aggregator._store.values("ring/").items()
    earlier = msgpack.packb({**msgpack.unpackb(value), "boot": "another boot"})
    desk.aggregator._store.commit([], {}, {key: earlier})
    desk.recorder._rings.abandon()  # type: ignore[union-attr]
    unlink_segments(desk.folder / "data")
    desk.crash()
    desk.recorder = Recorder("intraday", desk.folder / "data", {"desk": "nifty"}, capacity=1024)
    desk.recorder.metric("tick_latency", unit="ms").record(2.0)
    desk.run()
    desk.run()
    with contextlib.closing(query.open_readonly(desk.folder / "data" / "rollups.db")) as db:
        rows = list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40))
    assert [row["lost"] for row in rows] == [None] * len(rows)
    assert sum(row["count"] for row in rows) == 2
    assert key not in desk.aggregator._store.values("ring/")


def test_a_ring_that_cannot_be_read_for_a_moment_keeps_its_place(desk: Desk) -> None:
    """A descriptor that is damaged and comes back doubles nothing."""
    tick = desk.recorder.metric("tick_latency", unit="ms")
    tick.record(1.0)
    desk.run()
    desk.run()
    descriptor = desk.folder / "data" / "rings" / "intraday.json"
    content = descriptor.read_bytes()
    descriptor.write_bytes(b"{")
    desk.run()
    descriptor.write_bytes(content)
    tick.record(2.0)
    desk.run()
    desk.run()
    assert desk.counted() == 2
    assert desk.story() == []


def test_a_file_of_rules_is_read_again_on_request(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A rule that goes resolves its alert, with that reason; a faulty file changes nothing."""
    rules = tmp_path / "tickwatch.toml"
    monkeypatch.setenv("MONITORING_CONFIG", str(rules))
    rules.write_text('[[rule]]\nname = "many"\nmetric = "pnl"\nabove = {warning = 10}\n')
    desk.aggregator.reload()
    desk.recorder.metric("pnl").record(11.0)
    desk.run()
    desk.run()
    assert desk.story() == [("many", "fired")]
    rules.write_text('[[rule]]\nname = "many"\nmetrik = "pnl"\n')
    desk.aggregator.reload()
    assert desk.story() == [("many", "fired")]
    rules.write_text("")
    desk.aggregator.reload()
    assert desk.story() == [("many", "fired"), ("many", "resolved")]
    assert desk.transitions()[-1].reason == "rule removed"


def test_an_engine_that_died_and_is_back_between_two_looks_is_told(desk: Desk) -> None:
    """A supervisor is faster than the look around: fired and resolved, and the evidence is kept."""
    desk.recorder.metric("tick_latency", unit="ms").record(1.0)
    desk.run()
    desk.run()
    desk.recorder._rings.abandon()  # type: ignore[union-attr]
    desk.recorder = Recorder("intraday", desk.folder / "data", {"desk": "nifty"}, capacity=1024)
    desk.run()
    assert desk.story() == [("heartbeat_lapsed", "fired"), ("heartbeat_lapsed", "resolved")]
    assert "is back" in desk.transitions()[0].message
    assert len(list((desk.folder / "data" / "crashes").iterdir())) == 1
    desk.recorder.close()
    desk.recorder = Recorder("intraday", desk.folder / "data", {"desk": "nifty"}, capacity=1024)
    desk.run()
    assert len(desk.story()) == 2
