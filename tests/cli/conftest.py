"""A data directory as a service leaves it, written through the real modules, and commands on it."""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from aggregator.store.store import Store
from cli.__main__ import main
from notifier.alert import Kind, Severity, Transition, fingerprint, rfc3339, transition_id
from notifier.alertlog import AlertLog
from notifier.cycle import Notifier
from notifier.plugin import AlertDeliveryPlugin, Message, PermanentError, RetryableError
from notifier.settings import NotifierSettings, PluginSettings
from ringbuf import descriptor
from ringbuf.ownership import WriterLock
from tests.environments import unmeasured

ROOT = Path(__file__).parents[2]
INSTALLATION = uuid.UUID(int=7)
SECOND_NS = 1_000_000_000


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> Any:
        """Its JSON."""
        return json.loads(self.out)


class Scripted(AlertDeliveryPlugin):
    """A plugin that ends every attempt as it was told."""

    def deliver(self, message: Message) -> bool:
        ends = self.text("ends")
        if ends.startswith("again: "):
            raise RetryableError(ends.removeprefix("again: "))
        if ends:
            raise PermanentError(ends)
        return True


class Terminal:
    """A stdout that says it is a terminal."""

    def __init__(self, encoding: str = "utf-8") -> None:
        self.encoding = encoding
        self.text = ""

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.text += text
        return len(text)

    def flush(self) -> None:
        pass


@dataclass
class Desk:
    """A data directory and a log directory; commands run in this process or in one of their own."""

    folder: Path
    capture: Any
    log: AlertLog
    locks: list[WriterLock] = field(default_factory=list)

    @property
    def data_dir(self) -> Path:
        return self.folder / "data"

    @property
    def alerts_dir(self) -> Path:
        return self.folder / "logs" / "alerts"

    @property
    def journal(self) -> Path:
        return self.alerts_dir / "acknowledgements.jsonl"

    def tell(
        self,
        rule: str,
        kind: Kind = Kind.FIRED,
        severity: Severity = Severity.CRITICAL,
        *,
        ago_s: float = 0.0,
        written_ago_s: float = 0.0,
        labels: Mapping[str, str] | None = None,
        **fields: Any,
    ) -> Transition:
        """Append a transition to the alert log, as the aggregator does."""
        now_ns = time.time_ns()
        at_ns = now_ns - int(ago_s * SECOND_NS)
        labels = {"engine": "intraday"} if labels is None else labels
        of = fingerprint(rule, labels)
        identity = transition_id(INSTALLATION, of, kind, "ring", at_ns)
        told = Transition(identity, kind, at_ns, rule, labels, severity, **fields)
        return self.log.append([told], now_ns - int(written_ago_s * SECOND_NS))[0]

    def service_file(self, **fields: Any) -> None:
        """What a service says about itself."""
        content = {
            "pid": os.getpid(),
            "started_at": rfc3339(time.time_ns()),
            "data_dir": str(self.data_dir),
            "log_dir": str(self.folder / "logs"),
            "settings": {"monitoring_ack_ttl_seconds": 7200},
        }
        (self.data_dir / "service.json").write_text(json.dumps(content | fields))

    def service_runs(self) -> None:
        """Hold the locks that a running service and its two children hold."""
        for name in ("service", "aggregator", "notifier"):
            self.locks.append(WriterLock.acquire(name, self.data_dir / f"{name}.lock"))

    def report(self, *, ago_s: float = 0.0, **fields: Any) -> None:
        """What the aggregator reports of itself each second."""
        at = rfc3339(time.time_ns() - int(ago_s * SECOND_NS))
        content = {"at": at, "pid": os.getpid(), "engines": []} | fields
        with Store.open(self.data_dir / "rollups.db", 300) as store:
            store.commit([], {}, {"health": json.dumps(content).encode()})

    def notify(self, *, later_s: float = 0.0, **outcomes: str) -> None:
        """Let a real notifier work until it is done, with plugins that end as told.

        Args:
            later_s: how much later than now it is to be.
            outcomes: by plugin: "" is delivered, "again: TEXT" fails for now, any other TEXT for
                good.
        """
        plugins = {name: Scripted(name, options={"ends": end}) for name, end in outcomes.items()}
        settings = NotifierSettings(
            data_dir=self.data_dir,
            log_dir=self.folder / "logs",
            plugins=tuple(PluginSettings(name, "webhook") for name in outcomes),
        )
        notifier = Notifier(settings, plugins, noise=lambda: 0.5)
        shift_ns = int(later_s * SECOND_NS)
        for step in range(20):  # the last ones a minute later: it reports now and then
            later_ns = shift_ns + (61 * SECOND_NS if step > 17 else 0)
            wall_ns, mono_ns = time.time_ns() + later_ns, time.monotonic_ns() + later_ns
            notifier.step(wall_ns, wall_ns=wall_ns, mono_ns=mono_ns)
        notifier.close()

    def run(self, *argv: str, **environment: str) -> Ended:
        """Run a command in this process."""
        self.capture.readouterr()
        before = dict(os.environ)
        os.environ.update(environment)
        try:
            code = main(["--data-dir", str(self.data_dir), *argv])
        finally:
            os.environ.clear()
            os.environ.update(before)
        captured = self.capture.readouterr()
        return Ended(code, captured.out, captured.err)

    def screen(self, *argv: str) -> str:
        """What a terminal of 80 columns without colour shows of a command."""
        terminal = Terminal()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", terminal)
            for name, value in {"TERM": "xterm", "COLUMNS": "80", "NO_COLOR": "1"}.items():
                patch.setenv(name, value)
            main(["--data-dir", str(self.data_dir), *argv])
        return re.sub(r"\x1b\[[0-9;]*m", "", terminal.text)

    def command(self, *argv: str, **environment: str) -> Ended:
        """Run a command in a process of its own, from the root directory."""
        ended = subprocess.run(
            [sys.executable, "-m", "cli", "--data-dir", str(self.data_dir), *argv],
            check=False,
            cwd="/",
            env=unmeasured() | environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)


def unlink_segments(data_dir: Path) -> None:
    """Remove the shared memory of every ring in *data_dir*, as a reboot would."""
    for path in (data_dir / "rings").glob("*.json"):
        for segment in descriptor.read(path.parent, path.stem).segments:
            (Path("/dev/shm") / segment.lstrip("/")).unlink(missing_ok=True)


@pytest.fixture
def desk(tmp_path: Path, capsys: Any, monkeypatch: Any) -> Iterator[Desk]:
    """An empty data directory with a service file, nobody running."""
    for name in [name for name in os.environ if name.startswith("MONITORING_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("LOGNAME", "asha")
    monkeypatch.delenv("SUDO_USER", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    made = Desk(tmp_path, capsys, AlertLog(tmp_path / "logs" / "alerts"))
    made.service_file()
    yield made
    made.log.close()
    for lock in made.locks:
        lock.release()
    unlink_segments(made.data_dir)
