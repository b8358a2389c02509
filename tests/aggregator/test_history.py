"""Raw records from the loop to the day files: exactly once, whatever the disk does."""

import errno
import gzip
import logging
import os
import random
import resource
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.history import dayfile, dayfolder, dayline, handover, history, member, recent
from aggregator.history.archive import Archive
from aggregator.history.background import Background
from aggregator.history.dayreader import read_records
from aggregator.history.daywriter import DayFiles
from aggregator.history.history import History
from ringbuf import Recorder, RingReader
from tests.daymodel import EVER, MAX_RAW, Killed, Life, Reader, Ring, World, killed_at

DAY_NS = dayfolder.DAY_NS
MIDNIGHT_NS = dayfolder.start_ns("2024-02-29")
SECOND_NS = 10**9
ROOT = Path(__file__).parents[2]


def ring(
    count: int, uuid: str = "ab" * 16, start_ns: int = MIDNIGHT_NS, series: tuple[int, ...] = (1, 2)
) -> Ring:
    """A ring with a record a second."""
    return Ring(uuid, series, start_ns + np.arange(count, dtype=np.int64) * SECOND_NS)


def finish(life: Life, count: int = 1000) -> None:
    """Read and write all there is."""
    while life.unread:
        life.read(count)
        life.history.step()
    life.history.step()
    assert not life.history.waiting


def members(folder: Path) -> list[dayfile.Member]:
    """All members of all files, by day."""
    found = []
    for entry in dayfolder.entries(folder)[0]:
        with entry.path.open("rb") as file:
            found += dayfile.members(file)
    return found


# exactly once


def crossing(folder: Path) -> World:
    """Two rings over midnight, one of them with a wall clock that jumps a day ahead and back."""
    first = ring(40, "aa" * 16, MIDNIGHT_NS - 17 * SECOND_NS)
    second = ring(36, "bb" * 16, MIDNIGHT_NS - 5 * SECOND_NS, (3, 4, 5))
    second.times_ns[12:20] += DAY_NS
    return World(folder, [first, second])


def live(world: World, *, commit_first: bool) -> None:
    """One life: read, flush and commit in turn, closing whatever day can be closed in between."""
    life = world.start()
    archive = Archive(
        life.files, 400, 24, wall_ns=lambda: MIDNIGHT_NS + 3 * DAY_NS, usage=lambda _: (0, 1)
    )
    rounds = 0
    while life.unread or not rounds:
        life.read(13)
        if commit_first:
            life.commit()
        life.history.step()
        if rounds % 2:
            assert not archive.run().failed
        life.commit()
        rounds += 1
    archive.run()


@pytest.mark.parametrize("commit_first", [True, False])
@pytest.mark.parametrize("torn", [True, False])
def test_a_kill_at_any_step_of_a_flush_or_an_archive_run_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commit_first: bool, torn: bool
) -> None:
    """Every file operation of a life over midnight, with days closed and opened again, is a place
    to die at; after it the next life ends with each record in the files exactly once."""
    number = 0
    while True:
        world = crossing(tmp_path / str(number))
        with killed_at(monkeypatch, number, torn=torn) as done:
            try:
                live(world, commit_first=commit_first)
                break
            except Killed:
                pass
        live(world, commit_first=commit_first)
        world.assert_exactly_once()
        number += 1
    world.assert_exactly_once()
    assert number == len(done) > 60
    assert {"write", "rename", "fsync"} <= set(done)


@given(
    kills=st.lists(st.tuples(st.integers(0, 60), st.booleans(), st.booleans()), max_size=4),
)
def test_kills_upon_kills_lose_and_double_nothing(
    tmp_path_factory: pytest.TempPathFactory, kills: list[tuple[int, bool, bool]]
) -> None:
    """The recovery itself may be killed, again and again."""
    world = crossing(tmp_path_factory.mktemp("world"))
    monkeypatch = pytest.MonkeyPatch()
    for number, torn, commit_first in kills:
        with killed_at(monkeypatch, number, torn=torn):
            try:
                live(world, commit_first=commit_first)
            except Killed:
                pass
    live(world, commit_first=True)
    world.assert_exactly_once()


