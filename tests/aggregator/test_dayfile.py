"""Day files: their lines, their members, and reading them whatever happened to them."""

import gzip
import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from aggregator.history import dayfile, dayfolder, dayline
from aggregator.history.dayfile import Cover, State
from aggregator.history.dayline import Decoder, Record
from aggregator.history.dayreader import Trouble, read_records

DAY = "2026-01-31"
START_NS = dayfolder.start_ns(DAY)
EVER = (-(1 << 63), 1 << 63)
RING = "ab" * 16


def record(number: int, *, metric: str = "tick_latency", skipped: int = 0, **labels: str) -> Record:
    """The record called *number*, a second after the one before."""
    labels = {"engine": "intraday", **labels}
    return Record(
        START_NS + number * 10**9 + 7, metric, labels, float(number) + 0.25, "ms", skipped
    )


def encoded(records: Sequence[Record]) -> bytes:
    """The lines of *records*."""
    return dayline.encode(
        np.array([each.time_ns for each in records], np.int64),
        np.array([each.value for each in records], np.float64),
        [dayline.shape(each.metric, each.unit, each.labels) for each in records],
        [each.skipped for each in records],
    )


def member(records: Sequence[Record], rings: Mapping[str, tuple[int, int]] | None = None) -> bytes:
    """One member with *records*."""
    cover = Cover(
        rings=rings or {RING: (0, len(records))},
        records=len(records),
        skipped=sum(each.skipped for each in records),
        first_ns=min((each.time_ns for each in records), default=START_NS),
        last_ns=max((each.time_ns for each in records), default=START_NS),
    )
    return dayfile.pack(encoded(records), cover)


def put(folder: Path, data: bytes, suffix: str = "", day: str = DAY) -> Path:
    """A day's file with these bytes."""
    path = folder / dayfolder.name_of(day, suffix)
    path.write_bytes(data)
    return path


def found(data: bytes) -> tuple[list[Record], int]:
    """Records read from the bytes of a day file, and how many members were damaged."""
    file = io.BytesIO(data)
    records: list[Record] = []
    decoder = Decoder()
    damaged = 0
    for each in dayfile.members(file):
        try:
            for block in dayfile.lines(file, each):
                records += [known for line in block if (known := decoder.decode(line))]
        except dayfile.MemberDamaged:
            damaged += 1
    return records, damaged


THREE = [[record(number) for number in range(start, start + 40)] for start in (0, 40, 80)]
WHOLE = b"".join(map(member, THREE))

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
records = st.builds(
    Record,
    time_ns=st.integers(-(1 << 63), (1 << 63) - 1),
    metric=names,
    labels=st.dictionaries(names, names, max_size=3),
    value=st.floats(allow_nan=False, allow_infinity=False),
    unit=names,
    skipped=st.integers(0, 1 << 40),
)


@given(st.lists(records, max_size=20))
def test_a_line_gives_its_record_back(some: list[Record]) -> None:
    """Nanoseconds, the last bit of a double and any text survive, through our own decoder, which
    takes a shortcut for what it has seen before."""
    decoder = Decoder()
    lines = encoded(some).split(b"\n")[:-1]
    assert [decoder.decode(line) for line in lines] == some
    assert [decoder.decode(line) for line in lines] == some


@given(records)
def test_a_line_is_json_for_everybody(one: Record) -> None:
    """A JSON parser finds the documented fields and nothing else; the time has an offset."""
    fields = json.loads(encoded([one]))
    assert (
        list(fields)
        == ["time", "metric", "labels", "value", "unit", "skipped"][: 6 if one.skipped else 5]
    )
    assert fields["labels"] == one.labels and fields["value"] == one.value
    stamp = datetime.fromisoformat(fields["time"])
    assert stamp.tzinfo is not None
    assert math.floor(one.time_ns / 10**9) in (
        round(stamp.timestamp() - 0.5),
        int(stamp.timestamp()),
    )


