"""A day file's bytes: gzip members, one a flush, each saying what it covers.

::

    1f 8b 08 04  00 00 00 00  04 ff       gzip header with an extra field, no time, fastest
    u16 length of the extra field | "TW" | u16 length of the rest
    u32 crc32 of the rest | u32 length of the deflate stream | JSON: what the member covers
    deflate stream | u32 crc32 | u32 length

The JSON says ``rings`` (ring uuid -> [first, last] sequence number dealt with), ``records``
(lines), ``skipped`` (records left out on purpose), ``from`` and ``to`` (times in ns).  Seqs in a
range that are neither, and gaps between a ring's ranges, were overwritten before anybody could
write them.  Whoever reads gzip passes over the extra field; with the lengths in it our own readers
hop from member to member without inflating one.

A member counts once it is whole: what a kill left of the last one is cut off before the next is
appended, and its records come again from the ring.
"""

import json
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import BinaryIO

MAX_MEMBER_BYTES = 4 << 20
"""Of the lines in one of our members; readers keep one member in memory."""

MAX_RINGS = 200
"""In one member, because some readers refuse a gzip header of 32 KiB."""

_SIGNATURE = b"\x1f\x8b\x08\x04\0\0\0\0\x04\xff"
_EXTRA = struct.Struct("<H2sHII")
_TAIL = struct.Struct("<II")
_HEADER_BYTES = len(_SIGNATURE) + _EXTRA.size
_MAX_EXTRA_BYTES = 30_000
_GZIP = 31  # zlib's wbits for one gzip member, its checksums verified
_INPUT_BYTES = 64 << 10
_BLOCK_BYTES = 1 << 20
_FASTEST = 1


class MemberDamaged(ValueError):
    """A member can't be read to its end."""


class State(Enum):
    """How a stretch of a day file was found."""

    WHOLE = "whole"  # as its lengths say; only inflating it tells whether the bytes are right
    TORN = "torn"  # the file ends inside it
    DAMAGED = "damaged"


@dataclass(frozen=True, slots=True)
class Cover:
    """What a member covers; see the module's text."""

    rings: Mapping[str, tuple[int, int]]
    records: int
    skipped: int
    first_ns: int
    last_ns: int


@dataclass(frozen=True, slots=True)
class Member:
    """A stretch of a day file, from *offset* to *end*; no *cover* if others made it or its head is
    damaged."""

    offset: int
    end: int
    state: State
    cover: Cover | None = None


@dataclass(frozen=True, slots=True)
class Verified:
    """What reading a whole file found; ``good`` are the stretches of readable members, as (offset,
    end)."""

    size: int
    records: int
    skipped: int
    good: tuple[tuple[int, int], ...]
    damaged: int
    torn: bool


def pack(lines: bytes, cover: Cover) -> bytes:
    """A member of *lines*, which may be empty when all was skipped."""
    deflate = zlib.compressobj(_FASTEST, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL)
    stream = deflate.compress(lines) + deflate.flush()
    said = json.dumps(
        {
            "rings": {ring: list(span) for ring, span in cover.rings.items()},
            "records": cover.records,
            "skipped": cover.skipped,
            "from": cover.first_ns,
            "to": cover.last_ns,
        },
        separators=(",", ":"),
    ).encode()
    rest = struct.pack("<I", len(stream)) + said
    length = 4 + len(rest)
    extra = struct.pack("<H2sHI", 4 + length, b"TW", length, zlib.crc32(rest))
    return b"".join(
        (_SIGNATURE, extra, rest, stream, _TAIL.pack(zlib.crc32(lines), len(lines) & 0xFFFFFFFF))
    )


def members(file: BinaryIO, offset: int = 0) -> Iterator[Member]:
    """What is in *file* from *offset*, the start of a member, to its end as it is now.

    Only members that others made are inflated to find their end; damage is passed over up to the
    next member of ours.
    """
    size = file.seek(0, os.SEEK_END)
    while offset < size:
        member = _member_at(file, offset, size)
        yield member
        offset = member.end


def lines(file: BinaryIO, member: Member) -> Iterator[list[bytes]]:
    """The complete lines of *member*, without their newlines, in blocks.

    Of a torn member as many as there are, of a damaged one of ours none.

    Raises:
        MemberDamaged: what was not yielded can't be read.
    """
    if member.state is State.DAMAGED:
        raise MemberDamaged(f"at byte {member.offset}")
    if member.state is State.WHOLE and member.cover is not None:
        yield b"".join(_inflated(file, member)).split(b"\n")[:-1]
        return
    rest = b""
    try:
        for block in _inflated(file, member):
            *complete, rest = (rest + block).split(b"\n")
            if len(rest) > MAX_MEMBER_BYTES:
                raise MemberDamaged(f"at byte {member.offset}: a line without end")
            yield complete
    except MemberDamaged:
        if member.state is not State.TORN:
            raise
        return
    if rest:  # somebody else's last line, without its newline
        yield [rest]


