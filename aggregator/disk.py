"""The aggregator's disk work, on a thread of its own, in the order of durability.

Transitions are fsynced in the alert log, then ring the doorbell; only then may the checkpoint
commit that makes their records forgettable.  A disk that stalls therefore delays neither the
reading of a ring nor a rule; a disk that is full leaves the checkpoint where it is, while copies of
the transitions still reach the notifier.
"""

import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from aggregator.rollup import Rollup, merge
from aggregator.store.store import Store
from notifier.alert import Kind, Transition, rfc3339
from notifier.alertlog import AlertLog, Position

_log = logging.getLogger("aggregator")

# Transitions that wait for a writable log; beyond it updates are dropped first, and every drop is
# counted.
MAX_UNLOGGED = 20_000
# How often the store's write-ahead log is folded into its file.
TIDY_S = 10.0

# Checkpoint key: how far the alert log was when the checkpoint was committed.
LOG_KEY = "log"

Doorbell = Callable[[int, Sequence[Transition]], None]


@dataclass(slots=True)
class Commit:
    """What one checkpoint transaction adds: rollup deltas, losses by (engine, start), values by
    key."""

    rollups: list[Rollup] = field(default_factory=list)
    lost: dict[tuple[str, int], int | None] = field(default_factory=dict)
    values: dict[str, bytes | None] = field(default_factory=dict)

    def add(self, later: "Commit") -> None:
        """Take in *later*, so that a commit that failed is made up for by the next."""
        merged = {(rollup.series, rollup.start_s): rollup for rollup in self.rollups}
        for rollup in later.rollups:
            key = (rollup.series, rollup.start_s)
            merged[key] = merge(merged[key], rollup) if key in merged else rollup
        self.rollups = list(merged.values())
        for place, count in later.lost.items():
            self.lose(place, count)
        self.values.update(later.values)

    def lose(self, place: tuple[str, int], count: int | None) -> None:
        """Add *count* losses of (engine, start); None: nobody knows how many, and so is the sum."""
        before = self.lost.get(place, 0)
        self.lost[place] = None if before is None or count is None else before + count


class Disk:
    """Writes the alert log and the checkpoint; ``inline`` does it in the caller's thread, for
    tests."""

    def __init__(
        self,
        store: Store,
        log: AlertLog,
        doorbell: Doorbell,
        wall_ns: Callable[[], int],
        *,
        inline: bool = False,
    ) -> None:
        self._store = store
        self._log = log
        self._doorbell = doorbell
        self._wall_ns = wall_ns
        self._unlogged: list[Transition] = []
        self._uncommitted: Commit | None = None
        self._jobs: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()
        # Two counters, each written by one thread: no lock, no lost update.
        self._submitted = 0
        self._finished = 0
        self._tidy_s = time.monotonic() + TIDY_S
        self.dropped = 0
        self.problem: str | None = None
        self._thread: threading.Thread | None = None
        if not inline:
            self._thread = threading.Thread(target=self._run, name="disk", daemon=True)
            self._thread.start()

    @property
    def idle(self) -> bool:
        """Whether everything submitted has been worked on."""
        return self._submitted == self._finished

    def submit(self, transitions: list[Transition], commit: Commit | None = None) -> None:
        """Log *transitions*, then commit; returns at once unless inline."""
        self.run(partial(self._work, transitions, commit))

    def run(self, job: Callable[[], object]) -> None:
        """Have *job* done by the disk's thread, after what was submitted before."""
        if self._thread is None:
            job()
            return
        self._submitted += 1
        self._jobs.put(job)

    def close(self, timeout_s: float) -> bool:
        """Finish what was submitted; False if the disk didn't within *timeout_s*."""
        if self._thread is None:
            return not self._unlogged
        self._jobs.put(None)
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                self._finished += 1

    def _work(self, transitions: list[Transition], commit: Commit | None) -> None:
        self._unlogged += transitions
        logged = not self._unlogged or self._append(transitions)
        if commit is None:
            return
        if self._uncommitted is not None:
            self._uncommitted.add(commit)
        else:
            self._uncommitted = commit
        if logged:
            self._commit()
            self._tidy()

    def _tidy(self) -> None:
        """Keep the store's write-ahead log short; readers' work otherwise lets it grow."""
        if time.monotonic() < self._tidy_s:
            return
        self._tidy_s = time.monotonic() + TIDY_S
        try:
            self._store.checkpoint_wal()
        except (sqlite3.Error, OSError) as error:
            self._say(f"rollups: {error}")

    def _append(self, new: Sequence[Transition]) -> bool:
        try:
            numbered = self._log.append(self._unlogged, self._wall_ns())
        except OSError as error:
            self._say(f"alert log: {error.strerror or error}")
            # The notifier delivers from this copy; the log gets its lines when it can be written
            # again.
            if new:
                self._doorbell(0, new)
            self._shed()
            return False
        self._unlogged = []
        self._doorbell(numbered[-1].number, numbered)
        self._recovered()
        return True

    def _shed(self) -> None:
        excess = len(self._unlogged) - MAX_UNLOGGED
        if excess <= 0:
            return
        updates = [t for t in self._unlogged if t.kind is Kind.UPDATE][:excess]
        spare = {id(t) for t in updates}
        kept = [t for t in self._unlogged if id(t) not in spare]
        self.dropped += len(self._unlogged) - len(kept[-MAX_UNLOGGED:])
        self._unlogged = kept[-MAX_UNLOGGED:]

    def _commit(self) -> None:
        commit = self._uncommitted
        if commit is None:
            return
        # Lines up to this number are in the states that this commit saves; a restart folds later
        # ones.
        known = Position((rfc3339(self._wall_ns()) or "")[:10], 0, self._log.last_number)
        commit.values[LOG_KEY] = known.encode().encode()
        try:
            self._store.commit(commit.rollups, commit.lost, commit.values)
        except (sqlite3.Error, OSError) as error:
            self._say(f"rollups: {error}")
            return
        self._uncommitted = None
        self._recovered()

    def _say(self, problem: str) -> None:
        if self.problem != problem:
            _log.error(
                "disk trouble, retrying", extra={"component": "monitoring", "problem": problem}
            )
        self.problem = problem

    def _recovered(self) -> None:
        if self.problem is not None and not self._unlogged and self._uncommitted is None:
            _log.info(
                "disk works again", extra={"component": "monitoring", "dropped": self.dropped}
            )
            self.problem = None
