"""Evaluate rules: records and passing time in, transitions of alerts out.

A pure function of what it is given: no clock, no file.  Time is rule time, nanoseconds that never
go backward.  Each source (a ring) has its own clock, which is that of its newest record or of its
watermark.  Batching changes nothing: one by one or a million at once, the same transitions with the
same ids come out.  A restart changes nothing either: ``dirty`` and ``load`` carry the state over,
``fold`` what the alert log knows beyond it.
"""

import math
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.binning import FloatArray, IntArray
from aggregator.rules.applied import Applied, Life, Records
from aggregator.rules.emitted import Emitted, in_order
from aggregator.rules.rule import Rule
from aggregator.rules.rulestate import RuleState
from aggregator.rules.sessions import Session
from aggregator.rules.timeline import SERVICE, Source
from notifier.alert import Transition

__all__ = ["SERVICE", "Evaluator", "Rule"]

# Batches up to this size go record by record: array operations cost more than they save.
_FEW = 256
# Up to so many series at a time, comparing finds their records faster than sorting.
_FEW_SERIES = 12


class Evaluator:
    """All rules at work.  Every method that returns transitions returns them in order of time."""

    def __init__(
        self, rules: Sequence[Rule], sessions: Iterable[Session], installation: uuid.UUID
    ) -> None:
        self._installation = installation
        self._out: list[Emitted] = []
        self._series: dict[int, tuple[str, str, Mapping[str, str]]] = {}
        self._start(rules, sessions)

    def _start(self, rules: Sequence[Rule], sessions: Iterable[Session]) -> None:
        self._state = RuleState(rules, sessions, self._installation, self._out)
        # Where the records of a series go: its slot by its id, and back.  Slot 0 is nowhere; the
        # last place stays 0 for ids beyond.
        self._slots: NDArray[Any] = np.zeros(1, np.uint16)
        self._slotted: list[int] = [-1]

    @property
    def problems(self) -> list[str]:
        """Rules that can't be applied to a series which they fit, a line each."""
        return self._state.roster.problems

    @property
    def dropped_texts(self) -> int:
        """Free-text alerts that were ended early because too many were firing."""
        return self._state.texts.dropped

    def add_series(self, gid: int, metric: str, unit: str, labels: Mapping[str, str]) -> None:
        """Make a series known before its records come; again is harmless."""
        if gid in self._series:
            return
        self._series[gid] = (metric, unit, labels)
        self._state.roster.add(gid, metric, unit, labels)
        for fed in self._state.roster.newly_fed:
            self._slot(fed)
        self._state.roster.newly_fed.clear()
        self._state.settle()

    def _slot(self, gid: int) -> None:
        size, kind = len(self._slots), self._slots.dtype
        if gid >= size - 1:
            size = max(2 * size, gid + 2)
        if len(self._slotted) > np.iinfo(np.uint16).max:
            kind = np.dtype(np.uint32)
        if size != len(self._slots) or kind != self._slots.dtype:
            slots = np.zeros(size, kind)
            slots[: len(self._slots)] = self._slots
            self._slots = slots
        self._slots[gid] = len(self._slotted)
        self._slotted.append(gid)

    # records and time

    def observe(
        self,
        source: str,
        gids: IntArray,
        seqs: IntArray,
        times_ns: IntArray,
        values: FloatArray,
        buckets: IntArray | None = None,
    ) -> list[Transition]:
        """Take records of one ring.

        Args:
            source: the ring's uuid.
            gids, seqs, times_ns, values: shape (n,), in order of seq, which rises from call to
                call.  Records up to a seq that was taken before are ignored, so are values that
                aren't finite; a time before the source's clock counts as that.
            buckets: shape (n,), the values' bucket numbers, from who has them; all are finite then.
        """
        origin = self._state.source(source)
        if source != SERVICE and len(seqs) and int(seqs[0]) <= origin.last_seq:
            fresh = np.asarray(seqs).astype(np.int64) > origin.last_seq
            gids, seqs, times_ns, values = gids[fresh], seqs[fresh], times_ns[fresh], values[fresh]
            buckets = None
        if buckets is None and not (finite := np.isfinite(values)).all():
            gids, seqs, times_ns = gids[finite], seqs[finite], times_ns[finite]
            values = values[finite]
        if not len(gids):
            return []
        times = np.ascontiguousarray(times_ns, np.int64)
        if int(times[0]) < origin.clock_ns or (times[1:] < times[:-1]).any():
            times = np.maximum(np.maximum.accumulate(times), origin.clock_ns)
        origin.last_seq = int(seqs[-1])
        self._take(origin, gids, seqs, times, values, buckets)
        return self._leave()

    def _take(
        self,
        origin: Source,
        gids: IntArray,
        seqs: IntArray,
        times: IntArray,
        values: FloatArray,
        buckets: IntArray | None = None,
    ) -> None:
        life = origin.life(times)
        if origin.stuck:
            origin.wake(int(times[0]))
        if len(gids) <= _FEW:
            self._take_few(origin, gids, seqs, times, values, life)
        else:
            self._take_many(origin, gids, seqs, times, values, buckets, life)
        clock_ns = int(times[-1])
        origin.changed = True
        origin.run(clock_ns, life)
        origin.last_ns = clock_ns

    def _take_few(
        self,
        origin: Source,
        gids: IntArray,
        seqs: IntArray,
        times: IntArray,
        values: FloatArray,
        life: Life,
    ) -> None:
        feeds = self._state.roster.feeds
        records = zip(gids.tolist(), seqs.tolist(), times.tolist(), values.tolist(), strict=True)
        for gid, seq, at_ns, value in records:
            for applied, part in feeds.get(gid, ()):
                self._state.bind(applied, origin)
                applied.feed_one(part, gid, max(at_ns, applied.floor_ns), seq, value, life)
                origin.planned(applied)

    def _take_many(
        self,
        origin: Source,
        gids: IntArray,
        seqs: IntArray,
        times: IntArray,
        values: FloatArray,
        buckets: IntArray | None,
        life: Life,
    ) -> None:
        pieces: dict[Applied, dict[int, list[IntArray]]] = {}
        slots = self._slots.take(gids, mode="clip")
        for gid, where in self._places(slots):
            for applied, part in self._state.roster.feeds[gid]:
                pieces.setdefault(applied, {}).setdefault(part, []).append(where)
        for applied, parts in pieces.items():
            self._state.bind(applied, origin)
            records = {}
            for part, found in parts.items():
                where = found[0] if len(found) == 1 else np.sort(np.concatenate(found))
                at_ns = times[where]
                if int(at_ns[0]) < applied.floor_ns:
                    at_ns = np.maximum(at_ns, applied.floor_ns)
                records[part] = Records(at_ns, values[where], where, seqs, gids, buckets)
            applied.feed(records, life)
            origin.planned(applied)

    def _places(self, slots: NDArray[Any]) -> Iterator[tuple[int, IntArray]]:
        """For each series with rules: its id and the indices of its records."""
        counts = np.bincount(slots, minlength=len(self._slotted))
        present = (np.flatnonzero(counts[1:]) + 1).tolist()
        if len(present) <= _FEW_SERIES:
            for slot in present:
                yield self._slotted[slot], np.flatnonzero(slots == slot)
            return
        order = np.argsort(slots, kind="stable")
        ends = np.cumsum(counts)
        for slot in present:
            yield self._slotted[slot], order[ends[slot - 1] : ends[slot]]

    def _leave(self) -> list[Transition]:
        return in_order(self._out) if self._out else []

    def due_ns(self, source: str) -> int:
        """When something is due on a series of *source*, if it records nothing until then."""
        return self._state.source(source).due_ns

    def advance(self, source: str, watermark_ns: int) -> list[Transition]:
        """Let time pass: every record of *source* before *watermark_ns* has been observed.

        A ring that its engine closed isn't advanced any more: it has nothing to say and isn't
        silent.
        """
        origin = self._state.source(source)
        origin.run(watermark_ns, origin.life())
        self._state.texts.run(source, watermark_ns)
        if source == SERVICE:
            self._state.texts.run_orphans(watermark_ns)
        return self._leave()

    def sample(self, gid: int, time_ns: int, value: float, note: str = "") -> list[Transition]:
        """Take a value that the aggregator measured itself; *note* goes into its messages."""
        if not math.isfinite(value):
            return []
        origin = self._state.source(SERVICE)
        at_ns = max(time_ns, origin.clock_ns)
        for applied, _ in self._state.roster.feeds.get(gid, ()):
            applied.episode.note = note
        self._take(
            origin,
            np.array([gid], np.int64),
            np.array([at_ns], np.int64),
            np.array([at_ns], np.int64),
            np.array([value], np.float64),
        )
        return self._leave()

    def interrupted(self, source: str) -> None:
        """The source's next record follows a gap, and what wasn't heard in a gap isn't silence.

        To be called when records were lost, and when a ring is resumed that its engine had closed.
        """
        origin = self._state.source(source)
        for applied in origin.applied.values():
            applied.interrupted()
            origin.planned(applied)

    def text(
        self,
        source: str,
        seq: int,
        time_ns: int,
        kind: str,
        rule: str,
        severity: str,
        message: str,
        labels: Mapping[str, str],
    ) -> list[Transition]:
        """Take a free-text alert: *kind* is "emit" or "resolve"."""
        self._state.texts.take(source, seq, time_ns, kind, rule, severity, message, labels)
        return self._leave()

    def active(self) -> list[dict[str, Any]]:
        """What is pending or firing now, a row each."""
        rows = (applied.episode.row() for applied in self._state.roster.applied.values())
        return [*(row for row in rows if row is not None), *self._state.texts.rows()]

    # checkpoint and restart

    def dirty(self) -> dict[str, bytes | None]:
        """What changed since the last call: the store's keys and values, None for what is gone."""
        return self._state.dirty()

    def load(self, values: Mapping[str, bytes]) -> None:
        """Take over what :meth:`dirty` gave, gathered over the calls; before any record."""
        self._state.load(values)

    def fold(self, line: Transition) -> None:
        """Take in a transition that the log has beyond the checkpoint, in the log's order.

        To be called after :meth:`load`.  It isn't derived a second time, and if the records behind
        it are gone its state holds.
        """
        self._state.fold(line)

    # rules and engines that are gone

    def orphans(self) -> list[str]:
        """Names of rules that left a state behind, after :meth:`load` and :meth:`fold`."""
        return self._state.orphans()

    def retire(self, names: Iterable[str], at_ns: int) -> list[Transition]:
        """Resolve what the rules called *names*, which are gone, still had firing."""
        self._state.retire(names, at_ns)
        return self._leave()

    def forget(self, engine: str, at_ns: int) -> list[Transition]:
        """Resolve what an engine has firing: an operator says that it won't come back."""
        self._state.forget(engine, at_ns, "engine retired")
        return self._leave()

    def reload(
        self, rules: Sequence[Rule], sessions: Iterable[Session], at_ns: int
    ) -> list[Transition]:
        """Go on with other rules: alerts of rules that are still there go on, others resolve."""
        values, gone = self._state.handed_over()
        series, self._series = self._series, {}
        self._start(rules, sessions)
        self._state.load(values)
        self._state.touch(gone)
        for gid, (metric, unit, labels) in series.items():
            self.add_series(gid, metric, unit, labels)
        return self.retire(self.orphans(), at_ns)
