"""What a reader may rely on: exact counts, its own records, and no surprise from a damaged ring."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ringbuf import (
    Recorder,
    RingInvalid,
    RingMissing,
    RingReader,
    TextReader,
    layout,
    segment,
    view,
)
from ringbuf.progress import Progress


def words_of(recorder: Recorder) -> Any:
    """The header's words, as the writer has them."""
    assert recorder._rings is not None
    return recorder._rings.records.words


def test_a_late_reader_counts_what_was_overwritten_before_it_came(
    recorder: Recorder, data_dir: Path
) -> None:
    """It starts at the oldest record that can be trusted: one slot less than the ring has."""
    for step in range(100):
        recorder.metric("x").record(step)
    with RingReader.attach("engine", data_dir) as reader:
        assert (reader.unread, reader.published) == (100, 100)
        batch = reader.poll()
        assert batch.lost == 85
        assert batch.records["value"].tolist() == list(range(85, 100))
        assert (reader.accepted, reader.lost, reader.unread) == (15, 85, 0)


def test_a_batch_belongs_to_its_receiver(recorder: Recorder, data_dir: Path) -> None:
    """Later polls and later writing don't change records that were handed out."""
    metric = recorder.metric("x")
    with RingReader.attach("engine", data_dir) as reader:
        metric.record(1.0)
        first = reader.poll().records
        for step in range(40):
            metric.record(step)
        reader.poll()
        assert first["value"].tolist() == [1.0]
        first["value"] = 7.0
    assert first["value"].tolist() == [7.0]


def test_limits_cut_a_poll_and_lose_nothing(recorder: Recorder, data_dir: Path) -> None:
    """Also across the ring's end; the watermark comes only with the last part."""
    metric = recorder.metric("x")
    with RingReader.attach("engine", data_dir) as reader:
        for step in range(10):
            metric.record(step)
        assert reader.poll(10).watermark_ns is not None
        for step in range(10, 24):
            metric.record(step)
        parts = [reader.poll(5) for _ in range(4)]
        assert [part.records["value"].tolist() for part in parts] == [
            [10, 11, 12, 13, 14],
            [15, 16, 17, 18, 19],
            [20, 21, 22, 23],
            [],
        ]
        assert [part.watermark_ns is not None for part in parts] == [False, False, True, True]


def test_the_watermark_is_read_before_the_cursor(recorder: Recorder, data_dir: Path) -> None:
    """So what is published after the poll isn't older, but for one just being published."""
    with RingReader.attach("engine", data_dir) as reader:
        before = time.monotonic_ns()
        watermark = reader.poll().watermark_ns
        after = time.monotonic_ns()
        recorder.metric("x").record(1)
        [record] = reader.poll().records
    assert watermark is not None
    assert before <= watermark <= after <= record["time_ns"]


