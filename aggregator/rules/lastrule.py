"""Rules on single records: every record that reaches a level counts, whatever batch it came in.

Of many records only the runs are walked in which the alert's state can change; the rest is counted
in bulk.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aggregator.binning import FloatArray, IntArray
from aggregator.rules.applied import MAIN, Applied, Life, Records
from aggregator.rules.episode import OK
from aggregator.rules.levels import BETWEEN, FIRST, worst_of
from aggregator.rules.units import NS_PER_S
from aggregator.rules.windows import worst_in

Codes = NDArray[np.int8]


class LastRule(Applied):
    """A rule with ``stat = "last"`` on one series."""

    def feed_one(self, part: int, gid: int, at_ns: int, seq: int, value: float, life: Life) -> None:
        episode = self.episode
        if episode.due_ns < at_ns:
            episode.run(at_ns)
        code = self.levels.code(value)
        if (code >= FIRST or episode.status != OK) and self.is_open(at_ns):
            worst = worst_of(self.levels.sign, (*episode.evidence, (at_ns, value)))
            episode.take(code, at_ns, seq, value, worst=worst)

    def feed(self, parts: Mapping[int, Records], life: Life) -> None:
        episode, levels = self.episode, self.levels
        records = parts[MAIN]
        values = records.values
        if episode.status == OK and not episode.expected.lines:
            worst = values.max() if levels.sign > 0 else -values.min()
            if worst < levels.bounds[0]:  # the usual case: nothing to see
                return
        inside = self.in_session(records)
        if inside is None:
            return
        codes = self._codes(inside.values)
        if self.rule.for_s and episode.status == OK and not episode.expected.lines:
            first = self._first_lasting(inside.times, codes)
            inside, codes = inside.pick(slice(first, None)), codes[first:]
        self._walk(inside, codes)

    def _first_lasting(self, times: IntArray, codes: Codes) -> int:
        """Where the first stretch at a level begins that lasts for the rule's ``for``.

        A pending alert that comes to nothing leaves no trace: those before need no walking.
        """
        bad = np.concatenate(([False], codes >= FIRST, [False]))
        starts = np.flatnonzero(bad[1:] & ~bad[:-1])
        ends = np.flatnonzero(bad[:-1] & ~bad[1:])
        open_ended = ends == len(codes)
        until_ns = times[np.minimum(ends, len(codes) - 1)]
        lasts = open_ended | (until_ns > times[starts] + round(self.rule.for_s * NS_PER_S))
        lasting = starts[lasts]
        return int(lasting[0]) if len(lasting) else len(codes)

    def _codes(self, values: FloatArray) -> Codes:
        """:meth:`CompiledLevels.code` of each value."""
        levels = self.levels
        turned = values if levels.sign > 0 else -values
        codes = (turned >= levels.bounds[0]).astype(np.int8) * np.int8(FIRST)
        for bound in levels.bounds[1:]:
            codes += turned >= bound
        if levels.clear is not None:
            codes[(turned > levels.clear) & (codes == 0)] = BETWEEN
        return codes

    def _walk(self, records: Records, codes: Codes) -> None:
        episode, times = self.episode, records.times
        ends = [*(np.flatnonzero(codes[1:] != codes[:-1]) + 1).tolist(), len(codes)]
        start = run = 0
        while start < len(codes):
            at_ns = int(times[start])
            if episode.due_ns < at_ns:
                episode.run(at_ns)
            if at_ns <= episode.skip_ns:
                start = int(np.searchsorted(times, episode.skip_ns, "right"))
                continue
            while ends[run] <= start:
                run += 1
            code = int(codes[start])
            held_ns = episode.held_until_ns(at_ns)
            if held_ns and code <= episode.code:
                end = self._take_held(records, codes, start, held_ns)
            elif episode.turns(code):
                end = start + 1
                self._take(records, code, start, end)
            else:
                end = self._until_due(times, ends[run])
                self._take(records, code, start, end)
            start = end

    def _until_due(self, times: IntArray, end: int) -> int:
        """*end*, or the first record that comes after what is due next."""
        due_ns = self.episode.due_ns
        if due_ns < int(times[end - 1]):
            return int(np.searchsorted(times, due_ns, "right"))
        return end

    def _take(self, records: Records, code: int, start: int, end: int) -> None:
        episode = self.episode
        if code < FIRST and episode.status == OK:
            return
        worst = self._worst(records, slice(start, end)) if code >= FIRST else ()
        episode.take(
            code,
            int(records.times[start]),
            int(records.seqs[start]),
            float(records.values[end - 1]),
            count=end - start,
            worst=worst,
        )

    def _take_held(self, records: Records, codes: Codes, start: int, held_ns: int) -> int:
        """Take what comes while the alert is held for trembling; the end of it."""
        episode = self.episode
        end = int(np.searchsorted(records.times, held_ns, "left"))
        end = self._until_due(records.times, end)
        rises = np.flatnonzero(codes[start:end] > episode.code)
        if len(rises):
            end = start + int(rises[0])
        bad = np.flatnonzero(codes[start:end] >= FIRST) + start
        worst = self._worst(records, bad) if len(bad) else ()
        value = float(records.values[end - 1])
        episode.take_held(int(codes[end - 1]), value, len(bad), worst, held_ns)
        return end

    def _worst(self, records: Records, which: Any) -> tuple[tuple[int, float], ...]:
        times, values = records.times[which], records.values[which]
        return worst_in(self.levels.sign, times, values, self.episode.evidence)
