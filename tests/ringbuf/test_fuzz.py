"""Any bytes in a ring give a named error or valid records: no other exception, crash or hang."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ringbuf import Recorder, RingInvalid, RingReader, TextReader, layout
from ringbuf.errors import RingMissing
from ringbuf.layout import Static
from ringbuf.survey import survey
from ringbuf.view import RingView

CAPACITY = 8


class Ring:
    """A closed ring whose bytes a test may change, and put back."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        with Recorder("engine", data_dir, capacity=CAPACITY) as recorder:
            for step in range(20):
                recorder.metric("x", side="buy").record(step)
            recorder.emit_alert("rule", "info", "words")
            assert recorder._rings is not None
            self.pair = recorder._rings.pair
        self.paths = [Path("/dev/shm") / name for name in self.pair.segments]
        self.whole = [path.read_bytes() for path in self.paths]

    def write(self, which: int, offset: int, data: bytes) -> None:
        with self.paths[which].open("r+b") as file:
            file.seek(offset)
            file.write(data)

    def restore(self) -> None:
        for path, whole in zip(self.paths, self.whole, strict=True):
            with path.open("r+b") as file:
                file.truncate(len(whole))
                file.write(whole)

    def read(self) -> None:
        """What every reader does; only named errors may come out."""
        survey(self.data_dir)
        for attach in (RingReader.attach, TextReader.attach):
            try:
                reader = attach("engine", self.data_dir, timeout_s=0)
            except (RingInvalid, RingMissing):
                continue
            with reader:
                for _ in range(3):
                    batch = reader.poll()
                    assert batch.lost >= 0
                    if isinstance(reader, RingReader):
                        check(reader)
                assert reader.accepted + reader.lost + reader.unread == reader.published
                reader.is_current  # noqa: B018
                reader._view.last_time_ns()
                reader.words()
                reader.anchor  # noqa: B018


def check(reader: RingReader) -> None:
    """Whatever is accepted stands where it should and has a known series."""
    batch = reader.poll()
    assert (np.diff(batch.records["seq"]) > 0).all()
    assert all(int(number) in reader.series for number in batch.records["series"])
    assert len(batch.records) < CAPACITY


@pytest.fixture
def ring(data_dir: Path, small: None) -> Iterator[Ring]:
    ring = Ring(data_dir)
    yield ring
    ring.restore()


def test_each_flipped_byte_of_the_header_is_a_named_error_or_harmless(ring: Ring) -> None:
    """In the static part always an error: magic, version, sizes, uuid, name, checksum."""
    for which in (0, 1):
        kind = (layout.RECORDS, layout.TEXTS)[which]
        uuid = (ring.pair.uuid, ring.pair.text_uuid)[which]
        for offset in range(1024):
            byte = ring.whole[which][offset]
            ring.write(which, offset, bytes([byte ^ 0xFF]))
            ring.read()
            if offset < layout.STATIC_BYTES:
                with pytest.raises(RingInvalid):
                    RingView.open(ring.pair.segments[which], uuid, kind)
            ring.write(which, offset, bytes([byte]))


@pytest.mark.parametrize("size", [0, 1, 255, 256, 4095, 4096, 4097, 8191])
def test_a_segment_that_is_too_short_is_a_named_error(size: int, ring: Ring) -> None:
    """Nothing is mapped beyond the file: that would be SIGBUS."""
    os.truncate(ring.paths[0], size)
    ring.read()
    with pytest.raises((RingInvalid, RingMissing)):
        RingReader.attach("engine", ring.data_dir, timeout_s=0)


def test_random_headers_slots_and_symbols(ring: Ring) -> None:
    """Bytes from anywhere, anywhere."""

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 1), st.integers(0, 13_000), st.binary(min_size=1, max_size=300))
    def scribble(which: int, offset: int, data: bytes) -> None:
        room = len(ring.whole[which])
        ring.write(which, offset % (room - len(data)), data)
        ring.read()
        ring.restore()

    scribble()


