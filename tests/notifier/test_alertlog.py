"""The alert log: what was appended is read in order, through cuts, full disks and midnight."""

import os
import resource
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notifier import journal
from notifier.alert import Kind, Severity, Transition, encode, parse_rfc3339
from notifier.alertlog import AlertLog, Position, expire, gaps, read

NOON = parse_rfc3339("2026-01-31T12:00:00Z")
DAY_NS = 86_400 * 1_000_000_000


def transition(name: str, number: int = 0) -> Transition:
    """A small transition whose id is *name*."""
    return Transition(name, Kind.FIRED, NOON, "r", {}, Severity.WARNING, number=number)


def ids(transitions: list[Transition]) -> list[str]:
    """The ids of *transitions*, in order."""
    return [t.id for t in transitions]


@contextmanager
def file_limit(size_bytes: int) -> Iterator[None]:
    """Meanwhile the kernel cuts every write at *size_bytes* of a file, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_is_appended_is_read_with_contiguous_numbers(tmp_path: Path) -> None:
    """Numbers go on over appends and restarts, and reading goes on at its position."""
    log = AlertLog(tmp_path / "alerts")
    first = log.append([transition("a"), transition("b")], NOON)
    assert [t.number for t in first] == [1, 2]
    assert log.append([], NOON) == []
    found, position, bad = read(tmp_path / "alerts", Position())
    assert (found, position.number, bad) == (first, 2, 0)
    log.close()
    log.close()

    later = AlertLog(tmp_path / "alerts")
    assert later.last_number == 2
    second = later.append([transition("c")], NOON)
    assert read(tmp_path / "alerts", position)[0] == second
    assert Position.decode(position.encode()) == position
    later.close()


def test_files_are_for_this_user_alone(tmp_path: Path) -> None:
    """Directories are 0700 and day files 0600, and a planted link is not followed."""
    log = AlertLog(tmp_path / "logs" / "alerts")
    log.append([transition("a")], NOON)
    log.close()
    file = tmp_path / "logs" / "alerts" / "2026-01-31.jsonl"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(file.parent.parent.stat().st_mode) == 0o700
    (tmp_path / "target").touch()
    (file.parent / "2026-02-01.jsonl").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        log.append([transition("b")], NOON + DAY_NS)
    assert (tmp_path / "target").read_bytes() == b""
    assert ids(read(file.parent, Position())[0]) == ["a"]


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO in the place of a file is an error, not a writer or reader that waits for ever."""
    os.mkfifo(tmp_path / "2026-01-31.jsonl")
    log = AlertLog(tmp_path)
    with pytest.raises(OSError, match="not a regular file"):
        log.append([transition("a")], NOON)
    with pytest.raises(OSError, match="not a regular file"):
        list(journal.lines(tmp_path / "2026-01-31.jsonl"))
    assert read(tmp_path, Position()) == ([], Position(), 0)


def test_a_missing_directory_is_an_empty_log(tmp_path: Path) -> None:
    """Readers start before the first alert was ever written."""
    nowhere = tmp_path / "nowhere"
    assert read(nowhere, Position()) == ([], Position(), 0)
    assert read(nowhere, Position("2026-01-31", 5, 1)) == ([], Position("2026-01-31", 5, 1), 0)
    assert expire(nowhere, "2030-01-01", Position("2030-01-01")) == []
    assert AlertLog(nowhere).last_number == 0
    assert AlertLog(nowhere, at_least=7).last_number == 7


