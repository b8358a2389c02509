"""What the notifier says of itself, kept in alerts.db for whoever watches it.

The report is written when it changes and with each minute.  How long something lasts is told by the
time since when, so that a report doesn't age.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from notifier.alert import parse_rfc3339, rfc3339
from notifier.book import Book, Now
from notifier.delivery import DEAD, DELIVERED
from notifier.dispatch import ACCEPTED, FAILED, Dispatcher
from notifier.hour import MINUTE_NS, Hour
from notifier.intake import MISSING, Intake
from notifier.keeper import Keeper
from notifier.lanes import Lane
from notifier.plugin import DIGEST
from notifier.retry import SECOND_NS

_log = logging.getLogger("notifier")

PATIENCE_NS = 300 * SECOND_NS  # how long an alert may be undelivered before that is trouble
_HOURS = "hours"


class Report:
    """Makes the report; ``content`` is the newest one."""

    def __init__(self, keeper: Keeper, book: Book, dispatcher: Dispatcher, intake: Intake) -> None:
        self._keeper = keeper
        self._book = book
        self._dispatcher = dispatcher
        self._intake = intake
        self.content: dict[str, Any] = {}

    def recall(self, now_ns: int) -> None:
        """Let counters go on that an earlier process left."""
        rows = self._keeper.health().get("plugins", ())
        self._dispatcher.recall(self._keeper.counts(), rows)
        try:
            hours = json.loads(self._keeper.meta(_HOURS) or "{}")
        except ValueError:
            hours = {}
        for name, hour in self._hours().items():
            hour.recall(hours.get(name, ()), now_ns)

    def write(self, now: Now, problems: Sequence[str], facts: Mapping[str, Any]) -> None:
        """Have the report of this moment in alerts.db with the next transaction."""
        minute = now.ns // MINUTE_NS
        plugins = [self._row(lane, now.ns) for lane in self._dispatcher.lanes.values()]
        oldest = [one["oldest_pending_at"] for one in plugins if one["oldest_pending_at"]]
        content = {
            "plugins": plugins,
            "problems": list(problems),
            "oldest_pending_at": min(oldest, default=None),
            "missing": self._missing(now.ns),
            **facts,
            "minute": minute,
            "conservation": self.content.get("conservation"),
        }
        if minute != self.content.get("minute"):
            content["conservation"] = self._balance()
            hours = {name: hour.rows() for name, hour in self._hours().items()}
            self._book.changes.meta[_HOURS] = _json(hours)
        if content != self.content:
            self.content = content
            self._book.changes.meta["health"] = _json({"at": rfc3339(now.ns)} | content)

    def unwell(self, now_ns: int) -> list[str]:
        """What is wrong here by the newest report, a line each; nothing if all is well."""
        return unwell(self.content, now_ns)

    def _hours(self) -> dict[str, Hour]:
        lanes = {f"plugin/{name}": lane.hour for name, lane in self._dispatcher.lanes.items()}
        return lanes | {"log": self._intake.hour}

    def _balance(self) -> dict[str, Any]:
        balance = self._keeper.conservation()
        if not balance["holds"]:
            _log.critical("deliveries don't add up", extra={"component": "monitoring", **balance})
        return balance

    def _missing(self, now_ns: int) -> dict[str, Any]:
        lines = self._intake.hour.count(now_ns, MISSING)
        return {"lines": lines, "newest": self._intake.newest_gap if lines else None}

    def _row(self, lane: Lane, now_ns: int) -> dict[str, Any]:
        name, gate = lane.settings.name, lane.gate
        waiting = lane.outbox.all() + ([lane.under_way] if lane.under_way else [])
        digests = self._book.digests
        pending = sum(len(digests[one.id].members) if one.kind == DIGEST else 1 for one in waiting)
        accepted, failed = (lane.hour.count(now_ns, what) for what in (ACCEPTED, FAILED))
        return {
            "plugin": name,
            "failing": gate.failing,
            "last_error": gate.last_error,
            "failures": gate.failures,
            "delivered": lane.made[DELIVERED],
            "failed": lane.made[FAILED],
            "dead": lane.made[DEAD],
            "hour": {
                "accepted": accepted,
                "failed": failed,
                "rate": round(accepted / (accepted + failed), 4) if accepted + failed else None,
            },
            "pending": pending,
            "oldest_pending_at": rfc3339(min((one.created_ns for one in waiting), default=None)),
            "last_delivered_at": rfc3339(gate.last_delivered_ns or None),
            "held_until": rfc3339(gate.hold_ns) if gate.hold_ns > now_ns else None,
            "stuck": self._dispatcher.is_stuck(lane),
            **self._dispatcher.resends.report(name),
        }


def unwell(report: Mapping[str, Any], now_ns: int) -> list[str]:
    """What is wrong according to *report*, a line each without secrets."""
    found = []
    for plugin in report.get("plugins", ()):
        name = plugin["plugin"]
        if plugin["failing"]:
            found.append(
                f"plugin {name} keeps failing: {plugin['last_error'] or 'no reason known'}"
            )
        elif plugin["stuck"]:
            found.append(f"plugin {name} is stuck")
        since = plugin["oldest_pending_at"]
        if since is not None and now_ns - parse_rfc3339(since) > PATIENCE_NS:
            found.append(f"plugin {name}: an alert waits since {since}")
    balance = report.get("conservation")
    if balance is not None and not balance["holds"]:
        found.append("deliveries don't add up")
    return found + [str(problem) for problem in report.get("problems", ())]


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))
