"""What holds for all tests: nothing is left over, neither shared memory nor processes nor files."""

import os
import secrets
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

from ringbuf import layout, segment
from tests.segments import named_segments, unlink_segments

ROOT = Path(__file__).parents[1]
SHM = Path("/dev/shm")
MARKER = "TICKWATCH_TEST_SESSION"
PATIENCE_S = 10.0

# What tests start gets Ctrl-C from them, also where a shell's `&` had it ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine under load is slow; no property of ours is about time.
hypothesis.settings.register_profile("tickwatch", deadline=None)
hypothesis.settings.load_profile("tickwatch")


@pytest.fixture(autouse=True)
def _remove_segments(request: pytest.FixtureRequest) -> Iterator[None]:
    """A ring outlives its writer on purpose; a test's ring ends with the test."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    if isinstance(folder, Path):
        unlink_segments(folder)


@pytest.fixture(scope="session", autouse=True)
def _nothing_is_left_over(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """After the last test: no segment, process or file of ours outside the temporary folder."""
    token = secrets.token_hex(8)
    os.environ[MARKER] = token
    files_before = _product_files()
    yield
    deadline = time.monotonic() + PATIENCE_S
    while (running := _descendants(token)) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not running, f"processes still run: {running}"
    left = [*named_segments(tmp_path_factory.getbasetemp()), *_own_segments()]
    for name in left:
        segment.remove(name)
    assert not left, f"shared memory was left behind: {left}"
    assert _product_files() == files_before, "tests wrote outside their temporary folder"


def _descendants(token: str) -> dict[int, str]:
    """Command lines by pid of processes that tests started, also of those that lost their parent.

    The interpreter's own resource tracker, started for any semaphore, ends with this process.
    """
    marker = f"{MARKER}={token}".encode()
    found = {}
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal() or int(process.name) == os.getpid():
            continue
        try:
            environment = (process / "environ").read_bytes().split(b"\0")
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue  # another user's, or gone
        if marker in environment and "multiprocessing.resource_tracker" not in command:
            found[int(process.name)] = command
    return found


def _own_segments() -> list[str]:
    """Segments of rings whose header says that this very process wrote them."""
    own = []
    for path in SHM.glob(f"{segment.PREFIX}*"):
        try:
            with path.open("rb") as file:
                header = file.read(layout.HEADER_BYTES)
        except OSError:
            continue
        words = memoryview(header).cast("q") if len(header) == layout.HEADER_BYTES else None
        if words is not None and words[layout.WRITER_PID] == os.getpid():
            own.append(path.name)
    return own


def _product_files() -> set[Path]:
    """What a deployment in this directory would have written."""
    return {path for folder in ("data", "logs", "archive") for path in (ROOT / folder).glob("**/*")}
