"""Rows of rollups made from the raw records of the day files, for times that the store lacks.

Made by the code that makes the store's own, so that the answers can't differ.  A line that says how
many others it stands for counts for all of them; sums, extremes and quantiles are those of what was
written.  numpy is loaded when the first record is needed, not before.
"""

import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from aggregator.history import dayfolder, dayreader
from aggregator.history.dayline import Decoder, Record
from aggregator.history.dayreader import Trouble, Windows
from aggregator.interval import DAY_S, HOUR_S, NS_PER_S
from aggregator.store import fetch
from aggregator.store.fetch import COUNT, SKIPPED, Row, Settled, Wanted, down, up
from aggregator.store.gaps import Gap, joined, split

if TYPE_CHECKING:
    from aggregator.rollup import RollupBuffer

_BATCH = 8192
_KNOWN = 40_000  # series whose numbers are remembered
_ROWS_AT_ONCE = 10_000
_UNNAMED = 100  # series that the store may not know, when a window is chosen
_FIRST_QUANTILE = 9  # of the columns in tiers.row_of

Series = tuple[str, str, int]


class DayRows:
    """The day files of a folder as a second source of rows, and what they had to leave out.

    Attributes:
        trouble: what could not be read.
        skipped: records that the rows used count, and that thinning had left out.
    """

    def __init__(self, directory: Path, trouble: Trouble | None = None) -> None:
        self.directory = directory
        self.trouble = Trouble() if trouble is None else trouble
        self.skipped = 0
        self._days: list[str] | None = None
        self._newest_s: int | None = None

    @property
    def days(self) -> list[str]:
        """UTC dates of which there is a file, as of the first time somebody asked."""
        if self._days is None:
            try:
                self._days = dayfolder.days(self.directory)
            except OSError as error:
                self.trouble.unreadable[str(self.directory)] = error.strerror or str(error)
                self._days = []
        return self._days

    def spans(self) -> list[Gap]:
        """The times that those dates cover."""
        starts = (dayfolder.start_ns(day) // NS_PER_S for day in self.days)
        return joined((start_s, start_s + DAY_S) for start_s in starts)

    def newest_s(self) -> int | None:
        """The whole second after the newest record, as of the first time somebody asked."""
        if self._newest_s is None and self.days:
            try:
                newest_ns = dayreader.newest_ns(self.directory)
            except OSError as error:
                self.trouble.unreadable[str(self.directory)] = error.strerror or str(error)
                return None
            self._newest_s = None if newest_ns is None else newest_ns // NS_PER_S + 1
        return self._newest_s

    @contextmanager
    def reader(self, wanted: Wanted, ranges: Sequence[Gap]) -> Iterator["Reader"]:
        """Reads rows of the wanted series, window by window, in order of time.

        Args:
            ranges: where the day files count: sorted, disjoint.
        """
        windows = Windows(self.directory, Decoder(wanted.metric, wanted.match), self.trouble)
        try:
            yield Reader(self, wanted, windows, ranges)
        finally:
            windows.close()


class Reader:
    """See DayRows.reader."""

    def __init__(
        self, source: DayRows, wanted: Wanted, windows: Windows, ranges: Sequence[Gap]
    ) -> None:
        self._source = source
        self._wanted = wanted
        self._windows = windows
        self._ranges = ranges
        self._numbers: dict[Series, tuple[int, Mapping[str, str]]] = {}

    def rows(self, start_s: int, end_s: int, interval_s: int) -> list[Row]:
        """Rows of intervals of *interval_s* in [start_s, end_s), which is aligned to it."""
        from aggregator.rollup import RollupBuffer
        from aggregator.store import tiers

        days = [day for day in self._source.days if _touches(day, start_s, end_s)]
        if not days:
            return []
        buffer = RollupBuffer(interval_s)
        records = self._windows.records(days, start_s * NS_PER_S, end_s * NS_PER_S)
        skipped = self._fill(buffer, records, interval_s)
        found: list[Row] = []
        for rollup in buffer.drain():
            left_out = skipped.get((rollup.series, rollup.start_s), 0)
            row = tiers.row_of(rollup)
            found.append(
                (row[0], interval_s, rollup.series, row[1] + left_out, left_out, row[5], row[7],
                 *row[2:5], *row[_FIRST_QUANTILE:])
            )  # fmt: skip
        return found

    def whole(
        self, db: sqlite3.Connection, known: Settled, start_s: int, end_s: int
    ) -> Iterator[Row]:
        """Rows of the finest tier kept in [start_s, end_s), of each series and interval from the
        store or the day files, whichever has more records."""
        for tier, step_s, low_s, high_s in fetch.segments(
            known.base, known.base_s, start_s, end_s, known
        ):
            # Intervals of several lengths can be compared by the hour alone.
            unit_s = max(step_s, HOUR_S) if known.mixed else step_s
            ends = (down(low_s, unit_s), up(high_s, unit_s))
            for (from_s, last_s), is_lacking in split(*ends, unit_s, self._ranges):
                while from_s < last_s:
                    series = max(_UNNAMED, len(self._wanted.series))
                    to_s = min(from_s + unit_s * max(1, _ROWS_AT_ONCE // series), last_s)
                    with fetch.snapshot(db):
                        rows = fetch.rows_between(db, tier, self._wanted, known, from_s, to_s)
                    if is_lacking:
                        rows = fuller(rows, self.rows(from_s, to_s, step_s), unit_s)
                    for row in rows:
                        if low_s <= row[0] < high_s:
                            self._source.skipped += row[SKIPPED]
                            yield row
                    from_s = to_s

    def _fill(
        self, buffer: "RollupBuffer", records: Iterator[Record], interval_s: int
    ) -> dict[tuple[int, int], int]:
        """Put records into *buffer*; returns those left out by (series, start of the interval)."""
        import numpy as np

        skipped: dict[tuple[int, int], int] = {}
        series: list[int] = []
        times_ns: list[int] = []
        values: list[float] = []

        def flush() -> None:
            buffer.add(np.array(series, np.int64), np.array(times_ns, np.int64), np.array(values))
            series.clear()
            times_ns.clear()
            values.clear()

        for record in records:
            number = self._number(record)
            series.append(number)
            times_ns.append(record.time_ns)
            values.append(record.value)
            if record.skipped:
                at_s = record.time_ns // NS_PER_S
                cell = (number, at_s - at_s % interval_s)
                skipped[cell] = skipped.get(cell, 0) + record.skipped
            if len(series) == _BATCH:
                flush()
        flush()
        return skipped

    def _number(self, record: Record) -> int:
        # The decoder hands out one and the same labels for the lines of a series; they are held
        # here, so that no other object gets their id.
        key = (record.metric, record.unit, id(record.labels))
        known = self._numbers.get(key)
        if known is None:
            if len(self._numbers) >= _KNOWN:
                self._numbers.clear()
            number = self._wanted.number(record.metric, record.unit, record.labels)
            known = self._numbers[key] = (number, record.labels)
        return known[0]


def fuller(stored: list[Row], raw: list[Row], unit_s: int) -> list[Row]:
    """Of each series and *unit_s* of time the rows of the side with more records; the store's if
    both have as many."""
    counts: dict[tuple[int, int], int] = {}
    for rows, sign in ((stored, 1), (raw, -1)):
        for row in rows:
            cell = (row[2], row[0] // unit_s)
            counts[cell] = counts.get(cell, 0) + sign * row[COUNT]
    return [
        *(row for row in stored if counts[row[2], row[0] // unit_s] >= 0),
        *(row for row in raw if counts[row[2], row[0] // unit_s] < 0),
    ]


def _touches(day: str, start_s: int, end_s: int) -> bool:
    begin_s = dayfolder.start_ns(day) // NS_PER_S
    return begin_s < end_s and begin_s + DAY_S > start_s
