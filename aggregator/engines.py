"""What each engine is doing, once a second: its state, its rate, and what the rules should know."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aggregator.anchor import Anchor
from aggregator.health import DEAD, SILENT, Sample, engine_state
from aggregator.rings import Ring
from notifier.alert import rfc3339
from ringbuf.survey import RingInfo, marks

_SECOND_NS = 1_000_000_000
# How long a ring may take to be opened before it counts as unreadable.
_OPENING_NS = 5 * _SECOND_NS


@dataclass(slots=True)
class _Seen:
    """An engine as the last look found it."""

    state: str
    at_ns: int
    published: int
    overflowed: int
    crashes: int


class Engines:
    """All engines of a data directory, as looks at their rings show them."""

    def __init__(self, data_dir: Path, lapse_ns: int) -> None:
        self._data_dir = data_dir
        self._lapse_ns = lapse_ns
        self._seen: dict[str, _Seen] = {}
        self._unreadable: dict[str, int] = {}

    def look(
        self, info: RingInfo, ring: Ring | None, now_ns: int, anchor: Anchor
    ) -> tuple[dict[str, Any], list[Sample], bool]:
        """One engine now.

        Args:
            info: its ring as surveyed.
            ring: the same ring as it is read; None if it isn't.
            now_ns: CLOCK_MONOTONIC.
            anchor: dates the newest record.

        Returns:
            Its row for ``status``, samples for the rules, and whether it died since the last look.
        """
        state, note = engine_state(info, now_ns, self._lapse_ns)
        if info.problem is None:
            self._unreadable.pop(info.name, None)
        elif now_ns - self._unreadable.setdefault(info.name, now_ns) > _OPENING_NS:
            state = SILENT if info.alive else DEAD
            note = f"{state}: the ring of engine {info.name} can't be read: {info.problem}"
        before = self._seen.get(info.name)
        down = float(state in (DEAD, SILENT))
        samples = [Sample("engine_down", {"engine": info.name}, down, "", note)]
        if before is not None and info.overflowed > before.overflowed:
            samples.append(_overflow(info, info.overflowed - before.overflowed))
        self._seen[info.name] = _Seen(state, now_ns, info.published, info.overflowed, info.crashes)
        died = before is not None and before.state != DEAD and state == DEAD
        if before is not None and before.state != DEAD and info.crashes > before.crashes:
            # It died and was back between two looks: people hear of it all the same.
            note = f"dead: engine {info.name} ended without close() and is back (pid {info.pid})"
            samples.insert(0, Sample("engine_down", {"engine": info.name}, 1.0, "", note))
            died = True
        return _row(info, ring, state, _rate(info, before, now_ns), anchor), samples, died

    def unwatched(self) -> Iterator[Sample]:
        """Engines that run without a ring, as the marks that they left tell."""
        for mark in marks(self._data_dir):
            note = f"missing: engine {mark.engine} (pid {mark.pid}) is not watched: {mark.problem}"
            labels = {"engine": mark.engine, "pid": str(mark.pid)}
            yield Sample("engine_down", labels, float(mark.pid_alive), "", note)


def _overflow(info: RingInfo, more: int) -> Sample:
    labels = {"engine": info.name, "cause": "series_table_full"}
    note = f"{more} series of {info.name} found no room, their records count as 'overflow'"
    return Sample("records_lost", labels, more, "", note)


def _rate(info: RingInfo, before: _Seen | None, now_ns: int) -> float:
    """Records a second since the last look."""
    if before is None or now_ns <= before.at_ns or info.published < before.published:
        return 0.0
    return (info.published - before.published) * _SECOND_NS / (now_ns - before.at_ns)


def _row(
    info: RingInfo, ring: Ring | None, state: str, rate: float, anchor: Anchor
) -> dict[str, Any]:
    newest_ns = info.last_record_ns
    return {
        "engine": info.name,
        "pid": info.pid,
        "state": state,
        "rate": round(rate, 1),
        "last_record_at": rfc3339(newest_ns + anchor.wall_ns) if newest_ns else None,
        "written": info.published,
        "read": ring.reader.position - ring.lost if ring else None,
        "lost": ring.lost if ring else None,
        "alerts_lost": ring.texts_lost if ring else None,
        "rejected": info.rejected,
        "overflowed": info.overflowed,
        "fill": round(min(1.0, ring.reader.unread / info.capacity), 4) if ring else None,
        "capacity": info.capacity,
    }
