"""Locks: one writer, asked without taking, and no descriptor of ours ever drops one."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ringbuf import WriterBusy, clock, descriptor
from ringbuf.ownership import WriterLock, holder


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "engine.lock"


@pytest.fixture
def lock(path: Path) -> Iterator[WriterLock]:
    lock = WriterLock.acquire("engine", path)
    yield lock
    lock.release()


def in_child(path: Path) -> int:
    """What a forked child makes of the lock: 1 free, 2 busy by us, 3 anything else."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        code = 3
        try:
            seen = holder(path)
            WriterLock.acquire("engine", path).release()
            code = 1 if seen is None else 3
        except WriterBusy as busy:
            code = 2 if busy.pid == seen == parent else 3
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_lock_is_seen_by_others_and_by_this_process(lock: WriterLock, path: Path) -> None:
    """F_GETLK says nothing about one's own locks; the registry does."""
    assert holder(path) == os.getpid()
    assert in_child(path) == 2


def test_a_lock_that_was_released_is_free(lock: WriterLock, path: Path) -> None:
    """More than once is fine, and confirming it then changes nothing."""
    lock.release()
    lock.release()
    lock.confirm()
    assert holder(path) is None
    assert in_child(path) == 1
    WriterLock.acquire("engine", path).release()


def test_asking_does_not_drop_the_lock(lock: WriterLock, path: Path) -> None:
    """Closing any descriptor of the file would: so this process never opens it again."""
    for _ in range(3):
        holder(path)
        with pytest.raises(WriterBusy):
            WriterLock.acquire("engine", path)
    assert in_child(path) == 2


def test_the_same_file_by_another_path_is_busy_too(
    lock: WriterLock, path: Path, tmp_path: Path
) -> None:
    """The registry goes by inode, not by name alone."""
    other = tmp_path / "other.lock"
    os.link(path, other)
    with pytest.raises(WriterBusy):
        WriterLock.acquire("other", other)
    assert holder(other) == os.getpid()
    assert in_child(path) == 2


def test_a_missing_file_is_held_by_nobody(path: Path) -> None:
    """And asking doesn't make it."""
    assert holder(path) is None
    assert not path.exists()


def test_confirming_takes_a_lock_again_that_foreign_code_dropped(
    lock: WriterLock, path: Path
) -> None:
    """Somebody opened and closed the file, perhaps a backup inside the engine."""
    path.open().close()
    assert in_child(path) == 1
    lock.confirm()
    assert in_child(path) == 2


def test_confirming_follows_a_replaced_file(lock: WriterLock, path: Path) -> None:
    """Others ask for the file by its name."""
    path.unlink()
    lock.confirm()
    assert in_child(path) == 2
    lock.confirm()
    assert in_child(path) == 2


def test_confirming_a_lock_that_another_has_taken_says_who(path: Path) -> None:
    """The other one has it now, and keeps it."""
    lock = WriterLock.acquire("engine", path)
    for replaced in (False, True):
        path.unlink() if replaced else path.open().close()
        ready, done = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                WriterLock.acquire("engine", path)
                os.write(ready[1], b"x")
                os.read(done[0], 1)
            finally:
                os._exit(0)
        assert os.read(ready[0], 1) == b"x"
        with pytest.raises(WriterBusy) as caught:
            lock.confirm()
        assert caught.value.pid == pid
        os.write(done[1], b"x")
        os.waitpid(pid, 0)
        for end in (*ready, *done):
            os.close(end)
    lock.release()


def test_threads_cannot_both_have_it(path: Path) -> None:
    """One wins, the other is told."""
    got: list[WriterLock | WriterBusy] = []
    barrier = threading.Barrier(4)

    def take() -> None:
        barrier.wait(10)
        try:
            got.append(WriterLock.acquire("engine", path))
        except WriterBusy as busy:
            got.append(busy)

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    locks = [one for one in got if isinstance(one, WriterLock)]
    assert (len(got), len(locks)) == (4, 1)
    locks[0].release()


def test_busy_survives_being_sent_to_another_process() -> None:
    """Its words, too; a writer in another PID namespace has no number here."""
    busy = pickle.loads(pickle.dumps(WriterBusy("engine", 5)))  # noqa: S301 - our own bytes
    assert (busy.name, busy.pid) == ("engine", 5)
    assert "process 5" in str(busy)
    assert "another process" in str(WriterBusy("engine", 0))


def test_a_process_is_its_pid_and_its_start() -> None:
    """Nobody has the pid 0 or one that isn't there."""
    pid, start = clock.own_identity()
    assert pid == os.getpid()
    assert start == clock.start_ticks(pid) != 0
    assert clock.start_ticks(0) is None
    assert clock.start_ticks(-1) is None
    assert clock.start_ticks(1 << 30) is None


def test_a_process_with_a_strange_name_has_a_start_time_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its name may hold spaces and parentheses; half a line is nobody."""
    monkeypatch.setattr(clock, "_PROC", tmp_path)
    (tmp_path / "7").mkdir()
    stat = tmp_path / "7/stat"
    fields = " ".join(str(number) for number in range(4, 40))
    stat.write_text(f"7 (a) b) (c) S {fields}")
    assert clock.start_ticks(7) == 22
    stat.write_text(f"7 (a) Z {fields}")
    assert clock.start_ticks(7) is None
    stat.write_text("7 (a) S 1 2")
    assert clock.start_ticks(7) is None


def test_a_descriptor_that_cannot_be_written_leaves_no_half_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before stays."""
    known = descriptor.Descriptor("engine", making=("tickwatch-1",))
    descriptor.write(tmp_path, known)

    def refuse(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", refuse)
        with pytest.raises(OSError, match="No space"):
            descriptor.write(tmp_path, descriptor.Descriptor("engine"))
    assert descriptor.read(tmp_path, "engine") == known
    assert [path.name for path in tmp_path.iterdir()] == ["engine.json"]
