"""Kill the writer between any two lines of opening a ring, and at any instruction of using it.

A child is forked for every place.  Afterwards nothing unpublished may be visible, the next writer
must get the ring without a gap in seq, and no segment may be left that no descriptor names.
"""

import functools
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from ringbuf import Recorder, RingReader, TextReader, descriptor, layout, segment, series, writer
from ringbuf.survey import survey
from tests.segments import unlink_segments

# Modules and functions that change what others see.  A kill inside a pure one is the same as a
# kill at the next step of these.
CHANGING = ("opening", "segment", "writer", "ownership", "hotpath", "recorder")
WRITING = (
    descriptor.make_private,
    descriptor.write,
    descriptor._write_json,
    descriptor.sweep,
    series.SymbolTable._intern,
)
FILES = {str(Path(segment.__file__).with_name(f"{name}.py")) for name in CHANGING}
CODES = {function.__code__ for function in WRITING}
# Where one line holds several steps that others can see, each instruction is a place to die.
DENSE = {
    series.SymbolTable._intern.__code__,
    writer.RingWriter.write_text.__code__,
    writer.RingWriter.renew_anchor.__code__,
    writer.RingWriter.mark_clean_end.__code__,
}


def killed_at(place: int, action: Callable[[], Any]) -> bool:
    """Fork a child that does *action* and kills itself at the *place*-th step inside ringbuf.

    Returns:
        Whether it was killed; False when the action has fewer steps and ended by itself.
    """
    pid = os.fork()
    if pid == 0:
        try:
            _die_at(place)
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False


def _die_at(place: int) -> None:
    left = place

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if frame.f_code.co_filename not in FILES and frame.f_code not in CODES:
            return None
        # Touching pages is thousands of equal steps: one function's entry stands for them.
        if frame.f_code is segment.touch.__code__ and event != "call":
            return None
        dense = frame.f_code in DENSE or frame.f_code.co_filename.endswith("hotpath.py")
        frame.f_trace_opcodes = dense
        if event == ("opcode" if dense else "line"):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, small: None) -> str:
    """Few pages, and a prefix of this test's own to find orphans by."""
    prefix = f"tickwatch-kill-{os.getpid()}-"
    monkeypatch.setattr(segment, "PREFIX", prefix)
    return prefix


def orphans(prefix: str, rings: Path) -> set[str]:
    """Segments of this test that the descriptor doesn't name."""
    there = {path.name for path in Path("/dev/shm").glob(f"{prefix}*")}
    return there - descriptor.read(rings, "engine").segments


def open_and_record(data_dir: Path, capacity: int, published: int) -> None:
    """What a restarted engine does; it must find the ring whole."""
    with Recorder("engine", data_dir, capacity=capacity) as recorder:
        assert recorder.problem is None
        assert recorder.published == published
        recorder.metric("x").record(float(published))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("before", "after"), [(0, 16), (16, 16), (16, 32)], ids=["created", "resumed", "replaced"]
)
def test_killed_at_any_line_of_opening_a_ring(
    before: int, after: int, data_dir: Path, tiny: str
) -> None:
    """The next writer gets the ring, and what was published before is still there."""
    place = 0
    while True:
        rings = data_dir / str(place) / "rings"
        if before:
            open_and_record(rings.parent, before, 0)
            old = descriptor.read(rings, "engine").current
        else:
            old = None
        opening = functools.partial(Recorder, "engine", rings.parent, capacity=after)
        killed = killed_at(place, opening)
        survey(rings.parent)  # never raises, whatever was left
        open_and_record(rings.parent, after, 1 if before == after else 0)
        known = descriptor.read(rings, "engine")
        if old is not None and before != after:
            # Replaced in the end, by whoever got that far; the old one can still be drained.
            assert known.previous == old
            with RingReader.attach("engine", rings.parent, uuid=old.uuid) as reader:
                assert reader.poll().records["value"].tolist() == [0.0]
        assert orphans(tiny, rings) == set()
        assert not list(rings.glob("*.tmp"))
        unlink_segments(rings.parent)
        place += 1
        if not killed:
            break
    assert place > 50, "the tracer saw nothing: this test would pass without killing"


def check_restart(data_dir: Path, published: tuple[int, int], texts: tuple[int, int]) -> None:
    """Whatever was published is right, whatever wasn't is invisible, and the next goes on."""
    with (
        RingReader.attach("engine", data_dir) as reader,
        TextReader.attach("engine", data_dir) as text_reader,
    ):
        seen = reader.poll().records
        assert published[0] <= reader.published <= published[1]
        assert seen["seq"].tolist() == list(range(reader.published))
        assert seen["value"].tolist() == [0.5] * reader.published
        assert texts[0] <= text_reader.published <= texts[1]
        assert len(text_reader.poll().texts) == text_reader.published
        with Recorder("engine", data_dir, capacity=64) as recorder:
            assert recorder.problem is None
            assert recorder.published == reader.published
            recorder.metric("x").record(7.0)
            recorder.metric("fresh").record(8.0)
            recorder.emit_alert("rule", "info")
        records = reader.poll().records
        assert records["value"].tolist() == [7.0, 8.0]
        names = [reader.series[int(number)].name for number in records["series"]]
        assert names == ["x", "fresh"]
        assert len(text_reader.poll().texts) == 1
        assert reader.integrity_errors == text_reader.integrity_errors == 0


@pytest.mark.parametrize("what", ["record", "record_threads", "metric", "emit", "beat", "close"])
def test_killed_at_any_instruction_of_using_a_ring(what: str, data_dir: Path, tiny: str) -> None:
    """Mid-record, while interning, in the middle of a text, of the anchor, of the clean end."""
    place = 0
    while True:
        folder = data_dir / str(place)

        def use(folder: Path = folder, place: int = place) -> None:
            recorder = Recorder("engine", folder, capacity=64, threads=what == "record_threads")
            metric = recorder.metric("x")
            metric.record(0.5)
            assert recorder._rings is not None
            words = recorder._rings.records.words
            if what == "beat":
                words[layout.ANCHOR_MONO_NS] = 0
            actions: dict[str, Callable[[], Any]] = {
                "record": lambda: metric.record(0.5),
                "record_threads": lambda: metric.record(0.5),
                "metric": lambda: recorder.metric("new", label="value"),
                "emit": lambda: recorder.emit_alert("rule", "critical", "words", label="value"),
                "beat": recorder.heartbeat,
                "close": recorder.close,
            }
            _die_at(place)
            actions[what]()
            sys.settrace(None)

        killed = killed_at(10**9, use)
        check_restart(folder, (1, 2), (0, 1))
        unlink_segments(folder)
        place += 1
        if not killed:
            break
    assert place > 20, "the tracer saw nothing: this test would pass without killing"


def test_a_payload_without_its_cursor_is_never_seen(data_dir: Path) -> None:
    """Half a slot, or a whole one: as long as the cursor hasn't moved it isn't there."""
    with Recorder("engine", data_dir, capacity=4) as recorder:
        for step in range(6):
            recorder.metric("x").record(step)
        assert recorder._rings is not None
        slots = recorder._rings.records.slots
        layout.RECORD_SLOT.pack_into(slots, (6 & 3) * 32, 6, 1, 99.0, 1)
        with RingReader.attach("engine", data_dir) as reader:
            assert reader.poll().records["value"].tolist() == [3.0, 4.0, 5.0]
