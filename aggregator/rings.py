"""The rings that the aggregator reads: found by themselves, resumed at the checkpoint, forgotten
when they are gone.

A ring is known by its uuid, never by its name: after a reboot or a change of capacity the same
engine has another ring, and the position in the old one means nothing there.
"""

import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import msgpack
import numpy as np
from numpy.typing import NDArray

from ringbuf import RingInvalid, RingMissing, RingReader, TextReader, descriptor
from ringbuf.descriptor import Pair
from ringbuf.reader import Batch
from ringbuf.survey import RingInfo
from ringbuf.texts import TextBatch

_log = logging.getLogger("aggregator")

CHECKPOINT_PREFIX = "ring/"

Intern = Callable[[str, str, Mapping[str, str]], int]


class Ring:
    """One ring being read: its readers and the series ids it maps to."""

    def __init__(
        self, engine: str, pair: Pair, data_dir: Path, checkpoint: bytes | None, intern: Intern
    ) -> None:
        """Attach where *checkpoint* left off.

        Raises:
            RingMissing, RingInvalid, OSError: it can't be attached (now).
        """
        state = msgpack.unpackb(checkpoint) if checkpoint else {}
        self.engine = engine
        self.uuid = pair.uuid
        self.lost = int(state.get("lost", 0))
        self.texts_lost = int(state.get("texts_lost", 0))
        # How far it was read, and how far it was in the day files, when the checkpoint was made.
        self.resumed_at = int(state.get("position", 0))
        self.written = int(state.get("written", self.resumed_at))
        # Whether its engine closed it, as far as the last look around saw.
        self.ended = False
        # Whether records of an earlier ring were lost with a reboot, nobody knows how many.
        self.gap_unknown = False
        self._passed = self._texts_passed = 0
        self._intern = intern
        self._ids: NDArray[np.int64] = np.zeros(0, np.int64)
        # No waiting for a ring that isn't there: discovery looks again within a second.
        position, texts = self.resumed_at, int(state.get("texts", 0))
        self.reader = RingReader.attach(
            engine, data_dir, uuid=pair.uuid, position=position, timeout_s=0
        )
        try:
            self.texts = TextReader.attach(
                engine, data_dir, uuid=pair.text_uuid, position=texts, timeout_s=0
            )
        except BaseException:
            self.reader.close()
            raise

    @property
    def has_news(self) -> bool:
        """Whether there is anything to read, or to say of what was passed over; very cheap."""
        moved = self.reader.has_moved or self.texts.has_moved
        return moved or bool(self._passed or self._texts_passed)

    def poll(self) -> Batch:
        """The next records, with what was lost before them added to ``lost``."""
        batch = self.reader.poll()
        batch.lost += self._passed
        self._passed = 0
        self.lost += batch.lost
        return batch

    def skip(self) -> None:
        """Go to the end of the ring; the next poll reports what was passed over as lost."""
        self.written = self.resumed_at  # nor is it read for the day files
        self._passed += self.reader.skip()
        self._texts_passed += self.texts.skip()

    def poll_texts(self) -> TextBatch | None:
        """The next free-text alerts, with what was lost before them added to ``texts_lost``.

        None, at the price of a look at the cursor, while there is nothing to say.
        """
        if not self.texts.unread and not self._texts_passed:
            return None
        batch = self.texts.poll()
        batch.lost += self._texts_passed
        self._texts_passed = 0
        self.texts_lost += batch.lost
        return batch

    def series_ids(self, local: NDArray[np.uint32]) -> NDArray[np.int64]:
        """The store's ids, shape (n,), of the ring's own series ids *local*, shape (n,).

        An id that the symbol table doesn't have (a damaged slot) counts as the overflow series.
        """
        top = int(local.max(initial=0))
        if top >= len(self._ids):
            self._learn()
        if top >= len(self._ids):
            local = np.where(local < len(self._ids), local, 0)
        return self._ids[local]

    def _learn(self) -> None:
        known = len(self._ids)
        table = self.reader.series
        new = [table[index] for index in range(known, len(table))]
        ids = [self._intern(series.name, series.unit, series.labels) for series in new]
        self._ids = np.concatenate([self._ids, np.array(ids, np.int64)])

    def checkpoint(self) -> bytes:
        """Where to resume, for the store."""
        return msgpack.packb(
            {
                "engine": self.engine,
                "boot": self.reader.boot_id,
                "done": self.ended and self.reader.unread == 0,
                "position": self.reader.position,
                "texts": self.texts.position,
                "lost": self.lost,
                "texts_lost": self.texts_lost,
                "written": self.written,
            }
        )

    def close(self) -> None:
        """Detach; the ring itself is untouched."""
        self.reader.close()
        self.texts.close()


