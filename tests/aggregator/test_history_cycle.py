"""History in the aggregator's step: a store that is lost or switched off, a disk that fails."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from aggregator.configuration import configure
from aggregator.cycle import Aggregator
from aggregator.history.archive import Archive
from aggregator.history.dayfolder import FOLDER
from aggregator.settings import Settings
from aggregator.store import query
from aggregator.store.dayrows import DayRows
from tests.aggregator.test_aggregator_cycle import Desk


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A desk in the test's folder."""
    made = Desk(tmp_path)
    yield made
    made.close()


def told(desk: Desk) -> list[tuple[str, int]]:
    """Metric and count of each series over the last day, from store and day files."""
    days = DayRows(desk.folder / "data" / FOLDER)
    with closing(query.open_readonly(desk.folder / "data" / "rollups.db")) as db:
        end_s = query.newest_s(db, days) or 0
        rows = query.summary(db, start_s=end_s - 86_400, end_s=end_s, days=days)
        return [(row["metric"], row["count"]) for row in rows]


def restart(desk: Desk, **own: Any) -> None:
    """End the aggregator in order and start one with other settings."""
    desk.aggregator.close()
    desk.settings = desk.settings.model_copy(update=own)
    desk.aggregator = Aggregator(configure(desk.settings), desk.bell, inline_disk=True)  # type: ignore[arg-type]


def test_a_store_found_damaged_at_a_restart_costs_no_history(desk: Desk) -> None:
    """What was recorded before and after reads as one, in the very interval of the damage."""
    tick = desk.recorder.metric("tick_latency", unit="ms")
    for _ in range(2):  # more than the ring holds
        for _ in range(900):
            tick.record(1.0)
        desk.run()
    desk.run()
    assert told(desk) == [("tick_latency", 1800)]
    desk.aggregator.close()
    path = desk.folder / "data" / "rollups.db"
    path.write_bytes(path.read_bytes()[:100] + b"\xff" * 40_000)
    desk.aggregator = desk._made()
    for _ in range(3):
        tick.record(1.0)
    desk.run()
    desk.run()
    assert told(desk) == [("tick_latency", 1803)]
    assert desk.counted() == 1023


def test_records_of_a_time_without_rollups_are_told_from_the_day_files(desk: Desk) -> None:
    """Switched off and on again by the setting."""
    tick = desk.recorder.metric("tick_latency", unit="ms")
    expected = 0
    for enabled in (True, False, True):
        restart(desk, monitoring_enable_aggregation=enabled)
        for _ in range(4):
            tick.record(1.0)
        desk.run()
        desk.run()
        expected += 4
        assert told(desk) == [("tick_latency", expected)]
    assert desk.counted() == 8


def test_day_files_that_cannot_be_written_are_an_alert(desk: Desk) -> None:
    """It says why, and resolves when they can be written again; nothing was lost."""
    archive = desk.folder / "data" / FOLDER
    archive.write_text("in the way")
    tick = desk.recorder.metric("tick_latency", unit="ms")
    tick.record(1.0)
    for _ in range(3):
        desk.run()
    [fired] = [each for each in desk.transitions() if each.rule == "history_failing"]
    assert (fired.kind.value, fired.severity.name.lower()) == ("fired", "warning")
    assert fired.message.startswith("raw records wait in memory: day files: ")
    archive.unlink()
    for _ in range(3):
        desk.run()
    assert desk.story()[-1] == ("history_failing", "resolved")
    assert [each.value for each in desk.raw()] == [1.0]


def test_raw_records_that_were_given_up_are_an_alert(desk: Desk) -> None:
    """With their number, once."""
    desk.run()
    desk.aggregator._historian._history._missed += 7
    for _ in range(3):
        desk.run()
    [fired] = [each for each in desk.transitions() if each.rule == "history_failing"]
    assert fired.message == "7 raw records are in no day file; rollups have them"


def test_the_disk_ceiling_is_a_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The archive gets what is set."""
    given = []
    original = Archive.__init__

    def making(self: Archive, *args: Any, **options: Any) -> None:
        given.append(options["ceiling_pct"])
        original(self, *args, **options)

    monkeypatch.setattr(Archive, "__init__", making)
    Desk(tmp_path, monitoring_disk_ceiling_pct=80.5).close()
    assert given == [80.5]
    assert Settings().monitoring_disk_ceiling_pct == 95.0
