"""A rule at work on one series: what all kinds of rules have in common.

The records of a source come in time order, one by one or many at once, and both give the same
transitions.  Whatever is due before a record runs before it is taken; ``run`` does the same when
time passes without records.
"""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from aggregator.binning import FloatArray, IntArray, bucket_numbers
from aggregator.rules.emitted import Emitted, Identity
from aggregator.rules.episode import Episode
from aggregator.rules.levels import CompiledLevels
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from notifier.alert import Transition

# Inputs of a rule: its own series, the denominator of a ratio, the metric named by ``when``.
MAIN, BASE, GATE = 0, 1, 2


class Records:
    """Records of one input in time order, shape (n,), n >= 1, picked from a batch.

    ``times`` (int64) and ``values`` (float64) are contiguous; what only some rules ask for is
    picked when they do.
    """

    def __init__(
        self,
        times: IntArray,
        values: FloatArray,
        places: IntArray,
        batch_seqs: IntArray,
        batch_gids: IntArray,
        batch_buckets: IntArray | None,
    ) -> None:
        """Args:
        places: shape (n,), where in the batch, shape (m,), each record is.
        batch_buckets: the bucket numbers of all values; None: nobody has them.
        """
        self.times = times
        self.values = values
        self._places = places
        self._batch = batch_seqs, batch_gids, batch_buckets

    @cached_property
    def seqs(self) -> IntArray:
        """Shape (n,), int64."""
        return self._batch[0][self._places].astype(np.int64, copy=False)

    @cached_property
    def gids(self) -> IntArray:
        """Shape (n,), int64, ids of series."""
        return self._batch[1][self._places]

    @cached_property
    def buckets(self) -> IntArray:
        """Shape (n,), int64, the values' bucket numbers."""
        known = self._batch[2]
        return bucket_numbers(self.values) if known is None else known[self._places]

    def pick(self, which: Any) -> "Records":
        """Some of them, by mask, slice or indices."""
        return Records(self.times[which], self.values[which], self._places[which], *self._batch)


class Life:
    """When a source wrote anything at all, in any series.

    Args:
        times: of the records at hand, ascending.
        before_ns: time of its last record before those.
        always: the source needs no proof of life: the aggregator itself.
    """

    def __init__(self, times: Sequence[int] | IntArray, before_ns: int, *, always: bool) -> None:
        self._times = times
        self._before_ns = before_ns
        self._always = always

    def last(self, at_ns: int) -> int:
        """Time of the last record at or before *at_ns*."""
        if self._always:
            return at_ns
        found = bisect_right(self._times, at_ns)
        return int(self._times[found - 1]) if found else self._before_ns

    def next(self, at_ns: int) -> int | None:
        """Time of the first record after *at_ns* that is at hand."""
        found = bisect_right(self._times, at_ns)
        return int(self._times[found]) if found < len(self._times) else None


class Applied(ABC):
    """One rule on one series, or on one group of series.

    ``due_ns`` is the next time at which something happens without a record.  ``stuck`` is set while
    it waits for any sign of life of its source.
    """

    def __init__(
        self,
        rule: Rule,
        levels: CompiledLevels,
        identity: Identity,
        session: Session | None,
        out: list[Emitted],
    ) -> None:
        self.rule = rule
        self.levels = levels
        self.identity = identity
        self.session = session
        self.episode = Episode(rule, levels, identity, session, out)
        self.stuck = False
        self.floor_ns = 0  # earlier times are taken as this: an earlier source had passed them

    @property
    def due_ns(self) -> int:
        """The next time at which something happens by itself."""
        return self.episode.due_ns

    @abstractmethod
    def feed_one(self, part: int, gid: int, at_ns: int, seq: int, value: float, life: Life) -> None:
        """Take one record of the input *part*."""

    @abstractmethod
    def feed(self, parts: Mapping[int, Records], life: Life) -> None:
        """Take many records, by input."""

    def run(self, clock_ns: int, life: Life) -> None:
        """Do what is due before *clock_ns*."""
        self.episode.run(clock_ns)

    def wake(self, at_ns: int) -> None:  # noqa: B027 (most kinds have nothing to do)
        """Its source gave a sign of life at *at_ns*."""

    def interrupted(self) -> None:  # noqa: B027 (most kinds have nothing to do)
        """The source's records before the next one are incomplete, or it was stopped in between."""

    def end(self, at_ns: int, reason: str) -> None:
        """Resolve what fires and forget the records: the series won't go on."""
        self.episode.end(at_ns, reason)

    def expect(self, line: Transition) -> None:
        """The log has this transition and the checkpoint hasn't."""
        self.episode.expect(line)

    def is_open(self, at_ns: int) -> bool:
        """Whether the rule's session, if it has one, is open."""
        return self.session is None or self.session.is_open(at_ns)

    def in_session(self, records: Records) -> Records | None:
        """Those of *records* that fall into the rule's session."""
        if self.session is None:
            return records
        times = records.times
        span = self.session.span(int(times[0]))
        if int(times[-1]) < span.end_ns:
            return records if span.is_open else None
        inside = np.zeros(len(times), dtype=np.bool_)
        start = 0
        while start < len(times):
            span = self.session.span(int(times[start]))
            end = int(np.searchsorted(times, span.end_ns, "left"))
            inside[start:end] = span.is_open
            start = end
        return records.pick(inside) if inside.any() else None

    # checkpoint

    @property
    def changed(self) -> bool:
        """Whether the checkpoint must have its state again."""
        return self.episode.changed

    def state(self) -> dict[str, Any] | None:
        """Its state as plain data, None if there is nothing to remember."""
        self.episode.changed = False
        episode, more = self.episode.state(), self.more_state()
        return None if episode is None and not more else {"episode": episode, **more}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` described, as far as the rule is still of that kind."""
        if state["episode"] is not None:
            self.episode.restore(state["episode"])
        self.restore_more(state)

    def more_state(self) -> dict[str, Any]:
        """What it remembers beside its episode."""
        return {}

    def restore_more(self, state: Mapping[str, Any]) -> None:  # noqa: B027 (the same)
        """Take back :meth:`more_state`; keys are missing if the rule was of another kind."""

    def slices(self) -> dict[str, bytes | None]:
        """Parts of windows that changed since the last call, by keys of its own."""
        return {}

    def restore_slices(self, blobs: Mapping[str, bytes], clock_ns: int) -> Iterable[str]:
        """Become what :meth:`slices` described; everything before *clock_ns* had been evaluated.

        Returns the keys of those that are of no use, because the rule was changed.
        """
        return blobs

    def touch(self) -> None:
        """Let everything count as changed."""
        self.episode.changed = True
