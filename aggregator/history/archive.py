"""The archive's housekeeping: close days, let old ones go, make room on a full disk.

Everything goes by the date in a file's name, never by its time stamps, and in an order in which a
crash after any step leaves what the next run expects.  A file that can't be read, moved or deleted,
or isn't ours, stops nothing: it stands in the report.  The day that is still open is never deleted.
"""

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aggregator.history import dayfolder
from aggregator.history.dayfolder import DAY_NS, OPEN, UNFINISHED, Entry
from aggregator.history.daywriter import DayFiles
from aggregator.interval import DAY_S, NS_PER_S
from notifier.alert import rfc3339

_log = logging.getLogger("aggregator")

HOURLY_DAYS = 365
# Records of a day may be on their way a little longer than it lasts.
_GRACE_NS = 600 * NS_PER_S
_SHOWN = 20  # names of each kind in a report
_HOUR_S = 3600.0
_WATCH_S = 60.0

Usage = Callable[[Path], tuple[int, int]]
Expire = Callable[[int, int], int]


@dataclass(slots=True)
class Report:
    """What one run found and did.

    Attributes:
        at_ns: when, wall time.
        closed: days that became closed, with their records.
        expired: names of files that were older than the limit.
        evicted: names of files that had to go because the disk was nearly full.
        damaged: days of which some members could not be read back; the originals are kept.
        foreign: names in the folder that aren't ours.
        failed: file or step -> why it could not be dealt with; the next run tries again.
        rollups_expired: rows.
        used_pct: of the disk, after the run.
    """

    at_ns: int
    closed: dict[str, int] = field(default_factory=dict)
    expired: list[str] = field(default_factory=list)
    evicted: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    rollups_expired: int = 0
    used_pct: float | None = None

    def row(self) -> dict[str, Any]:
        """The report for the health record: bounded lists, with their true lengths beside them."""
        lists = {
            "closed": list(self.closed),
            "expired": self.expired,
            "evicted": self.evicted,
            "damaged": self.damaged,
            "foreign": self.foreign,
            "failed": [f"{name}: {why}" for name, why in self.failed.items()],
        }
        return {
            "at": rfc3339(self.at_ns),
            "used_pct": self.used_pct,
            "rollups_expired": self.rollups_expired,
            **{name: found[:_SHOWN] for name, found in lists.items()},
            "counts": {name: len(found) for name, found in lists.items()},
        }