@pytest.mark.parametrize("overtaken", [1, 5, 15, 16, 17, 40])
def test_being_lapped_during_the_copy_loses_exactly_what_may_be_torn(
    overtaken: int, recorder: Recorder, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer moves between the copy and the second look at the cursor."""
    metric = recorder.metric("x")
    for step in range(15):
        metric.record(step)
    with RingReader.attach("engine", data_dir) as reader:
        confirm = Progress._confirm

        def lapped(self: Progress, first: int, count: int) -> int:
            for step in range(15, 15 + overtaken):
                metric.record(step)
            return confirm(self, first, count)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "_confirm", lapped)
            batch = reader.poll()
        gone = min(15, max(0, 15 + overtaken - 15))
        assert batch.lost == gone
        assert batch.records["value"].tolist() == list(range(gone, 15))
        rest = reader.poll()
        assert reader.accepted + reader.lost == recorder.published == 15 + overtaken
        assert rest.records["value"].tolist()[-1] == 14 + overtaken
        assert reader.integrity_errors == 0


def test_two_readers_do_not_notice_each_other(recorder: Recorder, data_dir: Path) -> None:
    """Each has its own account."""
    metric = recorder.metric("x")
    with (
        RingReader.attach("engine", data_dir) as first,
        RingReader.attach("engine", data_dir) as second,
    ):
        metric.record(1)
        assert len(first.poll().records) == 1
        metric.record(2)
        assert len(second.poll().records) == 2
        assert len(first.poll().records) == 1


def test_a_position_beyond_the_ring_is_an_error_and_never_waited_for(
    recorder: Recorder, data_dir: Path
) -> None:
    """It is another ring's position: counting from it would be silence for ever."""
    recorder.metric("x").record(1)
    for position in (-1, 2, 1 << 40):
        with pytest.raises(RingInvalid, match="another ring's"):
            RingReader.attach("engine", data_dir, position=position)
    with RingReader.attach("engine", data_dir, position=1) as reader:
        assert reader.unread == 0


def test_a_ring_that_is_not_there_is_waited_for_and_then_missed(data_dir: Path) -> None:
    """Within the time limit, with the reason."""
    started = time.monotonic()
    with pytest.raises(RingMissing, match="no descriptor"):
        RingReader.attach("engine", data_dir, timeout_s=0.05)
    assert time.monotonic() - started >= 0.05
    Recorder("engine", data_dir, capacity=16).close()
    with pytest.raises(RingMissing, match="no ring"):
        RingReader.attach("engine", data_dir, uuid="0" * 32, timeout_s=0)


def test_a_replaced_ring_is_drained_by_its_uuid(data_dir: Path) -> None:
    """Records and texts of the ring before the current one; an older one is gone."""
    uuids = []
    for capacity in (16, 32, 64):
        with Recorder("engine", data_dir, capacity=capacity) as recorder:
            recorder.metric(f"x{capacity}").record(capacity)
            recorder.emit_alert(f"rule-{capacity}", "info")
            with TextReader.attach("engine", data_dir) as texts:
                uuids.append((recorder.uuid, texts.uuid))
    with RingReader.attach("engine", data_dir, uuid=uuids[1][0]) as reader:
        assert reader.poll().records["value"].tolist() == [32.0]
        assert reader.series[1].name == "x32"
    with TextReader.attach("engine", data_dir, uuid=uuids[1][1]) as texts:
        assert [text.rule for text in texts.poll().texts] == ["rule-32"]
    with RingReader.attach("engine", data_dir) as reader:
        assert reader.uuid == uuids[2][0]
        assert reader.is_current
    with pytest.raises(RingMissing):
        RingReader.attach("engine", data_dir, uuid=uuids[0][0], timeout_s=0)


def test_counts_stay_after_close(recorder: Recorder, data_dir: Path) -> None:
    """What was counted can still be reported."""
    recorder.metric("x").record(1)
    reader = RingReader.attach("engine", data_dir)
    reader.poll()
    recorder.metric("x").record(1)
    reader.poll(1)
    reader.close()
    reader.close()
    assert (reader.accepted, reader.lost, reader.unread, reader.published) == (2, 0, 0, 2)


@pytest.mark.parametrize("cursor", [-1, -(1 << 62), 1 << 57, (1 << 63) - 1])
def test_an_impossible_cursor_is_counted_once_and_waited_out(
    cursor: int, recorder: Recorder, data_dir: Path
) -> None:
    """No records, no watermark, no exception; when it is sane again reading goes on."""
    metric = recorder.metric("x")
    metric.record(1)
    with RingReader.attach("engine", data_dir) as reader:
        reader.poll()
        metric.record(2)
        words = words_of(recorder)
        words[layout.PUBLISHED] = cursor
        for _ in range(3):
            batch = reader.poll()
            assert (len(batch.records), batch.lost, batch.watermark_ns) == (0, 0, None)
        assert reader.integrity_errors == 1
        assert reader.accepted + reader.lost + reader.unread == reader.published
        words[layout.PUBLISHED] = 2
        assert reader.poll().records["value"].tolist() == [2.0]


def test_a_cursor_far_ahead_is_a_counted_drop(recorder: Recorder, data_dir: Path) -> None:
    """2**40 records that nobody wrote: lost, and what stands in the slots is not believed."""
    metric = recorder.metric("x")
    for step in range(5):
        metric.record(step)
    with RingReader.attach("engine", data_dir) as reader:
        words_of(recorder)[layout.PUBLISHED] = 5 + (1 << 40)
        batch = reader.poll()
        assert len(batch.records) == 0
        assert batch.lost == 5 + (1 << 40)
        assert reader.integrity_errors == 15
        metric.record(7.0)
        assert reader.poll().records["value"].tolist() == [7.0]
        assert reader.accepted + reader.lost + reader.unread == reader.published


def test_a_cursor_that_moves_back_is_an_integrity_error_and_reading_goes_on(
    recorder: Recorder, data_dir: Path
) -> None:
    """From where the writer is now; the account still adds up."""
    metric = recorder.metric("x")
    for step in range(10):
        metric.record(step)
    with RingReader.attach("engine", data_dir) as reader:
        reader.poll()
        words_of(recorder)[layout.PUBLISHED] = 4
        assert reader.accepted + reader.lost + reader.unread == reader.published == 10
        assert len(reader.poll().records) == 0
        assert reader.integrity_errors == 1
        metric.record(40.0)
        assert reader.poll().records["value"].tolist() == [40.0]
        assert reader.accepted + reader.lost + reader.unread == reader.published == 11


def test_a_cursor_that_breaks_during_the_copy_hurts_nobody(
    recorder: Recorder, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy was good until then; the next poll counts the damage."""
    recorder.metric("x").record(1.0)
    with RingReader.attach("engine", data_dir) as reader:
        confirm = Progress._confirm

        def broken(self: Progress, first: int, count: int) -> int:
            words_of(recorder)[layout.PUBLISHED] = -5
            return confirm(self, first, count)

        with monkeypatch.context() as patch:
            patch.setattr(Progress, "_confirm", broken)
            assert reader.poll().records["value"].tolist() == [1.0]
        assert reader.poll().watermark_ns is None
        assert reader.integrity_errors == 1


def damage_seq(slots: Any) -> None:
    slots[2 * 32 : 2 * 32 + 8] = (77).to_bytes(8, "little")


def damage_series(slots: Any) -> None:
    slots[2 * 32 + 24 : 2 * 32 + 28] = (4_000_000_000).to_bytes(4, "little")


@pytest.mark.parametrize("damage", [damage_seq, damage_series])
def test_a_record_that_is_not_what_it_should_be_is_dropped_and_counted(
    damage: Callable[[Any], None], recorder: Recorder, data_dir: Path
) -> None:
    """A wrong seq, a series that doesn't exist: its neighbours are still good."""
    for step in range(5):
        recorder.metric("x").record(step)
    assert recorder._rings is not None
    damage(recorder._rings.records.slots)
    with RingReader.attach("engine", data_dir) as reader:
        batch = reader.poll()
        assert batch.records["value"].tolist() == [0, 1, 3, 4]
        assert (batch.lost, reader.integrity_errors) == (1, 1)
        assert reader.accepted + reader.lost + reader.unread == reader.published


def test_new_series_appear_when_a_poll_meets_them(recorder: Recorder, data_dir: Path) -> None:
    """And the mapping can't be changed by its reader."""
    with RingReader.attach("engine", data_dir) as reader:
        assert list(reader.series) == [0]
        recorder.metric("x")
        recorder.metric("y").record(1)
        assert list(reader.series) == [0]
        reader.poll()
        assert [series.name for series in reader.series.values()] == ["overflow", "x", "y"]
        with pytest.raises(TypeError):
            reader.series[9] = reader.series[0]  # type: ignore[index]


def test_records_have_the_documented_dtype(recorder: Recorder, data_dir: Path) -> None:
    """seq and time as int64, value as float64, series and flags as uint32: 32 bytes."""
    recorder.metric("x").record(0.5)
    with RingReader.attach("engine", data_dir) as reader:
        records = reader.poll().records
    assert records.dtype == layout.RECORD
    assert records.dtype.itemsize == layout.RECORD_BYTES == layout.RECORD_SLOT.size
    assert list(records.dtype.names or ()) == ["seq", "time_ns", "value", "series", "flags"]
    assert records["flags"].tolist() == [0]
    assert np.dtype(layout.RECORD_FIELDS) == layout.RECORD


def test_layout_has_no_other_surprises() -> None:
    """Only RECORD is built on demand."""
    with pytest.raises(AttributeError, match="no attribute 'NOTHING'"):
        layout.NOTHING  # noqa: B018


def test_a_removed_segment_is_noticed_by_comparing_inodes(
    recorder: Recorder, data_dir: Path
) -> None:
    """Readers that are attached go on reading; they can see that nobody else can."""
    with RingReader.attach("engine", data_dir) as reader:
        seen = [reader.is_current]
        segment.remove(reader._view.segment)
        seen.append(reader.is_current)
        assert seen == [True, False]
        recorder.metric("x").record(1.0)
        assert len(reader.poll().records) == 1


def test_an_anchor_left_half_written_is_no_anchor(recorder: Recorder, data_dir: Path) -> None:
    """The writer died inside the seqlock: better none than a mixture."""
    words_of(recorder)[layout.ANCHOR_SEQUENCE] |= 1
    with RingReader.attach("engine", data_dir) as reader:
        assert reader.anchor is None


def test_an_anchor_is_one_moment_on_both_clocks(recorder: Recorder, data_dir: Path) -> None:
    """It turns monotonic times into wall times."""
    with RingReader.attach("engine", data_dir) as reader:
        anchor = reader.anchor
    assert anchor is not None
    assert abs(anchor.wall(time.monotonic_ns()) - time.time_ns()) < 1_000_000_000
    assert anchor.error_ns < 100_000_000


def test_a_reader_that_runs_out_of_files_gets_an_error_and_the_ring_stays(
    recorder: Recorder, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EMFILE, ENOMEM, EACCES: the caller hears of it, the segment doesn't."""
    recorder.metric("x").record(1.0)

    def refuse(*_: Any, **__: Any) -> Any:
        raise OSError(12, "Cannot allocate memory")

    with monkeypatch.context() as patch:
        patch.setattr("ringbuf.mapping.mmap.mmap", refuse)
        with pytest.raises(OSError, match="Cannot allocate"):
            RingReader.attach("engine", data_dir)
    open_before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count, no paths
    RingReader.attach("engine", data_dir).close()
    assert len(os.listdir("/proc/self/fd")) == open_before  # noqa: PTH208


def test_closing_with_arrays_alive_is_no_error(recorder: Recorder, data_dir: Path) -> None:
    """Somebody still holds a view of the mapping: it goes when that goes."""
    reader = RingReader.attach("engine", data_dir)
    slots = reader._slots
    reader.close()
    assert slots.shape == (16, 4)
    assert view.oldest_safe(1, 16) == 0
