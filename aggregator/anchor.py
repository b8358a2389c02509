"""Turn the rings' monotonic time into wall time and into rule time.

Records carry CLOCK_MONOTONIC.  Two offsets are kept: ``wall_ns`` follows the wall clock when
somebody sets it, and dates rollups and what people read; ``steady_ns`` is fixed for a boot of the
machine and drives the rules, so that a window or a ``for`` never moves when the wall clock steps.
The aggregator owns the one anchor of a host.
"""

from dataclasses import dataclass

from ringbuf.clock import take_anchor

# A step below this is left alone: NTP slews the monotonic clock along, so real drift stays far
# below it.
_STEP_NS = 500_000_000


@dataclass(slots=True)
class Anchor:
    """Offsets in ns to add to CLOCK_MONOTONIC."""

    steady_ns: int
    wall_ns: int

    @classmethod
    def measure(cls) -> "Anchor":
        """Both offsets as the clocks stand now."""
        offset = wall_offset_ns()
        return cls(steady_ns=offset, wall_ns=offset)

    def follow(self, offset_ns: int) -> bool:
        """Adopt *offset_ns* for wall time if somebody set the clock; whether that was so."""
        if abs(offset_ns - self.wall_ns) < _STEP_NS:
            return False
        self.wall_ns = offset_ns
        return True

    @property
    def correction_ns(self) -> int:
        """What to add to rule time to get wall time."""
        return self.wall_ns - self.steady_ns


def wall_offset_ns() -> int:
    """Wall clock minus monotonic clock, in ns, as they stand now."""
    reading = take_anchor()
    return reading.wall_ns - reading.mono_ns