def test_lines_that_other_tools_rewrote_are_read() -> None:
    """Another order, blanks, an offset, fewer digits, unknown fields: still a record."""
    line = (
        b'{ "value": 1, "unit": "ms", "time": "2026-01-31T05:30:00.5+05:30", "more": [1],'
        b' "labels": {"engine": "e"}, "metric": "m" }'
    )
    expected = Record(START_NS + 500_000_000, "m", {"engine": "e"}, 1.0, "ms")
    decoder = Decoder()
    assert decoder.decode(line) == decoder.decode(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b"[1]",
        b"\xff",
        b'{"time":"yesterday","metric":"m","labels":{},"value":1,"unit":""}',
        b'{"time":"2026-01-31T00:00:00","metric":"m","labels":{},"value":1,"unit":""}',
        b'{"time":"2026-13-31T00:00:00Z","metric":"m","labels":{},"value":1,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":1,"labels":{},"value":1,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":{"a":1},"value":1,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":[],"value":1,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":{},"value":NaN,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":{},"value":true,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":{},"value":null,"unit":""}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","labels":{}}',
        b'{"time":"2026-01-31T00:00:00Z","metric":"m","value":1}',
        b"[" * 100_000,
    ],
)
def test_a_line_that_is_no_record_is_refused(line: bytes) -> None:
    """Nothing but ValueError, which readers count; a value that isn't a finite number neither."""
    with pytest.raises(ValueError, match="not a record"):
        Decoder().decode(line)


def test_a_known_series_with_a_bad_value_is_refused() -> None:
    """The shortcut for known series checks the value as well."""
    decoder = Decoder()
    good = encoded([record(1)]).rstrip()
    decoder.decode(good)
    for value in (b"nan", b"1e999", b"", b"true"):
        with pytest.raises(ValueError, match="not a record"):
            decoder.decode(good.replace(b"1.25", value))


def test_a_decoder_forgets_rather_than_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any number of series can be read in bounded memory."""
    monkeypatch.setattr(dayline, "_KNOWN", 4)
    some = [record(number, strategy=str(number), skipped=number) for number in range(50)]
    decoder = Decoder()
    assert [decoder.decode(line) for line in encoded(some).split(b"\n")[:-1]] == some
    assert len(decoder._series) <= 4


@given(st.integers(0, len(WHOLE)))
def test_any_cut_of_a_day_file_yields_a_prefix_of_its_records(cut: int) -> None:
    """What a kill or a full disk leaves of a file is readable up to the cut, and no damage."""
    all_records = [each for some in THREE for each in some]
    some, damaged = found(WHOLE[:cut])
    assert some == all_records[: len(some)]
    assert not damaged
    complete = max(end for end in (0, *_ends()) if end <= cut)
    assert len(some) >= 40 * _ends().index(complete) + 40 if complete else True


def _ends() -> list[int]:
    return [each.end for each in dayfile.members(io.BytesIO(WHOLE))]


@example(512, 2)  # a length that leads into the next member's stream
@example(1024, 1)  # one that leads beyond the end of the file
@example(1016, 8)  # a flag of gzip: no file name ends here
@given(st.integers(0, len(WHOLE) - 1), st.integers(1, 255))
def test_a_changed_byte_costs_one_member_at_most(place: int, change: int) -> None:
    """Damage is counted, never raised, never taken for a record, and never spreads."""
    data = bytearray(WHOLE)
    data[place] ^= change
    some, damaged = found(bytes(data))
    hit = next(number for number, end in enumerate(_ends()) if place < end)
    others = [each for number, part in enumerate(THREE) for each in part if number != hit]
    assert some == [each for part in THREE for each in part] or (some == others and damaged == 1)
    verified = dayfile.verify(io.BytesIO(bytes(data)))
    assert (verified.records, verified.damaged, verified.torn) in ((120, 0, False), (80, 1, False))


@given(st.binary(max_size=300), st.integers(0, 3))
def test_bytes_that_are_not_ours_are_passed_over(noise: bytes, where: int) -> None:
    """Anything before, between or behind the members leaves these readable."""
    parts = [member(some) for some in THREE]
    some, _ = found(b"".join([*parts[:where], noise, *parts[where:]]))
    assert some == [each for part in THREE for each in part]


def test_a_torn_end_is_no_damage_but_known() -> None:
    """Whoever closes a day must see that its last member isn't whole."""
    verified = dayfile.verify(io.BytesIO(WHOLE[:-1]))
    assert (verified.records, verified.damaged, verified.torn) == (80, 0, True)
    assert verified.good == ((0, _ends()[1]),)


def test_what_looks_like_a_member_is_looked_at_twice() -> None:
    """The signature alone, also many times, is no member and hides none."""
    noise = b"noise" + WHOLE[:10] * 3
    assert found(noise + WHOLE) == ([each for part in THREE for each in part], 1)


