"""The archive's housekeeping: closing, expiry by date, room on a full disk, and what it reports."""

import gzip
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aggregator.history import archive, dayfile, dayfolder
from aggregator.history.archive import Archive, Report, disk_usage
from aggregator.history.dayfile import Cover, Verified
from aggregator.history.dayreader import Trouble, read_records
from aggregator.history.daywriter import DayFiles
from aggregator.store.schema import StoreError
from tests.daymodel import EVER, Killed, Ring, World, killed_at

DAY_NS = dayfolder.DAY_NS
MIDNIGHT_NS = dayfolder.start_ns("2024-03-01")
HOUR_NS = 3600 * 10**9


def member(day: str, count: int = 3) -> bytes:
    """A member with *count* records of a day."""
    at_ns = dayfolder.start_ns(day)
    line = b'{"time":"%sT00:00:00.000000000Z","metric":"m","labels":{},"value":1.0,"unit":""}\n'
    cover = Cover({"ab" * 16: (at_ns, at_ns + count)}, count, 0, at_ns, at_ns)
    return dayfile.pack(line % day.encode() * count, cover)


def put(folder: Path, day: str, suffix: str = "", data: bytes | None = None) -> Path:
    """A day's file; its time stamps say nothing of its age."""
    folder.mkdir(exist_ok=True)
    path = folder / dayfolder.name_of(day, suffix)
    path.write_bytes(member(day) if data is None else data)
    os.utime(path, (1, 1) if day > "2024" else None)
    return path


def keeper(folder: Path, now_ns: int = MIDNIGHT_NS, keep_days: int = 30, **options: Any) -> Archive:
    """Housekeeping at a given time."""
    options = {"usage": lambda _: (0, 100), **options}
    return Archive(DayFiles(folder), keep_days, 24, wall_ns=lambda: now_ns, **options)


def names(folder: Path) -> list[str]:
    """What lies in the folder, shortened to day and suffix."""
    return sorted(
        each.name.removeprefix("metrics_").replace(".json.gz", "") for each in folder.iterdir()
    )


# closing


def test_a_day_is_closed_once_it_is_over(tmp_path: Path) -> None:
    """Days before today, read back; today stays open, and a day's first ten minutes belong to
    the last flushes of the day before."""
    for day in ("2024-02-28", "2024-02-29", "2024-03-01"):
        put(tmp_path, day, ".part")
    report = keeper(tmp_path, MIDNIGHT_NS + 60 * 10**9).run()
    assert report.closed == {"2024-02-28": 3}
    report = keeper(tmp_path, MIDNIGHT_NS + HOUR_NS).run()
    assert report.closed == {"2024-02-29": 3}
    assert names(tmp_path) == ["2024-02-28", "2024-02-29", "2024-03-01.part"]


def test_any_number_of_runs_changes_nothing_more(tmp_path: Path) -> None:
    """What is closed stays as it is, byte for byte."""
    path = put(tmp_path, "2024-02-28", ".part", member("2024-02-28") * 2)
    before = path.read_bytes()
    runs = [keeper(tmp_path).run() for _ in range(3)]
    assert [each.closed for each in runs] == [{"2024-02-28": 6}, {}, {}]
    assert (tmp_path / dayfolder.name_of("2024-02-28")).read_bytes() == before


def test_a_torn_end_is_cut_before_a_day_is_closed(tmp_path: Path) -> None:
    """A closed file is whole, so that everybody's tools read it."""
    put(tmp_path, "2024-02-28", ".part", member("2024-02-28") + member("2024-02-28")[:-9])
    assert keeper(tmp_path).run().closed == {"2024-02-28": 3}
    with gzip.open(tmp_path / dayfolder.name_of("2024-02-28")) as file:
        assert len(file.readlines()) == 3


def test_a_damaged_day_is_closed_without_its_damage_and_the_original_stays(tmp_path: Path) -> None:
    """The readable members make the closed file; the report names the day."""
    data = bytearray(member("2024-02-28") * 3)
    data[-300] ^= 1
    put(tmp_path, "2024-02-28", ".part", bytes(data))
    report = keeper(tmp_path).run()
    assert report.damaged == ["2024-02-28"] and report.closed == {"2024-02-28": 6}
    assert names(tmp_path) == ["2024-02-28", "2024-02-28.damaged"]
    assert (tmp_path / dayfolder.name_of("2024-02-28", ".damaged")).read_bytes() == bytes(data)
    trouble = Trouble()
    assert len(list(read_records(tmp_path, *EVER, trouble=trouble))) == 6 and not trouble
    assert keeper(tmp_path).run().damaged == []