CHILD = """
import json, os, sys, time
from pathlib import Path
from aggregator.history.archive import Archive
from aggregator.history.background import Background
from aggregator.history.daywriter import DayFiles
from aggregator.history.history import History
from ringbuf import RingReader

folder = Path(sys.argv[1])
files = DayFiles(folder / "archive")
history = History(files, 50)
history.add_series(7, "tick_latency", "ms", {"engine": "e"})
checkpoint = folder / "checkpoint"
state = json.loads(checkpoint.read_text()) if checkpoint.exists() else {"position": 0, "written": 0}
wall_ns = int(sys.argv[2])
ids = lambda local: local.astype("i8") * 0 + 7
reader = RingReader.attach("e", folder, position=state["position"])
with RingReader.attach("e", folder, uuid=reader.uuid, position=state["written"]) as behind:
    assert not history.catch_up(reader.uuid, behind, state["position"], ids, wall_ns)
writer = Background("history", history.step)
history.wake = writer.wake
print("up", flush=True)
while True:
    records = reader.poll(997).records
    history.add(reader.uuid, ids(records["series"]), records["seq"], records["time_ns"] + wall_ns,
                records["value"])
    history.wake()
    state["position"] = reader.position
    state["written"] = history.written(reader.uuid) or state["written"]
    done = not len(records) and history.written(reader.uuid) == reader.position
    if os.environ.get("LAST") and done:
        assert writer.close(10)
        sys.exit()
    (folder / "next").write_text(json.dumps(state))
    (folder / "next").rename(checkpoint)
    time.sleep(0.0005)
"""


def test_a_real_kill_loses_and_doubles_nothing(tmp_path: Path) -> None:
    """SIGKILL at a random moment, several times, while an engine goes on recording into a ring."""
    chance = random.Random(5)
    command = [sys.executable, "-c", CHILD, str(tmp_path), str(MIDNIGHT_NS)]
    with Recorder("e", tmp_path) as recorder:
        metric = recorder.metric("tick_latency", "ms")
        written = 0
        for last in (False, False, False, False, True):
            environment = {**os.environ, **({"LAST": "1"} if last else {})}
            child = subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT, env=environment)
            assert child.stdout is not None and child.stdout.readline() == b"up\n"
            if not last:  # the last one ends by itself once all that is there is written
                for _ in range(25_000):
                    metric.record(float(written))
                    written += 1
                threading.Event().wait(chance.uniform(0.0, 0.2))
                child.send_signal(signal.SIGKILL)
            child.stdout.close()
            assert child.wait(60) == (0 if last else -signal.SIGKILL)
    values = Counter(each.value for each in read_records(tmp_path / "archive", *EVER))
    assert values == Counter(map(float, range(written)))


def test_records_go_to_the_file_of_their_own_date(tmp_path: Path) -> None:
    """Over midnight into a leap day, over the end of a year, and when the wall clock jumps."""
    world = World(tmp_path, [ring(10, start_ns=MIDNIGHT_NS - 5 * SECOND_NS)])
    world.rings[0].times_ns[7] = dayfolder.start_ns("2024-12-31") + DAY_NS - 1
    world.rings[0].times_ns[8] = dayfolder.start_ns("2025-01-01")
    finish(world.start())
    world.assert_exactly_once()
    names = [entry.path.name for entry in dayfolder.entries(tmp_path)[0]]
    days = ["2024-02-28", "2024-02-29", "2024-12-31", "2025-01-01"]
    assert names == [dayfolder.name_of(day, ".part") for day in days]
    for entry in dayfolder.entries(tmp_path)[0]:
        with entry.path.open("rb") as file:
            for member in dayfile.members(file):
                for block in dayfile.lines(file, member):
                    assert all(line.startswith(b'{"time":"' + entry.day.encode()) for line in block)


def test_a_late_record_opens_its_day_again(tmp_path: Path, caplog: Any) -> None:
    """A closed day that gets another record has one file, open, with all of them."""
    caplog.set_level(logging.INFO)
    world = World(tmp_path, [ring(10)])
    life = world.start()
    life.read(6)
    life.history.step()
    assert life.files.close_day("2024-02-29").records == 6
    assert [entry.suffix for entry in dayfolder.entries(tmp_path)[0]] == [""]
    finish(life)
    assert [entry.suffix for entry in dayfolder.entries(tmp_path)[0]] == [".part"]
    world.assert_exactly_once()
    assert "day opened again" in caplog.messages


