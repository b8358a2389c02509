"""Rules on windows: evaluated at whole seconds, once the source has passed them.

A second is evaluated if records came in it or a slice left the window, no other can change
anything.  Missing data never resolves: an empty window is unknown.  Sums and counts are 0 without
records, yet that is believed only if the source wrote something else lately.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from aggregator.rules.applied import BASE, MAIN, Applied, Life, Records
from aggregator.rules.emitted import NEVER_NS, Emitted, Identity
from aggregator.rules.levels import FIRST, CompiledLevels
from aggregator.rules.rule import ADDITIVE, Rule
from aggregator.rules.sessions import END_NS, Session
from aggregator.rules.units import NS_PER_S
from aggregator.rules.windows import Window, whole_second

# A source that wrote nothing for so long, or for a shorter window, may be dead.
ALIVE_NS = 60 * NS_PER_S


class WindowRule(Applied):
    """A rule over a sliding window of one series, a group of series, or the ratio of two."""

    def __init__(
        self,
        rule: Rule,
        levels: CompiledLevels,
        identity: Identity,
        session: Session | None,
        out: list[Emitted],
    ) -> None:
        super().__init__(rule, levels, identity, session, out)
        self._windows = {MAIN: Window(rule.window_s, levels.sign, rule.stat)}
        if rule.per:
            self._windows[BASE] = Window(rule.window_s, levels.sign, rule.stat)
        self._window_ns = rule.window_s * NS_PER_S
        self._additive = set(rule.stat) <= ADDITIVE
        self._open_ns = self._wake_ns = NEVER_NS  # seconds that are to be evaluated
        # Too few records are only known to be too few once the window was watched in full.
        self._needs_warmth = self._additive and levels.sign < 0
        self._begun = False  # whether there are records, of either input
        self._first_ns: int | None = None  # the first since it is watched without interruption

    @property
    def due_ns(self) -> int:
        return min(self._next_second_ns, self.episode.due_ns)

    @property
    def _next_second_ns(self) -> int:
        second_ns = min(self._open_ns, self._wake_ns)
        for window in self._windows.values():
            second_ns = min(second_ns, window.leaves_ns)
        return second_ns

    # records

    def feed_one(self, part: int, gid: int, at_ns: int, seq: int, value: float, life: Life) -> None:
        if self.due_ns < at_ns:
            self.run(at_ns, life)
        if self.is_open(at_ns):
            self._windows[part].add_one(at_ns, value)
            self._taken(part, at_ns)

    def feed(self, parts: Mapping[int, Records], life: Life) -> None:
        left = {
            part: inside
            for part, records in parts.items()
            if (inside := self.in_session(records)) is not None
        }
        starts = dict.fromkeys(left, 0)
        while left:
            at_ns = min(int(records.times[starts[part]]) for part, records in left.items())
            self.run(at_ns, life)
            second_ns = whole_second(at_ns)
            for part, records in list(left.items()):
                start, times = starts[part], records.times
                end = len(times)
                if int(times[-1]) > second_ns:
                    end = int(np.searchsorted(times, second_ns, "right"))
                if end > start:
                    window = self._windows[part]
                    buckets = records.buckets[start:end] if window.wants_buckets else None
                    window.add(times[start:end], records.values[start:end], buckets)
                    self._taken(part, int(times[start]))
                starts[part] = end
                if end == len(times):
                    del left[part]

    def _taken(self, part: int, at_ns: int) -> None:
        self._open_ns = whole_second(at_ns)
        if not self._begun:
            self._begun = self.episode.changed = True
        if part == MAIN and self._first_ns is None:
            self._first_ns = at_ns
            self.episode.changed = True

    def wake(self, at_ns: int) -> None:
        if self.stuck and self._wake_ns == NEVER_NS:
            self._wake_ns = whole_second(at_ns)
            self.episode.changed = True

    def interrupted(self) -> None:
        self._first_ns = None

    @property
    def _any(self) -> bool:
        return any(window.count for window in self._windows.values())

    def end(self, at_ns: int, reason: str) -> None:
        super().end(at_ns, reason)
        self._first_ns, self._open_ns, self._wake_ns = None, NEVER_NS, NEVER_NS
        self._begun = self.stuck = False
        for window in self._windows.values():
            window.drop(END_NS)

    # seconds

    def run(self, clock_ns: int, life: Life) -> None:
        while (due_ns := self.due_ns) < clock_ns:
            if self._next_second_ns <= due_ns:  # before the timers of the same instant
                self._evaluate(due_ns, life)
            else:
                self.episode.run(due_ns + 1)

    def _evaluate(self, second_ns: int, life: Life) -> None:
        self._open_ns = self._wake_ns = NEVER_NS
        if self.stuck:
            self.stuck, self.episode.changed = False, True
        for window in self._windows.values():
            window.drop(second_ns)
        if self._begun and not self._any:
            self._begun, self.episode.changed = False, True
        if not self.is_open(second_ns):
            return
        values = self._values(second_ns)
        if values is None:
            return
        codes = {stat: self.levels.code(value) for stat, value in values.items()}
        code = max(codes.values())
        episode = self.episode
        if self._additive and episode.eases(code) and not self._alive(second_ns, life):
            self.stuck = self.episode.changed = True
            if (next_ns := life.next(second_ns)) is not None:
                self.wake(next_ns)
            return
        if code >= FIRST:
            stat = next(stat for stat in self.rule.stat if codes[stat] == code)
        else:
            stat = episode.stat
        episode.take(
            code,
            second_ns,
            second_ns // NS_PER_S,
            values[stat],
            stat=stat,
            values=values,
            worst=self._windows[MAIN].worst() if code >= FIRST else (),
        )

    def _values(self, second_ns: int) -> dict[str, float] | None:
        """The value of each stat, None if they aren't known."""
        main = self._windows[MAIN]
        if not main.count and not self._additive:
            return None
        if self._needs_warmth and not self._warm(second_ns):
            return None
        if self.rule.per:
            values = self._ratios(main, self._windows[BASE])
        elif main.count < self.rule.min_count and (main.count or self.rule.min_count > 1):
            return None
        else:
            values = main.values()
        # a sum of huge values can overflow to what is no number
        return None if values is None or any(v != v for v in values.values()) else values

    def _ratios(self, main: Window, base: Window) -> dict[str, float] | None:
        if not base.count:
            return None
        below = base.values()
        amount = base.total if {"sum", "rate"} & set(self.rule.stat) else base.count
        if amount < self.rule.min_count or not all(below.values()):
            return None
        return {stat: value / below[stat] for stat, value in main.values().items()}

    def _warm(self, second_ns: int) -> bool:
        """Whether the window has been watched in full."""
        first_ns = self._first_ns
        if first_ns is None:
            return False
        if self.session is not None:
            first_ns = max(first_ns, self.session.span(second_ns).start_ns)
        return second_ns - first_ns >= self._window_ns

    def _alive(self, second_ns: int, life: Life) -> bool:
        return life.last(second_ns) > second_ns - min(self._window_ns, ALIVE_NS)

    # checkpoint

    def more_state(self) -> dict[str, Any]:
        if not (self._any or self.stuck or self._needs_warmth):
            return {}
        return {"first_ns": self._first_ns, "stuck": self.stuck, "wake_ns": self._wake_ns}

    def restore_more(self, state: Mapping[str, Any]) -> None:
        self._first_ns = state.get("first_ns")
        self.stuck = state.get("stuck", False)
        self._wake_ns = state.get("wake_ns", NEVER_NS)

    def slices(self) -> dict[str, bytes | None]:
        return {
            f"{part}/{self.rule.window_s}/{number}": blob
            for part, window in self._windows.items()
            for number, blob in window.saved().items()
        }

    def restore_slices(self, blobs: Mapping[str, bytes], clock_ns: int) -> Iterable[str]:
        unused = []
        found: dict[int, dict[int, bytes]] = {}
        for key, blob in blobs.items():
            part, window_s, number = map(int, key.split("/"))
            if part in self._windows and window_s == self.rule.window_s:
                found.setdefault(part, {})[number] = blob
            else:
                unused.append(key)
        for part, slices in found.items():
            window = self._windows[part]
            window.restore(slices)
            self._begun = True
            if window.newest_ns >= clock_ns:  # not evaluated yet
                self._open_ns = window.newest_ns
        return unused

    def touch(self) -> None:
        super().touch()
        for window in self._windows.values():
            window.touch()
