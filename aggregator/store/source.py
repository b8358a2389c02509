"""What the rows of an answer come from: the store and, where it lacks some, the day files."""

import sqlite3
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aggregator.interval import HOUR_S
from aggregator.store import fetch, gaps
from aggregator.store.fetch import Settled, Wanted
from aggregator.store.gaps import Gap

if TYPE_CHECKING:
    from aggregator.store.dayrows import DayRows, Reader


@dataclass(frozen=True, slots=True)
class Source:
    """The store and the day files; these count in *ranges* alone."""

    db: sqlite3.Connection
    known: Settled
    wanted: Wanted
    days: "DayRows | None"
    ranges: list[Gap]

    def reader(self) -> "AbstractContextManager[Reader | None]":
        """Of both together; None where the store alone answers."""
        if self.days is None or not self.ranges:
            return nullcontext()
        return self.days.reader(self.wanted, self.ranges)


def ranges(known: Settled, days: "DayRows | None", start_s: int, end_s: int) -> list[Gap]:
    """Where in [start_s, end_s) day files may have more than the store: sorted, disjoint, grown to
    the intervals that are kept."""
    if days is None or not known.gaps or start_s >= end_s:
        return []
    longest_s = HOUR_S if known.mixed else known.base_s
    found = gaps.within(known.gaps, longest_s, days.spans(), start_s, end_s)
    return gaps.joined(fetch.outward(*ends, known) for ends in found)


def oldest_s(db: sqlite3.Connection, ranges: list[Gap], newest_s: int) -> int:
    """Where rows can begin, so that nobody walks through empty years; *newest_s* without any."""
    raw_s = min((start_s for start_s, _ in ranges), default=newest_s)
    return min(raw_s, fetch.oldest_s(db) or raw_s)