@given(st.lists(st.text(max_size=8), min_size=1, max_size=6), st.data())
@settings(max_examples=60)
def test_any_cut_of_a_journal_yields_a_prefix_of_its_records(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], data: st.DataObject
) -> None:
    """Cut at any byte, the log holds the first records, and an append goes on behind them.

    Only the cut line is lost; its number is given again unless merely its newline was missing.
    """
    directory = tmp_path_factory.mktemp("cut")
    log = AlertLog(directory)
    written = log.append([transition(name) for name in names], NOON)
    log.close()
    file = directory / "2026-01-31.jsonl"
    whole = file.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    file.write_bytes(whole[:cut])

    before, position, bad = read(directory, Position())
    assert before == written[: len(before)]
    assert len(before) == whole[:cut].count(b"\n")
    assert bad == 0

    log = AlertLog(directory)
    (appended,) = log.append([transition("after")], NOON)
    log.close()
    rest, position, bad = read(directory, position)
    everything = before + rest
    assert everything == [*written[: len(everything) - 1], appended]
    assert [t.number for t in everything] == list(range(1, len(everything) + 1))
    torn = 0 < cut < len(whole) and whole[cut - 1 : cut] != b"\n" and whole[cut : cut + 1] != b"\n"
    assert bad == torn
    assert read(directory, position) == ([], position, 0)


def test_a_line_cut_by_a_full_disk_does_not_swallow_the_next(tmp_path: Path) -> None:
    """The append fails, nothing is numbered, and after there is room again all is written whole."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON)
    size = (tmp_path / "2026-01-31.jsonl").stat().st_size
    batch = [transition("b"), transition("c"), transition("d")]
    with file_limit(size + size * 3 // 2), pytest.raises(OSError, match="large"):
        log.append(batch, NOON)  # b fits, c is cut in the middle
    found, position, bad = read(tmp_path, Position())
    assert (ids(found), bad) == (["a", "b"], 0)
    numbered = log.append(batch, NOON)
    found, position, bad = read(tmp_path, position)
    assert (found, bad) == (numbered, 1)
    assert [t.number for t in numbered] == [3, 4, 5]  # b's first line took 2
    log.close()


def test_a_disk_full_to_the_last_byte_loses_nothing(tmp_path: Path) -> None:
    """Where the cut is anywhere, also just before a newline, numbers stay contiguous."""
    probe = AlertLog(tmp_path / "probe")
    probe.append([transition("a"), transition("b")], NOON)
    probe.close()
    size = (tmp_path / "probe" / "2026-01-31.jsonl").stat().st_size // 2
    for room in (1, size - 2, size - 1, size, size + 1, 2 * size - 1):
        directory = tmp_path / str(room)
        log = AlertLog(directory)
        log.append([transition("a")], NOON)
        with file_limit(size + room), pytest.raises(OSError, match="large"):
            log.append([transition("b"), transition("c")], NOON)
        log.append([transition("b"), transition("c")], NOON)
        log.close()
        found, _, _ = read(directory, Position())
        assert [t.number for t in found] == list(range(1, len(found) + 1))
        assert list(dict.fromkeys(ids(found))) == ["a", "b", "c"]


def test_a_failed_fsync_is_a_failed_append(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What may not be on disk is not reported as written; the retry gets numbers of its own."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON)

    def broken(descriptor: int) -> None:
        raise OSError(5, "I/O error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", broken)
        with pytest.raises(OSError, match="I/O error"):
            log.append([transition("b")], NOON)
    assert [t.number for t in log.append([transition("b")], NOON)] == [3]
    found, _, bad = read(tmp_path, Position())
    assert (ids(found), bad) == (["a", "b", "b"], 0)
    log.close()


def test_a_write_that_writes_nothing_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A device that takes no byte can't keep the writer in a loop."""
    log = AlertLog(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: 0)
        with pytest.raises(OSError, match="nothing was written"):
            log.append([transition("a")], NOON)
    assert log.last_number == 0


def test_the_log_goes_on_over_midnight(tmp_path: Path) -> None:
    """A new UTC day is a new file; a reader in the old one reads its rest first."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON)
    found, position, _ = read(tmp_path, Position())
    log.append([transition("b")], NOON)
    log.append([transition("c")], NOON + DAY_NS)
    log.append([transition("d")], NOON + 2 * DAY_NS)
    found, position, bad = read(tmp_path, position)
    assert (ids(found), position.day, bad) == (["b", "c", "d"], "2026-02-02", 0)
    assert [t.number for t in found] == [2, 3, 4]
    log.close()


def test_a_clock_set_back_never_writes_an_older_file(tmp_path: Path) -> None:
    """Lines stay in the newest file, now and after a restart, or a reader would miss them."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON + DAY_NS)
    log.append([transition("b")], NOON)
    log.close()
    again = AlertLog(tmp_path)
    again.append([transition("c")], NOON)
    again.close()
    assert [p.name for p in tmp_path.iterdir()] == ["2026-02-01.jsonl"]
    assert ids(read(tmp_path, Position())[0]) == ["a", "b", "c"]


