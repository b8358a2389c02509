"""Store and day files answer as one history: what one of them lacks comes from the other."""

import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import histogram, interval
from aggregator.history.dayfolder import FOLDER
from aggregator.interval import DAY_S, HOUR_S
from aggregator.rollup import RollupBuffer
from aggregator.store import course, fetch, gaps, query
from aggregator.store.dayrows import DayRows
from aggregator.store.gaps import FOREVER
from aggregator.store.schema import QUANTILES
from aggregator.store.store import Store
from tests.daywrite import record, write_days

NS = 1_000_000_000
T0 = 1_772_323_200  # midnight of 2026-03-01, UTC
ROOT = Path(__file__).parents[2]
Flat = list[tuple[int, int, float]]  # series, seconds after T0, value


def fill(store: Store, records: Flat) -> None:
    """Store records in one commit."""
    buffer = RollupBuffer(store.base_s)
    buffer.add(
        np.array([series for series, _, _ in records], np.int64),
        np.array([(T0 + at_s) * NS for _, at_s, _ in records], np.int64),
        np.array([value for _, _, value in records], np.float64),
    )
    store.commit(buffer.drain(), {}, {})


def write(folder: Path, records: Flat, **more: Any) -> None:
    """Write records to day files, under the names that fill's series have."""
    write_days(
        folder / FOLDER, [record(T0 + at, value, f"m{number}") for number, at, value in records],
        **more,
    )  # fmt: skip


def set_gaps(folder: Path, *found: tuple[int, int]) -> None:
    """Say from when to when the store in *folder* lacks rollups."""
    with closing(sqlite3.connect(folder / "rollups.db", isolation_level=None)) as db:
        db.execute("DELETE FROM settled WHERE key LIKE 'rollups_missing_from/%'")
        for start_s, end_s in found:
            db.execute(
                "INSERT INTO settled VALUES (?, ?)", (f"rollups_missing_from/{start_s}", end_s)
            )


def known_gaps(folder: Path) -> tuple[tuple[int, int], ...]:
    """The gaps that the store in *folder* has settled."""
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        return fetch.settled(db).gaps


def answers(folder: Path, interval_s: int, **more: Any) -> list[dict[str, Any]]:
    """Rows of everything, or of a range."""
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        asked: dict[str, Any] = {"interval_s": interval_s, "start_s": 0, "end_s": 2**40, **more}
        return list(query.metrics(db, days=DayRows(folder / FOLDER), **asked))


def summaries(folder: Path, start_s: int, end_s: int) -> list[dict[str, Any]]:
    """Summaries of everything."""
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        days = DayRows(folder / FOLDER)
        return list(query.summary(db, start_s=start_s, end_s=end_s, days=days))


def plain(records: Flat, interval_s: int) -> dict[tuple[str, int], tuple[Any, ...]]:
    """The same numbers computed from one flat list, by metric and start of the interval."""
    cells: dict[tuple[str, int], list[float]] = {}
    for number, at_s, value in records:
        start_s = (T0 + at_s) // interval_s * interval_s
        cells.setdefault((f"m{number}", start_s), []).append(value)
    return {cell: numbers(values) for cell, values in cells.items()}


def numbers(values: list[float]) -> tuple[Any, ...]:
    """Count, sum, extremes, mean and quantiles of values whose sum is exact."""
    counts: dict[int, int] = {}
    for value in values:
        counts[histogram.bucket(value)] = counts.get(histogram.bucket(value), 0) + 1
    low, high, total = min(values), max(values), sum(values)
    mean = interval.average(total, len(values), low, high)
    quantiles = histogram.quantiles(counts, QUANTILES, low, high)
    return (len(values), total, low, high, mean, *quantiles)


def told(row: dict[str, Any]) -> tuple[Any, ...]:
    """The numbers of an answer in the order of numbers()."""
    names = ("count", "sum", "min", "max", "avg", "p50", "p90", "p99", "p999")
    return tuple(row[name] for name in names)


def start_of(row: dict[str, Any]) -> int:
    """When a row's interval begins."""
    from datetime import datetime

    return int(datetime.fromisoformat(row["interval_start"]).timestamp())