def test_several_originals_are_kept_under_names_of_their_own(tmp_path: Path) -> None:
    """A second damaged file of a day doesn't replace the first."""
    for number in range(2):
        put(tmp_path, "2024-02-28", ".part", b"no day file %d" % number)
        assert keeper(tmp_path).run().closed == {}
    assert names(tmp_path) == ["2024-02-28.damaged", "2024-02-28.damaged-2"]


def test_an_empty_open_day_goes(tmp_path: Path) -> None:
    """A file made just before the disk was full holds nothing worth an archive."""
    put(tmp_path, "2024-02-28", ".part", b"")
    report = keeper(tmp_path).run()
    assert names(tmp_path) == [] and not report.failed and not report.closed


def test_a_crash_at_any_step_of_repairing_a_day_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever step a run dies at, the next one ends with the readable records once, and with the
    original."""
    data = bytearray(member("2024-02-28") * 3 + member("2024-02-28")[:100])
    data[2 * len(member("2024-02-28")) - 20] ^= 1
    number = 0
    finished = False
    while not finished:
        folder = tmp_path / str(number)
        put(folder, "2024-02-28", ".part", bytes(data))
        with killed_at(monkeypatch, number):
            try:
                keeper(folder).run()
                finished = True
            except Killed:
                pass
        assert len(list(read_records(folder, *EVER))) == 6
        keeper(folder).run()
        assert names(folder) == ["2024-02-28", "2024-02-28.damaged"]
        assert len(list(read_records(folder, *EVER))) == 6
        number += 1
    assert number > 8


def test_a_day_that_somebody_appends_to_stays_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came while it was read back was not verified."""
    put(tmp_path, "2024-02-28", ".part")
    files = DayFiles(tmp_path)

    def verifying(file: Any) -> Verified:
        verified = verify(file)
        files.append("2024-02-28", member("2024-02-28"))
        return verified

    verify = dayfile.verify
    monkeypatch.setattr(dayfile, "verify", verifying)
    housekeeping = Archive(files, 30, 24, wall_ns=lambda: MIDNIGHT_NS, usage=lambda _: (0, 1))
    assert housekeeping.run().closed == {}
    monkeypatch.setattr(dayfile, "verify", verify)
    assert housekeeping.run().closed == {"2024-02-28": 6}


def test_a_closed_file_is_never_replaced(tmp_path: Path) -> None:
    """Two files of one day are somebody's doing: both stay, both are read, the report says it."""
    put(tmp_path, "2024-02-28")
    put(tmp_path, "2024-02-28", ".part")
    report = keeper(tmp_path).run()
    assert report.failed == {
        dayfolder.name_of("2024-02-28", ".part"): "a closed file of that day is there"
    }
    assert names(tmp_path) == ["2024-02-28", "2024-02-28.part"]
    assert len(list(read_records(tmp_path, *EVER))) == 6


def test_a_file_that_fails_stops_none_of_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that can't be read, or vanishes, is reported and tried again at the next run."""
    for day in ("2024-02-26", "2024-02-27", "2024-02-28"):
        put(tmp_path, day, ".part")

    def failing(path: Path) -> Any:
        if "02-26" in path.name:
            raise OSError(5, "Input/output error")
        if "02-27" in path.name:
            path.unlink(missing_ok=True)
        return opening(path)

    opening = dayfolder.open_to_read
    monkeypatch.setattr(dayfolder, "open_to_read", failing)
    report = keeper(tmp_path).run()
    assert report.closed == {"2024-02-28": 3}
    assert list(report.failed.values()) == ["Input/output error", "No such file or directory"]
    monkeypatch.setattr(dayfolder, "open_to_read", opening)
    assert keeper(tmp_path).run().closed == {"2024-02-26": 3}


def test_what_is_not_ours_is_left_alone_and_reported(tmp_path: Path) -> None:
    """Other names, folders, pipes and links stay, whatever their age; leftovers of ours go."""
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "metrics_2020-01-01.json.gz").mkdir()
    (tmp_path / "metrics_2020-01-02.json.gz").symlink_to("/etc/hostname")
    (tmp_path / "metrics_2020-13-01.json.gz").write_text("no month")
    os.mkfifo(tmp_path / "metrics_2020-01-03.json.gz.part")
    put(tmp_path, "2024-02-28", ".tmp")
    before = len(list(tmp_path.iterdir()))
    report = keeper(tmp_path).run()
    assert len(report.foreign) == 5 and not report.failed and not report.expired
    assert len(list(tmp_path.iterdir())) == before - 1


