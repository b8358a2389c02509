"""Read the free-text alerts of an engine; the same protocol as for records, without numpy."""

import os
import zlib

from ringbuf import clock, layout
from ringbuf.progress import Progress
from ringbuf.texts import MAX_BODY_BYTES, Text, TextBatch, unpack_text
from ringbuf.view import attach


class TextReader(Progress):
    """One reader of the text ring that belongs to a ring; ``uuid`` is the text ring's own."""

    @classmethod
    def attach(
        cls,
        name: str,
        data_dir: str | os.PathLike[str] | None = None,
        *,
        uuid: str | None = None,
        position: int = 0,
        timeout_s: float = 2.0,
    ) -> "TextReader":
        """Attach the texts of the ring called *name*; arguments and errors as ``RingReader``."""
        return cls(attach(name, data_dir, uuid, timeout_s, text=True), position)

    def poll(self, max_texts: int = 256) -> TextBatch:
        """Read up to *max_texts* texts; never waits, never raises for what the ring holds."""
        watermark_ns = clock.monotonic_ns()
        lost_before = self.lost
        first, count = self._claim(max(1, max_texts))
        slots = [self._copy(seq) for seq in range(first, first + count)]
        dropped = self._confirm(first, count)
        texts = []
        for seq, slot in enumerate(slots[dropped:], first + dropped):
            text = self._unpack(slot, seq)
            if text is None:
                self.integrity_errors += 1
                self.lost += 1
            else:
                texts.append(text)
        self.accepted += len(texts)
        watermark = watermark_ns if self._drained() else None
        return TextBatch(texts, self.lost - lost_before, watermark)

    def _copy(self, seq: int) -> bytes:
        start = layout.HEADER_BYTES + (seq & (self._capacity - 1)) * layout.TEXT_BYTES
        return self._view.mapped[start : start + layout.TEXT_BYTES]

    def _unpack(self, slot: bytes, seq: int) -> Text | None:
        found, time_ns, length, checksum = layout.TEXT_SLOT.unpack_from(slot)
        body = slot[layout.TEXT_SLOT.size : layout.TEXT_SLOT.size + length]
        if found != seq or length > MAX_BODY_BYTES or zlib.crc32(body) != checksum:
            return None
        return unpack_text(body, seq, time_ns, self.name)
