"""A real ring against a model list, through every event of a ring's life."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ringbuf import Recorder, RingReader, layout
from tests.segments import unlink_segments

CAPACITIES = [2, 4, 8, 64]


class Reading:
    """A reader, and what it has accepted so far."""

    def __init__(self, reader: RingReader, values: list[float]) -> None:
        self.reader = reader
        self.values = values  # all that the ring ever published; shared with the model
        self.start = reader.position
        self.taken: list[int] = []

    def poll(self, limit: int) -> None:
        before, published = self.reader.position, len(self.values)
        batch = self.reader.poll(limit)
        seqs = batch.records["seq"].tolist()
        assert batch.records["value"].tolist() == [self.values[seq] for seq in seqs]
        assert seqs == list(range(self.reader.position - len(seqs), self.reader.position))
        assert batch.lost == self.reader.position - len(seqs) - before
        oldest = max(before, published - self.reader.capacity + 1)
        assert batch.lost == oldest - before, "only what was overwritten is lost"
        assert len(seqs) == min(limit, published - oldest)
        drained = self.reader.position == published
        assert (batch.watermark_ns is not None) is drained
        self.taken += seqs

    def check(self) -> None:
        reader = self.reader
        assert reader.accepted == len(self.taken)
        assert reader.accepted + reader.lost + reader.unread == reader.published - self.start
        assert reader.published == len(self.values)
        assert self.taken == sorted(set(self.taken)), "in order, none twice"
        assert reader.integrity_errors == 0


class Life(RuleBasedStateMachine):
    """One ring's name: its writers come and go, die and change; readers come and go."""

    folder: Path
    lives = 0

    def __init__(self) -> None:
        super().__init__()
        type(self).lives += 1
        self.data_dir = self.folder / str(self.lives)
        self.values: list[float] = []
        self.rejected = 0
        self.readings: list[Reading] = []
        self.old: tuple[str, list[float]] | None = None  # the replaced ring
        self.capacity = 8
        self.recorder = self.open()

    def open(self) -> Recorder:
        recorder = Recorder("engine", self.data_dir, capacity=self.capacity)
        assert recorder.problem is None
        assert recorder.published == len(self.values), "no gap in seq, no reuse"
        self.metrics = [recorder.metric("a"), recorder.metric("b", unit="ms", side="buy")]
        return recorder

    @rule(count=st.integers(0, 5), which=st.integers(0, 1))
    def write(self, count: int, which: int) -> None:
        for _ in range(count):
            value = float(len(self.values)) * 0.5
            self.metrics[which].record(value)
            self.values.append(value)

    @rule(laps=st.integers(1, 3), more=st.integers(0, 3))
    def lap(self, laps: int, more: int) -> None:
        self.write(self.capacity * laps + more, 0)

    @rule(value=st.sampled_from([float("nan"), float("inf"), None, "1", 10**400, [], b"", 1j]))
    def write_nonsense(self, value: Any) -> None:
        self.metrics[0].record(value)
        self.rejected += 1

    @rule(limit=st.sampled_from([1, 2, 3, 7, 1000]), data=st.data())
    @precondition(lambda self: self.readings)
    def poll(self, limit: int, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.readings)).poll(limit)

    @rule(data=st.data())
    @precondition(lambda self: len(self.readings) < 4)
    def attach(self, data: st.DataObject) -> None:
        position = data.draw(st.integers(0, len(self.values)))
        reader = RingReader.attach("engine", self.data_dir, position=position, timeout_s=0)
        assert reader.uuid == self.recorder.uuid
        self.readings.append(Reading(reader, self.values))

    @rule(data=st.data())
    @precondition(lambda self: self.readings)
    def reattach(self, data: st.DataObject) -> None:
        """A reader that was killed goes on at its checkpoint, whatever ring is current now."""
        reading = data.draw(st.sampled_from(self.readings))
        reader = reading.reader
        reader.close()
        known = {self.recorder.uuid, self.old[0] if self.old else ""}
        if reader.uuid not in known:
            self.readings.remove(reading)  # its ring was replaced twice and is gone
            return
        reading.reader = RingReader.attach(
            "engine", self.data_dir, uuid=reader.uuid, position=reader.position, timeout_s=0
        )
        reading.start = reading.reader.position
        reading.taken = []

    @rule(torn=st.booleans(), clean=st.booleans())
    def restart(self, torn: bool, clean: bool) -> None:
        """Closed or killed (perhaps inside a slot), and started again: the ring goes on."""
        rings = self.recorder._rings
        assert rings is not None
        uuid = self.recorder.uuid
        if torn:
            slot = (len(self.values) & (self.capacity - 1)) * layout.RECORD_BYTES
            rings.records.slots[slot : slot + 12] = b"\xa5" * 12
        self.recorder.close() if clean else rings.abandon()
        self.recorder = self.open()
        assert self.recorder.uuid == uuid
        assert self.recorder.rejected == self.rejected

    @rule(capacity=st.sampled_from(CAPACITIES))
    def replace(self, capacity: int) -> None:
        """Another capacity makes another ring; the one before can still be drained."""
        if capacity == self.capacity:
            return
        uuid, values = self.recorder.uuid, self.values
        self.recorder.close()
        self.old = uuid, values
        self.capacity, self.values, self.rejected = capacity, [], 0
        self.recorder = self.open()
        assert self.recorder.uuid != uuid
        with RingReader.attach("engine", self.data_dir, uuid=uuid, timeout_s=0) as reader:
            Reading(reader, values).poll(1000)

    @invariant()
    def accounts_add_up(self) -> None:
        assert self.recorder.published == len(self.values)
        assert self.recorder.rejected == self.rejected
        for reading in self.readings:
            reading.check()

    def teardown(self) -> None:
        for reading in self.readings:
            reading.poll(1_000_000)
            assert reading.reader.unread == 0
            reading.check()
            reading.reader.close()
        self.recorder.close()
        unlink_segments(self.data_dir)


@pytest.mark.usefixtures("small")
def test_accepted_plus_lost_plus_unread_equals_published(tmp_path: Path) -> None:
    """Through writing, lapping, crashes, resumption, replacement and reattachment; none twice."""
    Life.folder = tmp_path
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=60,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
