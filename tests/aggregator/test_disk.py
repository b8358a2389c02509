"""The order of durability, and what happens while a disk can't be written."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from aggregator.disk import LOG_KEY, MAX_UNLOGGED, Commit, Disk
from aggregator.interval import Rollup
from aggregator.store.store import Store
from notifier.alert import Kind, Severity, Transition
from notifier.alertlog import AlertLog, Position, read
from tests.waiting import wait_for

NOW_NS = 1_800_000_000 * 10**9


def transition(number: int, kind: Kind = Kind.FIRED) -> Transition:
    """A fact about the alert called *number*."""
    return Transition(f"id-{number}", kind, NOW_NS, "rule", {"n": str(number)}, Severity.CRITICAL)


def rollup(value: float) -> Rollup:
    """One record's rollup."""
    return Rollup(1, 1_800_000_000, 1, value, value, value, value, NOW_NS, value, NOW_NS, {0: 1})


class Desk:
    """A disk worked in the test's own thread, with what rang its bell."""

    def __init__(self, folder: Path, *, inline: bool = True) -> None:
        self.alerts = folder / "alerts"
        self.store = Store.open(folder / "rollups.db")
        self.store.series_id("m", "", {})
        self.log = AlertLog(self.alerts)
        self.rung: list[tuple[int, list[str]]] = []
        self.disk = Disk(self.store, self.log, self.ring, lambda: NOW_NS, inline=inline)

    def ring(self, number: int, transitions: Sequence[Transition]) -> None:
        """The doorbell: remembers the call and what the log and the store held at that moment."""
        self.rung.append((number, [each.id for each in transitions]))

    def logged(self) -> list[str]:
        """Ids in the alert log."""
        return [each.id for each in read(self.alerts, Position())[0]]

    def block(self) -> None:
        """Make the alert log impossible to write: its directory is a file."""
        self.log.close()
        if self.alerts.exists():
            self.alerts.rename(self.alerts.with_name("aside"))
        self.alerts.write_text("")

    def unblock(self) -> None:
        """Undo ``block``."""
        self.alerts.unlink()
        if self.alerts.with_name("aside").exists():
            self.alerts.with_name("aside").rename(self.alerts)

    def close(self) -> None:
        """Let go of the files."""
        self.disk.close(5)
        self.store.close()
        self.log.close()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk in the test's folder."""
    made = Desk(tmp_path)
    yield made
    made.close()


def test_the_log_has_a_transition_before_the_bell_rings_and_the_checkpoint_commits(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Log, bell, checkpoint: in this order, or a crash in between would lose an alert."""
    order: list[str] = []
    append, commit = desk.log.append, desk.store.commit
    monkeypatch.setattr(desk.log, "append", lambda *a: (order.append("log"), append(*a))[1])
    monkeypatch.setattr(desk.store, "commit", lambda *a: (order.append("commit"), commit(*a))[1])
    monkeypatch.setattr(desk.disk, "_doorbell", lambda *a: order.append("bell"))
    desk.disk.submit([transition(1)], Commit(values={"ring/x": b"1"}))
    assert order == ["log", "bell", "commit"]
    assert desk.store.value("ring/x") == b"1"


def test_a_checkpoint_knows_how_far_the_log_was(desk: Desk) -> None:
    """A restart folds the lines behind this number, no others."""
    desk.disk.submit([transition(1), transition(2)], Commit())
    desk.disk.submit([transition(3)])
    stored = desk.store.value(LOG_KEY)
    assert stored is not None and Position.decode(stored.decode()).number == 2
    assert desk.rung == [(2, ["id-1", "id-2"]), (3, ["id-3"])]


def test_while_the_log_cannot_be_written_copies_ring_and_the_checkpoint_stands(desk: Desk) -> None:
    """The notifier gets each transition once as a copy; nothing unlogged is forgotten."""
    desk.disk.submit([], Commit([rollup(1.0)], {}, {"ring/x": b"1"}))
    desk.block()
    desk.disk.submit([transition(1)], Commit([rollup(2.0)], {("e", 0): 3}, {"ring/x": b"2"}))
    desk.disk.submit([transition(2)], Commit([rollup(4.0)], {("e", 0): 4}, {"ring/x": b"3"}))
    assert desk.rung == [(0, ["id-1"]), (0, ["id-2"])]
    assert desk.store.value("ring/x") == b"1"
    assert desk.disk.problem is not None and desk.disk.problem.startswith("alert log")
    desk.unblock()
    desk.disk.submit([], Commit(values={"ring/x": b"4"}))
    assert desk.logged() == ["id-1", "id-2"]
    assert desk.store.value("ring/x") == b"4"
    assert desk.disk.problem is None
    row = desk.store._db.execute("SELECT count, total FROM base").fetchone()
    assert tuple(row) == (3, 7.0)
    assert desk.store._db.execute("SELECT sum(lost) FROM lost").fetchone()[0] == 7


def test_a_checkpoint_that_cannot_be_written_is_made_up_for_by_the_next(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alerts go on meanwhile; the deltas of the failed transaction are in the next one."""
    commit = desk.store.commit

    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(desk.store, "commit", full)
    desk.disk.submit([transition(1)], Commit([rollup(2.0)], {}, {"ring/x": b"2"}))
    assert desk.logged() == ["id-1"] and desk.rung == [(1, ["id-1"])]
    assert "No space left" in str(desk.disk.problem)
    monkeypatch.setattr(desk.store, "commit", commit)
    desk.disk.submit([], Commit([rollup(3.0)], {}, {"ring/x": b"3"}))
    assert tuple(desk.store._db.execute("SELECT count, total FROM base").fetchone()) == (2, 5.0)
    assert desk.disk.problem is None


def test_what_waits_for_the_log_is_bounded_updates_go_first_and_are_counted(desk: Desk) -> None:
    """An alert that fired is worth more than another value of it."""
    desk.block()
    desk.disk.submit([transition(n, Kind.UPDATE) for n in range(1000)])
    desk.disk.submit([transition(n) for n in range(1000, 1000 + MAX_UNLOGGED - 500)])
    assert desk.disk.dropped == 500
    desk.unblock()
    desk.disk.submit([])
    assert desk.log.last_number == MAX_UNLOGGED


def test_a_disk_that_stalls_does_not_hold_up_who_submits(tmp_path: Path) -> None:
    """Submitting returns while the thread is stuck in an fsync; later all of it is on disk."""
    desk = Desk(tmp_path, inline=False)
    stuck = threading.Event()
    append = desk.log.append

    def slow(transitions: Sequence[Transition], now_ns: int) -> list[Transition]:
        assert stuck.wait(30)
        return append(transitions, now_ns)

    desk.log.append = slow  # type: ignore[method-assign]
    for number in range(100):
        desk.disk.submit([transition(number)])
    assert not desk.disk.idle
    stuck.set()
    wait_for(lambda: desk.disk.idle, "the disk")
    assert len(desk.logged()) == 100
    desk.close()


def test_files_of_the_log_are_private(desk: Desk) -> None:
    """Labels and messages are nobody else's business."""
    desk.disk.submit([transition(1)])
    assert desk.alerts.stat().st_mode & 0o777 == 0o700
    assert [p.stat().st_mode & 0o777 for p in desk.alerts.glob("*.jsonl")] == [0o600]