def test_a_missing_folder_is_no_trouble(tmp_path: Path) -> None:
    """Nothing was recorded yet."""
    report = keeper(tmp_path / "archive", usage=disk_usage).run()
    assert not report.failed and report.used_pct is None


def test_a_folder_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    """Somebody put a file in its place."""
    (tmp_path / "archive").write_text("")
    report = keeper(tmp_path / "archive").run()
    assert list(report.failed.values()) == ["Not a directory"]


# expiry


def test_old_files_go_by_the_date_in_their_names(tmp_path: Path) -> None:
    """Of any of our kinds, whatever their time stamps say; the limit counts days before today."""
    put(tmp_path, "2023-11-30")
    put(tmp_path, "2024-01-29", ".damaged")
    put(tmp_path, "2024-01-30", ".part", b"unreadable")
    put(tmp_path, "2024-01-31")
    put(tmp_path, "2030-01-01", ".part")
    report = keeper(tmp_path, keep_days=30, now_ns=MIDNIGHT_NS + HOUR_NS).run()
    assert [name[8:18] for name in report.expired] == ["2023-11-30", "2024-01-29", "2024-01-30"]
    assert names(tmp_path) == ["2024-01-31", "2030-01-01.part"]


def test_a_wall_clock_set_ahead_deletes_nothing(tmp_path: Path) -> None:
    """What is old is decided by a clock that such a step doesn't move."""
    put(tmp_path, "2024-02-28")
    ahead = MIDNIGHT_NS + 4000 * DAY_NS
    keeper(tmp_path, ahead, expiry_ns=lambda: MIDNIGHT_NS).run()
    assert names(tmp_path) == ["2024-02-28"]
    keeper(tmp_path, ahead).run()
    assert names(tmp_path) == []


def test_rollups_expire_with_the_day_files_and_hourly_ones_after_a_year(tmp_path: Path) -> None:
    """Base rollups cover the same days as the day files; a store that fails is reported."""
    calls: list[tuple[int, int]] = []

    def expire(base_before_s: int, hourly_before_s: int) -> int:
        calls.append((base_before_s, hourly_before_s))
        return 5

    report = keeper(tmp_path, MIDNIGHT_NS + HOUR_NS, expire_rollups=expire).run()
    midnight_s = MIDNIGHT_NS // 10**9
    assert calls == [(midnight_s - 30 * 86_400, midnight_s - 365 * 86_400)]
    assert report.rollups_expired == 5

    def failing(base_before_s: int, hourly_before_s: int) -> int:
        raise StoreError("rollups.db: database is locked")

    report = keeper(tmp_path, expire_rollups=failing).run()
    assert report.failed == {"rollups": "rollups.db: database is locked"}


def test_a_file_that_cannot_be_deleted_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others go; one that is gone already is no failure."""
    for day in ("2023-01-01", "2023-01-02", "2023-01-03"):
        put(tmp_path, day)

    def failing(path: Any, **options: Any) -> None:
        if "01-01" in str(path):
            raise PermissionError(1, "Operation not permitted")
        unlink(path, **options)
        if "01-02" in str(path):
            raise FileNotFoundError(2, "No such file or directory")

    unlink = os.unlink
    monkeypatch.setattr(os, "unlink", failing)
    report = keeper(tmp_path).run()
    assert list(report.failed.values()) == ["Operation not permitted"]
    assert [name[8:18] for name in report.expired] == ["2023-01-03"]
    assert names(tmp_path) == ["2023-01-01"]


# room


def disk(folder: Path, others: int, usable: int) -> Callable[[Path], tuple[int, int]]:
    """A disk that the day files share with *others*, in bytes."""

    def usage(_: Path) -> tuple[int, int]:
        return others + sum(each.stat().st_blocks * 512 for each in folder.iterdir()), usable

    return usage


def test_a_nearly_full_disk_costs_the_oldest_days_and_no_more_than_needed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Oldest first, today never, until the disk is below the ceiling; the report and the log say
    it."""
    for day in ("2024-02-26", "2024-02-27", "2024-02-28", "2024-02-29"):
        put(tmp_path, day, data=b"x" * 4096)
    put(tmp_path, "2024-03-01", ".part", b"x" * 4096)
    usage = disk(tmp_path, others=80_000, usable=100_000)
    housekeeping = keeper(tmp_path, usage=usage, ceiling_pct=93.0)
    report = housekeeping.make_room()
    assert [name[8:18] for name in report.evicted] == ["2024-02-26", "2024-02-27"]
    assert report.used_pct == 92.29
    assert housekeeping.evicted == 2
    assert names(tmp_path) == ["2024-02-28", "2024-02-29", "2024-03-01.part"]
    assert housekeeping.make_room().evicted == []
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_others_may_fill_the_disk_but_today_stays(tmp_path: Path) -> None:
    """When nothing of ours helps, the open day is still written."""
    put(tmp_path, "2024-02-29")
    put(tmp_path, "2024-03-01", ".part")
    report = keeper(tmp_path, usage=lambda _: (100, 100)).run()
    assert len(report.evicted) == 1
    assert names(tmp_path) == ["2024-03-01.part"]


