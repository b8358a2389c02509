"""A ring seen from outside: attached read-only, checked, its shared words read one at a time.

What a poll may believe is decided here, in two pure functions that both readers use: which
slots to copy, and which copies the writer may have overwritten meanwhile.
"""

import mmap
import os
import time
from dataclasses import dataclass
from pathlib import Path

from ringbuf import clock, descriptor, layout
from ringbuf.clock import Anchor
from ringbuf.descriptor import Pair
from ringbuf.errors import RingInvalid, RingMissing
from ringbuf.fence import make_fence
from ringbuf.layout import Static
from ringbuf.mapping import open_segment, segment_inode

RETRY_S = 0.005


def oldest_safe(published: int, capacity: int) -> int:
    """The oldest seq that can be trusted while the cursor says *published*.

    The writer may already be inside the slot of ``published`` itself, which is that of
    ``published - capacity``: so one slot less than the ring has.
    """
    return max(0, published - capacity + 1)


@dataclass(slots=True)
class Words:
    """A header's changing words, read once."""

    epoch: int
    pid: int
    start_ticks: int
    state: int
    published: int
    rejected: int
    overflowed: int
    heartbeat_ns: int
    crashes: int


class RingView:
    """One attached segment."""

    def __init__(self, segment: str, static: Static, mapped: mmap.mmap, inode: tuple[int, int]):
        self.segment = segment
        self.static = static
        self.mapped = mapped
        self.words = memoryview(mapped)[: layout.HEADER_BYTES].cast("q")
        self.fence = make_fence(static.fences)
        self._inode = inode

    @classmethod
    def open(cls, segment: str, uuid: str, kind: int) -> "RingView":
        """Attach the segment, which must be the ring *uuid*.

        Raises:
            RingMissing: it is gone, or its creator hasn't finished it.
            RingInvalid: it can't be trusted.
            OSError: it can't be opened or isn't ours.
        """
        file = open_segment(segment)
        try:
            header = file.read(layout.HEADER_BYTES)
            if not layout.is_ready(header):
                raise RingMissing(f"segment {segment} isn't ready")
            try:
                static = layout.decode(header, file.size)
            except RingInvalid as problem:
                raise RingInvalid(f"segment {segment}: {problem}") from None
            if static.uuid.hex() != uuid or static.kind != kind:
                raise RingInvalid(f"segment {segment} is another ring than its descriptor says")
            return cls(segment, static, file.map(static.total_bytes), file.inode)
        finally:
            file.close()

    @property
    def published(self) -> int:
        return int(self.words[layout.PUBLISHED])

    @property
    def is_current(self) -> bool:
        """Whether the segment's name still stands for what is mapped here."""
        return segment_inode(self.segment) == self._inode

    def read_words(self) -> Words:
        words = self.words
        return Words(
            epoch=words[layout.EPOCH],
            pid=words[layout.WRITER_PID],
            start_ticks=words[layout.WRITER_START],
            state=words[layout.STATE],
            published=words[layout.PUBLISHED],
            rejected=words[layout.REJECTED],
            overflowed=words[layout.OVERFLOWED],
            heartbeat_ns=words[layout.HEARTBEAT_NS],
            crashes=words[layout.CRASHES],
        )

    def anchor(self) -> Anchor | None:
        """The writer's anchor, or None when it was left half-written."""
        words = self.words
        for _ in range(100):
            before = words[layout.ANCHOR_SEQUENCE]
            self.fence()
            anchor = Anchor(
                words[layout.ANCHOR_MONO_NS],
                words[layout.ANCHOR_WALL_NS],
                words[layout.ANCHOR_ERROR_NS],
            )
            self.fence()
            if before == words[layout.ANCHOR_SEQUENCE] and not before & 1:
                return anchor
        return None

    def last_time_ns(self) -> int | None:
        """Monotonic time of the newest record; None when there is none or it moves too fast."""
        static = self.static
        for _ in range(10):
            published = self.published
            if not 0 < published <= layout.MAX_PUBLISHED:
                return None
            self.fence()
            slot = (published - 1) & (static.capacity - 1)
            offset = layout.HEADER_BYTES + slot * static.slot_bytes
            # Both kinds of slot begin with seq and time.
            seq, time_ns, _, _ = layout.RECORD_SLOT.unpack_from(self.mapped, offset)
            self.fence()
            if seq == published - 1 and seq >= oldest_safe(self.published, static.capacity):
                return int(time_ns)
        return None

    def close(self) -> None:
        """Unmap; more than once is fine."""
        self.words.release()
        try:
            self.mapped.close()
        except BufferError:
            return  # an array of it lives on, and the mapping with it


def find_pair(rings: Path, name: str, uuid: str | None, *, text: bool = False) -> Pair:
    """The current pair of ring *name*, or the one whose record (or text) ring is *uuid*.

    Raises:
        RingMissing: no such ring.
        RingInvalid: its descriptor can't be understood.
    """
    known = descriptor.read(rings, name)
    for pair in known.pairs:
        if uuid is None or uuid == (pair.text_uuid if text else pair.uuid):
            if uuid is None and pair is not known.current:
                break
            return pair
    what = f"no ring {uuid}" if uuid else "it was never finished"
    raise RingMissing(f"ring {name!r}: {what}")


def attach(
    name: str,
    data_dir: str | os.PathLike[str] | None,
    uuid: str | None,
    timeout_s: float,
    *,
    text: bool = False,
) -> RingView:
    """Attach a ring's records or texts, waiting up to *timeout_s* for it to exist.

    Raises:
        RingMissing: it didn't appear in time.
        RingInvalid: it can't be trusted.
        OSError: it can't be opened or isn't ours.
        ValueError: no ring can have that name.
    """
    descriptor.check_name(name)
    rings = descriptor.rings_directory(data_dir)
    deadline_ns = clock.monotonic_ns() + int(timeout_s * 1e9)
    while True:
        try:
            pair = find_pair(rings, name, uuid, text=text)
            if text:
                return RingView.open(pair.text_segment, pair.text_uuid, layout.TEXTS)
            return RingView.open(pair.segment, pair.uuid, layout.RECORDS)
        except RingMissing:
            if clock.monotonic_ns() >= deadline_ns:
                raise
        time.sleep(RETRY_S)
