"""Raw records on their way from the rings to the day files.

The loop hands arrays over and goes on; the rest happens on a thread of its own, because a flush may
take a second and the thread that logs alerts must not wait for it.

**Exactly once.** Of each ring records are dealt with strictly in the order of seq: written, or left
out and counted; and every member of a day file says which seqs it covers.  So the files themselves
tell what has been dealt with, and no other state has to agree with them.  Whoever feeds this keeps
three rules:

1. ``add`` gets the records of a ring in order, in each run of the process from its checkpoint on;
2. beside the position the checkpoint keeps what ``written(ring)`` said when it was made;
3. when a ring is attached again, ``catch_up`` reads what lies between the two, before any ``add``.

What was flushed after that checkpoint comes twice then, and is recognised by its seq.  A checkpoint
never waits for a day file, nor a day file for a checkpoint.

**Thinning.** When records come faster than ``budget`` allows, of each series the first record of a
member and every n-th after it are written, n the same for all and just large enough; and every
record at or beyond a level of a rule.  Each line says how many records of its series it stands for
besides itself, so that counts stay exact.  While nothing can be written at all, the newest
``max_raw`` records of each series are what is kept of more than half a million.
"""

import logging
import time
from collections.abc import Callable, Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from aggregator.binning import FloatArray, IntArray
from aggregator.history import dayfile, dayfolder, dayline, handover, member, thinning
from aggregator.history.budget import Budget
from aggregator.history.dayline import Shape
from aggregator.history.daywriter import DayFiles
from aggregator.history.handover import Handover
from aggregator.history.recent import Recent
from aggregator.history.thinning import Levels, Rows
from ringbuf.reader import Batch

_log = logging.getLogger("aggregator")

WRITE_BUDGET = 200_000  # records a second
FLUSH_S = 1.0
FLUSH_RECORDS = 32_768  # that many waiting are flushed at once
MAX_HELD = 1 << 19  # records that couldn't be written
_CHUNK = 1 << 17


class Source(Protocol):
    """What catch_up needs of a ring's reader."""

    position: int

    def poll(self, max_records: int = ...) -> Batch:
        """The next records."""


