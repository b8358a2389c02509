"""Rules on silence: no record of a series, or of any series of a group, for some time.

Silence counts from the last record, from the session's opening, from the time at which the ``when``
metric became non-zero, and from the first record after an interruption, whichever is latest; a
series that never wrote isn't missed.  It is noticed at whole seconds and over with the next record.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from aggregator.rules.applied import GATE, MAIN, Applied, Life, Records
from aggregator.rules.emitted import NEVER_NS, Emitted, Identity
from aggregator.rules.episode import OK
from aggregator.rules.levels import CLEAR, FIRST, CompiledLevels
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import BEGINNING_NS, END_NS, Session, Span
from aggregator.rules.units import NS_PER_S
from aggregator.rules.windows import whole_second

_ALWAYS = Span(True, BEGINNING_NS, END_NS)
# How many openings to look ahead for one that is long enough for the silence.
_OPENINGS = 8


class AbsentRule(Applied):
    """A rule with ``stat = "absent"``; its value is the length of the silence in seconds."""

    def __init__(
        self,
        rule: Rule,
        levels: CompiledLevels,
        identity: Identity,
        session: Session | None,
        out: list[Emitted],
    ) -> None:
        super().__init__(rule, levels, identity, session, out)
        self._bounds_ns = [round(bound * NS_PER_S) for bound in levels.bounds]
        self._since_ns: int | None = None
        self._gates: dict[int, bool] = {}
        self._next_ns = NEVER_NS
        self._changed = False

    @property
    def due_ns(self) -> int:
        return min(self._next_ns, self.episode.due_ns)

    def feed_one(self, part: int, gid: int, at_ns: int, seq: int, value: float, life: Life) -> None:
        self.run(at_ns, life)
        if part == GATE:
            self._gate(gid, value != 0.0, at_ns)
        else:
            self._heard(at_ns, seq)

    def feed(self, parts: Mapping[int, Records], life: Life) -> None:
        heard = parts.get(MAIN)
        turns = [] if (gates := parts.get(GATE)) is None else self._gate_turns(gates)
        start = 0
        for seq, at_ns, gid, is_open in turns:
            if heard is not None:
                end = int(np.searchsorted(heard.seqs, seq))
                self._heard_many(heard, start, end, life)
                start = end
            self.run(at_ns, life)
            self._gate(gid, is_open, at_ns)
        if heard is not None:
            self._heard_many(heard, start, len(heard.times), life)

    def _gate_turns(self, gates: Records) -> list[tuple[int, int, int, bool]]:
        """Where a gate opens or closes, in order of the records: (seq, time, gid, open)."""
        turns = []
        for gid in np.unique(gates.gids).tolist():
            one = gates.pick(gates.gids == gid)
            is_open = one.values != 0.0
            changes = np.flatnonzero(is_open[1:] != is_open[:-1]) + 1
            for i in (0, *changes.tolist()):
                turns.append((int(one.seqs[i]), int(one.times[i]), gid, bool(is_open[i])))
        return sorted(turns)

    def _heard_many(self, heard: Records, start: int, end: int, life: Life) -> None:
        times = heard.times[start:end]
        # Only after such a gap can anything have become due between two records.
        gaps = (np.flatnonzero(np.diff(times) >= self._bounds_ns[0]) + 1).tolist()
        first = 0
        while first < len(times):
            at_ns = int(times[first])
            self.run(at_ns, life)
            self._heard(at_ns, int(heard.seqs[start + first]))
            if self.episode.expected.lines or self.episode.status != OK:
                first += 1
                continue
            last = next((gap for gap in gaps if gap > first), len(times))
            self._heard(int(times[last - 1]), int(heard.seqs[start + last - 1]))
            first = last

    def _heard(self, at_ns: int, seq: int) -> None:
        if self.episode.status != OK and self._since_ns is not None:
            silent_s = (at_ns - self._since_ns) / NS_PER_S
            self.episode.take(CLEAR, at_ns, seq, silent_s)
        self.stuck = False
        self._since_ns = at_ns
        self._changed = True
        self._plan()

    def _gate(self, gid: int, is_open: bool, at_ns: int) -> None:
        was_open = self._is_gate_open
        if self._gates.get(gid) == is_open:
            return
        self._gates[gid] = is_open
        self._changed = True
        if self._is_gate_open and not was_open and self._since_ns is not None:
            self._since_ns = at_ns
        self._plan(at_ns)

    @property
    def _is_gate_open(self) -> bool:
        return not self._gates or any(self._gates.values())

    def interrupted(self) -> None:
        if self._since_ns is not None:
            self.stuck = self._changed = True
            self._next_ns = NEVER_NS

    def wake(self, at_ns: int) -> None:
        if self.stuck:  # this is the first record after an interruption
            self.stuck = False
            self._since_ns = at_ns
            self._changed = True
            self._plan()

    def end(self, at_ns: int, reason: str) -> None:
        super().end(at_ns, reason)
        self._since_ns, self._next_ns = None, NEVER_NS
        self._gates.clear()
        self.stuck, self._changed = False, True

    # silence

    def run(self, clock_ns: int, life: Life) -> None:
        while (due_ns := self.due_ns) < clock_ns:
            if self._next_ns <= due_ns:
                self._notice(due_ns)
            else:
                self.episode.run(due_ns + 1)
                self._plan(due_ns + 1)

    def _notice(self, second_ns: int) -> None:
        silent_s = (second_ns - self._counts_from(second_ns)) / NS_PER_S
        code = self.levels.code(silent_s)
        if code >= FIRST:
            self.episode.take(code, second_ns, second_ns // NS_PER_S, silent_s)
        self._plan(second_ns + 1)

    def _counts_from(self, at_ns: int) -> int:
        since_ns = self._since_ns or 0
        if self.session is None:
            return since_ns
        return max(since_ns, self.session.span(at_ns).start_ns)

    def _plan(self, from_ns: int = BEGINNING_NS) -> None:
        """Find the first whole second, not before *from_ns*, at which silence reaches a level."""
        reached = 0 if self.episode.status == OK else self.episode.code - FIRST + 1
        if (
            self._since_ns is None
            or self.stuck
            or reached == len(self._bounds_ns)
            or not self._is_gate_open
        ):
            self._next_ns = NEVER_NS
            return
        since_ns, bound_ns = self._since_ns, self._bounds_ns[reached]
        earliest_ns = whole_second(from_ns)
        for _ in range(_OPENINGS):
            span = _ALWAYS if self.session is None else self.session.span(since_ns)
            second_ns = max(whole_second(since_ns + bound_ns), earliest_ns)
            if span.is_open and second_ns < span.end_ns:
                self._next_ns = second_ns
                return
            since_ns = span.end_ns
            if since_ns == END_NS:
                break
        self._next_ns = NEVER_NS

    # checkpoint

    @property
    def changed(self) -> bool:
        return self._changed or self.episode.changed

    def more_state(self) -> dict[str, Any]:
        self._changed = False
        if self._since_ns is None and not self._gates:
            return {}
        return {
            "since_ns": self._since_ns,
            "next_ns": self._next_ns,
            "stuck": self.stuck,
            "gates": list(self._gates.items()),
        }

    def restore_more(self, state: Mapping[str, Any]) -> None:
        self._since_ns = state.get("since_ns")
        self._next_ns = state.get("next_ns", NEVER_NS)
        self.stuck = state.get("stuck", False)
        self._gates = dict(state.get("gates", ()))
