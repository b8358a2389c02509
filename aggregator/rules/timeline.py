"""A source's own time: its clock, and what is due on its series.

A source is a ring, or the aggregator itself.  No source waits for another: the clock of each moves
with its own records and its own watermark alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from aggregator.binning import IntArray
from aggregator.rules.applied import Applied, Life
from aggregator.rules.emitted import NEVER_NS

# The source of the metrics that the aggregator samples itself.  It is alive as long as anyone asks.
SERVICE = "service"


@dataclass(slots=True)
class Source:
    name: str
    clock_ns: int = 0
    last_ns: int = 0  # time of its last record
    last_seq: int = -1
    due_ns: int = NEVER_NS  # nothing is due before
    applied: dict[str, Applied] = field(default_factory=dict)
    stuck: dict[str, Applied] = field(default_factory=dict)
    changed: bool = False

    def life(self, times: Sequence[int] | IntArray = ()) -> Life:
        """When it wrote, as far as is known."""
        return Life(times, self.last_ns, always=self.name == SERVICE)

    def planned(self, applied: Applied) -> None:
        """Take note of when *applied* is due."""
        self.due_ns = min(self.due_ns, applied.due_ns)
        if applied.stuck:
            self.stuck[applied.identity.fingerprint] = applied

    def run(self, clock_ns: int, life: Life) -> None:
        """Time has passed: do what is due before *clock_ns* on all its series."""
        if clock_ns > self.clock_ns:
            self.clock_ns = clock_ns
            self.changed = True
        if self.due_ns >= clock_ns:
            return
        self.due_ns = NEVER_NS
        for applied in self.applied.values():
            if applied.due_ns < clock_ns:
                applied.run(clock_ns, life)
            self.planned(applied)

    def wake(self, at_ns: int) -> None:
        """It wrote something."""
        for applied in self.stuck.values():
            applied.wake(at_ns)
            self.due_ns = min(self.due_ns, applied.due_ns)
        self.stuck.clear()