def test_members_say_which_seqs_they_cover(tmp_path: Path) -> None:
    """Ranges are contiguous for a ring that lost nothing; a gap is what was overwritten."""
    world = World(tmp_path, [ring(30), ring(20, "cd" * 16, series=(3,))])
    life = world.start()
    for _ in range(3):
        life.read(10)
        life.history.step()
    covers = [each.cover.rings for each in members(tmp_path) if each.cover]
    assert [each["ab" * 16] for each in covers] == [(0, 9), (10, 19), (20, 29)]
    assert [each.get("cd" * 16) for each in covers] == [(0, 9), (10, 19), None]
    assert life.history.written("ab" * 16) == 30
    assert life.history.written("none") is None


def test_what_is_handed_over_twice_is_taken_once(tmp_path: Path) -> None:
    """A ring that is let go and attached again begins at an older position."""
    world = World(tmp_path, [ring(30)])
    life = world.start()
    life.read(20)
    for again in (0, 5, 15):
        life.positions["ab" * 16] = again
        life.read(10)
    finish(life)
    world.assert_exactly_once()


def test_what_the_ring_has_overwritten_meanwhile_is_reported(tmp_path: Path) -> None:
    """Catching up takes what is still there and says how many records are not."""
    one = ring(100)
    life = World(tmp_path, []).start()
    assert life.history.catch_up(one.uuid, Reader(one, 10, oldest=40), 90, one.ids, 5) == 30
    assert life.history.waiting == 50
    assert life.history.catch_up(one.uuid, Reader(one, 0, oldest=95), 50, one.ids, 0) == 50
    short = ring(10)
    assert life.history.catch_up("ef" * 16, Reader(short, 0), 20, short.ids, 0) == 10
    life.history.step()
    read = list(read_records(tmp_path, *EVER))
    assert [each.value for each in read] == [*map(float, range(40, 90)), *map(float, range(10))]
    assert read[0].time_ns == int(one.times_ns[40]) + 5


def test_a_value_that_is_not_finite_is_left_out(tmp_path: Path) -> None:
    """A damaged slot reaches no file as something that isn't JSON."""
    one = ring(3, series=(1,))
    life = World(tmp_path, [one]).start()
    values = np.array([1.0, np.nan, np.inf])
    life.history.add(one.uuid, np.ones(3, np.int64), np.arange(3), one.times_ns, values)
    life.history.step()
    assert [each.value for each in read_records(tmp_path, *EVER)] == [1.0]


def test_a_series_that_nobody_named_is_written_all_the_same(tmp_path: Path) -> None:
    """A record of an unknown number has its number for a label."""
    one = ring(1, series=(99,))
    life = World(tmp_path, []).start()
    life.history.add(one.uuid, np.array([99]), np.arange(1), one.times_ns, np.ones(1))
    life.history.step()
    (only,) = read_records(tmp_path, *EVER)
    assert (only.metric, only.labels) == ("unknown", {"series": "99"})


