"""What was recorded in a stretch of the past, as batches for an evaluator of rules.

Raw records where the day files have all of them, which the rollups' counts tell; elsewhere records
that stand in for the rollups.  Streaming: memory stays flat however long the range is.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from aggregator.binning import FloatArray, IntArray
from aggregator.history import dayfile, dayfolder
from aggregator.history.dayfolder import CLOSED, DAY_NS, OPEN
from aggregator.history.dayline import Decoder
from aggregator.history.dayreader import Trouble, read_records
from aggregator.store import query
from aggregator.store.dayrows import DayRows
from cli import stand_in
from cli.quiet import Quiet
from cli.stand_in import Shape
from cli.times import NS

Series = tuple[str, str, tuple[tuple[str, str], ...]]  # metric, unit, sorted labels
_BATCH = 8_192
NOBODY = 1 << 40  # the number of records that no rule needs to see
# Records of the last seconds may be in the rollups and not yet in the day file, or the other way.
_LAG_S = 5


@dataclass(frozen=True)
class Stretch:
    """A span of whole seconds, [start, end), and whether its raw records are complete."""

    start_s: int
    end_s: int
    exact: bool
    records: int


@dataclass(frozen=True)
class Batch:
    """Records of one engine in time order, shape (n,) each; *series* are numbers given by Names."""

    source: str
    series: IntArray
    times_ns: IntArray
    values: FloatArray


@dataclass
class Names:
    """Numbers series as they come up; ``shape`` is None for those that no rule watches."""

    watch: Callable[[str, Mapping[str, str]], Shape | None]
    known: list[Series] = field(default_factory=list)
    _numbers: dict[Series, tuple[int, Shape | None]] = field(default_factory=dict)

    def number(self, metric: str, unit: str, labels: Mapping[str, str]) -> tuple[int, Shape | None]:
        """The number of a series, and what is asked of its stand-ins."""
        key = (metric, unit, tuple(sorted(labels.items())))
        found = self._numbers.get(key)
        if found is None:
            found = self._numbers[key] = (len(self.known), self.watch(metric, labels))
            self.known.append(key)
        return found


@dataclass(frozen=True)
class Past:
    """Where history is: the store of rollups, open to read, and the folder of day files."""

    db: sqlite3.Connection
    archive: Path
    is_live: bool
    quiet: Quiet
    names: Names
    trouble: Trouble = field(default_factory=Trouble)

    @property
    def passed_over(self) -> int:
        """Members, lines and files that could not be read so far."""
        trouble = self.trouble
        return trouble.damaged_members + trouble.bad_lines + len(trouble.unreadable)

    def stretches(self, start_s: int, end_s: int) -> list[Stretch]:
        """The range cut into stretches in which something was recorded, oldest first."""
        base_s = query.base_s(self.db)
        raw, thinned = counts(self.archive, start_s, end_s, base_s)
        newest_s = query.newest_s(self.db) or 0
        found: list[Stretch] = []
        for low_s, high_s, recorded in self._rolled_up(start_s, end_s, base_s):
            grid = range(low_s, high_s, base_s)
            kept = sum(raw.pop(at, 0) for at in grid)
            if kept != recorded:
                self.quiet.know_nothing(low_s, high_s)
            lag = recorded * _LAG_S // base_s if self.is_live and high_s >= newest_s else 0
            exact = kept >= recorded - lag and kept > 0 and not thinned.intersection(grid)
            _add(found, Stretch(low_s, high_s, exact, recorded))
        for at in sorted(raw):  # nothing to compare with: rollups are switched off
            self.quiet.know_nothing(at, at + base_s)
            _add(found, Stretch(at, at + base_s, at not in thinned, raw[at]))
        return sorted(found, key=lambda each: each.start_s)

    def _rolled_up(self, start_s: int, end_s: int, base_s: int) -> Iterator[tuple[int, int, int]]:
        """Start, end and number of records of each interval that has any, oldest first."""
        low_s = high_s = recorded = 0
        for row in self._rows(start_s, end_s, base_s):
            begins_s = _start_s(row)
            number, _ = self.names.number(row["metric"], row["unit"], row["labels"])
            self.quiet.see(number, row, begins_s)
            if begins_s >= high_s:
                if recorded:
                    yield low_s, high_s, recorded
                low_s, high_s, recorded = begins_s, 0, 0
            high_s = max(high_s, begins_s + row["interval_seconds"])
            recorded += row["count"]
        if recorded:
            yield low_s, high_s, recorded

    def _rows(self, start_s: int, end_s: int, base_s: int) -> Iterator[dict[str, Any]]:
        days = DayRows(self.archive)  # what it passes over is counted when records are read
        return query.metrics(self.db, interval_s=base_s, start_s=start_s, end_s=end_s, days=days)

    def batches(self, stretch: Stretch) -> Iterator[Batch]:
        """The records of a stretch, or what stands in for them; only after ``stretches``."""
        return self._raw(stretch) if stretch.exact else self._stand_ins(stretch)

    def _raw(self, stretch: Stretch) -> Iterator[Batch]:
        waiting: dict[str, list[tuple[int, int, float]]] = {}
        numbers: dict[tuple[str, str, int], tuple[int, Shape | None]] = {}
        held: list[Mapping[str, str]] = []  # so that no id is given twice
        count = 0
        span = (stretch.start_s * NS, stretch.end_s * NS)
        for record in read_records(self.archive, *span, trouble=self.trouble):
            key = (record.metric, record.unit, id(record.labels))
            if key not in numbers:
                held.append(record.labels)
                found = self.names.number(record.metric, record.unit, record.labels)
                numbers[key] = found if found[1] is not None else (NOBODY, None)
            number, _ = numbers[key]
            # What nobody notices still shows that its engine was alive.
            if number != NOBODY and not self.quiet.is_loud(number, record.time_ns):
                number = NOBODY
            engine = record.labels.get("engine", "")
            waiting.setdefault(engine, []).append((number, record.time_ns, record.value))
            count += 1
            if count >= _BATCH:
                yield from _batches(waiting)
                count = 0
        yield from _batches(waiting)

    def _stand_ins(self, stretch: Stretch) -> Iterator[Batch]:
        """All series of a window together, in order of time."""
        newest_s = query.newest_s(self.db) or stretch.end_s
        parts: dict[str, list[tuple[int, IntArray, FloatArray]]] = {}
        at_s = None
        for row in self._rows(stretch.start_s, stretch.end_s, query.base_s(self.db)):
            if _start_s(row) != at_s:
                yield from _merged(parts)
                at_s = _start_s(row)
            number, shape = self.names.number(row["metric"], row["unit"], row["labels"])
            if shape is None:
                continue
            end_s = min(at_s + row["interval_seconds"], max(newest_s, at_s + 1))
            times, values = stand_in.records(row, at_s, end_s, shape)
            engine = row["labels"].get("engine", "")
            parts.setdefault(engine, []).append((number, times, values))
        yield from _merged(parts)


def counts(directory: Path, start_s: int, end_s: int, base_s: int) -> tuple[Counter[int], set[int]]:
    """Raw records per interval of *base_s*, by its start, and the intervals in which some were
    left out on purpose.

    Members that lie within one interval say what they hold; only the others are inflated.
    """
    found: Counter[int] = Counter()
    thinned: set[int] = set()
    step_ns = base_s * NS
    for entry in dayfolder.entries(directory)[0]:
        begin_ns = dayfolder.start_ns(entry.day)
        if entry.suffix not in (OPEN, CLOSED):
            continue
        if begin_ns >= end_s * NS or begin_ns + DAY_NS <= start_s * NS:
            continue
        try:
            with closing(dayfolder.open_to_read(entry.path)) as file:
                for member in dayfile.members(file):
                    _count(file, member, step_ns, found, thinned)
        except OSError:
            continue  # its records don't count, so rollups stand in for them
    inside = range(start_s - start_s % base_s, end_s)
    return Counter({at: n for at, n in found.items() if at in inside}), thinned


def _count(
    file: Any, member: dayfile.Member, step_ns: int, found: Counter[int], thinned: set[int]
) -> None:
    cover = member.cover
    if cover is not None:
        low, high = cover.first_ns // step_ns, cover.last_ns // step_ns
        if cover.skipped:
            thinned.update(at * step_ns // NS for at in range(low, high + 1))
        if low == high and member.state is dayfile.State.WHOLE:
            found[low * step_ns // NS] += cover.records
            return
    decoder = Decoder()
    try:
        for block in dayfile.lines(file, member):
            for line in block:
                try:
                    record = decoder.decode(line)
                except ValueError:
                    continue
                if record is not None:
                    found[record.time_ns // step_ns * step_ns // NS] += 1
    except dayfile.MemberDamaged:
        return


def _add(found: list[Stretch], more: Stretch) -> None:
    """Append a stretch, or lengthen the last one if it goes on in the same way."""
    last = found[-1] if found else None
    if last is None or last.exact != more.exact or more.start_s != last.end_s:
        found.append(more)
        return
    found[-1] = Stretch(last.start_s, more.end_s, last.exact, last.records + more.records)


def _batches(waiting: dict[str, list[tuple[int, int, float]]]) -> Iterator[Batch]:
    for source, several in waiting.items():
        if several:
            series, times, values = zip(*several, strict=True)
            yield Batch(
                source,
                np.array(series, np.int64),
                np.array(times, np.int64),
                np.array(values, np.float64),
            )
    waiting.clear()


def _merged(parts: dict[str, list[tuple[int, IntArray, FloatArray]]]) -> Iterator[Batch]:
    for source, several in parts.items():
        times = np.concatenate([each[1] for each in several])
        order = np.argsort(times, kind="stable")
        series = np.concatenate([np.full(len(each[1]), each[0]) for each in several])
        values = np.concatenate([each[2] for each in several])
        yield Batch(source, series[order], times[order], values[order])
    parts.clear()


def _start_s(row: Mapping[str, Any]) -> int:
    from cli.rollups import start_of

    return start_of(dict(row))