def test_random_cursors(ring: Ring) -> None:
    """Each changing word on its own, with any value."""
    words = (
        layout.EPOCH,
        layout.PUBLISHED,
        layout.SYMBOLS_PUBLISHED,
        layout.ANCHOR_SEQUENCE,
        layout.ANCHOR_WALL_NS,
        layout.STATE,
        layout.WRITER_PID,
    )
    edges = st.sampled_from([-1, 0, 1, 19, 21, 1 << 40, 1 << 56, (1 << 63) - 1, -(1 << 63)])
    value = st.one_of(edges, st.integers(-(1 << 63), (1 << 63) - 1))

    @settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(st.integers(0, 1), st.sampled_from(words), value)
    def scribble(which: int, word: int, value: int) -> None:
        ring.write(which, word * 8, value.to_bytes(8, "little", signed=True))
        ring.read()
        with Recorder("engine", ring.data_dir, capacity=CAPACITY) as recorder:
            # Resumed or replaced; in either case it works.
            assert recorder.problem is None
            before = recorder.published
            recorder.metric("x").record(1.0)
            assert recorder.published == before + 1
        if survey(ring.data_dir)[0].uuid != ring.pair.uuid:
            ring.__init__(ring.data_dir)  # type: ignore[misc]
        ring.restore()

    scribble()


def test_random_slots_are_dropped_and_counted(ring: Ring) -> None:
    """No random slot passes for a record; what is left is right."""
    rng = np.random.default_rng(7)
    ring.write(0, layout.HEADER_BYTES, rng.bytes(CAPACITY * layout.RECORD_BYTES))
    with RingReader.attach("engine", ring.data_dir) as reader:
        batch = reader.poll()
        assert len(batch.records) == 0
        assert (batch.lost, reader.integrity_errors) == (20, CAPACITY - 1)


def static(**changes: object) -> Static:
    fields = {
        "kind": layout.RECORDS,
        "capacity": 16,
        "name": "engine",
        "uuid": b"u" * 16,
        "boot_id": b"b" * 16,
        "created_mono_ns": 1,
        "created_wall_ns": 2,
        "fences": 0,
        "symbols_bytes": 4096,
    }
    return Static(**(fields | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": 3}, "kind 3"),
        ({"fences": 9}, "fence mode 9"),
        ({"capacity": 24}, "capacity 24"),
        ({"capacity": 1 << 40}, "capacity"),
        ({"symbols_bytes": 1 << 40}, "total size"),
    ],
)
def test_a_consistent_header_with_impossible_values_is_refused(
    changes: dict[str, object], words: str
) -> None:
    """The checksum is right, the ring isn't one; nothing giant is allocated."""
    header = layout.encode(static(**changes))
    with pytest.raises(RingInvalid, match=words):
        layout.decode(header, 1 << 50)


def test_a_header_comes_back_as_it_was() -> None:
    """And fits exactly its file."""
    header = layout.encode(static())
    assert layout.decode(header, static().total_bytes) == static()
    with pytest.raises(RingInvalid, match="segment holds"):
        layout.decode(header, static().total_bytes - 1)


@pytest.mark.parametrize(
    ("offset", "data", "words"),
    [
        (0, b"tickrung", "magic"),
        (8, b"\x02", "layout version 2, this reader needs 1: restart the engine after upgrading"),
        (12, b"\x01\x02\x03\x04", "another kind of machine"),
        (104, b"\xff", "checksum"),
    ],
)
def test_an_error_says_what_was_seen_and_what_to_do(offset: int, data: bytes, words: str) -> None:
    """Each kind of foreign header has words of its own."""
    header = bytearray(layout.encode(static()))
    header[offset : offset + len(data)] = data
    with pytest.raises(RingInvalid, match=words):
        layout.decode(bytes(header), 1 << 20)


@given(st.binary(max_size=layout.HEADER_BYTES), st.integers(0, 1 << 40))
def test_any_header_decodes_or_is_invalid(header: bytes, size: int) -> None:
    """Never another exception."""
    try:
        layout.decode(layout.MAGIC + header, size)
    except RingInvalid:
        pass
