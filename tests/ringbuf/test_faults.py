"""What goes wrong around a ring, and what must happen then: the engine runs on, and says so."""

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ringbuf import (
    Recorder,
    RingInvalid,
    RingMissing,
    RingReader,
    WriterBusy,
    clock,
    descriptor,
    layout,
    opening,
    ownership,
    segment,
)
from ringbuf.survey import marks, survey
from tests.ringbuf.conftest import ROOT, Crash, Script

ENGINE = """
import os, signal, sys, time
from ringbuf import Recorder
recorder = Recorder("engine", sys.argv[1], capacity=16)
metric = recorder.metric("x")
metric.record(1.0)
{extra}
print(os.getpid(), recorder.problem, flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Engine:
    """An engine in a process of its own that does what it is told, line by line."""

    def __init__(self, data_dir: Path, extra: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", ENGINE.format(extra=extra), str(data_dir)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid, _, self.problem = self._line().partition(" ")

    def do(self, statement: str) -> None:
        """Have the engine execute one line."""
        assert self.process.stdin is not None
        self.process.stdin.write(statement + "\n")
        self.process.stdin.flush()
        assert self._line() == "done"

    def ask(self, expression: str) -> str:
        """What the engine says an expression is."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"print({expression}, flush=True)\n")
        self.process.stdin.flush()
        answer = self._line()
        assert self._line() == "done"
        return answer

    def end(self, number: int = signal.SIGKILL) -> None:
        """Kill the engine (or what else the signal does)."""
        self.process.send_signal(number)
        self.process.wait(30)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().rstrip()


@pytest.fixture
def start(data_dir: Path) -> Iterator[Any]:
    """Start engines; they end with the test."""
    engines: list[Engine] = []

    def start(extra: str = "") -> Engine:
        engines.append(Engine(data_dir, extra))
        return engines[-1]

    yield start
    for engine in engines:
        with engine.process:
            engine.process.kill()


def test_a_second_writer_is_told_the_first_ones_pid_and_records_nothing(
    start: Any, data_dir: Path
) -> None:
    """The first is undisturbed."""
    engine = start()
    second = Recorder("engine", data_dir, capacity=16)
    assert second.problem is not None
    assert f"process {engine.pid}" in second.problem
    second.metric("x").record(2.0)
    second.emit_alert("rule", "info")
    second.close()
    with pytest.raises(WriterBusy) as caught:
        Recorder("engine", data_dir, capacity=16, strict=True)
    assert caught.value.pid == int(engine.pid)
    engine.do("metric.record(3.0)")
    [info] = survey(data_dir)
    assert (info.published, info.text_published, info.alive) == (2, 0, True)
    assert info.pid == int(engine.pid)


@pytest.mark.parametrize("how", ["removed", "replaced"])
def test_a_lock_file_that_is_replaced_does_not_let_a_second_writer_in(
    how: str, start: Any, data_dir: Path
) -> None:
    """The header still names the living writer, and the survey believes it, too."""
    engine = start()
    lock = data_dir / "rings/engine.lock"
    lock.unlink()
    if how == "replaced":
        lock.touch(mode=0o600)
    assert survey(data_dir)[0].alive
    second = Recorder("engine", data_dir, capacity=16)
    assert second.problem is not None
    assert f"process {engine.pid}" in second.problem
    engine.do("metric.record(3.0)")
    assert survey(data_dir)[0].published == 2


def test_the_writer_takes_a_replaced_lock_file_again(start: Any, data_dir: Path) -> None:
    """At its next look, so that the lock is soon what everybody asks for again."""
    engine = start("from ringbuf import layout")
    lock = data_dir / "rings/engine.lock"
    lock.unlink()
    assert ownership.holder(lock) is None
    engine.do("recorder._rings.records.words[layout.ANCHOR_MONO_NS] = 0; recorder.heartbeat()")
    assert ownership.holder(lock) == int(engine.pid)


