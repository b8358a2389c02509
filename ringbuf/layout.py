"""The bytes of a ring: every offset, format and limit, and the check that they make sense.

This is the one module that knows the layout.  Any change of it needs a new VERSION.

::

    0      static part: magic (written last), version, sizes, uuids, name, checksum  256 bytes
    256    owner: epoch (odd while being (re)opened), pid, process start, opened, crashes
    512    writer-hot words: published, rejected, heartbeat, state, overflowed       128 bytes
    640    clock anchor under a seqlock: sequence, mono, wall, error
    768    symbol table's cursor: bytes published
    4096   capacity slots; slot of seq s: 4096 + (s & (capacity - 1)) * slot size
    ...    symbol table, append-only: entries of length u32, crc32 u32, msgpack

    record slot, 32 bytes:  seq i64 | time_ns i64 | value f64 | series u32 | flags u32
    text slot, 4096 bytes:  seq i64 | time_ns i64 | length u32 | crc32 u32 | msgpack map

All little-endian.  Words that two processes share are 8 bytes, aligned, and only ever stored
through ``memoryview.cast("q")``: ``struct.pack_into`` zeroes its target first, a racing reader
would see the zero.
"""

import struct
import sys
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ringbuf import fence
from ringbuf.errors import RingInvalid

if TYPE_CHECKING:
    import numpy as np

    RECORD: np.dtype[np.void]

MAGIC = b"tickring"
VERSION = 1
BYTE_ORDER_MARK = 0x01020304
HEADER_BYTES = 4096
STATIC_BYTES = 256
NAME_BYTES = 64

RECORDS = 1  # kinds of ring
TEXTS = 2

RECORD_BYTES = 32
TEXT_BYTES = 4096
TEXT_CAPACITY = 1024
DEFAULT_CAPACITY = 262_144
MIN_CAPACITY = 2
MAX_CAPACITY = 1 << 26  # 2 GiB of records
SYMBOLS_BYTES = 1 << 20
MAX_ENTRY_BYTES = 4096  # of one series: its name, unit and labels
MAX_LABEL_SETS = 1024  # of one metric

# Indices of 8-byte words, for header.cast("q").
EPOCH = 256 // 8
WRITER_PID = 264 // 8
WRITER_START = 272 // 8
OPENED_NS = 280 // 8
CRASHES = 288 // 8  # how often a writer resumed where the one before had not closed
PUBLISHED = 512 // 8
REJECTED = 520 // 8
HEARTBEAT_NS = 528 // 8
STATE = 536 // 8
OVERFLOWED = 544 // 8
ANCHOR_SEQUENCE = 640 // 8
ANCHOR_MONO_NS = 648 // 8
ANCHOR_WALL_NS = 656 // 8
ANCHOR_ERROR_NS = 664 // 8
SYMBOLS_PUBLISHED = 768 // 8

STATE_OPEN = 1
STATE_CLEAN_END = 2

# A cursor beyond this is damage: 2**56 records are two thousand years at a million a second.
MAX_PUBLISHED = 1 << 56

# Native alignment: "<d" packs byte by byte, "@d" stores once.  The last two fields are one word,
# series in its low half, because each argument costs the hot path some nanoseconds.
RECORD_SLOT = struct.Struct("@qqdQ")
RECORD_FIELDS = [
    ("seq", "<i8"),
    ("time_ns", "<i8"),
    ("value", "<f8"),
    ("series", "<u4"),
    ("flags", "<u4"),
]
TEXT_SLOT = struct.Struct("<qqII")
SYMBOL_ENTRY = struct.Struct("<II")
_STATIC = struct.Struct("<8sIIIIIIQQQ16s16sqq64s")
_CHECKSUM = struct.Struct("<I")
_CHECKSUM_AT = STATIC_BYTES - _CHECKSUM.size


def __getattr__(name: str) -> Any:
    if name == "RECORD":  # built on first use, so that the writer's side needs no numpy
        import numpy

        dtype = numpy.dtype(RECORD_FIELDS)
        globals()["RECORD"] = dtype
        return dtype
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@dataclass(frozen=True, slots=True)
class Static:
    """The part of a header that never changes while the ring lives."""

    kind: int
    capacity: int
    name: str
    uuid: bytes
    boot_id: bytes
    created_mono_ns: int
    created_wall_ns: int
    fences: int = fence.TOTAL_STORE_ORDER
    symbols_bytes: int = 0

    @property
    def slot_bytes(self) -> int:
        return RECORD_BYTES if self.kind == RECORDS else TEXT_BYTES

    @property
    def symbols_offset(self) -> int:
        return HEADER_BYTES + self.capacity * self.slot_bytes

    @property
    def total_bytes(self) -> int:
        """Size of the whole segment; the file may be larger, sizes can be rounded up."""
        return self.symbols_offset + self.symbols_bytes


