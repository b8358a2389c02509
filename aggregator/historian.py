"""Raw records for the cycle: what it hands over, where a ring's records go on after a restart, and
the two threads that write and tidy day files.
"""

import math
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from aggregator.anchor import Anchor
from aggregator.binning import IntArray
from aggregator.health import Sample
from aggregator.history.archive import Archive
from aggregator.history.background import Background
from aggregator.history.dayfolder import FOLDER
from aggregator.history.daywriter import DayFiles
from aggregator.history.history import History
from aggregator.rings import Ring
from aggregator.rules.rule import Rule
from aggregator.settings import Settings
from aggregator.store.store import Store
from ringbuf import RingReader
from ringbuf.reader import Batch

# What a window counts or misses says nothing about a single record.
_NOT_OF_A_RECORD = frozenset({"sum", "count", "rate", "absent"})
Bounds = tuple[float, float]


class Historian:
    """All that the cycle needs of history; none of its methods waits for a disk.

    Args:
        data_dir: with the folder of day files.
        anchor: tells wall time, and rule time, which a clock that is set doesn't move.
        inline: no threads; ``look`` does their work, for tests.
    """

    def __init__(
        self,
        data_dir: Path,
        settings: Settings,
        rules: Iterable[Rule],
        store: Store,
        anchor: Anchor,
        *,
        inline: bool = False,
    ) -> None:
        self._data_dir = data_dir
        self._rules = tuple(rules)
        self._series: dict[int, tuple[str, str, Mapping[str, str]]] = {}
        self._new_series = False
        self._resumed: set[str] = set()
        self._evicted = self._dropped = 0
        files = DayFiles(data_dir / FOLDER)
        self._history = History(files, settings.monitoring_max_raw_metrics)
        self._archive = Archive(
            files,
            settings.monitoring_max_archive_days,
            settings.monitoring_archive_interval_hours,
            wall_ns=lambda: time.monotonic_ns() + anchor.wall_ns,
            # A clock that is set to a wrong date for a minute deletes nothing.
            expiry_ns=lambda: time.monotonic_ns() + min(anchor.wall_ns, anchor.steady_ns),
            expire_rollups=store.expire,
            ceiling_pct=settings.monitoring_disk_ceiling_pct,
        )
        self._threads: list[Background] = []
        if not inline:
            writer = Background("history", self._history.step)
            self._history.wake = writer.wake
            self._threads = [writer, Background("archive", self._archive.step)]

    def add_series(self, gid: int, metric: str, unit: str, labels: Mapping[str, str]) -> None:
        """Say what a series is called, before its first record."""
        self._history.add_series(gid, metric, unit, labels)
        self._series[gid] = (metric, unit, labels)
        self._new_series = True

    def add(self, ring: Ring, batch: Batch, ids: IntArray, wall_ns: IntArray) -> None:
        """Take in a batch of *ring* with its store's ids and wall times, shape (n,)."""
        records = batch.records
        self._history.add(ring.uuid, ids, records["seq"], wall_ns, records["value"])

    def resume(self, ring: Ring, wall_offset_ns: int) -> None:
        """Before the first batch of *ring*: take in what the checkpoint had read, yet no day file
        has."""
        if ring.uuid in self._resumed:
            return
        self._resumed.add(ring.uuid)
        if ring.resumed_at <= ring.written:
            return
        with RingReader.attach(
            ring.engine, self._data_dir, uuid=ring.uuid, position=ring.written, timeout_s=0
        ) as reader:
            self._history.catch_up(
                ring.uuid, reader, ring.resumed_at, ring.series_ids, wall_offset_ns
            )

    def written(self, ring: Ring) -> int:
        """How far *ring* is in the day files, for its checkpoint; where it was while unknown."""
        known = self._history.written(ring.uuid)
        return ring.written if known is None else known

    def reload(self, rules: Iterable[Rule]) -> None:
        """Records beyond a level of these rules are kept from now on."""
        self._rules = tuple(rules)
        self._new_series = True

    def look(self) -> None:
        """Once a second: levels of new series; without threads, their work."""
        if self._new_series:
            self._new_series = False
            levels = {gid: bounds(self._rules, *names) for gid, names in self._series.items()}
            self._history.levels = {gid: each for gid, each in levels.items() if each is not None}
        if not self._threads:
            self._history.step()

    def samples(self) -> Iterator[Sample]:
        """Whether raw records can be written, and what was given up since the last call."""
        evicted, self._evicted = self._archive.evicted - self._evicted, self._archive.evicted
        if evicted:
            yield Sample("day_files_evicted", {}, evicted)
        problem = self._history.problem
        note = f"raw records wait in memory: {problem}" if problem else ""
        yield Sample("history_problem", {}, float(problem is not None), "", note)
        total = self._history.dropped
        dropped, self._dropped = total - self._dropped, total
        if dropped:
            note = "raw records are in no day file; rollups have them"
            yield Sample("history_dropped", {}, dropped, "", note)

    def report(self) -> dict[str, Any]:
        """How the day files are doing, as JSON values."""
        last = self._archive.last
        return {
            "problem": self._history.problem,
            "stored": self._history.stored,
            "skipped": self._history.skipped,
            "dropped": self._history.dropped,
            "waiting": self._history.waiting,
            "evicted": self._archive.evicted,
            "archive": last.row() if last is not None else None,
        }

    def close(self, timeout_s: float) -> bool:
        """Write what waits and end; False if the disk didn't within *timeout_s*."""
        if not self._threads:
            self._history.step()
        ended = True
        for thread in self._threads:
            ended = thread.close(timeout_s) and ended
        return ended


def bounds(
    rules: Iterable[Rule], metric: str, unit: str, labels: Mapping[str, str]
) -> Bounds | None:
    """(low, high): a record at or beyond either crosses the first level of a rule; None without."""
    low, high = -math.inf, math.inf
    for rule in rules:
        if _NOT_OF_A_RECORD.issuperset(rule.stat) or not rule.fits(metric, labels):
            continue
        for _, level in rule.levels:
            try:
                value = level.to(unit)
            except ValueError:
                continue  # the rule can't be applied to this series, as the log says
            if rule.above:
                high = min(high, value)
            else:
                low = max(low, value)
    return None if (low, high) == (-math.inf, math.inf) else (low, high)