def test_a_log_that_goes_on_under_an_earlier_date_is_read(tmp_path: Path) -> None:
    """An operator removed the file of a day that the clock only dreamt of: nothing is missed."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON)
    log.append([transition("b")], NOON + 900 * DAY_NS)
    _, position, _ = read(tmp_path, Position())
    (tmp_path / f"{position.day}.jsonl").unlink()
    log.append([transition("c")], NOON + DAY_NS)
    found, position, _ = read(tmp_path, position)
    assert (ids(found), position.day) == (["c"], "2026-02-01")
    log.close()


def test_a_torn_end_counts_as_bad_only_when_a_newer_day_has_begun(tmp_path: Path) -> None:
    """Until then its writer may still be at it; a line that only lacks its newline is whole."""
    old = tmp_path / "2026-01-30.jsonl"
    old.write_bytes(encode(transition("a", 1)) + b"\n" + b'{"n":2,"id":')
    found, position, bad = read(tmp_path, Position())
    assert (ids(found), bad) == (["a"], 0)
    (tmp_path / "2026-01-31.jsonl").write_bytes(encode(transition("b", 2)))
    found, position, bad = read(tmp_path, position)
    assert (ids(found), bad) == ([], 1)
    assert position == Position("2026-01-31", 0, 1)
    (tmp_path / "2026-02-01.jsonl").touch()
    found, position, bad = read(tmp_path, position)
    assert (ids(found), bad) == (["b"], 0)
    assert AlertLog(tmp_path).last_number == 2


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 100])
def test_reading_in_pieces_reads_the_same(tmp_path: Path, limit: int) -> None:
    """A limit changes how often one reads, not what; also where a torn end is the last line."""
    for day, number in (("2026-01-29", 1), ("2026-01-30", 4), ("2026-01-31", 7)):
        lines = [encode(transition(str(n), n)) for n in range(number, number + 3)]
        (tmp_path / f"{day}.jsonl").write_bytes(b"\n".join([*lines, b"junk", b"", b"torn"]))
    position = Position()
    found: list[Transition] = []
    bad = 0
    for _ in range(100):
        piece, position, skipped = read(tmp_path, position, limit)
        assert len(piece) + skipped <= limit
        if not piece and not skipped:
            break
        found += piece
        bad += skipped
    assert ids(found) == [str(n) for n in range(1, 10)]
    assert bad == 3 + 3 + 2


def test_foreign_names_and_lines_are_left_alone(tmp_path: Path) -> None:
    """Only day files are read, and a line that is no transition is counted and passed."""
    for name in ("acknowledgements.jsonl", "2026-1-3.jsonl", "2026-02-30.jsonl", "20260131.jsonl"):
        (tmp_path / name).write_bytes(encode(transition("no", 9)) + b"\n")
    (tmp_path / "2026-02-01.jsonl").mkdir()
    lines = [encode(transition("a", 1)), b"\xff\xfe", b"[]", b"{}", encode(transition("b", 2))]
    (tmp_path / "2026-01-31.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    found, _, bad = read(tmp_path, Position())
    assert (ids(found), bad) == (["a", "b"], 3)


def test_the_last_number_is_found_behind_a_lot_of_garbage(tmp_path: Path) -> None:
    """Numbering goes on after the newest good line, wherever that is."""
    (tmp_path / "2026-01-30.jsonl").write_bytes(encode(transition("a", 41)) + b"\n")
    (tmp_path / "2026-01-31.jsonl").write_bytes(b"x" * 200_000 + b"\nmore\n")
    log = AlertLog(tmp_path)
    assert log.last_number == 41
    (tmp_path / "2026-01-31.jsonl").write_bytes(
        encode(transition("b", 42)) + b"\n" + b"x\n" * 100_000
    )
    assert AlertLog(tmp_path).last_number == 42
    log.close()


def test_a_directory_removed_under_the_writer_is_made_again(tmp_path: Path) -> None:
    """The open file would swallow all that follows: path and inode are compared before a write."""
    directory = tmp_path / "alerts"
    log = AlertLog(directory)
    log.append([transition(name) for name in "abcdef"], NOON)
    found, position, _ = read(directory, Position())
    assert len(found) == 6
    directory.rename(tmp_path / "moved")
    log.append([transition("g")], NOON)
    found, position, _ = read(directory, position)
    assert [(t.id, t.number) for t in found] == [("g", 7)]
    assert gaps(position, found) == []
    (directory / "2026-01-31.jsonl").rename(tmp_path / "aside")
    log.append([transition(name) for name in "hi"], NOON)
    assert ids(read(directory, position)[0]) == ["h", "i"]
    log.close()


def test_a_file_replaced_by_one_of_equal_lines_is_not_mistaken(tmp_path: Path) -> None:
    """Offsets that fit by chance don't hide lines: their numbers tell that they are unread."""
    file = tmp_path / "2026-01-31.jsonl"
    lines = [encode(transition(f"{n:02}", n)) + b"\n" for n in range(10, 40)]
    file.write_bytes(b"".join(lines[:10]))
    found, position, _ = read(tmp_path, Position())
    assert position.number == 19
    file.write_bytes(b"".join(lines[10:25]))
    found, position, _ = read(tmp_path, position)
    assert ids(found) == [f"{n:02}" for n in range(20, 35)]
    file.write_bytes(b"".join(lines[:15]) + b"".join(lines[25:]))  # 25 and what follows
    found, position, _ = read(tmp_path, position)
    assert ids(found) == [f"{n:02}" for n in range(35, 40)]


