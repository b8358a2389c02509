"""What the aggregator knows of the pipeline itself: engines, disk, artifacts, deliveries.

Pure decisions and small readings, once a second.  They enter the rules as samples of internal
metrics, so that a lapsed heartbeat is fired, resolved and delivered like any other alert.
"""

import contextlib
import os
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from notifier import ledger
from ringbuf.survey import RingInfo

# An engine's state in `status` and in the rule on its heartbeat.
ALIVE, SILENT, DEAD, STOPPED = "alive", "silent", "dead", "stopped"


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of an internal metric."""

    metric: str
    labels: dict[str, str]
    value: float
    unit: str = ""
    note: str = ""


def engine_state(info: RingInfo, now_ns: int, lapse_ns: int) -> tuple[str, str]:
    """The state of an engine and, unless it is well, why.

    Args:
        info: its ring as surveyed.
        now_ns: CLOCK_MONOTONIC of this boot.
        lapse_ns: how long without record or heartbeat is silence.
    """
    if info.problem is not None and info.alive:
        return ALIVE, ""  # just being opened; one that stays unreadable is Engines' business
    if info.clean_end:
        return STOPPED, ""
    if not info.alive:
        return DEAD, f"dead: engine {info.name} (pid {info.pid}) ended without close()"
    newest = max(info.heartbeat_ns or 0, info.last_record_ns or 0)
    age_ns = now_ns - newest
    if age_ns > lapse_ns:
        seconds = age_ns // 1_000_000_000
        return SILENT, f"silent: engine {info.name} (pid {info.pid}) wrote nothing for {seconds} s"
    return ALIVE, ""


def disk_samples(folders: Sequence[Path]) -> Iterator[Sample]:
    """Use of the file systems that hold *folders*, in percent; one sample a file system."""
    seen = set()
    for folder in folders:
        try:
            status = os.statvfs(folder)
            device = folder.stat().st_dev
        except OSError:
            continue  # a folder that vanished shows up as trouble of those who write there
        usable = status.f_blocks - status.f_bfree + status.f_bavail
        if device in seen or usable <= 0:
            continue
        seen.add(device)
        used = 100.0 * (usable - status.f_bavail) / usable
        yield Sample("disk_used_pct", {"path": str(folder)}, used, "%")


def artifact_samples(paths: Sequence[str], now_s: float) -> Iterator[Sample]:
    """Hours since each of *paths* changed; a missing one is told as a year old."""
    for path in paths:
        try:
            hours = (now_s - Path(path).stat().st_mtime) / 3600
            note = f"{path} is {hours:.1f} h old"
        except OSError as error:
            hours, note = 8760.0, f"{path}: {error.strerror}"
        yield Sample("artifact_age_hours", {"path": path}, hours, "h", note)


def delivery_samples(alerts_db: Path) -> Iterator[Sample]:
    """Whether each plugin keeps failing, and how many lines the notifier missed in the alert log,
    as it last reported it.
    """
    try:
        with contextlib.closing(ledger.open_readonly(alerts_db)) as db:
            report = ledger.health(db)
    except (ledger.LedgerError, sqlite3.Error):
        return  # no notifier yet, or one that is just starting
    for plugin in report.get("plugins", ()):
        name = str(plugin["plugin"])
        note = f"plugin {name}: {plugin['last_error'] or 'deliveries fail'}"
        yield Sample("delivery_failing", {"plugin": name}, float(plugin["failing"]), "", note)
    missing = report.get("missing")
    if missing is not None:
        note = f", the newest are {missing['newest']}" if missing["newest"] else ""
        yield Sample("alert_lines_missing", {}, float(missing["lines"]), "", note)


def death_samples(deaths: Sequence[tuple[str, int | None]]) -> Iterator[Sample]:
    """One sample for each end of a process of ours, given as (name, exit code)."""
    for process, code in deaths:
        how = f"signal {-code}" if code is not None and code < 0 else f"exit code {code}"
        yield Sample("pipeline_restarts", {"process": process}, 1.0, "", f"({how})")