def test_a_writer_that_lost_its_lock_to_another_lets_go(data_dir: Path, start: Any) -> None:
    """Two writers on one ring would be worse than one that is off."""
    recorder = Recorder("engine", data_dir, capacity=16)
    recorder.metric("x").record(1.0)
    assert recorder._rings is not None
    words = recorder._rings.records.words
    lock = data_dir / "rings/engine.lock"
    # Foreign code in this process closes the file, which drops the lock without a sign.
    os.close(os.open(lock, os.O_RDONLY))
    words[layout.WRITER_START] = 1  # and we look dead
    engine = start()
    assert engine.problem == "None"
    words[layout.ANCHOR_MONO_NS] = 0
    recorder.heartbeat()
    assert recorder.problem is not None
    assert f"process {engine.pid}" in recorder.problem
    recorder.metric("x").record(5.0)
    recorder.close()
    assert survey(data_dir)[0].published == 2


def test_a_reused_pid_is_not_taken_for_the_writer(data_dir: Path, crash: Crash) -> None:
    """In a container every engine is process 1; pid and start time together tell."""
    recorder = Recorder("engine", data_dir, capacity=16)
    recorder.metric("x").record(1.0)
    assert recorder._rings is not None
    words = recorder._rings.records.words
    words[layout.WRITER_PID] = os.getppid()
    words[layout.WRITER_START] = (clock.start_ticks(os.getppid()) or 0) + 1
    crash(recorder)
    assert not survey(data_dir)[0].alive
    with Recorder("engine", data_dir, capacity=16) as again:
        assert (again.problem, again.published) == (None, 1)


def test_a_killed_engine_leaves_its_ring_to_the_next(start: Any, data_dir: Path) -> None:
    """The flight recorder survives: also a second after the kill, when a tracker would strike."""
    engine = start()
    engine.end()
    time.sleep(1.2)
    [info] = survey(data_dir)
    assert (info.alive, info.clean_end, info.published, info.problem) == (False, False, 1, None)
    with RingReader.attach("engine", data_dir) as reader:
        assert reader.poll().records["value"].tolist() == [1.0]
    with Recorder("engine", data_dir, capacity=16) as again:
        assert (again.uuid, again.published) == (info.uuid, 1)
        assert survey(data_dir)[0].epoch == info.epoch + 2


def test_a_lock_is_freed_by_a_kill_although_a_forked_child_lives(
    start: Any, data_dir: Path
) -> None:
    """The reason why it is a POSIX record lock."""
    engine = start("child = os.fork()\nwhile not child:\n    time.sleep(60)")
    child = int(engine.ask("child"))
    try:
        engine.end()
        assert clock.start_ticks(child) is not None
        assert not survey(data_dir)[0].alive
        with Recorder("engine", data_dir, capacity=16) as again:
            assert again.problem is None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_forked_child_cannot_record_or_end_its_parents_ring(script: Script) -> None:
    """Its recorder is off and says why; the parent's is as it was; nobody prints anything."""
    result = script("""
import os
from ringbuf import Recorder
from ringbuf.survey import survey
recorder = Recorder("engine", data_dir, capacity=16, threads=bool(arguments))
metric = recorder.metric("x")
metric.record(1.0)
recorder.emit_alert("rule", "info")
child = os.fork()
if not child:
    metric.record(2.0)
    metric.record(float("nan"))
    recorder.metric("y").record(3.0)
    recorder.emit_alert("rule", "info")
    recorder.heartbeat()
    with metric.time():
        pass
    assert "forked from" in recorder.problem, recorder.problem
    assert recorder.published == 1
    second = Recorder("engine", data_dir, capacity=16)
    assert "already written" in second.problem, second.problem
    recorder.close()
    own = Recorder("child", data_dir, capacity=16)
    assert own.problem is None, own.problem
    own.close()
    raise SystemExit
assert os.waitpid(child, 0)[1] == 0
metric.record(4.0)
info = [info for info in survey(data_dir) if info.name == "engine"][0]
assert (info.published, info.text_published, info.rejected) == (2, 1, 0), info
assert info.alive and not info.clean_end
assert recorder.problem is None
""")
    # The child's second recorder says once that it is off.
    assert result.returncode == 0, result.stderr
    assert [line.partition(":")[0] for line in result.stderr.splitlines()] == [
        "monitoring is off, the engine goes on"
    ]


