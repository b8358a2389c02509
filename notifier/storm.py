"""Who leaves next when many want to: a token bucket, and the deliveries of one plugin that wait.

Pure, with the time passed in.  The worst go first, in the order in which they came.  Nothing is
dropped here: what doesn't leave on its own leaves in a digest.
"""

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from itertools import count, islice

from notifier.alert import Severity
from notifier.delivery import Delivery

SECOND_NS = 1_000_000_000


@dataclass(slots=True)
class Bucket:
    """*rate_per_s* messages a second, *burst* of them at once after a quiet time."""

    rate_per_s: float
    burst: int
    tokens: float = -1.0
    at_ns: int = 0

    def level(self, now_ns: int) -> float:
        """Messages that may leave now."""
        if self.tokens < 0:
            return float(self.burst)
        gained = max(0, now_ns - self.at_ns) * self.rate_per_s / SECOND_NS
        return min(float(self.burst), self.tokens + gained)

    def take(self, now_ns: int) -> None:
        """One leaves."""
        self.tokens = max(0.0, self.level(now_ns) - 1.0)
        self.at_ns = now_ns

    def next_ns(self, now_ns: int) -> int:
        """When the next one may leave; *now_ns* if it is now."""
        missing = 1.0 - self.level(now_ns)
        return (
            now_ns if missing <= 1e-9 else now_ns + int(missing / self.rate_per_s * SECOND_NS) + 1
        )


@dataclass(slots=True)
class Outbox:
    """Deliveries of one plugin that are pending and not under way."""

    _ready: dict[Severity, OrderedDict[str, Delivery]] = field(
        default_factory=lambda: {severity: OrderedDict() for severity in Severity}
    )
    _later: list[tuple[int, int, Delivery]] = field(default_factory=list)
    _waiting: dict[str, Delivery] = field(default_factory=dict)
    _order: "count[int]" = field(default_factory=count)

    def __len__(self) -> int:
        return sum(len(group) for group in self._ready.values()) + len(self._waiting)

    def add(self, delivery: Delivery, now_ns: int) -> None:
        """Have *delivery* leave at its ``next_ns``."""
        if delivery.next_ns <= now_ns:
            self._ready[delivery.severity][delivery.id] = delivery
        else:
            self._waiting[delivery.id] = delivery
            heapq.heappush(self._later, (delivery.next_ns, next(self._order), delivery))

    def discard(self, delivery: Delivery) -> None:
        """Have it stay."""
        self._ready[delivery.severity].pop(delivery.id, None)
        self._waiting.pop(delivery.id, None)

    def wake(self, now_ns: int) -> None:
        """Note whose wait is over."""
        while (top := self._top()) is not None and top.next_ns <= now_ns:
            heapq.heappop(self._later)
            del self._waiting[top.id]
            self._ready[top.severity][top.id] = top

    def next_ns(self) -> int | None:
        """When the next wait is over."""
        top = self._top()
        return top.next_ns if top is not None else None

    def release(self, until_ns: int) -> None:
        """Let nobody wait longer than *until_ns*: the other side is back."""
        for delivery in self._waiting.values():
            delivery.next_ns = min(delivery.next_ns, until_ns)
        self._later = [(one.next_ns, next(self._order), one) for one in self._waiting.values()]
        heapq.heapify(self._later)

    def severity(self, now_ns: int, patience_ns: int) -> Severity | None:
        """Whose turn it is: the worst, unless a lesser one has waited out its patience."""
        turn, oldest_ns = None, now_ns - patience_ns
        for severity in sorted(self._ready, reverse=True):
            if not self._ready[severity]:
                continue
            since_ns = next(iter(self._ready[severity].values())).next_ns
            if turn is None or since_ns < oldest_ns:
                turn, oldest_ns = severity, min(since_ns, oldest_ns)
        return turn

    def ready(self, severity: Severity) -> int:
        """How many of *severity* could leave now."""
        return len(self._ready[severity])

    def first(self, severity: Severity, limit: int = 1) -> list[Delivery]:
        """Those of *severity* that came first; they stay until discarded."""
        return list(islice(self._ready[severity].values(), limit))

    def soonest(self) -> Delivery | None:
        """The one whose wait is over first."""
        return self._top()

    def all(self) -> list[Delivery]:
        """Everything that waits."""
        return [*self._ready_all(), *self._waiting.values()]

    def _ready_all(self) -> list[Delivery]:
        return [one for group in self._ready.values() for one in group.values()]

    def _top(self) -> Delivery | None:
        while self._later:
            at_ns, _, delivery = self._later[0]
            if self._waiting.get(delivery.id) is delivery and delivery.next_ns == at_ns:
                return delivery
            heapq.heappop(self._later)
        return None