both = st.sampled_from(("store", "days", "both"))
records_lists = st.lists(
    st.tuples(
        st.tuples(
            st.integers(1, 3),
            st.integers(0, 1800).map(lambda n: n * 97),
            st.integers(-80, 80).map(lambda eighths: eighths / 8),
        ),
        both,
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=60, deadline=None)
@given(
    records_lists,
    st.dictionaries(st.integers(0, 600), st.integers(1, 300), max_size=2),
    st.sampled_from((300, 900, HOUR_S, 3 * HOUR_S, DAY_S)),
    st.integers(0, 600),
    st.integers(1, 600),
    st.booleans(),
)
def test_any_mixture_of_store_and_day_files_answers_like_one_flat_list(
    tmp_path_factory: pytest.TempPathFactory,
    tagged: list[tuple[tuple[int, int, float], str]],
    missing: dict[int, int],
    interval_s: int,
    begin: int,
    length: int,
    shuffled: bool,
) -> None:
    """Where the store may lack something, the source with more records of a series in a base
    interval is right; elsewhere the store is, whatever lies in the archive."""
    folder = tmp_path_factory.mktemp("data")
    stored = [each for each, where in tagged if where != "days"]
    raw = [each for each, where in tagged if where != "store"]
    if shuffled:  # as after a crash: not in order of time
        random.Random(0).shuffle(raw)
    known = [(T0 + low * 300 - low % 7, T0 + (low + n) * 300 + n % 5) for low, n in missing.items()]
    with Store.open(folder / "rollups.db") as store:
        for number in (1, 2, 3):
            assert store.series_id(f"m{number}", "ms", {}) == number
        fill(store, stored)
    write(folder, raw)
    set_gaps(folder, *known)
    chosen: Flat = []
    cells = {(number, at_s // 300) for number, at_s, _ in (*stored, *raw)}
    for number, place in cells:
        sides = [[r for r in side if (r[0], r[1] // 300) == (number, place)]
                 for side in (stored, raw)]  # fmt: skip
        start_s = T0 + place * 300
        lacks = any(low < start_s + 300 and start_s < high for low, high in known)
        chosen += sides[1] if lacks and len(sides[1]) > len(sides[0]) else sides[0]
    found = {(r["metric"], start_of(r)): told(r) for r in answers(folder, interval_s)}
    assert found == plain(chosen, interval_s)
    start_s, end_s = T0 + begin * 300, T0 + (begin + length) * 300
    inside = [each for each in chosen if start_s <= T0 + each[1] < end_s]
    found = {(r["metric"], 0): told(r) for r in summaries(folder, start_s, end_s)}
    assert found == {(m, 0): n for (m, _), n in plain(inside, 2 * T0).items()}
    assert_courses(folder, chosen)


def assert_courses(folder: Path, records: Flat) -> None:
    """First, lowest, highest and last value of each base interval are those of *records*."""
    cells: dict[tuple[str, int], Flat] = {}
    for each in records:
        cells.setdefault((f"m{each[0]}", T0 + each[1] // 300 * 300), []).append(each)
    with closing(query.open_readonly(folder / "rollups.db")) as db:
        courses = course.courses(db, "*", start_s=0, end_s=2**40, days=DayRows(folder / FOLDER))
    for one in courses:
        assert one.points == sorted(one.points, key=lambda point: point.start_s)
        for point in one.points:
            inside = cells.pop((one.metric, point.start_s))
            values = [value for _, _, value in inside]
            assert (point.minimum, point.maximum) == (min(values), max(values))
            for value, extreme in ((point.first, min), (point.last, max)):
                at_s = extreme(at_s for _, at_s, _ in inside)
                assert value in [value for _, when_s, value in inside if when_s == at_s]
    assert not cells


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Flat]:
    """A day of two series in the store and in the day files of tmp_path."""
    records = [(1 + n % 2, n * 60, float(n % 17)) for n in range(1440)]
    with Store.open(tmp_path / "rollups.db") as store:
        for number in (1, 2):
            store.series_id(f"m{number}", "ms", {})
        fill(store, records)
    write(tmp_path, records)
    yield records


@pytest.mark.parametrize("how", ["damaged", "deleted"])
def test_a_store_that_is_lost_is_made_up_for_by_the_day_files(
    tmp_path: Path, day: Flat, how: str
) -> None:
    """After it was moved aside or deleted, every interval reads as before."""

    def everything() -> list[Any]:
        rows = [answers(tmp_path, step_s) for step_s in (300, 900, HOUR_S, DAY_S)]
        rows += [summaries(tmp_path, T0 + low, T0 + high) for low, high in ((0, DAY_S), (310, 999))]
        return [[{**row, "partial": None} for row in each] for each in rows]

    before = everything()
    path = tmp_path / "rollups.db"
    assert known_gaps(tmp_path) == ()
    if how == "damaged":
        path.write_bytes(b"\xff" * path.stat().st_size)
    else:
        path.unlink()
    began_s = int(time.time())
    with Store.open(path) as store:
        [gap] = known_gaps(tmp_path)
        assert gap[0] == 0 and began_s < gap[1] <= time.time() + 3
        # What goes on afterwards is rolled up; the day files have it as well.
        later = [(store.series_id("m1", "ms", {}), DAY_S + n, 1.0) for n in range(5)]
        fill(store, later)
    after = everything()
    for rows in after[:-2]:
        assert rows.pop()["interval_start"] >= "2026-03-02"  # the later ones
    assert after == before


def test_a_store_that_is_the_first_lacks_nothing(tmp_path: Path) -> None:
    """Nobody looks for day files of a time before there were any."""
    with Store.open(tmp_path / "rollups.db"):
        assert known_gaps(tmp_path) == ()
    write(tmp_path, [(1, 0, 1.0)])
    with Store.open(tmp_path / "rollups.db"):  # opened again: not made
        assert known_gaps(tmp_path) == ()


def test_while_rollups_are_off_the_day_files_answer(tmp_path: Path) -> None:
    """From the newest rollup on; and only for that time, once they are on again."""
    path = tmp_path / "rollups.db"
    first = [(1, n * 60, 1.0) for n in range(60)]
    second = [(1, HOUR_S + n * 60, 2.0) for n in range(60)]
    with Store.open(path) as store:
        store.series_id("m1", "ms", {})
        fill(store, first)
    write(tmp_path, [*first, *second])
    for _ in range(2):  # a restart changes nothing
        with Store.open(path, rolling=False):
            assert known_gaps(tmp_path) == ((T0 + 3300, FOREVER),)
    rows = answers(tmp_path, HOUR_S)
    assert [(row["count"], row["max"]) for row in rows] == [(60, 1.0), (60, 2.0)]
    assert rows[1]["partial"]
    with closing(query.open_readonly(path)) as db:
        assert query.newest_s(db) == T0 + 59 * 60 + 1
        assert query.newest_s(db, DayRows(tmp_path / FOLDER)) == T0 + HOUR_S + 59 * 60 + 1
    with Store.open(path):
        [(start_s, end_s)] = known_gaps(tmp_path)
        assert (start_s, end_s) != (start_s, FOREVER) and end_s <= time.time() + 3
    assert answers(tmp_path, HOUR_S) == rows
    with Store.open(path, rolling=False), Store.open(path):
        assert len(known_gaps(tmp_path)) == 1  # nothing was rolled up in between


def test_a_store_made_while_rollups_are_off_lacks_everything(tmp_path: Path) -> None:
    """With or without history before."""
    with Store.open(tmp_path / "rollups.db", rolling=False):
        assert known_gaps(tmp_path) == ((0, FOREVER),)
    write(tmp_path, [(1, 0, 1.0)])
    assert [row["metric"] for row in answers(tmp_path, 300)] == ["m1"]
    (tmp_path / "rollups.db").unlink()
    with Store.open(tmp_path / "rollups.db", rolling=False):
        assert known_gaps(tmp_path) == ((0, FOREVER),)


def test_what_was_thinned_counts_for_all_it_stands_for(tmp_path: Path) -> None:
    """In the count alone: means, sums and quantiles are of what was written."""
    with Store.open(tmp_path / "rollups.db", rolling=False):
        pass
    write_days(
        tmp_path / FOLDER,
        [record(T0, 1.0, skipped=9), record(T0 + 1, 3.0), record(T0 + 400, 5.0, skipped=4)],
    )
    days = DayRows(tmp_path / FOLDER)
    with closing(query.open_readonly(tmp_path / "rollups.db")) as db:
        asked: dict[str, Any] = {"start_s": T0, "end_s": T0 + 900, "days": days}
        rows = list(query.metrics(db, interval_s=300, **asked))
        assert [(r["count"], r["sum"], r["avg"]) for r in rows] == [(11, 4.0, 2.0), (5, 5.0, 5.0)]
        assert days.skipped == 13
        [row] = query.metrics(db, interval_s=HOUR_S, **asked)
        assert (row["count"], row["sum"], row["avg"], row["max"]) == (16, 9.0, 3.0, 5.0)
        [row] = query.summary(db, **asked)
        assert (row["count"], row["avg"]) == (16, 3.0)


def test_rollups_win_against_a_thinned_file_that_counts_as_many(tmp_path: Path, day: Flat) -> None:
    """They know the statistics of all."""
    set_gaps(tmp_path, (0, FOREVER))
    before = answers(tmp_path, 300)
    for path in (tmp_path / FOLDER).iterdir():
        path.unlink()
    write_days(
        tmp_path / FOLDER,
        [record(T0 + n * 300, 99.0, f"m{series}", skipped=2 - series % 2)
         for n in range(288) for series in (1, 2)],
    )  # fmt: skip
    found = answers(tmp_path, 300)
    assert [r["count"] for r in found] == [
        max(r["count"], 2 + (r["metric"] == "m2")) for r in before
    ]
    assert all(f == b for f, b in zip(found, before, strict=True) if f["count"] == b["count"])


def test_damage_in_a_day_file_costs_only_itself_and_is_counted_once(
    tmp_path: Path, day: Flat
) -> None:
    """However many windows of time look at it."""
    set_gaps(tmp_path, (0, FOREVER))
    (tmp_path / "rollups.db").unlink()
    with Store.open(tmp_path / "rollups.db", rolling=False):
        pass
    [path] = (tmp_path / FOLDER).iterdir()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    (tmp_path / FOLDER / "metrics_2026-03-02.json.gz").mkdir()
    days = DayRows(tmp_path / FOLDER)
    with closing(query.open_readonly(tmp_path / "rollups.db")) as db:
        rows = list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40, days=days))
    assert sum(row["count"] for row in rows) == 1440 - 7
    assert (days.trouble.damaged_members, days.trouble.bad_lines) == (1, 0)
    assert not days.trouble.unreadable


def test_intervals_of_two_lengths_are_compared_by_the_hour(tmp_path: Path) -> None:
    """A base interval that was changed: neither lost nor counted twice."""
    early = [(1, n * 60, 1.0) for n in range(60)]
    late = [(1, HOUR_S + n * 60, 2.0) for n in range(60)]
    with Store.open(tmp_path / "rollups.db", 300) as store:
        store.series_id("m1", "ms", {})
        fill(store, early)
    with Store.open(tmp_path / "rollups.db", 60) as store:
        fill(store, late[:30])
    write(tmp_path, [*early[:40], *late])
    set_gaps(tmp_path, (0, FOREVER))
    rows = answers(tmp_path, HOUR_S)
    assert [row["count"] for row in rows] == [60, 60]
    assert {row["interval_seconds"] for row in answers(tmp_path, 60)} == {300, 60}
    assert sum(row["count"] for row in answers(tmp_path, 60)) == 120
    [row] = summaries(tmp_path, T0 + 1800, T0 + HOUR_S + 1800)
    assert row["count"] == 30 + 30


def test_expired_rollups_are_compared_by_what_is_kept_of_them(tmp_path: Path, day: Flat) -> None:
    """By the hour, then by the day; day files that outlived their time don't double anything."""
    before = [answers(tmp_path, step_s) for step_s in (HOUR_S, DAY_S)]
    set_gaps(tmp_path, (0, FOREVER))
    with Store.open(tmp_path / "rollups.db") as store:
        store.expire(T0 + DAY_S, 0)
        assert [answers(tmp_path, step_s) for step_s in (300, DAY_S)] == before
        store.expire(T0 + DAY_S, T0 + DAY_S)
        assert answers(tmp_path, 300) == before[1]


def test_numpy_is_not_loaded_and_no_day_file_opened_when_nothing_is_lacking(
    tmp_path: Path, day: Flat
) -> None:
    """Which is how it nearly always is."""
    set_gaps(tmp_path, (0, T0 - 300), (T0 + DAY_S + 300, FOREVER))
    code = f"""
import sys
from pathlib import Path
from aggregator.history import dayreader
from aggregator.store import query
from aggregator.store.dayrows import DayRows
def opened(*_): raise AssertionError
dayreader._opened = opened
db = query.open_readonly({str(tmp_path / "rollups.db")!r})
days = DayRows(Path({str(tmp_path / FOLDER)!r}))
asked = dict(start_s={T0}, end_s={T0 + DAY_S}, days=days, watermark_s=0)
days._newest_s = {T0 + DAY_S}
assert len(list(query.metrics(db, interval_s=300, **asked))) == 576
assert len(list(query.summary(db, **asked))) == 2
sys.exit("numpy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_series_that_the_store_never_knew_is_found(tmp_path: Path) -> None:
    """Among the others, in the order of names."""
    with Store.open(tmp_path / "rollups.db", rolling=False) as store:
        store.series_id("m", "ms", {"engine": "b"})
        store.series_id("z", "ms", {})
        store.commit([], {}, {})
    names = [("m", {"engine": "a"}), ("m", {"engine": "b"}), ("a", {}), ("z", {})]
    write_days(tmp_path / FOLDER, [record(T0 + n, 1.0, *name) for n, name in enumerate(names)])
    rows = answers(tmp_path, 300)
    expected = [("a", {}), ("m", {"engine": "a"}), ("m", {"engine": "b"}), ("z", {})]
    assert [(row["metric"], row["labels"]) for row in rows] == expected
    found = summaries(tmp_path, T0, T0 + 300)
    assert [(row["metric"], row["labels"]) for row in found] == expected
    rows = answers(tmp_path, 300, metric="m", match={"engine": "a"})
    assert [row["labels"] for row in rows] == [{"engine": "a"}]


@pytest.mark.parametrize(
    ("ranges", "expected"),
    [
        ([], [((0, 100), False)]),
        ([(20, 40)], [((0, 20), False), ((20, 40), True), ((40, 100), False)]),
        ([(21, 39)], [((0, 20), False), ((20, 40), True), ((40, 100), False)]),
        ([(-5, 15), (18, 19)], [((0, 20), True), ((20, 100), False)]),
        ([(95, 200)], [((0, 90), False), ((90, 100), True)]),
        ([(0, 100)], [((0, 100), True)]),
        ([(200, 300)], [((0, 100), False)]),
    ],
)
def test_a_range_is_split_at_whole_steps(
    ranges: list[tuple[int, int]], expected: list[tuple[tuple[int, int], bool]]
) -> None:
    """Nothing twice, nothing left out."""
    assert gaps.split(0, 100, 10, ranges) == expected


def test_lines_of_a_quiet_engine_are_not_parsed_the_long_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nearly each has a second of its own; the long way is twenty times as long."""
    from aggregator.history import dayline
    from aggregator.history.dayreader import read_records

    write(tmp_path, [(1, at_s, float(at_s)) for at_s in range(0, 3000, 3)])
    parsed: list[bytes] = []
    original = dayline._parse

    def parse(line: bytes) -> dayline.Record:
        parsed.append(line)
        return original(line)

    monkeypatch.setattr(dayline, "_parse", parse)
    found = list(read_records(tmp_path / FOLDER, 0, 1 << 62))
    assert [(each.time_ns // NS - T0, each.value) for each in found] == [
        (at_s, float(at_s)) for at_s in range(0, 3000, 3)
    ]
    assert len(parsed) == 1