class Archive:
    """Runs the housekeeping of one folder of day files.

    Args:
        files: their writer.
        keep_days: day files and base rollups of the last so many days stay, besides today's.
        interval_hours: how often it runs.
        wall_ns: the wall clock.
        expiry_ns: the clock that decides what is old; give one that a step of the wall clock into
            the future doesn't move, or a wrong date for a minute deletes everything.
        expire_rollups: deletes base and hourly rollups that ended before two times in seconds.
        ceiling_pct: use of the disk at which the oldest day files go, today's never.

    Attributes:
        last: the newest report of a run.
        evicted: day files deleted to make room, by this process.
    """

    def __init__(
        self,
        files: DayFiles,
        keep_days: int,
        interval_hours: float,
        *,
        wall_ns: Callable[[], int] = time.time_ns,
        expiry_ns: Callable[[], int] | None = None,
        expire_rollups: Expire | None = None,
        ceiling_pct: float = 95.0,
        usage: Usage | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._files = files
        self._keep_days = keep_days
        self._interval_s = interval_hours * _HOUR_S
        self._wall_ns = wall_ns
        self._expiry_ns = expiry_ns or wall_ns
        self._expire_rollups = expire_rollups
        self._ceiling_pct = ceiling_pct
        self._usage = usage or disk_usage
        self._clock = clock
        self._due_s = clock()
        self.last: Report | None = None
        self.evicted = 0

    def step(self) -> float:
        """Run if it is time to, and make room if need be; seconds until it should be called again.

        For a thread of its own: reading a day back takes as long as it takes.
        """
        now_s = self._clock()
        if now_s >= self._due_s:
            self._due_s = now_s + self._interval_s
            self.last = self.run()
        else:
            self.make_room()
        return _WATCH_S

    def run(self) -> Report:
        """Close days, expire, make room."""
        report = Report(self._wall_ns())
        ours = self._listed(report)
        for entry in ours:
            if entry.suffix == OPEN and entry.day < dayfolder.day_of(report.at_ns - _GRACE_NS):
                self._close(entry, report)
        self._expire(report)
        self._relieve(report)
        self._say(report)
        return report

    def make_room(self) -> Report:
        """Delete the oldest day files if the disk is nearly full, as few as that takes."""
        report = Report(self._wall_ns())
        self._relieve(report)
        if report.evicted:
            self._say(report)
        return report

    def _listed(self, report: Report) -> list[Entry]:
        try:
            ours, report.foreign = dayfolder.entries(self._files.directory)
        except OSError as error:
            report.failed[str(self._files.directory)] = _words(error)
            return []
        return ours

    def _close(self, entry: Entry, report: Report) -> None:
        try:
            verified = self._files.close_day(entry.day)
        except OSError as error:
            report.failed[entry.path.name] = _words(error)
            return
        if verified.damaged:
            report.damaged.append(entry.day)
        if not entry.path.exists() and verified.good:
            report.closed[entry.day] = verified.records

    def _expire(self, report: Report) -> None:
        today_s = self._expiry_ns() // DAY_NS * DAY_S
        oldest_s = today_s - self._keep_days * DAY_S
        oldest = dayfolder.day_of(oldest_s * NS_PER_S)
        for entry in self._listed(report):
            if entry.suffix == UNFINISHED:
                self._delete(entry, report, [])
            elif entry.day < oldest:
                self._delete(entry, report, report.expired)
        if self._expire_rollups is not None:
            try:
                report.rollups_expired = self._expire_rollups(
                    oldest_s, min(oldest_s, today_s - HOURLY_DAYS * DAY_S)
                )
            except OSError as error:
                report.failed["rollups"] = _words(error)

    def _relieve(self, report: Report) -> None:
        try:
            used, usable = self._usage(self._files.directory)
        except OSError:
            return  # no folder yet, or no disk: whoever writes there says so
        excess = used - int(usable * self._ceiling_pct / 100)
        if excess > 0:
            today = dayfolder.day_of(report.at_ns)
            for entry in self._listed(report):
                if excess <= 0:
                    break
                if entry.day < today:
                    excess -= self._delete(entry, report, report.evicted)
            self.evicted += len(report.evicted)
            try:
                used, usable = self._usage(self._files.directory)
            except OSError:
                return
        report.used_pct = round(100.0 * used / usable, 2) if usable else None

    def _delete(self, entry: Entry, report: Report, gone: list[str]) -> int:
        """Delete a file; the bytes that this frees."""
        try:
            freed = self._files.delete(entry)
        except FileNotFoundError:
            return 0
        except OSError as error:
            report.failed[entry.path.name] = _words(error)
            return 0
        gone.append(entry.path.name)
        return freed

    def _say(self, report: Report) -> None:
        troubled = report.failed or report.damaged or report.evicted
        extra = {
            "component": "monitoring",
            "closed": len(report.closed),
            "expired": len(report.expired),
            "evicted": len(report.evicted),
            "damaged": len(report.damaged),
            "foreign": len(report.foreign),
            "failed": len(report.failed),
        }
        if troubled:
            extra["problem"] = "; ".join(f"{n}: {why}" for n, why in report.failed.items())[:500]
        _log.log(logging.WARNING if troubled else logging.INFO, "archive looked after", extra=extra)


def disk_usage(directory: Path) -> tuple[int, int]:
    """Bytes used and usable on the disk of *directory*; root's reserve counts as neither.

    Raises:
        OSError: there is no such directory.
    """
    status = os.statvfs(directory)
    usable = status.f_blocks - status.f_bfree + status.f_bavail
    return (usable - status.f_bavail) * status.f_frsize, usable * status.f_frsize


def _words(error: OSError) -> str:
    return error.strerror or str(error)
