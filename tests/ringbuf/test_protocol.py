"""The protocol, proved on all interleavings; and the code, held to the order of its steps."""

import struct
import threading
from typing import Any

import pytest

from ringbuf import fence, hotpath, layout
from ringbuf.view import oldest_safe
from tests.ringbuf.explorer import Model, Protocol, violation

FENCED = Protocol(writer_fences=True, reader_fences=True)

RIGHT = [
    (Protocol(), Model.SC),
    (Protocol(), Model.TSO),
    (FENCED, Model.SC),
    (FENCED, Model.TSO),
    (FENCED, Model.WEAK),
    (Protocol(membarrier=True), Model.WEAK),
]

BROKEN = [
    *(
        (mutation, model)
        for mutation in (
            Protocol(guard=0),
            Protocol(second_read=False),
            Protocol(check_before_copy=True),
            Protocol(cursor_first=True),
            Protocol(zeroed_cursor=True),
        )
        for model in (Model.SC, Model.TSO, Model.WEAK)
    ),
    (Protocol(), Model.WEAK),
    (Protocol(writer_fences=True), Model.WEAK),
    (Protocol(reader_fences=True), Model.WEAK),
    (Protocol(guard=0, writer_fences=True, reader_fences=True), Model.WEAK),
    (Protocol(second_read=False, writer_fences=True, reader_fences=True), Model.WEAK),
    (Protocol(zeroed_cursor=True, writer_fences=True, reader_fences=True), Model.WEAK),
    (Protocol(guard=0, membarrier=True), Model.WEAK),
]


@pytest.mark.parametrize(("protocol", "model"), RIGHT, ids=str)
def test_no_interleaving_makes_a_reader_believe_a_wrong_record(
    protocol: Protocol, model: Model
) -> None:
    """In order on SC and TSO machines as it is; on weak ones with fences on both sides."""
    assert violation(protocol, model) is None


@pytest.mark.parametrize(("protocol", "model"), BROKEN, ids=str)
def test_each_known_mistake_is_still_found(protocol: Protocol, model: Model) -> None:
    """An explorer that finds nothing wrong with a broken protocol proves nothing."""
    assert violation(protocol, model)


class Words:
    """Header words that note what a racing reader would see at each store."""

    def __init__(self, slots: bytearray) -> None:
        self.values = [0] * (layout.HEADER_BYTES // 8)
        self.values[layout.PUBLISHED] = 5
        self.slots = slots
        self.stores: list[tuple[int, int, bytes]] = []

    def __getitem__(self, index: int) -> int:
        return self.values[index]

    def __setitem__(self, index: int, value: int) -> None:
        self.stores.append((index, value, bytes(self.slots)))
        self.values[index] = value


class Ring:
    """What the hot path needs of a ring's writer."""

    def __init__(self, fences: int) -> None:
        self.slots = bytearray(4 * layout.RECORD_BYTES)
        self.words = Words(self.slots)
        self.static = layout.Static(layout.RECORDS, 4, "x", bytes(16), bytes(16), 0, 0, fences)
        self.fences_passed: list[int] = []

    def fence(self) -> None:
        self.fences_passed.append(len(self.words.stores))

    def reject(self) -> None:
        raise AssertionError("nothing is rejected here")


@pytest.mark.parametrize("mode", [fence.TOTAL_STORE_ORDER, fence.LOCK_PAIR])
@pytest.mark.parametrize("threads", [False, True])
def test_the_payload_is_complete_before_the_one_store_of_the_cursor(
    mode: int, threads: bool
) -> None:
    """Payload, then a single cursor store to seq + 1; where the machine needs fences, around it."""
    ring: Any = Ring(mode)
    lock = threading.Lock() if threads else None
    hotpath.record_function(ring, 7, lock)(1.5)
    [(index, value, slots)] = ring.words.stores
    assert (index, value) == (layout.PUBLISHED, 6)
    seq, time_ns, number, series, flags = struct.unpack_from("<qqdII", slots, 1 * 32)
    assert (seq, number, series, flags) == (5, 1.5, 7, 0)
    assert time_ns > 0
    assert ring.fences_passed == ([] if mode == fence.TOTAL_STORE_ORDER else [0, 1])


def test_the_guard_is_one_slot() -> None:
    """The slot of the next record may be half-written already."""
    assert [oldest_safe(published, 4) for published in range(7)] == [0, 0, 0, 0, 1, 2, 3]
