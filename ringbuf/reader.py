"""Read a ring's records in batches.

Records are never looked at in place: they are copied, and then only those are believed that the
writer can't have touched during the copy.  Checking first and copying afterwards is wrong.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ringbuf import clock, layout
from ringbuf.progress import Progress
from ringbuf.series import Series, overflow, unpack_entries
from ringbuf.textreader import TextReader
from ringbuf.view import RingView, attach

__all__ = ["Batch", "RingReader", "TextReader"]

_WORDS = layout.RECORD_BYTES // 8


@dataclass(slots=True)
class Batch:
    """What one poll brought.

    Attributes:
        records: shape (n,), dtype ``layout.RECORD``, in seq order; the caller's own to keep.
        lost: records that were overwritten before they could be read, or were damaged.
        watermark_ns: monotonic time read before the cursor, if this poll read everything up to
            that cursor; else None.  A record that its writer was just publishing at that moment
            may still carry an earlier time.
    """

    records: NDArray[Any]
    lost: int = 0
    watermark_ns: int | None = None


class RingReader(Progress):
    """One reader of one ring; any number may read, none is ever noticed by the writer."""

    def __init__(self, view: RingView, position: int = 0) -> None:
        super().__init__(view, position)
        self._slots = np.frombuffer(
            view.mapped, np.uint64, self._capacity * _WORDS, layout.HEADER_BYTES
        ).reshape(self._capacity, _WORDS)
        self._series = {0: overflow(self.name)}
        self._symbols_read = 0
        self.series: Mapping[int, Series] = MappingProxyType(self._series)
        self.refresh()

    @classmethod
    def attach(
        cls,
        name: str,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        uuid: str | None = None,
        position: int = 0,
        timeout_s: float = 2.0,
    ) -> "RingReader":
        """Attach the ring called *name*, read-only.

        Args:
            name: of the ring.
            data_dir: default $MONITORING_DATA_DIR, else data/monitoring.
            uuid: the ring to continue, also a replaced one; None for the current one.
            position: seq to begin with; 0 counts as lost what is overwritten already.
            timeout_s: how long to wait for a ring that isn't there yet.

        Raises:
            RingMissing: it didn't appear in time.
            RingInvalid: it can't be trusted, or *position* is beyond what it has published.
            OSError: it can't be opened, or isn't ours.
            ValueError: no ring can have that name.
        """
        return cls(attach(name, data_dir, uuid, timeout_s), position)

    def poll(self, max_records: int = 65_536) -> Batch:
        """Read up to *max_records* records; never waits, never raises for what the ring holds."""
        watermark_ns = clock.monotonic_ns()
        lost_before = self.lost
        first, count = self._claim(max(1, max_records))
        if not count:
            watermark = watermark_ns if self._drained() else None
            return Batch(np.empty(0, layout.RECORD), self.lost - lost_before, watermark)
        words = np.empty((count, _WORDS), np.uint64)
        begin = first & (self._capacity - 1)
        head = min(count, self._capacity - begin)
        words[:head] = self._slots[begin : begin + head]
        words[head:] = self._slots[: count - head]
        dropped = self._confirm(first, count)
        records = words.reshape(-1).view(layout.RECORD)[dropped:]
        records = self._checked(records, first + dropped)
        self.accepted += len(records)
        watermark = watermark_ns if self._drained() else None
        return Batch(records, self.lost - lost_before, watermark)

    def _checked(self, records: NDArray[Any], first: int) -> NDArray[Any]:
        """Drop what isn't the record it should be: damage, counted and never raised."""
        if not len(records):
            return records  # all of it was overwritten during the copy
        top = int(records["series"].max())
        if top >= len(self._series):
            self.refresh()
        good = records["seq"] == np.arange(first, first + len(records))
        if top >= len(self._series):
            good &= records["series"] < len(self._series)
        if good.all():
            return records
        bad = len(records) - int(np.count_nonzero(good))
        self.integrity_errors += bad
        self.lost += bad
        kept: NDArray[Any] = records[good]
        return kept

    def refresh(self) -> None:
        """Read what the symbol table has gained; poll does it when it meets a new series."""
        static = self._view.static
        used = self._view.words[layout.SYMBOLS_PUBLISHED]
        if not self._symbols_read < used <= static.symbols_bytes:
            return
        self._view.fence()
        start = static.symbols_offset
        data = self._view.mapped[start + self._symbols_read : start + used]
        found, read = unpack_entries(data, len(self._series), self.name)
        for series in found:
            self._series[len(self._series)] = series
        self._symbols_read += read

    def close(self) -> None:
        """Let go of the ring; what was read and counted stays."""
        self._slots = np.empty((0, _WORDS), np.uint64)
        super().close()
