"""Save the last records of an engine that died, before its successor overwrites them.

A supervised engine is back within seconds and goes on in the same ring; what led to its death would
be gone soon after.
"""

import gzip
import json
import logging
import os
from pathlib import Path

from aggregator.anchor import Anchor
from notifier.alert import finite, rfc3339
from ringbuf import RingReader
from ringbuf.survey import RingInfo

_log = logging.getLogger("aggregator")

RECORDS = 10_000
KEPT = 20


def save_crash(data_dir: Path, info: RingInfo, anchor: Anchor) -> Path | None:
    """Write ``crashes/ENGINE-TIME.json.gz``: a first line about the engine, then one record a line,
    oldest first.

    The newest 20 are kept.  None, with a log line, if the ring can't be read or the file can't be
    written.
    """
    folder = data_dir / "crashes"
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        path = folder / f"{info.name}-{_stamp(anchor)}.json.gz"
        lines = _lines(data_dir, info, anchor)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "wb") as raw, gzip.open(raw, "wt", encoding="ascii") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        for old in sorted(folder.glob("*.json.gz"), key=lambda each: each.stat().st_mtime)[:-KEPT]:
            old.unlink(missing_ok=True)
    except OSError as error:
        _log.error(
            "last records of a dead engine not saved",
            extra={"component": "monitoring", "engine": info.name, "problem": str(error)},
        )
        return None
    _log.warning(
        "engine died, last records saved",
        extra={"component": "monitoring", "engine": info.name, "file": str(path)},
    )
    return path


def _lines(data_dir: Path, info: RingInfo, anchor: Anchor) -> list[dict[str, object]]:
    position = max(0, info.published - RECORDS)
    with RingReader.attach(info.name, data_dir, uuid=info.uuid, position=position) as reader:
        records = reader.poll(RECORDS).records
        series = reader.series
        head = {
            "engine": info.name,
            "pid": info.pid,
            "ring": info.uuid,
            "published": info.published,
            "last_heartbeat": rfc3339(info.heartbeat_ns + anchor.wall_ns)
            if info.heartbeat_ns
            else None,
            "last_record": rfc3339(info.last_record_ns + anchor.wall_ns)
            if info.last_record_ns
            else None,
        }
        names = {index: (each.name, dict(each.labels), each.unit) for index, each in series.items()}
        unknown = ("overflow", {"engine": info.name}, "")
        lines: list[dict[str, object]] = [head]
        for seq, time_ns, value, index, _ in records.tolist():
            metric, labels, unit = names.get(index, unknown)
            lines.append(
                {
                    "seq": seq,
                    "time": rfc3339(time_ns + anchor.wall_ns),
                    "metric": metric,
                    "labels": labels,
                    "value": finite(value),
                    "unit": unit,
                }
            )
    return lines


def _stamp(anchor: Anchor) -> str:
    import time

    now = rfc3339(time.monotonic_ns() + anchor.wall_ns) or ""
    return now[:19].replace("-", "").replace(":", "") + now[19:23].replace(".", "") + "Z"