def encode(static: Static) -> bytes:
    """The first STATIC_BYTES of a header, with the magic that must reach the segment last."""
    body = _STATIC.pack(
        MAGIC,
        VERSION,
        BYTE_ORDER_MARK,
        HEADER_BYTES,
        static.slot_bytes,
        static.kind,
        static.fences,
        static.capacity,
        static.total_bytes,
        static.symbols_bytes,
        static.uuid,
        static.boot_id,
        static.created_mono_ns,
        static.created_wall_ns,
        static.name.encode("ascii"),
    ).ljust(_CHECKSUM_AT, b"\0")
    return body + _CHECKSUM.pack(zlib.crc32(body))


def is_ready(header: bytes) -> bool:
    """Whether the creator has finished: the magic is written last."""
    return header[: len(MAGIC)].rstrip(b"\0") != b""


def decode(header: bytes, file_bytes: int) -> Static:
    """Check a header and return its static part.

    Args:
        header: the first HEADER_BYTES of the segment, or fewer if it is shorter.
        file_bytes: size of the segment's file.

    Raises:
        RingInvalid: what is wrong with it; nothing in it may be used then.
    """
    if len(header) < STATIC_BYTES or header[: len(MAGIC)] != MAGIC:
        raise RingInvalid("not a ring: its magic is missing")
    (
        *_,
        version,
        order,
        header_bytes,
        slot_bytes,
        kind,
        fences,
        capacity,
        total_bytes,
        symbols_bytes,
        uuid,
        boot_id,
        created_mono_ns,
        created_wall_ns,
        name,
    ) = _STATIC.unpack_from(header)
    if order != BYTE_ORDER_MARK:
        raise RingInvalid(f"byte order mark is {order:#010x}: written by another kind of machine")
    if version != VERSION:
        raise RingInvalid(
            f"layout version {version}, this reader needs {VERSION}: "
            "restart the engine after upgrading"
        )
    (checksum,) = _CHECKSUM.unpack_from(header, _CHECKSUM_AT)
    if checksum != zlib.crc32(header[:_CHECKSUM_AT]):
        raise RingInvalid("checksum of the header is wrong: the segment is damaged")
    try:
        text = name.rstrip(b"\0").decode("ascii")
    except UnicodeDecodeError:
        raise RingInvalid("name in the header is not ASCII") from None
    static = Static(
        kind=kind,
        capacity=capacity,
        name=text,
        uuid=uuid,
        boot_id=boot_id,
        created_mono_ns=created_mono_ns,
        created_wall_ns=created_wall_ns,
        fences=fences,
        symbols_bytes=symbols_bytes,
    )
    _check_sizes(static, header_bytes, slot_bytes, total_bytes, file_bytes)
    return static


def _check_sizes(
    static: Static, header_bytes: int, slot_bytes: int, total_bytes: int, file_bytes: int
) -> None:
    if static.kind not in (RECORDS, TEXTS):
        raise RingInvalid(f"kind {static.kind} of ring is unknown")
    if not fence.honours(static.fences):
        raise RingInvalid(f"fence mode {static.fences} can't be honoured on this machine")
    if header_bytes != HEADER_BYTES or slot_bytes != static.slot_bytes:
        raise RingInvalid(f"header of {header_bytes} and slots of {slot_bytes} bytes: not ours")
    problem = capacity_problem(static.capacity)
    if problem:
        raise RingInvalid(problem)
    if static.symbols_bytes > SYMBOLS_BYTES or total_bytes != static.total_bytes:
        raise RingInvalid(f"total size {total_bytes} doesn't fit its capacity {static.capacity}")
    if file_bytes < total_bytes:
        raise RingInvalid(f"segment holds {file_bytes} of {total_bytes} bytes")


def capacity_problem(capacity: int) -> str | None:
    """Why *capacity* can't be one, or None."""
    if MIN_CAPACITY <= capacity <= MAX_CAPACITY and capacity & (capacity - 1) == 0:
        return None
    return f"capacity {capacity}: must be a power of two, {MIN_CAPACITY}..{MAX_CAPACITY} records"


def supported() -> bool:
    """Whether this machine can hold a ring at all: the layout is little-endian."""
    return sys.byteorder == "little"