def test_a_length_that_lies_is_not_believed() -> None:
    """The head has a checksum: a wrong length neither swallows what follows nor costs a record."""
    for length in (0, 100, 0xFFFFFFFF):
        data = bytearray(WHOLE)
        struct.pack_into("<I", data, 20, length)
        assert found(bytes(data)) == ([each for part in THREE for each in part], 0)


def test_members_that_others_made_are_read_too() -> None:
    """A file recompressed by gzip, or with a plain gzip member appended, is a day file still."""
    lines = encoded(THREE[0])
    some, damaged = found(gzip.compress(lines) + member(THREE[1]) + gzip.compress(lines[:-1]))
    assert some == THREE[0] + THREE[1] + THREE[0]
    assert not damaged
    some, damaged = found(gzip.compress(lines)[:-9])
    assert some == THREE[0][: len(some)] and not damaged


def test_an_unfinished_member_of_others_swallows_nothing() -> None:
    """What follows the beginning of a plain gzip member is found all the same."""
    stump = gzip.compress(os.urandom(200))[:-30]
    assert found(stump + WHOLE) == ([each for part in THREE for each in part], 1)


def test_a_damaged_member_of_others_is_counted() -> None:
    """Its lines up to the damage may be read; the damage is seen."""
    data = bytearray(gzip.compress(encoded(THREE[0])))
    data[-6] ^= 1  # its checksum
    some, damaged = found(bytes(data) + member(THREE[1]))
    assert some[-40:] == THREE[1]
    assert damaged == 1


def test_a_line_without_end_fills_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody's huge line is damage, not an allocation."""
    monkeypatch.setattr(dayfile, "MAX_MEMBER_BYTES", 1000)
    assert found(gzip.compress(b"x" * (3 << 20))) == ([], 1)


def test_a_head_of_a_later_version_is_read_without_its_cover() -> None:
    """Lines stay readable when what a member says of itself isn't understood."""
    data = member(THREE[0])
    end = data.index(b"}", data.index(b'"to"')) + 1
    rest = bytearray(data[20:end].replace(b'"rings"', b'"wings"'))
    changed = data[:16] + struct.pack("<I", zlib.crc32(rest)) + bytes(rest) + data[end:]
    (only,) = dayfile.members(io.BytesIO(changed))
    assert only.state is State.WHOLE and only.cover is None
    assert found(changed) == (THREE[0], 0)


def test_a_member_says_what_it_covers() -> None:
    """Rings with their ranges, counts and times, readable without inflating anything."""
    some = [record(1, skipped=4), record(2)]
    data = member(some, {"aa": (10, 20), "bb": (0, 3)})
    (only,) = dayfile.members(io.BytesIO(data))
    assert only.cover == Cover(
        {"aa": (10, 20), "bb": (0, 3)}, 2, 4, some[0].time_ns, some[1].time_ns
    )
    assert len(dayfile.pack(b"", only.cover)) < 32_768  # beyond it DuckDB refuses a header


def test_the_largest_head_stays_readable_for_duckdb() -> None:
    """With as many rings as a member may cover, a header stays below 32 KiB."""
    rings = {f"{number:032x}": (1 << 55, 1 << 56) for number in range(dayfile.MAX_RINGS)}
    data = dayfile.pack(b"", Cover(rings, 0, 0, 1 << 62, 1 << 62))
    assert len(data) < 32_000
    (only,) = dayfile.members(io.BytesIO(data))
    assert only.cover is not None and only.cover.rings == rings


def test_a_count_that_does_not_fit_is_damage() -> None:
    """Verifying compares the lines with what the member says of itself."""
    cover = Cover({RING: (0, 1)}, 41, 0, START_NS, START_NS)
    verified = dayfile.verify(io.BytesIO(dayfile.pack(encoded(THREE[0]), cover) + member(THREE[1])))
    assert (verified.records, verified.damaged) == (40, 1)


# reading a folder