class History:
    """Raw records in memory and on disk.

    ``add_series``, ``add``, ``catch_up`` and ``written`` are for the loop's thread and never wait
    for the disk; ``step`` is for a thread of its own.

    Attributes:
        levels: the rules' levels by series; replaced as a whole, never changed.
        problem: why nothing can be written; None while it can.
        wake: called when a flush is due early.
        stored, skipped: records written, and left out, by this process.
    """

    def __init__(
        self,
        files: DayFiles,
        max_raw: int,
        *,
        budget: float = WRITE_BUDGET,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._max_raw = max_raw
        self._clock = clock
        self.levels: Levels = {}
        self.problem: str | None = None
        self.wake: Callable[[], None] = lambda: None
        self.stored = 0
        self.skipped = 0
        self._missed = 0  # of the loop
        self._left_out = 0  # of the writing thread
        self._shapes: dict[int, Shape] = {}
        self._numbers: dict[str, int] = {}
        self._rings: list[str] = []
        self._following: dict[str, int] = {}
        self._handover = Handover()
        self._woken = False
        # Of the writing thread alone.
        self._covered: dict[str, int] | None = None
        self._held = thinning.joined([])
        self._recent = Recent(max_raw)
        self._budget = Budget(budget, clock)

    # the loop's side

    def add_series(self, series: int, metric: str, unit: str, labels: Mapping[str, str]) -> None:
        """Say what the series numbered *series* is called, before its first record."""
        self._shapes[series] = dayline.shape(metric, unit, labels)

    def add(
        self,
        ring: str,
        series: IntArray,
        seqs: IntArray,
        wall_ns: IntArray,
        values: FloatArray,
    ) -> None:
        """Take in records of one ring, in order; the arrays, shape (n,), must not change any more.

        Never waits.  A value that isn't finite is left out.
        """
        if not len(seqs):
            return
        if ring not in self._numbers:
            self._rings.append(ring)
            self._numbers[ring] = len(self._rings) - 1
        batch = handover.Batch(self._numbers[ring], series, seqs, wall_ns, values)
        following = self._following.get(ring, 0)
        if seqs[0] < following:  # the ring was let go and attached again at an older position
            batch = batch.since(following)
        self._following[ring] = max(following, int(seqs[-1]) + 1)
        self._handover.put(batch)
        if self._handover.waiting >= FLUSH_RECORDS and not self._woken:
            self._woken = True
            self.wake()

    def written(self, ring: str) -> int | None:
        """The first seq of *ring* that isn't dealt with on disk; None while that isn't known."""
        return None if self._covered is None else self._covered.get(ring)

    def catch_up(
        self,
        ring: str,
        reader: Source,
        until: int,
        series_ids: Callable[[NDArray[np.uint32]], IntArray],
        wall_offset_ns: int,
    ) -> int:
        """Take in what *reader*, which stands at the checkpoint's ``written``, has before *until*,
        where the checkpoint's position is.

        Returns:
            how many of those records the ring doesn't hold any more.
        """
        missing = until - reader.position
        while reader.position < until:
            batch = reader.poll(min(_CHUNK, until - reader.position))
            records = batch.records[batch.records["seq"] < until]
            if len(records):
                series = series_ids(records["series"])
                times_ns = records["time_ns"] + wall_offset_ns
                self.add(ring, series, records["seq"], times_ns, records["value"])
                missing -= len(records)
            elif not batch.lost:
                break  # the ring holds less than it should
        self._missed += missing
        return missing

    def newest(self, series: int) -> list[tuple[int, float]]:
        """The newest records of a series as (wall time in ns, value), oldest first: up to
        ``max_raw`` of those that the writing thread has taken up; fewer with thousands of series.
        """
        return self._recent.of(series)

    @property
    def dropped(self) -> int:
        """Records that never get a line, though thinning would have spared them: they waited for
        too long, or the ring doesn't hold them any more."""
        return self._missed + self._left_out

    @property
    def waiting(self) -> int:
        """Records that are in memory and not in a day file yet."""
        return self._handover.waiting + len(self._held)

    # the writing thread's side

    def step(self) -> float:
        """Write what waits, up to a bound; returns the seconds until there is reason to go on, 0 if
        more waits."""
        self._woken = False
        self._held = thinning.joined([self._held, self._taken()])
        left = self._handover.waiting > 0
        try:
            if self._covered is None:
                self._covered = self._files.covered()
                self._held = self._uncovered(self._held)
            self._flush(self._covered, self._handover.waiting)
        except OSError as error:
            self._say(error)
            self._shrink()
            return FLUSH_S
        if self.problem is not None:
            _log.info("day files can be written again", extra={"component": "monitoring"})
            self.problem = None
        return 0.0 if left or self._handover.waiting >= FLUSH_RECORDS else FLUSH_S

    def _taken(self) -> Rows:
        """What was handed over, without what has been dealt with: all of it while nothing can be
        written, so that it is the newest that stay."""
        rows = self._handover.take(_CHUNK if self.problem is None else handover.MAX_PENDING)
        if not len(rows):
            return rows
        rows = self._uncovered(rows[np.isfinite(rows["value"])])
        self._left_out += int(rows["skipped"].sum())  # while this thread was stuck
        self._recent.put(rows, len(self._shapes))
        return rows

    def _uncovered(self, rows: Rows) -> Rows:
        """Rows that no member covers, as far as that is known."""
        if self._covered is None or not len(rows):
            return rows
        following = np.array([self._covered.get(ring, 0) for ring in self._rings], np.int64)
        fresh: Rows = rows[rows["seq"] >= following[rows["ring"]]]
        return fresh

    def _flush(self, covered: dict[str, int], waiting: int) -> None:
        """Write all that is held.

        Raises:
            OSError: not possible now; what was not written is still held.
        """
        if not len(self._held):
            return
        rows, levels = self._held, self.levels
        nth = self._budget.nth(
            len(rows), waiting, lambda: int(np.count_nonzero(thinning.beyond(rows, levels)))
        )
        while len(self._held):
            piece = self._held[: member.next_rows(self._held, self._shape)]
            kept = piece
            if nth > 1:
                kept = thinning.every_nth(piece, nth, thinning.beyond(piece, levels))
            self._write(piece, kept, covered)
            self._held = self._held[len(piece) :]

    def _write(self, piece: Rows, kept: Rows, covered: dict[str, int]) -> None:
        """Append one member that covers *piece* and holds *kept*.

        Raises:
            OSError: it isn't in the file.
        """
        started_s = self._clock()
        shapes = {series: self._shape(series) for series in np.unique(kept["series"]).tolist()}
        lines = dayline.encode(
            kept["time_ns"],
            kept["value"],
            [shapes[series] for series in kept["series"].tolist()],
            kept["skipped"].tolist(),
        )
        cover = member.cover_of(piece, kept, self._rings)
        day = dayfolder.day_of(int(piece["time_ns"][0]))
        self._files.append(day, dayfile.pack(lines, cover))
        for ring, (_, last) in cover.rings.items():
            covered[ring] = last + 1
        self.stored += cover.records
        self.skipped += cover.skipped
        self._budget.spent(len(kept), self._clock() - started_s)

    def _shrink(self) -> None:
        """Keep the newest of each series when more is held than memory is for."""
        if len(self._held) > MAX_HELD:
            series = len(np.unique(self._held["series"]))
            each = max(1, min(self._max_raw, MAX_HELD // 2 // series))
            before = len(self._held)
            self._held = thinning.newest(self._held, each)
            self._left_out += before - len(self._held)

    def _shape(self, series: int) -> Shape:
        known = self._shapes.get(series)
        return known or dayline.shape("unknown", "", {"series": str(series)})

    def _say(self, error: OSError) -> None:
        problem = f"day files: {error.strerror or error}"
        if self.problem != problem:
            _log.error(
                "records can't be written, retrying",
                extra={"component": "monitoring", "problem": problem},
            )
        self.problem = problem
