"""Free-text alerts: never lost silently, cut on characters, the same identity every time."""

from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ringbuf import Recorder, TextReader, layout
from ringbuf.survey import survey
from ringbuf.texts import EMIT, MAX_BODY_BYTES, RESOLVE, cut, pack_text, unpack_text


def test_an_alert_arrives_with_its_words_and_labels(data_dir: Path) -> None:
    """Rule, severity, message, the recorder's labels and the engine."""
    with Recorder("engine", data_dir, labels={"desk": "nifty"}, capacity=16) as recorder:
        recorder.emit_alert("order_rejected", "critical", "RMS says no", symbol="RELIANCE")
        recorder.resolve_alert("order_rejected", symbol="RELIANCE")
    with TextReader.attach("engine", data_dir) as reader:
        emitted, resolved = reader.poll().texts
        assert reader.uuid == survey(data_dir)[0].text_uuid
    assert (emitted.kind, emitted.rule, emitted.severity) == ("emit", "order_rejected", "critical")
    assert emitted.message == "RMS says no"
    assert emitted.labels == {"desk": "nifty", "symbol": "RELIANCE", "engine": "engine"}
    assert not emitted.truncated
    assert (resolved.kind, resolved.rule, resolved.labels) == (
        "resolve",
        "order_rejected",
        emitted.labels,
    )
    assert (emitted.seq, resolved.seq) == (0, 1)
    assert emitted.time_ns <= resolved.time_ns


def test_lost_texts_are_counted_exactly(data_dir: Path) -> None:
    """A lost alert is itself a critical one, so the count must be right."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        for number in range(layout.TEXT_CAPACITY + 9):
            recorder.emit_alert("rule", "info", str(number))
        with TextReader.attach("engine", data_dir) as reader:
            batch = reader.poll(100)
            assert batch.lost == 10
            assert [text.message for text in batch.texts] == [str(n) for n in range(10, 110)]
            assert batch.watermark_ns is None
            while reader.poll().watermark_ns is None:
                pass
            assert reader.accepted + reader.lost == reader.published == layout.TEXT_CAPACITY + 9


@pytest.mark.parametrize("severity", ["fatal", "", None, 3])
def test_an_unknown_severity_is_critical_and_says_so(severity: Any, data_dir: Path) -> None:
    """An alert with a typing error must not be a quiet one."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        recorder.emit_alert("rule", severity, "words")
    with TextReader.attach("engine", data_dir) as reader:
        [text] = reader.poll().texts
    assert text.severity == "critical"
    assert text.message == f"words (severity {severity!r} is unknown)"


def test_severities_are_taken_in_any_case(data_dir: Path) -> None:
    """WARNING is warning."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        recorder.emit_alert("rule", " WARNING ")
    with TextReader.attach("engine", data_dir) as reader:
        assert reader.poll().texts[0].severity == "warning"


def test_a_long_message_is_cut_between_characters_with_a_flag(data_dir: Path) -> None:
    """Rule and labels are whole; the message takes the room that is left."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        recorder.emit_alert("rule", "info", "💥" * 5000, symbol="RELIANCE")
    with TextReader.attach("engine", data_dir) as reader:
        [text] = reader.poll().texts
    assert text.truncated
    assert text.labels["symbol"] == "RELIANCE"
    assert set(text.message) == {"💥"}
    assert 3900 < len(text.message.encode()) < layout.TEXT_BYTES


class Unspeakable:
    """What can't be turned into text."""

    def __str__(self) -> str:
        raise LookupError


@pytest.mark.parametrize("threads", [False, True])
def test_nothing_that_is_passed_comes_back_as_an_exception(threads: bool, data_dir: Path) -> None:
    """What can't be written is counted as rejected."""
    rude: Any = Unspeakable()
    with Recorder("engine", data_dir, capacity=16, threads=threads) as recorder:
        recorder.emit_alert("rule", "info", rude)
        recorder.emit_alert(rude, "info")
        recorder.resolve_alert("rule", label=rude)
        recorder.emit_alert("\ud800", "info", "\udfff", label="\ud900")
        assert recorder.rejected == 3
        with TextReader.attach("engine", data_dir) as reader:
            [text] = reader.poll().texts
    assert (text.rule, text.message, text.labels["label"]) == ("?", "?", "?")
    assert survey(data_dir)[0].rejected == 3


texts = st.text(st.characters(), max_size=400)


@given(rule=texts, message=texts, labels=st.dictionaries(texts, texts, max_size=12))
def test_any_text_fits_its_slot_and_comes_back(
    rule: str, message: str, labels: dict[str, str]
) -> None:
    """Whole if it is small, cut with a flag if it isn't; emit and resolve agree on the identity."""
    body = pack_text(EMIT, rule, "warning", message, labels)
    assert len(body) <= MAX_BODY_BYTES
    emitted = unpack_text(body, 5, 6, "engine")
    resolved = unpack_text(pack_text(RESOLVE, rule, "", "", labels), 7, 8, "engine")
    assert emitted is not None
    assert resolved is not None
    assert (emitted.rule, emitted.labels) == (resolved.rule, resolved.labels)
    clean = [text.encode("utf-8", "replace").decode() for text in (rule, message)]
    if not emitted.truncated:
        assert [emitted.rule, emitted.message] == clean
        assert set(emitted.labels) >= {key.encode("utf-8", "replace").decode() for key in labels}


@given(st.text(st.characters(), max_size=50), st.integers(0, 60))
def test_cutting_never_splits_a_character(text: str, limit: int) -> None:
    """The result is a prefix, encodes, and fits."""
    kept, was_cut = cut(text, limit)
    whole = text.encode("utf-8", "replace").decode()
    assert whole.startswith(kept)
    assert len(kept.encode()) <= limit
    assert was_cut is (kept != whole)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_text_or_none(body: bytes) -> None:
    """msgpack's many exceptions stay inside."""
    unpack_text(body, 0, 0, "engine")


@pytest.mark.parametrize("fields", [None, [], {}, {"rule": "x"}, {"labels": 3}])
def test_other_msgpack_is_no_text(fields: Any) -> None:
    """Only what has all the parts."""
    assert unpack_text(bytes(msgpack.packb(fields)), 0, 0, "engine") is None


@pytest.mark.parametrize("offset", [0, 16, 20, 24, 40])
def test_a_damaged_text_is_dropped_and_counted(offset: int, data_dir: Path) -> None:
    """Seq, length, checksum or body: its neighbours are still good."""
    with Recorder("engine", data_dir, capacity=16) as recorder:
        for number in range(3):
            recorder.emit_alert("rule", "info", str(number))
        assert recorder._rings is not None
        slots = recorder._rings.texts.slots
        slots[layout.TEXT_BYTES + offset] ^= 0xFF
        with TextReader.attach("engine", data_dir) as reader:
            batch = reader.poll()
            assert [text.message for text in batch.texts] == ["0", "2"]
            assert (batch.lost, reader.integrity_errors) == (1, 1)