def test_a_folder_reads_as_one_history(tmp_path: Path) -> None:
    """Closed days, the open day and nothing else, in order of their dates."""
    put(tmp_path, member([record(86_400)]), ".part", "2026-02-01")
    put(tmp_path, member([record(1), record(2)]))
    put(tmp_path, member([record(3)]), ".damaged")
    put(tmp_path, member([record(4)]), ".tmp")
    (tmp_path / "metrics_2026-02-30.json.gz").write_bytes(member([record(5)]))
    (tmp_path / "notes.txt").write_text("mine")
    trouble = Trouble()
    some = list(read_records(tmp_path, *EVER, trouble=trouble))
    assert some == [record(1), record(2), record(86_400)]
    assert not trouble
    assert list(read_records(tmp_path / "missing", *EVER)) == []


def test_a_range_is_half_open_and_skips_what_lies_outside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """[start, end); members that end before or begin after aren't inflated."""
    put(tmp_path, WHOLE)
    put(tmp_path, member([record(86_400)]), day="2026-02-01")
    inflated: list[int] = []
    lines = dayfile.lines
    monkeypatch.setattr(
        dayfile, "lines", lambda file, each: inflated.append(each.offset) or lines(file, each)
    )
    some = list(read_records(tmp_path, record(50).time_ns, record(60).time_ns))
    assert some == [record(number) for number in range(50, 60)]
    assert len(inflated) == 1


def test_only_wanted_series_are_read(tmp_path: Path) -> None:
    """Patterns on the metric and on labels; a series without the label doesn't match."""
    some = [
        record(1, strategy="mean"),
        record(2, strategy="trend"),
        record(3),
        record(4, metric="pnl", strategy="mean"),
    ]
    put(tmp_path, member(some) + member(some[3:] * 2))
    assert list(read_records(tmp_path, *EVER, metric="tick_*")) == some[:3]
    put(tmp_path, member(some))
    assert list(read_records(tmp_path, *EVER, match={"strategy": "m*"})) == [some[0], some[3]]
    assert list(read_records(tmp_path, *EVER, metric="pnl", match={"strategy": "*"})) == some[3:]


def test_what_cannot_be_read_is_counted_and_stops_nothing(tmp_path: Path) -> None:
    """A damaged member, a bad line, a pipe and a link in place of files: the rest is read."""
    damaged = bytearray(WHOLE)
    damaged[len(member(THREE[0])) + 250] ^= 1
    put(tmp_path, bytes(damaged) + gzip.compress(b"what?\n"))
    put(tmp_path, member([record(86_400)]), day="2026-02-01")
    os.mkfifo(tmp_path / "metrics_2026-01-30.json.gz")
    (tmp_path / "metrics_2026-01-29.json.gz").symlink_to(tmp_path / dayfolder.name_of(DAY))
    (tmp_path / "metrics_2026-01-28.json.gz").mkdir()
    trouble = Trouble()
    some = list(read_records(tmp_path, *EVER, trouble=trouble))
    assert some == [*THREE[0], *THREE[2], record(86_400)]
    assert (trouble.damaged_members, trouble.bad_lines) == (1, 1) and trouble


def test_a_file_renamed_while_it_is_looked_for_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The day is closed, or opened again, between listing and opening: neither lost nor doubled."""
    opening = dayfolder.open_to_read
    for before, after in ((".part", ""), ("", ".part")):
        path = put(tmp_path, WHOLE, before)
        renamed = tmp_path / dayfolder.name_of(DAY, after)

        def interfering(wanted: Path, path: Path = path, renamed: Path = renamed) -> Any:
            try:
                return opening(wanted)
            finally:
                if path.exists():
                    path.rename(renamed)

        monkeypatch.setattr(dayfolder, "open_to_read", interfering)
        assert len(list(read_records(tmp_path, *EVER))) == 120
        renamed.unlink()


def test_an_unreadable_file_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader says which file it had to leave out, and why."""
    put(tmp_path, WHOLE)
    put(tmp_path, member([record(86_400)]), day="2026-02-01")

    def refusing(path: Path) -> Any:
        if DAY in path.name:
            raise PermissionError(13, "Permission denied", str(path))
        return opening(path)

    opening = dayfolder.open_to_read
    monkeypatch.setattr(dayfolder, "open_to_read", refusing)
    trouble = Trouble()
    assert list(read_records(tmp_path, *EVER, trouble=trouble)) == [record(86_400)]
    assert trouble.unreadable[dayfolder.name_of(DAY)] == "Permission denied"


