"""Open a ring for writing: take its lock, then resume in place or make a new one.

The order is what makes every kill harmless: the lock first; the names of segments before the
segments; the magic after everything else in them; the descriptor, by rename, when they are whole.
The next writer finds at each step either a ring it can resume or names it can remove.
"""

import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from ringbuf import clock, descriptor, fence, layout, segment
from ringbuf.descriptor import Descriptor, Pair
from ringbuf.errors import RingInvalid, RingMissing, WriterBusy
from ringbuf.layout import Static
from ringbuf.mapping import segment_inode
from ringbuf.ownership import WriterLock
from ringbuf.series import SymbolTable
from ringbuf.writer import RingWriter

_Opened = tuple[RingWriter, RingWriter, SymbolTable]

log = logging.getLogger("ringbuf")

# Everything this process writes, so that a forked child can let go of it.
_open: set["Rings"] = set()


class Rings:
    """The two rings of one name, locked and mapped for writing."""

    def __init__(self, lock: WriterLock, pair: Pair, opened: _Opened):
        self.lock = lock
        self.pair = pair
        self.records, self.texts, self.table = opened
        self.forked = False
        _open.add(self)

    @property
    def are_current(self) -> bool:
        """Whether readers still find both segments by their names."""
        return self.records.is_current and self.texts.is_current

    def close(self) -> None:
        """End on purpose: say so in both headers, let go of memory and lock."""
        if self not in _open:
            return
        for ring in (self.records, self.texts):
            ring.mark_clean_end()
        self._release()

    def abandon(self) -> None:
        """Let go without a word: somebody else writes the ring now."""
        if self in _open:
            self._release()

    def _release(self) -> None:
        _open.discard(self)
        for ring in (self.records, self.texts):
            ring.release()
        self.lock.release()


def open_rings(rings: Path, name: str, capacity: int, labels: Mapping[str, str]) -> Rings:
    """Open the ring *name* for writing.

    Args:
        rings: directory of descriptors and locks; made if it is missing.
        name: checked before.
        capacity: records, a power of two.
        labels: those that every series of this writer gets.

    Raises:
        WriterBusy: another writer has it.
        OSError: no room, no shared memory, no permission.
        RingMissing: this machine can't hold a ring.
    """
    if not layout.supported():
        raise RingMissing("rings need a little-endian machine")
    descriptor.make_private(rings)
    lock = WriterLock.acquire(name, descriptor.lock_path(rings, name))
    try:
        known = _read_descriptor(rings, name)
        opened = _resume(known, capacity, labels) if known.current else None
        if opened is None:
            known, opened = _create(rings, known, capacity, labels)
        elif known.making:
            _forget_unfinished(rings, known)
        descriptor.sweep(rings, name)
        assert known.current is not None
        return Rings(lock, known.current, opened)
    except BaseException:
        lock.release()
        raise


def _read_descriptor(rings: Path, name: str) -> Descriptor:
    try:
        return descriptor.read(rings, name)
    except RingMissing:
        return Descriptor(name)
    except RingInvalid as problem:
        _say("descriptor is replaced", name, problem)
        return Descriptor(name)


def _resume(known: Descriptor, capacity: int, labels: Mapping[str, str]) -> _Opened | None:
    """Both rings of the current pair, continued in place; None when they must be replaced."""
    pair = known.current
    assert pair is not None
    opened: list[RingWriter] = []
    try:
        for name, uuid, kind in _parts(pair):
            expected = _static(known.name, kind, bytes.fromhex(uuid), capacity)
            opened.append(RingWriter.resume(name, expected))
        _refuse_living_writer(known.name, opened[0])
        table = _table(opened[0], labels)
        for ring in opened:
            ring.open()
    except FileNotFoundError:
        _release(opened)
        if pair.boot_id == clock.boot_id().hex():
            _say("ring is made again", known.name, "its shared memory is gone")
        return None  # after a reboot that is as it should be
    except RingInvalid as problem:
        _release(opened)
        _say("ring is replaced", known.name, problem)
        return None
    except BaseException:
        _release(opened)
        raise
    return opened[0], opened[1], table