def test_members_stay_small_whatever_the_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Long names, many records or many rings make more members, not larger ones."""
    monkeypatch.setattr(member, "MAX_MEMBER_BYTES", 100_000)
    monkeypatch.setattr(member, "MAX_RINGS", 3)
    rings = [ring(40, f"{number:032x}", series=(number,)) for number in range(8)]
    world = World(tmp_path, rings)
    life = world.start()
    life.history.add_series(0, "m", "", {"engine": rings[0].uuid, "series": "0", "x": "y" * 4000})
    finish(life)
    (part,) = tmp_path.iterdir()
    with part.open("rb") as file:
        for each in dayfile.members(file):
            assert each.cover is not None and len(each.cover.rings) <= 3
            assert sum(len(line) + 1 for block in dayfile.lines(file, each) for line in block) < 1e5
    world.assert_exactly_once()


# memory


def test_the_newest_of_each_series_stay_in_memory(tmp_path: Path) -> None:
    """Up to the setting, also of a series that is quiet while others are not."""
    one = ring(1000)
    life = World(tmp_path, [one]).start()
    life.history.add(one.uuid, np.array([9]), np.array([0]), one.times_ns[:1], np.array([5.0]))
    life.history.step()
    finish(life, 150)
    assert life.history.newest(9) == [(MIDNIGHT_NS, 5.0)]
    expected = [(int(one.times_ns[seq]), float(seq)) for seq in range(1000) if seq % 2 == 0]
    assert life.history.newest(1) == expected[-MAX_RAW:]
    assert life.history.newest(404) == []


def test_memory_is_bounded_whatever_the_number_of_series(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With thousands of series there are fewer records of each, and a bound for all."""
    monkeypatch.setattr(recent, "MAX_RECENT", 500)
    world = World(tmp_path, [ring(2000, series=tuple(range(100)))])
    life = world.start()
    finish(life, 300)
    assert len(life.history._recent) <= 500
    assert len(life.history.newest(42)) == 5


def test_a_hung_disk_costs_bounded_memory_and_nothing_uncounted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nobody takes up what is handed over, the newest of each series is kept with the number
    of those it stands for, and order holds when it goes on."""
    monkeypatch.setattr(handover, "MAX_PENDING", 100)
    world = World(tmp_path, [ring(1000), ring(500, "cd" * 16, series=(3,))])
    life = world.start()
    while life.unread:
        life.read(20)
    assert life.history.waiting <= 140
    finish(life)
    stood_for: Counter[str] = Counter()
    last: dict[str, float] = {}
    for each in read_records(tmp_path, *EVER):
        stood_for[each.labels["series"]] += 1 + each.skipped
        assert each.value > last.get(each.labels["series"], -1.0)
        last[each.labels["series"]] = each.value
    assert stood_for == {"1": 500, "2": 500, "3": 500}
    assert last == {"1": 998.0, "2": 999.0, "3": 499.0}
    assert life.history.written("ab" * 16) == 1000


def test_a_flush_is_called_for_when_enough_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once until it was done, not for each batch."""
    monkeypatch.setattr(history, "FLUSH_RECORDS", 50)
    monkeypatch.setattr(history, "_CHUNK", 60)
    life = World(tmp_path, [ring(200)]).start()
    calls: list[int] = []
    life.history.wake = lambda: calls.append(life.history.waiting)
    while life.unread:
        life.read(20)
    assert calls == [60]
    assert life.history.step() == 0.0  # more than it took is waiting
    while life.history.step() == 0.0:
        pass
    assert life.history.waiting == 0


# thinning


class Time:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_more_than_the_budget_is_thinned_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Of each series the first and every n-th, all beyond a level, and exact counts in the lines
    and the members' heads."""
    clock = Time()
    world = World(tmp_path, [ring(20_000)])
    life = world.start(budget=100, clock=clock)
    life.history.levels = {1: (-np.inf, 19_990.0)}
    for _ in range(4):
        life.read(5000)
        life.history.step()
        clock.now_s += 1
    found = list(read_records(tmp_path, *EVER))
    assert len(found) < 1200
    stood_for: Counter[str] = Counter()
    for each in found:
        stood_for[each.labels["series"]] += 1 + each.skipped
    assert stood_for == {"1": 10_000, "2": 10_000}
    beyond = [each.value for each in found if each.labels["series"] == "1"][-5:]
    assert beyond == [19_990.0, 19_992.0, 19_994.0, 19_996.0, 19_998.0]
    covers = [each.cover for each in members(tmp_path) if each.cover]
    assert sum(each.records + each.skipped for each in covers) == 20_000
    assert life.history.stored == len(found)
    assert life.history.stored + life.history.skipped == 20_000
    assert [each.levelname for each in caplog.records] == ["WARNING"]


def test_a_burst_within_the_credit_is_written_whole(tmp_path: Path) -> None:
    """Five seconds' worth at once is no overload."""
    world = World(tmp_path, [ring(500)])
    life = world.start(budget=100, clock=Time())
    finish(life)
    world.assert_exactly_once()


