"""Hand raw records from the loop's thread to the one that writes, without either waiting.

In order, whole batches, bounded.  Should the other side hang until a million records wait, of what
comes then only the newest record of each series is kept, with the number of those it stands for, so
that memory stays bounded and nothing is lost uncounted.
"""

import threading
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aggregator.binning import FloatArray, IntArray
from aggregator.history import thinning
from aggregator.history.thinning import ROW, Rows

MAX_PENDING = 1 << 20


class Batch(NamedTuple):
    """Records of one ring, by its number; arrays of shape (n,)."""

    ring: int
    series: IntArray
    seqs: IntArray
    times_ns: IntArray
    values: FloatArray

    def since(self, seq: int) -> "Batch":
        """The records from *seq* on."""
        fresh = self.seqs >= seq
        return Batch(
            self.ring,
            self.series[fresh],
            self.seqs[fresh],
            self.times_ns[fresh],
            self.values[fresh],
        )


class Handover:
    """One thread puts, one takes."""

    def __init__(self) -> None:
        self._pending: deque[Batch] = deque()
        # Two counters, each of one writer: no lock, no lost update.
        self._put = 0
        self._taken = 0
        self._lock = threading.Lock()  # for _squeezed alone
        self._squeezed: dict[int, Rows] = {}

    @property
    def waiting(self) -> int:
        """Records put and not taken, without those that squeezed ones stand for."""
        return self._put - self._taken

    def put(self, batch: Batch) -> None:
        """Hand a batch over; its arrays must not change any more."""
        if not len(batch.seqs):
            return
        full = 0 < self.waiting > MAX_PENDING - len(batch.seqs)
        if (full or batch.ring in self._squeezed) and self._squeeze(batch):
            return
        self._pending.append(batch)
        self._put += len(batch.seqs)

    def take(self, limit: int) -> Rows:
        """The oldest batches: at least *limit* rows, if so many wait."""
        parts: list[Rows] = []
        count = 0
        while self._pending and count < limit:
            batch = self._pending.popleft()
            count += len(batch.seqs)
            parts.append(_rows(batch))
        self._taken += count
        with self._lock:
            if not self._pending:  # squeezed ones are the newest of their rings
                parts += self._squeezed.values()
                self._squeezed = {}
        return thinning.joined(parts)

    def _squeeze(self, batch: Batch) -> bool:
        """Keep little of *batch*, unless room was made meanwhile."""
        with self._lock:
            if not self._pending and batch.ring not in self._squeezed:
                return False
            parts: Sequence[Rows] = [_rows(batch)]
            if batch.ring in self._squeezed:
                parts = [self._squeezed[batch.ring], *parts]
            self._squeezed[batch.ring] = thinning.newest(thinning.joined(parts), 1)
            return True


def _rows(batch: Batch) -> Rows:
    rows = np.zeros(len(batch.seqs), ROW)
    rows["ring"] = batch.ring
    rows["series"] = batch.series
    rows["seq"] = batch.seqs
    rows["time_ns"] = batch.times_ns
    rows["value"] = batch.values
    return rows
