"""Deliveries of a period, counted: how many ended how, and how long they took.

Read from alerts.db without the messages themselves, which may be many and long; nothing heavy is
imported.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from notifier.delivery import DELIVERED


@dataclass(frozen=True, slots=True)
class Tally:
    """What one plugin was given in a period.

    ``states`` counts deliveries by state, ``retried`` those that took more than one attempt.
    ``took_s`` has, ascending, the seconds from the decision to tell to the other side's reply.
    """

    plugin: str
    states: dict[str, int]
    retried: int
    took_s: list[float]


def tallies(db: sqlite3.Connection, start_ns: int, end_ns: int) -> Iterator[Tally]:
    """One for each plugin with deliveries that were written in [start, end), by name."""
    found: dict[str, Tally] = {}
    for plugin, state, attempt, created_ns, finished_ns in db.execute(
        "SELECT plugin, state, attempt, created_ns, finished_ns FROM deliveries"
        " WHERE created_ns >= ? AND created_ns < ? ORDER BY plugin",
        (start_ns, end_ns),
    ):
        tally = found.setdefault(plugin, Tally(plugin, {}, 0, []))
        tally.states[state] = tally.states.get(state, 0) + 1
        if state == DELIVERED and finished_ns is not None:
            tally.took_s.append((finished_ns - created_ns) / 1e9)
        if attempt > 1:
            found[plugin] = Tally(plugin, tally.states, tally.retried + 1, tally.took_s)
    for tally in found.values():
        tally.took_s.sort()
        yield tally
