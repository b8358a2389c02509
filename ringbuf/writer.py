"""One ring's segment in the hands of its writer: header, cursor store, orderly and disorderly ends.

The rule of the whole package: the payload goes into the slot first, then one 8-byte cursor store
through the memoryview publishes it.  Nothing may be stored into a published slot before the cursor
has gone round, and the cursor is its own single source of truth.
"""

import os
import zlib

from ringbuf import clock, layout, segment
from ringbuf.errors import RingInvalid
from ringbuf.fence import make_fence
from ringbuf.layout import Static
from ringbuf.mapping import segment_inode

ANCHOR_AGE_NS = 10_000_000_000


class RingWriter:
    """A segment that this process writes; ``create`` or ``resume`` one."""

    def __init__(self, static: Static, mapped: segment.Segment) -> None:
        self.static = static
        self._segment = mapped
        buffer = mapped.memory
        self.words = buffer[: layout.HEADER_BYTES].cast("q")
        self.slots = buffer[layout.HEADER_BYTES : static.symbols_offset]
        self.symbols = buffer[static.symbols_offset : static.total_bytes]
        self.fence = make_fence(static.fences)
        self._last = (0, 0)  # published and rejected when the views were released

    @classmethod
    def create(cls, name: str, static: Static) -> "RingWriter":
        """Make the segment *name* and its header; the magic is the last thing written.

        Raises:
            OSError: no room or no shared memory; nothing is left behind.
        """
        mapped = segment.create(name, static.total_bytes)
        header = layout.encode(static)
        mapped.memory[len(layout.MAGIC) : len(header)] = header[len(layout.MAGIC) :]
        ring = cls(static, mapped)
        ring.open()
        ring.fence()
        (magic,) = memoryview(layout.MAGIC).cast("q")
        ring.words[0] = magic
        return ring

    @classmethod
    def resume(cls, name: str, expected: Static) -> "RingWriter":
        """Continue the segment *name* in place, from its own cursor.

        Args:
            name: the segment.
            expected: what its header must say (times of creation aside).

        Raises:
            RingInvalid: it says something else, or its cursor can't be right.
            OSError: it can't be attached; it is left alone.
        """
        try:
            mapped = segment.attach(name)
        except ValueError:
            raise RingInvalid(f"segment {name} has no size") from None
        try:
            file_bytes = os.fstat(mapped.fd).st_size
            static = layout.decode(bytes(mapped.memory[: layout.STATIC_BYTES]), file_bytes)
            check_same(static, expected)
            segment.touch(mapped, static.total_bytes)
            ring = cls(static, mapped)
        except BaseException:
            mapped.close()
            raise
        published = ring.words[layout.PUBLISHED]
        if not 0 <= published <= layout.MAX_PUBLISHED:
            ring.release()
            raise RingInvalid(f"cursor {published} is out of range")
        return ring

    def open(self) -> None:
        """Take the ring: a new epoch, our pid, a fresh anchor.  The cursor stays as it is."""
        words = self.words
        make_odd(words, layout.EPOCH)
        if words[layout.STATE] == layout.STATE_OPEN:
            words[layout.CRASHES] += 1
        words[layout.WRITER_PID], words[layout.WRITER_START] = clock.own_identity()
        now = clock.monotonic_ns()
        words[layout.OPENED_NS] = now
        words[layout.HEARTBEAT_NS] = now
        words[layout.STATE] = layout.STATE_OPEN
        self.renew_anchor()
        words[layout.EPOCH] += 1

    @property
    def published(self) -> int:
        return self._counts()[0]

    @property
    def rejected(self) -> int:
        return self._counts()[1]

    def _counts(self) -> tuple[int, int]:
        try:
            return self.words[layout.PUBLISHED], self.words[layout.REJECTED]
        except ValueError:  # released
            return self._last

    def renew_anchor(self) -> None:
        """Write wall time beside monotonic time, under the seqlock (odd while it is written)."""
        words = self.words
        anchor = clock.take_anchor()
        make_odd(words, layout.ANCHOR_SEQUENCE)
        self.fence()
        words[layout.ANCHOR_MONO_NS] = anchor.mono_ns
        words[layout.ANCHOR_WALL_NS] = anchor.wall_ns
        words[layout.ANCHOR_ERROR_NS] = anchor.error_ns
        self.fence()
        words[layout.ANCHOR_SEQUENCE] += 1

    @property
    def anchor_is_old(self) -> bool:
        age_ns = clock.monotonic_ns() - self.words[layout.ANCHOR_MONO_NS]
        return not 0 <= age_ns < ANCHOR_AGE_NS

    def write_text(self, body: bytes) -> None:
        """Publish one text: *body* must fit a slot beside ``layout.TEXT_SLOT``."""
        words, slot_bytes = self.words, self.static.slot_bytes
        seq = words[layout.PUBLISHED]
        offset = (seq & (self.static.capacity - 1)) * slot_bytes
        layout.TEXT_SLOT.pack_into(
            self.slots, offset, seq, clock.monotonic_ns(), len(body), zlib.crc32(body)
        )
        start = offset + layout.TEXT_SLOT.size
        self.slots[start : start + len(body)] = body
        self.fence()
        words[layout.PUBLISHED] = seq + 1
        self.fence()

    def reject(self) -> None:
        """Count one that couldn't be written; silent after ``release``."""
        try:
            self.words[layout.REJECTED] += 1
        except ValueError:
            return

    def mark_clean_end(self) -> None:
        """Say that the engine stopped on purpose."""
        self.words[layout.HEARTBEAT_NS] = clock.monotonic_ns()
        self.words[layout.STATE] = layout.STATE_CLEAN_END

    @property
    def is_current(self) -> bool:
        """Whether the segment's name still stands for what is mapped here."""
        status = os.fstat(self._segment.fd)
        return segment_inode(self._segment.name) == (status.st_dev, status.st_ino)

    def release(self) -> None:
        """Let go of the memory.  Every later access through a view raises ValueError."""
        self._last = self._counts()
        # The words first: the hot path begins with them, also where another thread is inside it.
        for view in (self.words, self.symbols, self.slots):
            try:
                view.release()
            except BufferError:
                continue  # being packed into; that thread's next access ends at the words
        self._segment.close()


def make_odd(words: memoryview, index: int) -> None:
    """Say that what the counter at *index* guards is being written; damage starts it afresh."""
    value = words[index]
    words[index] = value | 1 if 0 <= value <= layout.MAX_PUBLISHED else 1


def check_same(static: Static, expected: Static) -> None:
    """Compare what a header says with what this writer would write.

    Raises:
        RingInvalid: naming the first difference.
    """
    for what in ("kind", "name", "uuid", "boot_id", "capacity", "symbols_bytes", "fences"):
        found, wanted = getattr(static, what), getattr(expected, what)
        if found != wanted:
            found, wanted = (x.hex() if isinstance(x, bytes) else repr(x) for x in (found, wanted))
            raise RingInvalid(f"its {what} is {found}, not {wanted}")
