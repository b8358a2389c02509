"""A real notifier process for tests, and what is around it."""

import dataclasses
import multiprocessing
import os
import signal
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notifier import ledger, process
from notifier.alert import Transition, encode
from notifier.alertlog import AlertLog
from notifier.settings import NotifierSettings
from ringbuf.ownership import holder
from tests.waiting import wait_for


@dataclass
class Running:
    """A notifier process and what is around it."""

    settings: NotifierSettings
    world: Any
    context: Any = field(default_factory=lambda: multiprocessing.get_context("spawn"))
    process: Any = None

    def start(self) -> None:
        """Start it, and wait until it works."""
        self.spawn()
        wait_for(self.beats, "the notifier's first sign of life")

    def spawn(self) -> None:
        """Start it; another queue, since a process that was killed may have left half a message."""
        self.doorbell = self.context.Queue(1000)
        arguments = (self.settings, self.doorbell, os.getpid())
        self.process = self.context.Process(target=process.main, args=arguments)
        self.process.start()

    def beats(self) -> bool:
        """Whether it holds its lock and has a ledger."""
        lock = self.settings.data_dir / "notifier.lock"
        if not lock.exists() or holder(lock) != self.process.pid:
            return False
        return self.has_ledger()

    def has_ledger(self) -> bool:
        """Whether there is a ledger that can be read."""
        try:
            ledger.open_readonly(self.settings.ledger_path).close()
        except ledger.LedgerError:
            return False
        return True

    def fire(self, rule: str = "slow", *, ring: bool = True, **fields: Any) -> Transition:
        self.world.now_ns = time.time_ns()
        one = self.world.transition("fired", rule, severity="critical", **fields)
        [numbered] = self.log.append([one], time.time_ns())
        if ring:
            self.doorbell.put((numbered.number, [encode(numbered)]))
        return one

    def resolve(self, fired: Transition) -> None:
        """The end of what *fired*."""
        self.world.now_ns = time.time_ns()
        labels = {name: value for name, value in fired.labels.items() if name != "engine"}
        one = self.world.transition("resolved", fired.rule, severity="critical", **labels)
        [numbered] = self.log.append([one], time.time_ns())
        self.doorbell.put((numbered.number, [encode(numbered)]))

    def deliver_to(self, url: str) -> None:
        """Have the first plugin post to *url*."""
        first, *others = self.settings.plugins
        changed = (dataclasses.replace(first, options={"url": url}), *others)
        self.settings = self.world.settings = dataclasses.replace(self.settings, plugins=changed)

    def resident_kb(self) -> int:
        """Memory of the process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [line] = [each for each in status.splitlines() if each.startswith("VmRSS:")]
        return int(line.split()[1])

    def threads(self) -> int:
        """Threads of the process."""
        return len(list(Path(f"/proc/{self.process.pid}/task").iterdir()))

    def end(self, number: int = signal.SIGTERM) -> int:
        os.kill(self.process.pid, number)
        self.process.join(30)
        # Another thread that starts a process may just be collecting this one's exit code.
        wait_for(lambda: not self.process.is_alive(), "the end of the notifier")
        self.doorbell.close()
        self.doorbell.cancel_join_thread()
        return int(self.process.exitcode)

    def kill(self) -> None:
        """SIGKILL, if it runs."""
        if self.process is not None and self.process.is_alive():
            self.end(signal.SIGKILL)

    def balance(self) -> dict[str, Any]:
        db = ledger.open_readonly(self.settings.ledger_path)
        try:
            return ledger.conservation(db)
        finally:
            db.close()

    @property
    def log(self) -> AlertLog:
        return self.world.log
