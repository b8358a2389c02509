"""Day files for tests of what reads them."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from aggregator.history import dayfile, dayfolder, dayline
from aggregator.history.dayfile import Cover
from aggregator.history.dayline import Record

NS = 1_000_000_000


def record(
    at_s: float,
    value: float,
    metric: str = "m",
    labels: Mapping[str, str] | None = None,
    unit: str = "ms",
    skipped: int = 0,
) -> Record:
    """One raw record."""
    return Record(round(at_s * NS), metric, dict(labels or {}), value, unit, skipped)


def write_days(archive: Path, records: Iterable[Record], per_member: int = 7) -> None:
    """Write records to the open files of their days, in their order, a few a member."""
    archive.mkdir(parents=True, exist_ok=True)
    waiting: dict[str, list[Record]] = {}
    for each in records:
        day = dayfolder.day_of(each.time_ns)
        waiting.setdefault(day, []).append(each)
        if len(waiting[day]) >= per_member:
            _append(archive, day, waiting.pop(day))
    for day, rest in waiting.items():
        _append(archive, day, rest)


def _append(archive: Path, day: str, records: list[Record]) -> None:
    times = [each.time_ns for each in records]
    lines = dayline.encode(
        np.array(times, np.int64),
        np.array([each.value for each in records], np.float64),
        [dayline.shape(each.metric, each.unit, each.labels) for each in records],
        [each.skipped for each in records],
    )
    skipped = sum(each.skipped for each in records)
    cover = Cover({"ring": (0, 1)}, len(records), skipped, min(times), max(times))
    with (archive / dayfolder.name_of(day, dayfolder.OPEN)).open("ab") as file:
        file.write(dayfile.pack(lines, cover))
