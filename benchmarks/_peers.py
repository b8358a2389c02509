"""The two that are compared: a real notifier of ours, fed through a real alert log and doorbell,
and a real Alertmanager, fed through its API.  Both deliver to webhooks, and both can be killed.
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import time
import urllib.request
import uuid
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import notifier.process
from benchmarks._receiver import LOCALHOST, Arrival, free_port
from notifier import ledger
from notifier.alert import Kind, Severity, Transition, rfc3339, transition_id
from notifier.alertlog import AlertLog
from notifier.decisions import Journal, decide
from notifier.settings import NotifierSettings, PluginSettings
from ringbuf.ownership import holder

ALERTMANAGER = shutil.which("prometheus-alertmanager")
RULE = "slow"
_INSTALLATION = uuid.UUID("00000000-0000-4000-8000-000000000002")
_SILENT = 60.0  # seconds after which a start has failed


class Peer(ABC):
    """One alerting system with its files in *folder*, telling every one of *urls*."""

    pid: int

    def __init__(self, folder: Path, urls: Sequence[str]) -> None:
        self.folder = folder
        self.urls = list(urls)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.end(signal.SIGKILL)

    @abstractmethod
    def start(self) -> None:
        """Start it, on what an earlier process left."""

    @abstractmethod
    def end(self, number: int) -> None:
        """Send the signal and wait for the end."""

    @abstractmethod
    def fire(self, *names: str) -> None:
        """Alerts begin; when this returns they are accepted.  Names that fire are told again."""

    @abstractmethod
    def resolve(self, name: str) -> None:
        """One ends."""

    @abstractmethod
    def silence(self) -> None:
        """Nobody is to be told for an hour; when this returns that is accepted."""

    @abstractmethod
    def told(self, arrival: Arrival) -> list[tuple[str, str]]:
        """What a message tells: (name, state) of each alert in it that it names."""

    def count(self, arrival: Arrival) -> int:
        """How many alerts a message tells of."""
        return len(self.told(arrival))

    def dead(self) -> str:
        """Why a delivery was given up; empty where that isn't known."""
        return ""

    def memory_mb(self) -> float:
        """Resident memory of its process."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        [line] = [each for each in status.splitlines() if each.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def threads(self) -> int:
        """Threads of its process."""
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))


class Tickwatch(Peer):
    """Our notifier; the alert log is written here, as the aggregator does."""

    name = "tickwatch"
    rate_per_s = 100.0
    burst = 1000

    def start(self) -> None:
        plugins = tuple(
            PluginSettings(
                f"webhook{number}",
                "webhook",
                rate_per_s=self.rate_per_s,
                burst=self.burst,
                timeout_s=5.0,
                options={"url": url},
            )
            for number, url in enumerate(self.urls)
        )
        self.settings = NotifierSettings(
            self.folder / "data", self.folder / "logs", plugins=plugins, log_level="critical"
        )
        context = multiprocessing.get_context("spawn")
        self._doorbell = context.Queue(10_000)
        arguments = (self.settings, self._doorbell, os.getpid())
        self._process = context.Process(target=notifier.process.main, args=arguments)
        self._process.start()
        assert self._process.pid is not None
        self.pid = self._process.pid
        self._log = AlertLog(self.settings.alerts_dir)
        self._fired: dict[str, Transition] = getattr(self, "_fired", {})
        lock, began_s = self.settings.data_dir / "notifier.lock", time.monotonic()
        while not lock.exists() or holder(lock) != self.pid:
            assert time.monotonic() - began_s < _SILENT and self._process.is_alive()
            time.sleep(0.01)

    def end(self, number: int) -> None:
        if self._process.is_alive():
            os.kill(self.pid, number)
        self._process.join(_SILENT)
        self._log.close()
        self._doorbell.close()
        self._doorbell.cancel_join_thread()

    def fire(self, *names: str) -> None:
        self._append([self._fired.setdefault(name, _transition("fired", name)) for name in names])

    def resolve(self, name: str) -> None:
        self._append([_transition("resolved", name)])

    def silence(self) -> None:
        journal = Journal(self.settings.alerts_dir / "acknowledgements.jsonl")
        journal.append(decide("silence", "operator", rule=RULE, ttl_s=3600))

    def told(self, arrival: Arrival) -> list[tuple[str, str]]:
        fields = arrival.fields
        if fields["rule"] != RULE:
            return []  # a digest, which names only some
        return [(fields["labels"]["n"], fields["state"])]

    def count(self, arrival: Arrival) -> int:
        fields = arrival.fields
        return 1 if fields["rule"] == RULE else int(fields["members"]["total"])

    def dead(self) -> str:
        with closing(ledger.open_readonly(self.settings.ledger_path)) as db:
            return ", ".join(one.reason for one in ledger.deliveries(db, state="dead"))

    def conservation(self) -> dict[str, Any]:
        """Whether nothing was lost, by its own count."""
        with closing(ledger.open_readonly(self.settings.ledger_path)) as db:
            return ledger.conservation(db)

    def _append(self, transitions: Sequence[Transition]) -> None:
        numbered = self._log.append(transitions, time.time_ns())
        self._doorbell.put((numbered[-1].number, []))


class Alertmanager(Peer):
    """Debian's Alertmanager; ``grouped`` as its own example, otherwise each alert for itself.

    ``interval`` is its group_interval, after which it also begins anew with what failed.
    """

    name = "alertmanager"
    grouped = False
    interval = "1s"

    def start(self) -> None:
        assert ALERTMANAGER is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        config = self.folder / "alertmanager.yml"
        config.write_text(json.dumps(self._config()))  # JSON is YAML
        port = free_port()
        self._api = f"http://{LOCALHOST}:{port}"
        self._process = subprocess.Popen(
            [
                ALERTMANAGER,
                f"--config.file={config}",
                f"--storage.path={self.folder / 'data'}",
                f"--web.listen-address={LOCALHOST}:{port}",
                "--cluster.listen-address=",
                "--log.level=error",
            ],
            stderr=subprocess.DEVNULL,
            cwd=self.folder,
        )
        self.pid = self._process.pid
        self._began: dict[str, str] = getattr(self, "_began", {})
        began_s = time.monotonic()
        while not self._is_ready():
            assert time.monotonic() - began_s < _SILENT and self._process.poll() is None
            time.sleep(0.02)

    def end(self, number: int) -> None:
        if self._process.poll() is None:
            self._process.send_signal(number)
        self._process.wait(_SILENT)

    def fire(self, *names: str) -> None:
        for name in names:
            self._began.setdefault(name, str(rfc3339(time.time_ns())))
        self._post("alerts", [self._alert(name) for name in names])

    def resolve(self, name: str) -> None:
        self._post("alerts", [self._alert(name) | {"endsAt": rfc3339(time.time_ns())}])

    def silence(self) -> None:
        now_ns = time.time_ns()
        matcher = {"name": "alertname", "value": RULE, "isRegex": False, "isEqual": True}
        span = {"startsAt": rfc3339(now_ns), "endsAt": rfc3339(now_ns + 3600 * 10**9)}
        words = {"createdBy": "operator", "comment": "benchmark"}
        self._post("silences", {"matchers": [matcher], **span, **words})

    def told(self, arrival: Arrival) -> list[tuple[str, str]]:
        return [(one["labels"]["n"], one["status"]) for one in arrival.fields["alerts"]]

    def _alert(self, name: str) -> dict[str, Any]:
        return {"labels": {"alertname": RULE, "n": name}, "startsAt": self._began[name]}

    def _config(self) -> dict[str, Any]:
        pace = {"group_by": ["..."], "group_wait": "0s", "group_interval": self.interval}
        if self.grouped:
            pace |= {"group_by": ["alertname"], "group_wait": "10s"}
        hooks = [{"url": url, "send_resolved": True, "max_alerts": 0} for url in self.urls]
        return {
            "route": {"receiver": "desk", "repeat_interval": "1h", **pace},
            "receivers": [{"name": "desk", "webhook_configs": hooks}],
        }

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._api}/-/ready", timeout=5):
                return True
        except OSError:
            return False

    def _post(self, what: str, value: Any) -> None:
        request = urllib.request.Request(
            f"{self._api}/api/v2/{what}",
            json.dumps(value).encode(),
            {"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            answer.read()


def _transition(kind: str, name: str) -> Transition:
    at_ns = time.time_ns()
    one = Transition(
        "", Kind(kind), at_ns, RULE, {"n": name}, Severity.CRITICAL, 2.0, 1.0, "ms", "benchmark"
    )
    id = transition_id(_INSTALLATION, one.fingerprint, one.kind, name, at_ns)
    return Transition(
        id, one.kind, at_ns, RULE, one.labels, one.severity, 2.0, 1.0, "ms", "benchmark"
    )
