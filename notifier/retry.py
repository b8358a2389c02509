"""When to try again: how long a delivery waits after a failed attempt, and how a plugin is doing.

Pure but for the random number that is passed in.  A delivery's own wait grows up to the cap; apart
from it a plugin that is down is tried at least once per probe interval with whatever has waited
longest, so that deliveries go on soon after the other side is back.
"""

from collections.abc import Callable
from dataclasses import dataclass

SECOND_NS = 1_000_000_000
MAX_RETRY_AFTER_S = 3600.0


def backoff_s(attempt: int, base_s: float, cap_s: float, random: Callable[[], float]) -> float:
    """Seconds to wait after failed attempt number *attempt* (from 1): full jitter, doubling.

    Anywhere between a tenth of the base and the smaller of the cap and the doubled base; *random*
    gives numbers in [0, 1).
    """
    ceiling = min(cap_s, base_s * 2.0 ** min(attempt - 1, 64))
    return min(ceiling, max(base_s / 10, random() * ceiling))


@dataclass(slots=True)
class Gate:
    """Whether a plugin may be tried now, and how it has been doing.

    ``failures`` counts failed attempts in a row.  ``failing`` is what operators hear of: more of
    them than fast retries, or a delivery that can never succeed.
    """

    fast_retries: int = 3
    base_s: float = 1.0
    probe_s: float = 5.0
    failures: int = 0
    failing: bool = False
    opens_ns: int = 0
    hold_ns: int = 0
    tried_ns: int = 0
    last_error: str = ""
    last_delivered_ns: int = 0

    @property
    def down(self) -> bool:
        """Whether the newest attempt failed."""
        return self.failures > 0

    def opens_at(self) -> int:
        """When the next attempt may start."""
        return max(self.opens_ns, self.hold_ns)

    def probe_at(self) -> int:
        """When one is due even if every delivery would rather wait longer."""
        return max(self.hold_ns, self.tried_ns + round(self.probe_s * SECOND_NS))

    def succeeded(self, now_ns: int) -> None:
        """A message was delivered."""
        self.accepted(now_ns)
        self.last_delivered_ns = now_ns

    def accepted(self, now_ns: int) -> None:
        """An attempt was accepted, whatever it was about."""
        self.failures, self.failing, self.opens_ns, self.tried_ns = 0, False, 0, now_ns

    def failed(
        self,
        now_ns: int,
        error: str,
        *,
        random: Callable[[], float],
        retry_after_s: float | None = None,
    ) -> None:
        """An attempt may succeed later; *retry_after_s* holds the whole plugin."""
        self.failures += 1
        self.failing = self.failing or self.failures > self.fast_retries
        self.tried_ns, self.last_error = now_ns, error
        wait_s = backoff_s(self.failures, self.base_s, self.probe_s, random)
        self.opens_ns = now_ns + round(wait_s * SECOND_NS)
        if retry_after_s is not None and retry_after_s > 0:
            held_s = min(retry_after_s, MAX_RETRY_AFTER_S)
            self.hold_ns = max(self.hold_ns, now_ns + round(held_s * SECOND_NS))

    def refused(self, now_ns: int, error: str) -> None:
        """A delivery can never succeed; others may, and the other side is there."""
        self.failures, self.failing, self.opens_ns = 0, True, 0
        self.tried_ns, self.last_error = now_ns, error