def test_a_file_with_a_second_name_frees_nothing(tmp_path: Path) -> None:
    """Space is only counted as freed with a file's last name."""
    path = put(tmp_path, "2024-02-26", data=b"x" * 4096)
    os.link(path, tmp_path / dayfolder.name_of("2024-02-26", ".damaged"))
    put(tmp_path, "2024-02-27", data=b"x" * 4096)
    report = keeper(tmp_path, usage=lambda _: (96, 100)).run()
    assert len(report.evicted) == 2


def test_disk_usage_is_that_of_df(tmp_path: Path) -> None:
    """Used and usable bytes; the reserve of root is neither."""
    used, usable = disk_usage(tmp_path)
    assert 0 < used < usable
    with pytest.raises(FileNotFoundError):
        disk_usage(tmp_path / "missing")


def test_a_disk_that_cannot_be_asked_is_no_failure(tmp_path: Path) -> None:
    """Also if it fails between two questions."""
    put(tmp_path, "2024-02-26")
    answers = iter([(100, 100)])

    def usage(_: Path) -> tuple[int, int]:
        try:
            return next(answers)
        except StopIteration:
            raise OSError(5, "Input/output error") from None

    report = keeper(tmp_path, usage=usage).make_room()
    assert len(report.evicted) == 1 and report.used_pct is None


# schedule and report


def test_it_runs_at_start_and_then_at_its_interval_and_watches_the_disk_meanwhile(
    tmp_path: Path,
) -> None:
    """A run each so many hours; in between each minute only the disk is looked at."""
    now_s = [1000.0]
    asked: list[Path] = []

    def usage(folder: Path) -> tuple[int, int]:
        asked.append(folder)
        return 0, 100

    housekeeping = keeper(tmp_path, usage=usage, clock=lambda: now_s[0])
    assert housekeeping.last is None
    runs = []
    for _ in range(4):
        assert housekeeping.step() == 60.0
        runs.append(housekeeping.last)
        now_s[0] += 9 * 3600
    assert [each is runs[0] for each in runs] == [True, True, True, False]
    assert len(asked) == 4


def test_a_report_is_bounded_and_has_all_counts(caplog: pytest.LogCaptureFixture) -> None:
    """Names are for people, counts are complete; it fits a health record."""
    caplog.set_level(logging.INFO)
    report = Report(MIDNIGHT_NS, foreign=[str(number) for number in range(500)])
    report.failed["a"] = "no"
    row = report.row()
    assert row["at"] == "2024-03-01T00:00:00.000000Z"
    assert len(row["foreign"]) == archive._SHOWN
    assert row["counts"]["foreign"] == 500
    assert row["failed"] == ["a: no"]


def test_late_records_are_in_the_closed_file_after_the_next_run(tmp_path: Path) -> None:
    """Closed, opened again by a late record, closed again: one file with each record once."""
    times = dayfolder.start_ns("2024-02-29") + np.arange(30, dtype=np.int64)
    world = World(tmp_path, [Ring("ab" * 16, (1,), times)])
    life = world.start()
    housekeeping = Archive(
        life.files, 30, 24, wall_ns=lambda: MIDNIGHT_NS + HOUR_NS, usage=lambda _: (0, 1)
    )
    for count in (10, 20, 30):
        life.read(10)
        life.history.step()
        assert housekeeping.run().closed == {"2024-02-29": count}
    assert names(tmp_path) == ["2024-02-29"]
    world.assert_exactly_once()