def _forget_unfinished(rings: Path, known: Descriptor) -> None:
    """Remove what an earlier writer had begun to make before it was killed."""
    for name in known.segments.difference(*(pair.segments for pair in known.pairs)):
        segment.remove(name)
    descriptor.write(rings, replace(known, making=()))


def _table(records: RingWriter, labels: Mapping[str, str]) -> SymbolTable:
    name = records.static.name
    return SymbolTable(records.words, records.symbols, name, labels, records.fence)


def _refuse_living_writer(name: str, ring: RingWriter) -> None:
    """A lock file that was replaced grants the lock twice; the header still knows the writer.

    Raises:
        WriterBusy: the process that wrote the header lives and has not closed the ring.
    """
    words = ring.words
    pid, start = words[layout.WRITER_PID], words[layout.WRITER_START]
    if words[layout.STATE] != layout.STATE_OPEN or not start:
        return
    uuid = ring.static.uuid.hex()
    if pid == os.getpid():
        if any(rings.pair.uuid == uuid for rings in _open):
            raise WriterBusy(name, pid)
    elif clock.start_ticks(pid) == start:
        raise WriterBusy(name, pid)


def _create(
    rings: Path, known: Descriptor, capacity: int, labels: Mapping[str, str]
) -> tuple[Descriptor, _Opened]:
    """Make both rings; the pair that they replace stays named as the previous one."""
    name = known.name
    pair = Pair(
        uuid=secrets.token_hex(16),
        text_uuid=secrets.token_hex(16),
        segment=segment.random_name(),
        text_segment=segment.random_name(),
        boot_id=clock.boot_id().hex(),
    )
    keep = next((old for old in known.pairs if segment_inode(old.segment) is not None), None)
    kept = frozenset(keep.segments) if keep else frozenset()
    making = (*sorted(known.segments - kept), *pair.segments)
    # Readers go on with what they know until the new pair is whole.
    descriptor.write(rings, Descriptor(name, known.current, known.previous, making))
    for old in known.segments - kept:
        segment.remove(old)
    made: list[RingWriter] = []
    try:
        for segment_name, uuid, kind in _parts(pair):
            static = _static(name, kind, bytes.fromhex(uuid), capacity)
            made.append(RingWriter.create(segment_name, static))
        done = Descriptor(name, pair, keep)
        descriptor.write(rings, done)
    except BaseException:
        _release(made)
        for segment_name in pair.segments:
            segment.remove(segment_name)
        raise
    return done, (made[0], made[1], _table(made[0], labels))


def _parts(pair: Pair) -> tuple[tuple[str, str, int], tuple[str, str, int]]:
    return (
        (pair.segment, pair.uuid, layout.RECORDS),
        (pair.text_segment, pair.text_uuid, layout.TEXTS),
    )


def _static(name: str, kind: int, uuid: bytes, capacity: int) -> Static:
    records = kind == layout.RECORDS
    return Static(
        kind=kind,
        capacity=capacity if records else layout.TEXT_CAPACITY,
        name=name,
        uuid=uuid,
        boot_id=clock.boot_id(),
        created_mono_ns=clock.monotonic_ns(),
        created_wall_ns=clock.wall_ns(),
        fences=fence.required_mode(),
        symbols_bytes=layout.SYMBOLS_BYTES if records else 0,
    )


def _release(opened: list[RingWriter]) -> None:
    for ring in opened:
        ring.release()


def _say(message: str, name: str, problem: object) -> None:
    log.warning("%s: %s", message, problem, extra={"component": "monitoring", "ring": name})


def _let_go_in_child() -> None:
    """A forked child shares its parent's memory; it must never write there."""
    for rings in list(_open):
        rings.forked = True
        for ring in (rings.records, rings.texts):
            ring.release()
    _open.clear()


os.register_at_fork(after_in_child=_let_go_in_child)