def test_a_kill_while_thinning_keeps_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was left out is counted with the member that covers it, once."""
    monkeypatch.setattr(member, "_RECORDS", 100)
    for number in range(40):
        world = World(tmp_path / str(number), [ring(1000)])
        with killed_at(monkeypatch, number, torn=bool(number % 2)):
            life = world.start(budget=10, clock=Time())
            with pytest.raises(Killed):
                life.read(1000)
                life.commit()
                life.history.step()
                raise Killed
        finish(world.start(budget=10, clock=Time()))
        found = list(read_records(world.folder, *EVER))
        assert sum(1 + each.skipped for each in found) == 1000
        assert len({each.value for each in found}) == len(found) < 1000


# a disk that cannot be written


@pytest.fixture
def small_files() -> Iterator[None]:
    """No file may grow beyond 20,000 bytes: what a full disk does, without one."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("mounting a file system needs privileges")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def noisy(count: int) -> World:
    """A ring whose times compress badly."""
    one = ring(count)
    one.times_ns += np.random.default_rng(1).integers(0, SECOND_NS, count)
    return World(Path(), [one])


@pytest.mark.usefixtures("small_files")
def test_a_full_file_leaves_no_half_member(tmp_path: Path) -> None:
    """What couldn't be written whole is taken back; it is written when there is room again."""
    world = noisy(6000)
    world.folder = tmp_path
    life = world.start()
    while life.unread:
        life.read(1000)
        assert life.history.step() == history.FLUSH_S or not life.history.problem
    assert life.history.problem == "day files: File too large"
    (part,) = tmp_path.iterdir()
    with part.open("rb") as file:
        verified = dayfile.verify(file)
    assert not verified.damaged and not verified.torn and 0 < verified.records < 6000
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    life.history.step()
    assert life.history.problem is None
    world.assert_exactly_once()


def test_a_full_disk_is_waited_out(small_disk: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Records stay in memory, the problem is said once, and all is written when there is room."""
    world = noisy(6000)
    world.folder = small_disk / "archive"
    ballast = small_disk / "ballast"
    ballast.write_bytes(b"x" * 40_000)
    life = world.start()
    while life.unread:
        life.read(500)
        life.history.step()
    assert life.history.problem == "day files: No space left on device"
    assert [each.levelname for each in caplog.records] == ["ERROR"]
    (part,) = world.folder.iterdir()
    with part.open("rb") as file:
        assert dayfile.verify(file).torn is False
    subprocess.run(
        ["mount", "-o", "remount,size=4m", str(small_disk)], check=True, capture_output=True
    )
    life.history.step()
    assert life.history.problem is None
    world.assert_exactly_once()


def test_short_writes_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A system call may write less than it was given; nothing at all is an error."""
    world = World(tmp_path, [ring(20)])
    life = world.start()
    writing = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: writing(descriptor, data[:7]))
    life.read(10)
    life.history.step()
    monkeypatch.setattr(os, "write", lambda descriptor, data: 0)
    life.read(10)
    life.history.step()
    assert life.history.problem == "day files: nothing was written"
    monkeypatch.setattr(os, "write", writing)
    finish(life)
    world.assert_exactly_once()


def test_a_day_that_others_recompressed_goes_on(tmp_path: Path) -> None:
    """Members of other programs stay where they are; ours follow them."""
    world = World(tmp_path, [ring(20)])
    life = world.start()
    life.read(10)
    life.history.step()
    (part,) = tmp_path.iterdir()
    part.write_bytes(gzip.compress(gzip.decompress(part.read_bytes())))
    finish(life)
    assert World(tmp_path, []).start().files.covered() == {"ab" * 16: 20}
    world.assert_exactly_once()