def test_a_child_forked_while_another_thread_records_does_not_hang(script: Script) -> None:
    """It may inherit a lock that nobody will ever release."""
    result = script("""
import os, threading, warnings
from ringbuf import Recorder
warnings.simplefilter("ignore")
recorder = Recorder("engine", data_dir, capacity=16, threads=True)
metric = recorder.metric("x")
recorder._lock.acquire()
child = os.fork()
if not child:
    for _ in range(100_000):
        metric.record(1.0)
    os._exit(0)
recorder._lock.release()
assert os.waitpid(child, 0)[1] == 0
""")
    assert (result.returncode, result.stderr) == (0, "")


@pytest.mark.parametrize(
    "step", ["os.posix_fallocate", "os.ftruncate", "os.open", "mmap.mmap", "posixshmem.shm_open"]
)
def test_an_engine_without_room_or_files_runs_on_and_says_so_once(
    step: str,
    data_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Whatever the kernel refuses, nothing is left behind and the next start is fine."""
    segments = set(Path("/dev/shm").glob("tickwatch-room*"))
    monkeypatch.setattr(segment, "PREFIX", "tickwatch-room-")

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = {
        "os.posix_fallocate": "ringbuf.segment.os.posix_fallocate",
        "os.ftruncate": "multiprocessing.shared_memory.os.ftruncate",
        "os.open": "ringbuf.ownership.os.open",
        "mmap.mmap": "multiprocessing.shared_memory.mmap.mmap",
        "posixshmem.shm_open": "multiprocessing.shared_memory._posixshmem.shm_open",
    }[step]
    with monkeypatch.context() as patch:
        patch.setattr(target, refuse)
        recorder = Recorder("engine", data_dir)
        recorder.metric("x").record(1.0)
        recorder.emit_alert("rule", "critical")
        recorder.heartbeat()
        recorder.close()
        with pytest.raises(OSError, match="No space left"):
            Recorder("engine", data_dir, strict=True)
    assert recorder.problem == "[Errno 28] No space left on device"
    assert (recorder.uuid, recorder.published, recorder.rejected) == ("", 0, 0)
    assert set(Path("/dev/shm").glob("tickwatch-room*")) == segments
    off = [line for line in caplog.records if "monitoring is off" in line.message]
    assert len(off) == 1
    if step != "os.open":
        assert [mark.problem for mark in marks(data_dir)] == [recorder.problem]
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.problem is None
        assert marks(data_dir) == []


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE, errno.EACCES])
def test_a_failed_attach_leaves_the_segment_alone(
    number: int, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The standard library would unlink it; here the records survive and the next start resumes."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        recorder.metric("x").record(1.0)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(number, os.strerror(number))

    for target in (
        "multiprocessing.shared_memory.mmap.mmap",
        "multiprocessing.shared_memory._posixshmem.shm_open",
    ):
        with monkeypatch.context() as patch:
            patch.setattr(target, refuse)
            second = Recorder("engine", data_dir, capacity=16)
        assert second.problem is not None
        assert os.strerror(number) in second.problem
    with Recorder("engine", data_dir, capacity=16) as third:
        assert (third.uuid, third.published) == (recorder.uuid, 1)


SMALL_SHM = """
import os, subprocess
if subprocess.run(["mount", "-t", "tmpfs", "-o", arguments[0], "tmpfs", "/dev/shm"]).returncode:
    raise SystemExit(77)
from ringbuf import Recorder
for capacity in (16, 262_144):
    recorder = Recorder("engine", data_dir, capacity=capacity)
    recorder.metric("x").record(1.0)
    recorder.emit_alert("rule", "critical")
    recorder.heartbeat()
    recorder.close()
    print(recorder.problem)
print(os.listdir("/dev/shm"))
"""


@pytest.mark.parametrize(
    ("options", "problem"),
    [("size=1m", "No space left on device"), ("size=4k", "No space"), ("ro", "Read-only")],
)
def test_a_full_or_read_only_shm_is_no_sigbus(options: str, problem: str, data_dir: Path) -> None:
    """On a real file system of that size: exit code 0, the reason, and nothing left in it."""
    prelude = "import sys; data_dir, *arguments = sys.argv[1:]\n"
    result = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", prelude + SMALL_SHM, data_dir, options],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
    )
    if result.returncode == 77 or "unshare failed" in result.stderr:
        pytest.skip("mounting needs privileges")
    assert result.returncode == 0, result.stderr
    *problems, left = result.stdout.splitlines()
    assert all(problem in line for line in problems)
    assert left == "[]"


def test_a_python_without_shared_memory_is_a_problem_and_no_crash(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reader: a named error.  Engine: off."""
    with Recorder("engine", data_dir, capacity=16):
        pass
    monkeypatch.setattr("ringbuf.mapping.posixshmem", None)
    with pytest.raises(RingMissing, match="no POSIX shared memory"):
        RingReader.attach("engine", data_dir, timeout_s=0)
    monkeypatch.setattr(layout, "supported", lambda: False)
    assert "little-endian" in str(Recorder("engine", data_dir).problem)


def test_a_data_directory_that_cannot_be_written_is_said_and_survived(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """No mark can be left either; the log says both."""
    (tmp_path / "file").write_text("")
    recorder = Recorder("engine", tmp_path / "file/data")
    recorder.metric("x").record(1.0)
    assert recorder.problem is not None
    assert [line.levelname for line in caplog.records] == ["ERROR", "ERROR"]
    assert survey(tmp_path / "file/data") == []
    assert marks(tmp_path / "file/data") == []


def test_an_engine_whose_segment_was_removed_runs_on_and_says_so_once(
    recorder: Recorder, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As systemd does at the end of a session: attached readers still get everything."""
    assert recorder._rings is not None
    words = recorder._rings.records.words
    with RingReader.attach("engine", data_dir) as reader:
        segment.remove(recorder._rings.pair.segment)
        for _ in range(3):
            words[layout.ANCHOR_MONO_NS] = 0
            recorder.heartbeat()
        recorder.metric("x").record(1.0)
        assert reader.poll().records["value"].tolist() == [1.0]
    assert recorder.problem is not None
    assert "removed" in recorder.problem
    assert len(caplog.records) == 1
    assert [mark.engine for mark in marks(data_dir)] == ["engine"]
    assert "gone" in str(survey(data_dir)[0].problem)
    with pytest.raises(RingMissing):
        RingReader.attach("engine", data_dir, timeout_s=0)


def test_a_ring_whose_segment_is_gone_is_made_again(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """With a warning in the same boot; after a reboot that is as it should be."""
    recorder = Recorder("engine", data_dir, capacity=16)
    recorder.close()
    assert recorder._rings is not None
    for name in recorder._rings.pair.segments:
        segment.remove(name)
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.problem is None
        assert again.uuid != recorder.uuid
    assert [line.levelname for line in caplog.records] == ["WARNING"]
    assert survey(data_dir)[0].previous == []


def test_after_a_reboot_the_ring_is_new_and_nobody_complains(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Empty shared memory, another boot id, the old descriptor."""
    recorder = Recorder("engine", data_dir, capacity=16)
    recorder.close()
    assert recorder._rings is not None
    for name in recorder._rings.pair.segments:
        segment.remove(name)
    monkeypatch.setattr(clock, "boot_id", lambda: b"b" * 16)
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.uuid != recorder.uuid
        with RingReader.attach("engine", data_dir) as reader:
            assert reader.boot_id == (b"b" * 16).hex()
    assert caplog.records == []


def test_a_ring_of_another_boot_is_replaced_although_it_is_still_there(
    data_dir: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its monotonic times mean nothing any more; it stays readable until it is drained."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        recorder.metric("x").record(1.0)
    monkeypatch.setattr(clock, "boot_id", lambda: b"b" * 16)
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.uuid != recorder.uuid
    assert "boot_id" in caplog.records[0].getMessage()
    assert survey(data_dir)[0].previous == [recorder.uuid]


def test_a_damaged_ring_is_replaced_by_the_next_writer(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Header, cursor, symbol table: each with its own reason in the log."""
    reasons = []
    for word, value in (
        (0, 0),
        (5, 12345),
        (layout.PUBLISHED, -1),
        (layout.PUBLISHED, 1 << 60),
        (layout.SYMBOLS_PUBLISHED, -1),
        (layout.SYMBOLS_PUBLISHED, 1 << 40),
        (layout.SYMBOLS_PUBLISHED, 7),
    ):
        recorder = Recorder("engine", data_dir, capacity=16)
        recorder.metric("x").record(1.0)
        assert recorder._rings is not None
        recorder._rings.records.words[word] = value
        recorder.close()
        caplog.clear()
        with Recorder("engine", data_dir, capacity=16) as again:
            assert again.problem is None
            assert again.uuid != recorder.uuid
        reasons.append(caplog.records[0].getMessage())
    assert len(set(reasons)) == 7
    assert all(reason.startswith("ring is replaced: ") for reason in reasons)


def test_a_segment_that_has_no_size_yet_is_replaced(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The creator was killed between opening and sizing it, long ago."""
    recorder = Recorder("engine", data_dir, capacity=16)
    recorder.close()
    assert recorder._rings is not None
    os.truncate(f"/dev/shm/{recorder._rings.pair.segment}", 0)
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.problem is None
    assert "no size" in caplog.records[0].getMessage()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"format": 2}', '{"format": 1}', "x" * 70_000])
def test_a_descriptor_that_cannot_be_read_is_replaced(
    content: str, data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The survey names the ring with the reason; the next writer starts afresh."""
    rings = data_dir / "rings"
    rings.mkdir(parents=True, mode=0o700)
    (rings / "engine.json").write_text(content)
    [info] = survey(data_dir)
    assert info.problem is not None
    with pytest.raises(RingInvalid):
        RingReader.attach("engine", data_dir, timeout_s=0)
    with Recorder("engine", data_dir, capacity=16) as recorder:
        assert recorder.problem is None
    assert caplog.records[0].getMessage().startswith("descriptor is replaced: ")


@pytest.mark.parametrize("field", ["uuid", "text_uuid", "segment", "text_segment", "boot_id"])
@pytest.mark.parametrize("value", [None, 5, "", "../../etc/passwd", "x" * 300])
def test_a_descriptor_with_a_forged_field_is_refused(
    field: str, value: Any, recorder: Recorder, data_dir: Path
) -> None:
    """No path, no other type: what it names is opened by this process."""
    path = data_dir / "rings/engine.json"
    whole = path.read_text()
    content = json.loads(whole)
    content["current"][field] = value
    path.write_text(json.dumps(content))
    with pytest.raises(RingInvalid, match="can't be understood"):
        RingReader.attach("engine", data_dir, timeout_s=0)
    content["current"][field] = "0" * 32  # well-formed, but another's
    path.write_text(json.dumps(content))
    assert (survey(data_dir)[0].problem is None) is (field == "boot_id")
    path.write_text(whole)


def test_links_and_foreign_files_are_refused(data_dir: Path, tmp_path: Path) -> None:
    """O_NOFOLLOW, own user, nobody else may write: descriptor and lock alike."""
    rings = data_dir / "rings"
    rings.mkdir(parents=True)
    (tmp_path / "elsewhere").write_text("{}")
    for name in ("engine.json", "engine.lock"):
        (rings / "engine.lock").unlink(missing_ok=True)
        (rings / name).symlink_to(tmp_path / "elsewhere")
        assert "symbolic links" in str(Recorder("engine", data_dir, capacity=16).problem)
        assert [info.name for info in survey(data_dir) if info.problem] == (
            ["engine"] if name.endswith("json") else []
        )
        (rings / name).unlink()
    (rings / "engine.lock").touch()
    (rings / "engine.lock").chmod(0o666)
    assert "other users" in str(Recorder("engine", data_dir, capacity=16).problem)
    (rings / "engine.lock").unlink()
    os.mkfifo(rings / "engine.lock", 0o600)
    assert "no regular file" in str(Recorder("engine", data_dir, capacity=16).problem)


def test_another_users_segment_is_refused(
    recorder: Recorder, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever could write to it could make us believe anything."""
    monkeypatch.setattr("ringbuf.mapping.os.geteuid", lambda: 12345)
    with pytest.raises(PermissionError, match="belongs to user"):
        RingReader.attach("engine", data_dir, timeout_s=0)


def test_half_files_and_old_marks_are_swept_by_the_next_writer(data_dir: Path, start: Any) -> None:
    """Those of dead processes and of this ring only."""
    rings = data_dir / "rings"
    engine = start()
    engine.end()
    for name in (
        f"engine.json.{engine.pid}.tmp",
        f"engine.{engine.pid}.problem.{engine.pid}.tmp",
        f"engine.json.{os.getppid()}.tmp",
        f"engine2.json.{engine.pid}.tmp",
    ):
        (rings / name).touch(mode=0o600)
    dead = {"engine": "engine", "problem": "full", "at_ns": 1, "start": 1}
    for name in (f"engine.{engine.pid}.problem", f"other.{engine.pid}.problem"):
        (rings / name).write_text(json.dumps(dead))
    (rings / "engine.1x.problem").write_text("{}")
    (rings / f"engine.{engine.pid}9.problem").write_text("torn")
    assert [(mark.engine, mark.pid_alive) for mark in marks(data_dir)] == [
        ("engine", False),
        ("other", False),
    ]
    Recorder("engine", data_dir, capacity=16).close()
    assert [mark.engine for mark in marks(data_dir)] == ["other"]
    left = sorted(path.name for path in rings.glob("*.tmp"))
    assert left == sorted([f"engine.json.{os.getppid()}.tmp", f"engine2.json.{engine.pid}.tmp"])


def test_what_an_earlier_writer_had_begun_to_make_is_removed_on_resume(data_dir: Path) -> None:
    """It was killed while replacing the ring; this one wants the old ring after all."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        pass
    rings = data_dir / "rings"
    known = descriptor.read(rings, "engine")
    orphan = segment.create(segment.random_name(), 4096)
    orphan.close()
    name = orphan.name
    descriptor.write(rings, descriptor.Descriptor("engine", known.current, None, (name,)))
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.uuid == recorder.uuid
    assert not Path("/dev/shm", name).exists()
    assert descriptor.read(rings, "engine").making == ()


def test_a_stopped_engine_is_alive(start: Any, data_dir: Path) -> None:
    """In a debugger it holds its lock: silent, not dead."""
    engine = start()
    engine.process.send_signal(signal.SIGSTOP)
    [info] = survey(data_dir)
    assert info.alive
    assert info.last_record_ns is not None
    engine.process.send_signal(signal.SIGCONT)


def test_a_zombie_does_not_write(start: Any, data_dir: Path) -> None:
    """Killed but not yet waited for: its pid exists, its lock doesn't."""
    engine = start()
    engine.process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 30
    while clock.start_ticks(int(engine.pid)) is not None and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not survey(data_dir)[0].alive
    (data_dir / "rings/engine.lock").unlink()
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.problem is None
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.process.wait(30)


def test_opening_does_not_leak_when_the_last_step_fails(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The descriptor can't be written: both segments go, the lock is free."""
    monkeypatch.setattr(segment, "PREFIX", "tickwatch-last-")
    write, calls = descriptor.write, 0

    def fail_second(*arguments: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(descriptor, "write", fail_second)
        assert Recorder("engine", data_dir, capacity=16).problem is not None
    assert list(Path("/dev/shm").glob("tickwatch-last-*")) == []
    assert not opening._open
    with Recorder("engine", data_dir, capacity=16) as again:
        assert again.problem is None
