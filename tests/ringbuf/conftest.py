"""Small rings, crashed writers and scripts in processes of their own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ringbuf import Recorder, layout

ROOT = Path(__file__).parents[2]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory of its own; its shared memory goes when the test ends."""
    return tmp_path / "data"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rings of a few pages, for tests that make many of them."""
    monkeypatch.setattr(layout, "TEXT_CAPACITY", 2)
    monkeypatch.setattr(layout, "SYMBOLS_BYTES", 4096)


@pytest.fixture
def recorder(data_dir: Path) -> Iterator[Recorder]:
    """A recorder of a small ring called engine."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        assert recorder.problem is None
        yield recorder


Crash = Callable[[Recorder], None]


@pytest.fixture
def crash() -> Crash:
    """Let go of a ring as the kernel does for a killed process: no clean end, lock freed."""

    def crash(recorder: Recorder) -> None:
        assert recorder._rings is not None
        recorder._rings.abandon()

    return crash


Script = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def script(data_dir: Path) -> Script:
    """Run Python code in a fresh interpreter, with ``data_dir`` and ``arguments`` defined."""

    def run(
        code: str, *arguments: str, options: tuple[str, ...] = ()
    ) -> "subprocess.CompletedProcess[str]":
        prelude = "import sys; data_dir, *arguments = sys.argv[1:]\n"
        return subprocess.run(
            [sys.executable, "-W", "error", *options, "-c", prelude + code, data_dir, *arguments],
            check=False,
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run
