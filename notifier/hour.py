"""Counts of the last hour, by the minute: bounded however much happens.

Pure, with the time passed in; times are the notifier's own, which never goes back while it runs.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any

MINUTE_NS = 60_000_000_000
MINUTES = 60


class Hour:
    """What happened in this minute and the 59 before, counted by name."""

    def __init__(self) -> None:
        self._minutes: dict[int, Counter[str]] = {}  # oldest first

    def add(self, now_ns: int, what: str, number: int = 1) -> None:
        """Count *number* of *what*."""
        minute = self._forget(now_ns)
        self._minutes.setdefault(minute, Counter())[what] += number

    def count(self, now_ns: int, what: str) -> int:
        """How many there were."""
        self._forget(now_ns)
        return sum(minute[what] for minute in self._minutes.values())

    def rows(self) -> list[list[Any]]:
        """All of it as JSON values."""
        return [[minute, dict(counts)] for minute, counts in self._minutes.items()]

    def recall(self, rows: Iterable[Any], now_ns: int) -> None:
        """Take up what ``rows`` gave, of an earlier process; what is no such row is left out."""
        for row in rows:
            try:
                minute, counts = row
                if not int(minute) > now_ns // MINUTE_NS:  # of a clock that was set back since
                    self._minutes[int(minute)] = Counter(counts)
            except (TypeError, ValueError):
                continue
        self._minutes = dict(sorted(self._minutes.items()))
        self._forget(now_ns)

    def _forget(self, now_ns: int) -> int:
        minute = now_ns // MINUTE_NS
        while self._minutes and (oldest := next(iter(self._minutes))) <= minute - MINUTES:
            del self._minutes[oldest]
        return minute