def test_a_long_outage_keeps_the_newest_and_counts_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of more than memory is for, the newest of each series are kept; nothing is lost uncounted."""
    monkeypatch.setattr(history, "MAX_HELD", 400)
    world = World(tmp_path / "archive", [ring(3000)])
    (tmp_path / "archive").write_text("in the way")
    life = world.start()
    while life.unread:
        life.read(100)
        life.history.step()
        assert life.history.waiting <= 500
    assert life.history.problem is not None
    (tmp_path / "archive").unlink()
    life.history.step()
    found = list(read_records(world.folder, *EVER))
    assert sum(1 + each.skipped for each in found) == 3000
    assert life.history.dropped == 3000 - len(found)
    assert [each.value for each in found][-2 * MAX_RAW :] == [
        float(number) for number in range(3000 - 2 * MAX_RAW, 3000)
    ]


def test_an_unreadable_file_does_not_stop_the_writer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What a file covers can't be asked of one that can't be read; having no descriptors left is
    waited out instead."""
    world = World(tmp_path, [ring(3)])
    first = world.start()
    finish(first)
    opening = dayfolder.open_to_read
    failure = OSError(errno.EMFILE, "Too many open files")

    def refusing(path: Path) -> Any:
        raise failure

    monkeypatch.setattr(dayfolder, "open_to_read", refusing)
    second = world.start()
    assert second.history.step() == history.FLUSH_S
    assert second.history.problem == "day files: Too many open files"
    failure = OSError(errno.EIO, "Input/output error")
    second.history.step()
    assert second.history.problem is None
    assert second.history.written("ab" * 16) is None
    assert "day file can't be read" in caplog.messages
    monkeypatch.setattr(dayfolder, "open_to_read", opening)


def test_a_torn_end_is_cut_before_the_next_member(tmp_path: Path, caplog: Any) -> None:
    """Whatever a kill, a power cut or a full disk left behind the last whole member."""
    for tail in (b"\x1f", b"\0" * 5000, b"\x1f\x8b\x08\x04\0\0\0\0\x04\xff\x50\0TW", b"noise"):
        world = World(tmp_path / tail[:4].hex() / str(len(tail)), [ring(20)])
        life = world.start()
        life.read(10)
        life.history.step()
        (part,) = world.folder.iterdir()
        with part.open("ab") as file:
            file.write(tail)
        finish(world.start())
        world.assert_exactly_once()
    assert "unfinished end of a day file cut off" in caplog.messages


def test_a_last_member_that_is_damaged_inside_is_written_again(tmp_path: Path) -> None:
    """After a power cut its length may be right and its content not: it counts as not written."""
    world = World(tmp_path, [ring(30)])
    life = world.start()
    for _ in range(2):
        life.read(10)
        life.history.step()
    (part,) = tmp_path.iterdir()
    data = bytearray(part.read_bytes())
    data[-20] ^= 1
    part.write_bytes(data)
    finish(world.start())
    world.assert_exactly_once()


def test_a_file_that_is_not_ours_is_set_aside(tmp_path: Path) -> None:
    """Content that is no day file is neither appended to nor lost."""
    world = World(tmp_path, [ring(3)])
    part = tmp_path / dayfolder.name_of("2024-02-29", ".part")
    part.write_text("my notes")
    finish(world.start())
    world.assert_exactly_once()
    assert (tmp_path / dayfolder.name_of("2024-02-29", ".damaged")).read_text() == "my notes"


# the thread


def test_the_loop_and_the_writer_share_nothing_unsafe(tmp_path: Path) -> None:
    """A real recorder, reader and thread: what was recorded is in the file at the end."""
    with Recorder("e", tmp_path, capacity=1 << 15) as recorder:
        files = DayFiles(tmp_path / "archive")
        history = History(files, 100)
        history.add_series(0, "m", "", {"engine": "e"})
        work = Background("history", history.step)
        history.wake = work.wake
        metric = recorder.metric("m")
        reader = RingReader.attach("e", tmp_path)
        for number in range(40_000):
            metric.record(float(number))
            if number % 1000 == 999:
                records = reader.poll().records
                history.add(
                    reader.uuid, records["series"] * np.int64(0), records["seq"],
                    records["time_ns"] + MIDNIGHT_NS, records["value"],
                )  # fmt: skip
        assert work.close(30)
        reader.close()
    assert [each.value for each in read_records(tmp_path / "archive", *EVER)] == [
        float(number) for number in range(40_000)
    ]
    assert history.newest(0)[-1][1] == 39_999.0
    assert dayline.parse_time("2024-02-29T00:00:00Z") == MIDNIGHT_NS