def verify(file: BinaryIO) -> Verified:
    """Read all of *file* back: checksums, lengths and the number of lines of every member."""
    size = file.seek(0, os.SEEK_END)
    good: list[tuple[int, int]] = []
    records = skipped = damaged = 0
    torn = False
    for member in members(file):
        if member.state is State.TORN:
            torn = True
            continue
        try:
            if member.state is State.DAMAGED:
                raise MemberDamaged("not a member")
            found = 0
            for block in _inflated(file, member):
                found += block.count(b"\n")
            if member.cover is not None and member.cover.records != found:
                raise MemberDamaged("not as many lines as it says")
        except MemberDamaged:
            damaged += 1
            continue
        start = member.offset
        if good and good[-1][1] == start:
            start = good.pop()[0]
        good.append((start, member.end))
        records += found
        skipped += member.cover.skipped if member.cover is not None else 0
    return Verified(size, records, skipped, tuple(good), damaged, torn)


def is_readable(file: BinaryIO, member: Member) -> bool:
    """Whether *member* is whole and inflates to what its checksum says."""
    if member.state is not State.WHOLE:
        return False
    try:
        for _ in _inflated(file, member):
            pass
    except MemberDamaged:
        return False
    return True


def _member_at(file: BinaryIO, offset: int, size: int) -> Member:
    file.seek(offset)
    head = file.read(_HEADER_BYTES)
    if _SIGNATURE.startswith(head):  # so short that the file ends in it
        return Member(offset, size, State.TORN)
    found = None
    if head.startswith(_SIGNATURE):
        found = _ours(file, offset, size, head) or _mislabelled(file, offset, size)
    elif head.startswith(_SIGNATURE[:3]):
        found = _foreign(file, offset, size)
    return found or Member(offset, _next_member(file, offset + 1, size), State.DAMAGED)


def _ours(file: BinaryIO, offset: int, size: int, head: bytes) -> Member | None:
    """The member of ours at *offset*, whole or torn; None if its head is damaged."""
    if len(head) < _HEADER_BYTES:
        return Member(offset, size, State.TORN)
    extra_bytes, kind, length, checksum, deflate_bytes = _EXTRA.unpack(head[len(_SIGNATURE) :])
    if kind != b"TW" or extra_bytes != length + 4 or not 8 < length <= _MAX_EXTRA_BYTES:
        return None
    file.seek(offset + _HEADER_BYTES)
    said = file.read(length - 8)
    if len(said) < length - 8:
        return Member(offset, size, State.TORN)
    if zlib.crc32(said, zlib.crc32(struct.pack("<I", deflate_bytes))) != checksum:
        return None
    end = offset + _HEADER_BYTES + len(said) + deflate_bytes + _TAIL.size
    cover = _cover(said)
    if end > size:
        return Member(offset, size, State.TORN, cover)
    return Member(offset, end, State.WHOLE, cover)


def _cover(said: bytes) -> Cover | None:
    """What a member's head says, its checksum being right; None from a version unlike this one."""
    try:
        fields = json.loads(said)
        return Cover(
            rings={ring: (int(low), int(high)) for ring, (low, high) in fields["rings"].items()},
            records=int(fields["records"]),
            skipped=int(fields["skipped"]),
            first_ns=int(fields["from"]),
            last_ns=int(fields["to"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _mislabelled(file: BinaryIO, offset: int, size: int) -> Member | None:
    """The member of ours at *offset* whose head is damaged, if it can be read all the same."""
    found = _foreign(file, offset, size)
    if found is None or found.state is not State.WHOLE:
        return None
    # A wrong length in its head may lead into the stream of a later member.
    return found if _next_member(file, offset + 1, size) >= found.end else None


def _foreign(file: BinaryIO, offset: int, size: int) -> Member | None:
    """The gzip member of somebody else at *offset*, inflated to find its end; None if damaged."""
    file.seek(offset)
    inflater = zlib.decompressobj(_GZIP)
    is_gzip = False
    try:
        while not inflater.eof:
            data = inflater.unconsumed_tail or file.read(_INPUT_BYTES)
            if not data:  # unless members of ours follow, it is the file's end that is missing
                torn = is_gzip and _next_member(file, offset + 1, size) == size
                return Member(offset, size, State.TORN) if torn else None
            is_gzip = bool(inflater.decompress(data, _BLOCK_BYTES)) or is_gzip
    except zlib.error:
        return None
    return Member(offset, file.tell() - len(inflater.unused_data), State.WHOLE)


def _next_member(file: BinaryIO, offset: int, size: int) -> int:
    """Where the next member of ours begins, or *size*."""
    while offset < size:
        file.seek(offset)
        data = file.read(_INPUT_BYTES + len(_SIGNATURE))
        at = data.find(_SIGNATURE)
        if at < 0:
            offset += _INPUT_BYTES
            continue
        offset += at
        file.seek(offset)
        if _ours(file, offset, size, file.read(_HEADER_BYTES)) is not None:
            return offset
        offset += 1
    return size


def _inflated(file: BinaryIO, member: Member) -> Iterator[bytes]:
    """The member's lines in blocks of at most a mebibyte; memory stays flat whatever its size.

    Raises:
        MemberDamaged: it ends early or its checksum is wrong.
    """
    inflater = zlib.decompressobj(_GZIP)
    at = member.offset
    try:
        while not inflater.eof:
            data = inflater.unconsumed_tail
            if not data:
                file.seek(at)
                data = file.read(min(_INPUT_BYTES, member.end - at))
                at += len(data)
            if not data:
                raise MemberDamaged(f"at byte {member.offset}: ends early")
            block = inflater.decompress(data, _BLOCK_BYTES)
            if block:
                yield block
    except zlib.error as error:
        raise MemberDamaged(f"at byte {member.offset}: {error}") from error