def test_reading_ends_even_where_numbers_make_no_sense(tmp_path: Path) -> None:
    """Numbers in any order, with gaps, never make a reader go round in circles or skip a line."""
    numbers = [5, 3, 9, 9, 1, 2, 7, 30, 4, 8]
    lines = [encode(transition(str(i), n)) + b"\n" for i, n in enumerate(numbers)]
    (tmp_path / "2026-01-31.jsonl").write_bytes(b"".join(lines))
    position = Position()
    seen: list[str] = []
    for _ in range(100):
        found, position, _ = read(tmp_path, position, 1)
        if not found:
            break
        seen += ids(found)
    assert not read(tmp_path, position)[0]
    assert set(seen) == {str(i) for i in range(len(numbers))}


def test_missing_numbers_are_found(tmp_path: Path) -> None:
    """A gap within a batch and before it is named; a first read and a new log have none."""
    batch = [transition("a", 8), transition("b", 9), transition("c", 12)]
    assert gaps(Position("2026-01-31", 10, 5), batch) == [(6, 7), (10, 11)]
    assert gaps(Position(), batch) == [(10, 11)]
    assert gaps(Position("2026-01-31", 10, 12), batch) == [(10, 11)]
    assert gaps(Position("2026-01-31", 10, 12), []) == []


def test_old_files_go_but_never_one_that_is_still_needed(tmp_path: Path) -> None:
    """Neither the position's file nor a later one, nor the one that numbering goes on from."""
    days = [f"2026-01-{day:02}" for day in range(1, 8)]
    for number, day in enumerate(days[:6], 1):
        (tmp_path / f"{day}.jsonl").write_bytes(encode(transition(day, number)) + b"\n")
    (tmp_path / f"{days[6]}.jsonl").touch()
    assert expire(tmp_path, "2026-01-05", Position()) == []
    assert expire(tmp_path, "2026-01-02", Position("2026-01-07")) == [days[0]]
    assert expire(tmp_path, "2026-01-05", Position("2026-01-04")) == days[1:3]
    assert expire(tmp_path, "2026-02-01", Position("2026-01-07")) == days[3:5]
    assert AlertLog(tmp_path).last_number == 6


