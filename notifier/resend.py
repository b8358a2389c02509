"""Tell plugins again what is so, for receivers that forget, such as an Alertmanager.

Each period a round begins: all alerts that fire or were resolved in the last five minutes, as the
plugin has last accepted them, in parts of bounded size.  A part is an attempt of its own and waits
until nothing new wants to leave.  Nothing new is ever told this way: what the other side hasn't
heard yet is a delivery.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from notifier.alert import Severity
from notifier.book import Book, Entry
from notifier.lanes import Lane, shown
from notifier.lifecycle import FIRING, RESOLVED
from notifier.plugin import RESEND, Message
from notifier.retry import SECOND_NS
from notifier.worker import Outcome, Result

PART = 500  # alerts in one attempt
RESOLVED_NS = 300 * SECOND_NS  # how long an end is told again
_SHORTEST_S = 1.0
_STATES = (FIRING, RESOLVED)


@dataclass(slots=True)
class Round:
    """Where one plugin is; ``resent`` counts alerts told again, ``failed`` attempts that failed."""

    every_ns: int
    begins_ns: int = 0
    waiting: "deque[str]" = field(default_factory=deque)
    number: int = 0
    under_way: int = 0
    resent: int = 0
    failed: int = 0


class Resends:
    """The rounds of all plugins that want any; *every_s* by name of the plugin."""

    def __init__(self, book: Book, every_s: Mapping[str, float]) -> None:
        self._book = book
        self._rounds = {
            name: Round(round(max(_SHORTEST_S, seconds) * SECOND_NS))
            for name, seconds in every_s.items()
        }

    def start(self, now_ns: int) -> None:
        """Begin with the alerts of an earlier process: nobody knows how long none ran."""
        for one in self._rounds.values():
            self._begin(one, now_ns)

    def due_ns(self, lane: Lane) -> int | None:
        """When ``next`` may have something; None if only an event changes that."""
        one = self._rounds.get(lane.settings.name)
        if one is None or _deliveries_first(lane):
            return None
        return max(0 if one.waiting else one.begins_ns, lane.gate.opens_at())

    def next(self, lane: Lane, now_ns: int) -> Message | None:
        """The next part for *lane*, if it is time; asked when no delivery leaves now."""
        plugin = lane.settings.name
        one = self._rounds.get(plugin)
        if one is None or _deliveries_first(lane) or now_ns < lane.gate.opens_at():
            return None
        if not one.waiting and now_ns >= one.begins_ns:
            self._begin(one, now_ns)
        rows: list[dict[str, Any]] = []
        while one.waiting and len(rows) < PART:
            entry = self._book.entries.get(one.waiting.popleft())
            row = _accepted(entry, plugin, now_ns) if entry is not None else None
            if row is not None:
                rows.append(row)
        if not rows:
            return None
        one.number += 1
        one.under_way = len(rows)
        return Message(RESEND, rows[0], delivery="", attempt=one.number, members=tuple(rows))

    def settle(self, lane: Lane, result: Result, now_ns: int, noise: Callable[[], float]) -> None:
        """Note how a part ended, which also shows how the other side is.

        One that was refused stops no other; when the other side is not there, the rest of the round
        is left out.
        """
        one = self._rounds[result.plugin]
        error = shown(result.error)
        if result.outcome == Outcome.DELIVERED:
            one.resent += one.under_way
            lane.back(now_ns)
            lane.gate.accepted(now_ns)
        elif result.outcome == Outcome.REFUSED:
            one.failed += 1
            lane.gate.refused(now_ns, error)
        else:
            one.failed += 1
            one.waiting.clear()
            one.begins_ns = now_ns + one.every_ns
            lane.gate.failed(now_ns, error, random=noise, retry_after_s=result.retry_after_s)
        one.under_way = 0

    def _begin(self, one: Round, now_ns: int) -> None:
        one.begins_ns = now_ns + one.every_ns
        one.waiting.extend(self._book.entries)

    def under_way(self, plugin: str) -> bool:
        """Whether a part is."""
        one = self._rounds.get(plugin)
        return one is not None and one.under_way > 0

    def report(self, plugin: str) -> dict[str, int]:
        """The counters as JSON values."""
        one = self._rounds.get(plugin)
        return {} if one is None else {"resent": one.resent, "resends_failed": one.failed}


def periods(plugins: Iterable[tuple[str, float | None]]) -> dict[str, float]:
    """*every_s* for ``Resends``, of (name, wish) pairs."""
    return {name: seconds for name, seconds in plugins if seconds is not None}


def _deliveries_first(lane: Lane) -> bool:
    """Whether the other side is away and a delivery is there to find out when it is back."""
    return lane.gate.down and len(lane.outbox) > 0


def _accepted(entry: Entry, plugin: str, now_ns: int) -> dict[str, Any] | None:
    """The alert's row as *plugin* has accepted it; None where that isn't how the alert stands."""
    alert, told = entry.life.alert, entry.told.get(plugin)
    if told is None or told.failed or plugin in entry.pending or told.state not in _STATES:
        return None
    # An end that people aren't told of is one all the same: without it the receiver's alert stays.
    if told.state != alert.state and not (alert.state == RESOLVED and entry.life.quiet):
        return None
    if alert.state == RESOLVED and now_ns - (alert.resolved_ns or 0) > RESOLVED_NS:
        return None
    return alert.row() | {"severity": Severity(told.severity).word}
