"""Real processes for the pipeline's tests: a service, engines, commands.  Waiting is on conditions
with deadlines."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.environments import unmeasured
from tests.segments import unlink_segments
from tests.servers import HttpServer
from tests.waiting import PATIENCE_S, wait_for

ROOT = Path(__file__).parents[2]


@dataclass
class Desk:
    """One data directory with its service, engines and commands, all of them real processes."""

    folder: Path
    environment: dict[str, str]
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        """Where rings and stores are."""
        return self.folder / "data"

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start ``python ARGUMENTS`` with the desk's environment."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.processes.append(process)
        return process

    def service(self) -> subprocess.Popen[str]:
        """Start the service and wait until its children run."""
        process = self.start("-m", "cli", "--data-dir", str(self.data_dir), "run")

        def ready() -> bool:
            assert process.poll() is None, process.communicate()
            return bool(self.children(process.pid))

        wait_for(ready, "the service's children")
        return process

    def children(self, service_pid: int) -> dict[str, int]:
        """Pids of the service's two children by name, once both hold their locks."""
        from ringbuf.ownership import holder

        found = {
            name: holder(self.data_dir / f"{name}.lock") for name in ("aggregator", "notifier")
        }
        running = {name: pid for name, pid in found.items() if pid and _parent(pid) == service_pid}
        return running if len(running) == 2 else {}

    def kill_child(self, service_pid: int, name: str) -> None:
        """SIGKILL one of the service's children, now."""
        pid = wait_for(lambda: self.children(service_pid), "the service's children")[name]
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: _parent(pid) != service_pid, "its end")

    def engine(self, script: str, *arguments: str) -> subprocess.Popen[str]:
        """Start an engine: *script* finds ``Recorder``, ``data_dir``, ``say`` and ``hear``."""
        return self.start("-c", _PRELUDE + script, str(self.data_dir), *arguments)

    def command(self, *arguments: str, code: int | Sequence[int] = 0) -> str:
        """Run ``python -m cli ARGUMENTS`` from another directory and return what it prints."""
        ended = subprocess.run(
            [sys.executable, "-m", "cli", "--data-dir", str(self.data_dir), *arguments],
            check=False,
            cwd="/",
            env=unmeasured(self.environment),
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        codes = [code] if isinstance(code, int) else code
        assert ended.returncode in codes, (arguments, ended.returncode, ended.stdout, ended.stderr)
        assert "Traceback" not in ended.stderr
        return ended.stdout

    def json(self, *arguments: str, code: int | Sequence[int] = 0) -> Any:
        """What a reading command prints with ``--json``."""
        return json.loads(self.command(*arguments, "--json", code=code))

    def status(self) -> Any:
        """The status, whatever it is."""
        return self.json("status", code=(0, 1, 2, 3))

    def end(self) -> None:
        """End what still runs: politely, then not."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
        for process in self.processes:
            try:
                process.communicate(timeout=30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()
        unlink_segments(self.data_dir)


_PRELUDE = """
import sys, time
from pathlib import Path
from ringbuf import Recorder
data_dir = Path(sys.argv[1])
def say(word):
    print(word, flush=True)
def hear():
    return sys.stdin.readline().strip()
"""


def _parent(pid: int) -> int:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    return int(stat.rpartition(")")[2].split()[1])


@pytest.fixture
def sink() -> Iterator[HttpServer]:
    """A webhook receiver that answers 200 unless told otherwise."""
    with HttpServer() as server:
        yield server


@pytest.fixture
def desk(tmp_path: Path, sink: HttpServer) -> Iterator[Desk]:
    """A desk whose webhook is the sink."""
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("MONITORING_")
    }
    environment |= {
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "error",
        "MONITORING_LOG_DIR": str(tmp_path / "logs"),
        "MONITORING_DATA_DIR": str(tmp_path / "data"),
        "MONITORING_ENABLE_WEBHOOK_ALERTS": "true",
        "MONITORING_WEBHOOK_URL": sink.url,
        "MONITORING_DELIVERY_RATE_PER_SECOND": "100",
    }
    made = Desk(tmp_path, environment)
    yield made
    made.end()