def test_a_file_that_cannot_be_deleted_stops_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One bad entry is passed over."""
    for number in (1, 2, 3):
        (tmp_path / f"2026-01-0{number}.jsonl").write_bytes(encode(transition("x", number)) + b"\n")
    unlink = Path.unlink

    def stubborn(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("2026-01-01"):
            raise PermissionError(1, "not permitted")
        unlink(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", stubborn)
    assert expire(tmp_path, "2026-01-03", Position("2026-01-03")) == ["2026-01-02"]


def test_a_file_that_expires_while_it_is_looked_for_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The notifier may delete a day file between another reader's listing and its opening."""
    (tmp_path / "2026-01-30.jsonl").write_bytes(encode(transition("a", 1)) + b"\n")
    monkeypatch.setattr("notifier.alertlog._days", lambda _: ["2026-01-30", "2026-01-31"])
    found, position, _ = read(tmp_path, Position())
    assert (ids(found), position) == (["a"], Position("2026-01-31", 0, 1))
    assert AlertLog(tmp_path).last_number == 1


@pytest.mark.parametrize("text", ["nonsense", "2026-01-31/x/1", "2026-13-01/0/0", "1/2/3/4"])
def test_what_is_no_position_is_refused(text: str) -> None:
    """A damaged position is an error and not a reader at a random place."""
    with pytest.raises(ValueError):
        Position.decode(text)


def test_an_empty_text_is_the_beginning() -> None:
    """A notifier that has none yet starts there."""
    assert Position.decode("") == Position() == Position.decode(Position().encode())


def test_a_line_longer_than_any_of_ours_is_one_bad_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A runaway line neither fills the memory nor hides what follows."""
    monkeypatch.setattr(journal, "MAX_LINE_BYTES", 1000)
    good = encode(transition("a", 1)) + b"\n"
    (tmp_path / "2026-01-31.jsonl").write_bytes(b"y" * 4321 + b"\n" + good + b"z" * 3000)
    found, position, bad = read(tmp_path, Position())
    assert (ids(found), bad) == (["a"], 1)
    assert position.offset == 4322 + len(good)


def test_a_log_that_cannot_be_surveyed_says_so_at_the_append(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unreadable log must not begin again at number 1; the writer keeps all and tries again."""
    log = AlertLog(tmp_path)
    log.append([transition("a")], NOON)
    log.close()
    with monkeypatch.context() as patch:

        def refuse(path: object) -> Iterator[object]:
            raise PermissionError(13, "denied")

        patch.setattr(os, "scandir", refuse)
        again = AlertLog(tmp_path)
        with pytest.raises(PermissionError):
            again.append([transition("b")], NOON)
    assert [t.number for t in again.append([transition("b")], NOON)] == [2]
    again.close()


_WRITER = """
import sys
from pathlib import Path
from notifier.alert import Kind, Severity, Transition
from notifier.alertlog import AlertLog
log = AlertLog(Path(sys.argv[1]))
number = log.last_number
while True:
    batch = [
        Transition(str(number + i), Kind.FIRED, 0, "r", {"pad": "x" * 500}, Severity.INFO)
        for i in (1, 2, 3)
    ]
    number = log.append(batch, 0)[-1].number
    print(number, flush=True)
"""


def test_a_killed_writer_loses_nothing_that_it_reported(tmp_path: Path) -> None:
    """kill -9 at any moment: every number that append returned is in the log, without a gap."""
    reported = 0
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert writer.stdout is not None
        for _ in range(5 + round_):
            reported = int(writer.stdout.readline())
        time.sleep(0.003 * round_)
        writer.kill()
        reported = max([reported, *map(int, writer.stdout.read().split())])
        writer.stdout.close()
        writer.wait(10)
    found, position, _ = read(tmp_path, Position(), 1_000_000)
    assert [t.number for t in found] == list(range(1, len(found) + 1))
    assert len(found) >= reported
    assert replace(position, day="", offset=0) == Position("", 0, len(found))
