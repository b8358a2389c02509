"""Rings, checkpoints and kills for the tests of day files, without processes.

The model keeps what outlives a killed aggregator: the rings' records and the last checkpoint.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from aggregator.history.dayreader import Trouble, read_records
from aggregator.history.daywriter import DayFiles
from aggregator.history.history import History
from ringbuf import layout
from ringbuf.reader import Batch

EVER = (-(1 << 63), 1 << 63)
STEPS = ("open", "write", "rename", "ftruncate", "fsync", "link", "unlink", "mkdir")
MAX_RAW = 50


class Killed(BaseException):
    """The process ends here."""


@contextmanager
def killed_at(
    monkeypatch: pytest.MonkeyPatch, number: int, *, torn: bool = False
) -> Iterator[list[str]]:
    """Raise Killed instead of doing the file operation called *number*, and every one after it.

    Args:
        torn: do half of it first if it is a write.

    Yields:
        names of the operations that were done or begun.
    """
    done: list[str] = []

    def replacing(name: str) -> Callable[..., Any]:
        original = getattr(os, name)

        def operation(*arguments: Any, **options: Any) -> Any:
            if len(done) >= number:
                if torn and name == "write" and len(done) == number:
                    original(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
                done.append(name)
                raise Killed
            done.append(name)
            return original(*arguments, **options)

        return operation

    with monkeypatch.context() as patch:
        for name in STEPS:
            patch.setattr(os, name, replacing(name))
        yield done


@dataclass
class Ring:
    """Everything that an engine recorded; its values are their sequence numbers."""

    uuid: str
    series: tuple[int, ...]
    times_ns: NDArray[np.int64]

    def records(self, start: int, end: int) -> NDArray[Any]:
        """As a reader gives them."""
        records = np.zeros(max(0, end - start), layout.RECORD)
        records["seq"] = np.arange(start, start + len(records))
        records["time_ns"] = self.times_ns[start:end]
        records["value"] = records["seq"]
        records["series"] = records["seq"] % len(self.series)
        return records

    def ids(self, local: NDArray[Any]) -> NDArray[np.int64]:
        """The store's ids of the ring's own."""
        known: NDArray[np.int64] = np.array(self.series, np.int64)[local]
        return known


class Reader:
    """Reads a ring; what is before *oldest* was overwritten."""

    def __init__(self, ring: Ring, position: int, oldest: int = 0) -> None:
        self._ring = ring
        self._oldest = oldest
        self.position = position

    def poll(self, max_records: int = 65_536) -> Batch:
        """The next records."""
        start = max(self.position, self._oldest)
        lost = start - self.position
        end = min(start + max_records, len(self._ring.times_ns))
        self.position = max(start, end)
        return Batch(self._ring.records(start, end), lost)


@dataclass
class World:
    """What outlives the aggregator."""

    folder: Path
    rings: list[Ring]
    checkpoint: dict[str, tuple[int, int]] = field(default_factory=dict)  # position, written

    def start(self, **options: Any) -> "Life":
        """A new process, at the checkpoint."""
        return Life(self, **options)

    def assert_exactly_once(self) -> None:
        """Each record is in the day files once, with its own time and series."""
        trouble = Trouble()
        found = Counter(
            (each.labels["engine"], each.time_ns, each.labels["series"], each.value)
            for each in read_records(self.folder, *EVER, trouble=trouble)
        )
        expected = Counter(
            (ring.uuid, int(time_ns), str(ring.series[seq % len(ring.series)]), float(seq))
            for ring in self.rings
            for seq, time_ns in enumerate(ring.times_ns)
        )
        assert found == expected
        assert not trouble


class Life:
    """One run of the aggregator's process, as far as day files go."""

    def __init__(self, world: World, **options: Any) -> None:
        self.world = world
        self.files = DayFiles(world.folder)
        self.history = History(self.files, MAX_RAW, **options)
        self.positions: dict[str, int] = {}
        for ring in world.rings:
            for series in ring.series:
                labels = {"engine": ring.uuid, "series": str(series)}
                self.history.add_series(series, "tick_latency", "ms", labels)
            position, written = world.checkpoint.get(ring.uuid, (0, 0))
            self.positions[ring.uuid] = position
            reader = Reader(ring, written)
            missing = self.history.catch_up(ring.uuid, reader, position, ring.ids, 0)
            assert not missing

    @property
    def unread(self) -> int:
        """Records that this process hasn't read."""
        return sum(len(ring.times_ns) - self.positions[ring.uuid] for ring in self.world.rings)

    def read(self, count: int) -> None:
        """Read up to *count* records of each ring."""
        for ring in self.world.rings:
            start = self.positions[ring.uuid]
            records = ring.records(start, min(start + count, len(ring.times_ns)))
            self.positions[ring.uuid] += len(records)
            self.history.add(
                ring.uuid,
                ring.ids(records["series"]),
                records["seq"],
                records["time_ns"].copy(),
                records["value"],
            )

    def commit(self) -> None:
        """Make a checkpoint, as the process does beside everything else that is in it."""
        for ring, position in self.positions.items():
            before = self.world.checkpoint.get(ring, (0, 0))[1]
            written = self.history.written(ring)
            self.world.checkpoint[ring] = (position, before if written is None else written)
