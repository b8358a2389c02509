"""`ring dump`: the flight recorder of an engine, alive or dead.

The ring is read as any reader reads it: the engine doesn't notice.  What the aggregator saved of
engines that died is read by its own name, or when the ring itself is gone.
"""

import gzip
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cli import known, place, render, times
from cli.deliveries import count
from cli.problems import Failed, suggestion
from cli.render import Column, Look
from notifier.alert import finite, parse_rfc3339, rfc3339
from ringbuf.survey import RingInfo, survey

_DEFAULT_LAST = 50
_MAX_LAST = 1 << 26
_SUFFIX = ".json.gz"

_COLUMNS = (
    Column("seq", right=True),
    Column("before end", right=True),
    Column("time", whole=True),
    Column("metric"),
    Column("labels"),
    Column("value", right=True),
    Column("unit"),
)


@dataclass(frozen=True)
class Dump:
    """Records of one engine, oldest first, and how it is or ended.

    ``rows`` have seq, time (RFC 3339), metric, labels, value and unit.
    """

    engine: str
    state: str
    heartbeat: str | None
    published: int
    rows: list[dict[str, Any]]


def dump(args: Mapping[str, Any]) -> int:
    """Print the last records of an engine.

    Raises:
        Failed: no such ring, or it can't be read.
    """
    how = render.look(args)
    last = count(args["--last"], "--last", _DEFAULT_LAST, _MAX_LAST)
    where = place.find(args)
    known.require(where)
    found = _find(where.data_dir, args["<engine>"], last)
    if how.json:
        render.json_rows(found.rows)
        return 0
    _show(found, how)
    return 0


def _find(data_dir: Path, word: str, last: int) -> Dump:
    saved = _saved(data_dir)
    if word in saved:
        return _read_saved(saved[word], last)
    rings = {info.name: info for info in survey(data_dir)}
    info = rings.get(word)
    if info is None:
        names = ", ".join([*rings, *saved]) or "none yet"
        raise Failed(f"no ring {word!r} in {data_dir}{suggestion(word, rings)} (rings: {names})")
    stamped = re.compile(re.escape(word) + r"-\d{8}T\d+Z")
    of_engine = [path for name, path in saved.items() if stamped.fullmatch(name)]
    if info.problem is None:
        if of_engine:
            newest = _name(of_engine[-1])
            render.note(f"{word} died before: `tickwatch ring dump {newest}` shows that")
        return _read_ring(data_dir, info, last)
    if not of_engine:
        raise Failed(f"ring {word!r} can't be read: {info.problem}")
    render.note(f"ring {word!r} can't be read ({info.problem}): this was saved when it died")
    return _read_saved(of_engine[-1], last)


def _read_ring(data_dir: Path, info: RingInfo, last: int) -> Dump:
    from ringbuf import RingReader  # brings numpy, which no other command needs
    from ringbuf.errors import RingInvalid, RingMissing

    position = max(0, info.published - min(last, info.capacity - 1))
    try:
        with RingReader.attach(
            info.name, data_dir, uuid=info.uuid, position=position, timeout_s=0
        ) as reader:
            records = reader.poll(last).records.tolist()
            series = dict(reader.series)
    except (RingMissing, RingInvalid) as problem:
        raise Failed(f"ring {info.name!r} can't be read: {problem}") from None
    mono_ns, wall_ns = _clock(info)
    offset_ns = wall_ns - mono_ns
    rows = [
        {
            "seq": seq,
            "time": rfc3339(time_ns + offset_ns),
            "metric": series[index].name,
            "labels": dict(series[index].labels),
            "value": finite(value),
            "unit": series[index].unit,
        }
        for seq, time_ns, value, index, _ in records
    ]
    heartbeat = rfc3339(info.heartbeat_ns + offset_ns) if info.heartbeat_ns else None
    return Dump(info.name, _state(info), heartbeat, info.published, rows)


def _clock(info: RingInfo) -> tuple[int, int]:
    """One moment on both clocks, monotonic and wall, as the engine measured it."""
    if info.anchor is not None:
        return info.anchor.mono_ns, info.anchor.wall_ns
    return info.created_mono_ns, info.created_wall_ns


def _state(info: RingInfo) -> str:
    if info.alive:
        return f"alive, pid {info.pid}"
    return "closed" if info.clean_end else f"died without close(), pid {info.pid}"


def _saved(data_dir: Path) -> dict[str, Path]:
    """What was saved of engines that died, by name, each engine's oldest first."""
    return {_name(path): path for path in sorted((data_dir / "crashes").glob(f"*{_SUFFIX}"))}


def _name(path: Path) -> str:
    return path.name.removesuffix(_SUFFIX)


def _read_saved(path: Path, last: int) -> Dump:
    """What the aggregator saved: a line about the engine, then a record a line."""
    try:
        with gzip.open(path, "rt", encoding="ascii") as file:
            head, *rows = [json.loads(line) for line in file]
    except (OSError, EOFError, ValueError) as error:
        raise Failed(f"{path}: can't be read: {error}") from None
    state = f"died without close(), pid {head.get('pid')}"
    published = int(head.get("published", 0))
    return Dump(str(head["engine"]), state, head.get("last_heartbeat"), published, rows[-last:])


def _show(found: Dump, how: Look) -> None:
    # An engine that records needs no heartbeat: its newest record is a sign of life as well.
    signs = [found.heartbeat, *(row["time"] for row in found.rows[-1:])]
    newest = max((sign for sign in signs if sign), key=parse_rfc3339, default=None)
    life = _at(newest, how) if newest else "none"
    render.line(how, f"{found.engine}: {found.state}")
    render.line(how, f"{found.published:,} records written, last heartbeat or record {life}")
    if not found.rows:
        render.note("no record yet")
        return
    print()
    end_ns = parse_rfc3339(found.rows[-1]["time"])
    render.table(how, _COLUMNS, (_cells(row, end_ns, how) for row in found.rows))


def _cells(row: Mapping[str, Any], end_ns: int, how: Look) -> Sequence[str]:
    before_s = (end_ns - parse_rfc3339(row["time"])) / times.NS
    return [
        str(row["seq"]),
        f"{before_s:,.6f} s",
        _at(row["time"], how),
        row["metric"],
        render.labels(row["labels"]),
        render.number(row["value"]),
        row["unit"],
    ]


def _at(time: str, how: Look) -> str:
    return times.show_ns(parse_rfc3339(time), utc=how.utc, precision="milliseconds")