class Rings:
    """All rings of a data directory, by uuid."""

    def __init__(
        self,
        data_dir: Path,
        checkpoints: Mapping[str, bytes],
        intern: Intern,
        *,
        skip: bool = False,
    ) -> None:
        """Args:
        checkpoints: values of the store by key.
        intern: the store's id of a metric, unit and labels.
        skip: pass over what a known ring holds unread, counting it as lost: reading it keeps
            crashing this process.
        """
        self._data_dir = data_dir
        self._checkpoints = dict(checkpoints)
        self._intern = intern
        self._skip = skip
        self._troubles: dict[str, str] = {}
        self.open: dict[str, Ring] = {}

    def discover(self, infos: list[RingInfo]) -> dict[str, bytes | None]:
        """Attach to new rings and let go of those that no descriptor names.

        Returns:
            Checkpoint values to change.
        """
        named = {
            ring_uuid: info.name
            for info in infos
            if info.problem is None
            for ring_uuid in (*info.previous, info.uuid)
        }
        # A descriptor or segment that can't be read just now says nothing about what is attached.
        unsure = {info.name for info in infos if info.problem is not None}
        changes: dict[str, bytes | None] = {}
        for ring in [*self.open.values()]:
            if ring.uuid not in named and ring.engine not in unsure:
                self.open.pop(ring.uuid).close()
                changes[CHECKPOINT_PREFIX + ring.uuid] = None
        for ring_uuid, engine in named.items():
            if ring_uuid not in self.open:
                self._attach(ring_uuid, engine, changes, named)
        for info in infos:
            if info.uuid in self.open:
                self.open[info.uuid].ended = info.clean_end
        return changes

    def _attach(
        self,
        ring_uuid: str,
        engine: str,
        changes: dict[str, bytes | None],
        named: Mapping[str, str],
    ) -> None:
        checkpoint = self._checkpoints.get(CHECKPOINT_PREFIX + ring_uuid)
        try:
            pairs = descriptor.read(descriptor.rings_directory(self._data_dir), engine).pairs
            pair = next((each for each in pairs if each.uuid == ring_uuid), None)
            if pair is None:
                return  # replaced a moment ago; discovery will see the new one
            ring = Ring(engine, pair, self._data_dir, checkpoint, self._intern)
        except (RingMissing, RingInvalid, OSError, ValueError) as error:
            if self._troubles.get(ring_uuid) != str(error):
                _log.warning(
                    "ring can't be read",
                    extra={"component": "monitoring", "engine": engine, "problem": str(error)},
                )
            self._troubles[ring_uuid] = str(error)
            return
        if self._skip and checkpoint:
            ring.skip()
        if checkpoint is None:
            ring.gap_unknown = self._forget_earlier(ring, changes, named)
        self._troubles.pop(ring_uuid, None)
        self.open[ring_uuid] = ring
        _log.info("ring attached", extra={"component": "monitoring", "engine": engine})

    def _forget_earlier(
        self, ring: Ring, changes: dict[str, bytes | None], named: Mapping[str, str]
    ) -> bool:
        """Drop checkpoints of the engine's rings that are gone; whether one was cut off by a
        reboot.
        """
        cut = False
        for key, value in [*self._checkpoints.items()]:
            state = msgpack.unpackb(value)
            if state["engine"] != ring.engine or key.removeprefix(CHECKPOINT_PREFIX) in named:
                continue
            cut = cut or (state["boot"] != ring.reader.boot_id and not state["done"])
            del self._checkpoints[key]
            changes[key] = None
        return cut

    def close(self) -> None:
        """Detach from all."""
        for ring in self.open.values():
            ring.close()
        self.open.clear()
