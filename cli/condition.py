"""The condition of everything at one moment: its state, why, and its JSON.

What can't be known is a reason of its own: silence is UNKNOWN, never health.
"""

import time
from dataclasses import dataclass, field
from typing import Any

from cli.place import Place
from notifier.alert import rfc3339

OK, WARNING, CRITICAL, UNKNOWN = "OK", "WARNING", "CRITICAL", "UNKNOWN"
CODES = {OK: 0, WARNING: 1, CRITICAL: 2, UNKNOWN: 3}
SCORES = {OK: 100, WARNING: 50, CRITICAL: 0, UNKNOWN: None}

Row = dict[str, Any]


@dataclass
class Condition:
    """What was found.

    ``blind``: nothing can be known; ``quiet``: nobody writes anything; ``unrolled``: of the last
    hour, day files may have records that are in no rollup.
    """

    where: Place
    at_ns: int = field(default_factory=time.time_ns)
    blind: list[str] = field(default_factory=list)
    critical: list[str] = field(default_factory=list)
    quiet: list[str] = field(default_factory=list)
    warning: list[str] = field(default_factory=list)
    service: Row = field(default_factory=dict)
    engines: list[Row] = field(default_factory=list)
    alerts: Row = field(default_factory=dict)
    deliveries: Row = field(default_factory=dict)
    performance: list[Row] = field(default_factory=list)
    pnl: list[Row] = field(default_factory=list)
    disk: Row = field(default_factory=dict)
    courses: list[list[float | None]] = field(default_factory=list)
    unrolled: bool = False

    @property
    def state(self) -> str:
        """The worst of it; what can't be seen counts before what was seen, except known trouble."""
        if self.blind:
            return UNKNOWN
        if self.critical:
            return CRITICAL
        if self.quiet:
            return UNKNOWN
        return WARNING if self.warning else OK

    @property
    def reasons(self) -> list[str]:
        """Why, the worst first."""
        return [*self.blind, *self.critical, *self.quiet, *self.warning]

    def row(self) -> Row:
        """The contract's JSON, and more beside it."""
        lost = [each["lost"] for each in self.engines if each["lost"] is not None]
        return {
            "state": self.state,
            "score": SCORES[self.state],
            "reasons": self.reasons,
            "engines": self.engines,
            "alerts": self.alerts,
            "deliveries": self.deliveries,
            "performance": self.performance,
            "records_lost": sum(lost) if lost else None,
            "pnl": self.pnl,
            "disk": self.disk,
            "service": self.service,
            "data_dir": str(self.where.data_dir),
            "at": rfc3339(self.at_ns),
        }