def test_a_file_that_fails_half_way_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before the disk failed stays, the next day follows."""
    put(tmp_path, WHOLE)
    put(tmp_path, member([record(86_400)]), day="2026-02-01")

    def failing(file: Any, each: dayfile.Member) -> Any:
        if each.offset:
            raise OSError(5, "Input/output error")
        return lines(file, each)

    lines = dayfile.lines
    monkeypatch.setattr(dayfile, "lines", failing)
    trouble = Trouble()
    some = list(read_records(tmp_path, *EVER, trouble=trouble))
    assert some == [*THREE[0], record(86_400)]
    assert trouble.unreadable == {dayfolder.name_of(DAY): "Input/output error"}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("metrics_2026-01-31.json.gz", ("2026-01-31", "")),
        ("metrics_2026-01-31.json.gz.part", ("2026-01-31", ".part")),
        ("metrics_2026-01-31.json.gz.damaged-12", ("2026-01-31", ".damaged")),
        ("metrics_2024-02-29.json.gz", ("2024-02-29", "")),
        ("metrics_2026-02-29.json.gz", None),
        ("metrics_2026-1-31.json.gz", None),
        ("metrics_2026-01-31.json.gz.part2", None),
        ("metrics_2026-01-31.json.gz\n", None),
        ("metrics_٢٠٢٦-01-31.json.gz", None),
        ("Metrics_2026-01-31.json.gz", None),
    ],
)
def test_only_real_dates_are_days(name: str, expected: tuple[str, str] | None) -> None:
    """Whatever else lies in the folder isn't ours; leap days are."""
    assert dayfolder.parse_name(name) == expected


@pytest.mark.parametrize(
    "at", ["2026-01-31T23:59:59.999999999Z", "2024-02-29T12:00:00Z", "1969-12-31T23:59:59.5Z"]
)
def test_a_day_is_the_utc_date(at: str) -> None:
    """Also a nanosecond before midnight, on a leap day and before the epoch."""
    at_ns = dayline.parse_time(at)
    assert dayfolder.day_of(at_ns) == at[:10]
    assert dayfolder.start_ns(at[:10]) <= at_ns < dayfolder.start_ns(at[:10]) + dayfolder.DAY_NS


def test_reading_needs_no_numpy() -> None:
    """Commands that read day files start fast."""
    script = "import sys, aggregator.history.dayreader; sys.exit('numpy' in sys.modules)"
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


# other people's readers


def test_zcat_and_jq_read_it_as_it_is(tmp_path: Path) -> None:
    """Many members are one stream of lines for gzip's own tools."""
    put(tmp_path, WHOLE)
    path = tmp_path / dayfolder.name_of(DAY)
    text = subprocess.run(["zcat", path], capture_output=True, check=True).stdout
    assert text == b"".join(map(encoded, THREE))
    with gzip.open(path) as file:
        assert file.read() == text
    if shutil.which("jq"):
        query = ["jq", "-s", "length, (map(.value) | add)"]
        answer = subprocess.run(query, input=text, capture_output=True, check=True).stdout
        assert answer.split() == [b"120", b"7170"]


def test_pandas_reads_it_as_it_is(tmp_path: Path) -> None:
    """pandas.read_json finds every record, with exact values."""
    pandas = pytest.importorskip("pandas")
    path = put(tmp_path, WHOLE)
    frame = pandas.read_json(path, lines=True)
    assert list(frame.columns) == ["time", "metric", "labels", "value", "unit"]
    assert len(frame) == 120 and frame["value"].sum() == 7170.0
    times = pandas.to_datetime(frame["time"], format="ISO8601")
    assert times.iloc[3] == pandas.Timestamp(START_NS + 3 * 10**9 + 7, tz="UTC")


def test_duckdb_reads_it_as_it_is(tmp_path: Path) -> None:
    """DuckDB's read_json finds every record, typed, of several days, and what was left out."""
    duckdb = pytest.importorskip("duckdb")
    put(tmp_path, WHOLE)
    put(tmp_path, member([record(86_400, skipped=9)]), day="2026-02-01")
    with duckdb.connect() as db:
        answer = db.execute(
            "SELECT count(*), sum(value), epoch_us(min(time)), max(labels.engine), sum(skipped)"
            f" FROM read_json('{tmp_path}/metrics_*.json.gz', union_by_name=true)"
        ).fetchall()
    assert answer == [(121, 7170 + 86_400.25, START_NS // 1000, "intraday", 9)]
