"""What readers of the rollup store rely on: exact merging, honest intervals, clear refusals."""

import os
import pwd
import random
import sqlite3
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.interval import DAY_S, HOUR_S
from aggregator.rollup import RollupBuffer
from aggregator.store import fetch, query
from aggregator.store.fetch import pieces
from aggregator.store.schema import DAILY, HOURLY, Tier
from aggregator.store.store import Store

NS = 1_000_000_000
T0 = 1_772_323_200  # midnight of 2026-03-01, UTC
ROOT = Path(__file__).parents[2]
BASE = Tier("base", 300)
FIELDS = [
    *("metric", "labels", "unit", "interval_start", "interval_end", "interval_seconds"),
    *("count", "min", "max", "avg", "sum", "p50", "p90", "p99", "p999", "lost", "partial"),
]


def fill(store: Store, records: list[tuple[int, float, float]], commits: int = 1) -> None:
    """Store records (series, seconds after T0, value) in so many commits."""
    buffer = RollupBuffer(store.base_s)
    for part in range(commits):
        chosen = records[part::commits]
        buffer.add(
            np.array([series for series, _, _ in chosen], dtype=np.int64),
            np.array([int((T0 + at_s) * NS) for _, at_s, _ in chosen], dtype=np.int64),
            np.array([value for _, _, value in chosen], dtype=np.float64),
        )
        store.commit(buffer.drain(), {}, {})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "rollups.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An open store."""
    with Store.open(path) as opened:
        yield opened


@pytest.fixture
def db(store: Store, path: Path) -> Iterator[sqlite3.Connection]:
    """A reader beside the writer."""
    opened = query.open_readonly(path)
    yield opened
    opened.close()


def rows_of(db: sqlite3.Connection, interval_s: int, **more: Any) -> list[dict[str, Any]]:
    """All rows, unless a range is given."""
    return list(
        query.metrics(db, **{"interval_s": interval_s, "start_s": 0, "end_s": 2**40, **more})
    )


def test_a_row_has_the_fields_of_the_contract(store: Store, db: sqlite3.Connection) -> None:
    """Names, order and values, with UTC times that any program reads."""
    series = store.series_id("tick_latency", "ms", {"engine": "a", "strategy": "s"})
    fill(store, [(series, 10.0, 1.0), (series, 20.0, 3.0), (series, 30.5, 2.0)])
    (row,) = rows_of(db, 300)
    assert list(row) == FIELDS
    assert row == {
        "metric": "tick_latency",
        "labels": {"engine": "a", "strategy": "s"},
        "unit": "ms",
        "interval_start": "2026-03-01T00:00:00Z",
        "interval_end": "2026-03-01T00:05:00Z",
        "interval_seconds": 300,
        "count": 3,
        "min": 1.0,
        "max": 3.0,
        "avg": 2.0,
        "sum": 6.0,
        "p50": pytest.approx(2.0, rel=0.01084),
        "p90": 3.0,
        "p99": 3.0,
        "p999": 3.0,
        "lost": 0,
        "partial": True,
    }
    assert datetime.fromisoformat(row["interval_start"]).timestamp() == T0


def test_an_hour_equals_the_merge_of_its_twelve_base_intervals(
    store: Store, db: sqlite3.Connection
) -> None:
    """Its quantiles are within 1.083 % of the exact ones; no average is one of averages."""
    series = store.series_id("m", "ms", {})
    chance = random.Random(1)
    values = [chance.lognormvariate(1.0, 1.0) for _ in range(2000)]
    fill(store, [(series, n * 1.8, value) for n, value in enumerate(values)], commits=7)
    parts = rows_of(db, 300)
    (hour,) = rows_of(db, HOUR_S)
    assert len(parts) == 12
    assert hour["count"] == sum(part["count"] for part in parts) == 2000
    assert hour["sum"] == pytest.approx(sum(values))
    assert (hour["min"], hour["max"]) == (min(values), max(values))
    assert hour["avg"] == pytest.approx(sum(values) / 2000)
    values.sort()
    for name, rank in (("p50", 1000), ("p90", 1800), ("p99", 1980), ("p999", 1998)):
        assert hour[name] == pytest.approx(values[rank - 1], rel=0.010831)


records = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(0, 2000).map(lambda n: n * 100.0),
        st.integers(-80, 80).map(lambda eighths: eighths / 8),
    ),
    min_size=1,
    max_size=40,
)


@settings(max_examples=40, deadline=None)
@given(records, st.integers(1, 5), st.integers(0, 700), st.integers(1, 700))
def test_any_mixture_of_tiers_answers_like_one_flat_list(
    tmp_path_factory: pytest.TempPathFactory,
    flat: list[tuple[int, float, float]],
    commits: int,
    begin: int,
    length: int,
) -> None:
    """A summary of any range of base intervals is exact, whichever tiers it came from."""
    path = tmp_path_factory.mktemp("store") / "rollups.db"
    start_s, end_s = T0 + begin * 300, T0 + (begin + length) * 300
    with Store.open(path) as store:
        for number in (1, 2, 3):
            assert store.series_id(f"m{number}", "", {}) == number
        fill(store, flat, commits)
        db = query.open_readonly(path)
        found = {
            row["metric"]: (row["count"], row["sum"], row["min"], row["max"])
            for row in query.summary(db, start_s=start_s, end_s=end_s)
        }
        db.close()
    wanted: dict[str, list[float]] = {}
    for series, at_s, value in flat:
        if start_s <= T0 + at_s < end_s:
            wanted.setdefault(f"m{series}", []).append(value)
    assert found == {
        name: (len(values), sum(values), min(values), max(values))
        for name, values in wanted.items()
    }


def test_a_range_is_covered_by_the_coarsest_tiers() -> None:
    """Days in the middle, hours around them, base intervals at the ends; nothing twice."""
    start_s, end_s = T0 - 2 * HOUR_S - 600, T0 + 2 * DAY_S + HOUR_S + 300
    found = list(pieces(start_s, end_s, (DAILY, HOURLY, BASE)))
    assert [(tier.table, (high - low) // tier.interval_s) for tier, low, high in found] == [
        ("base", 2),
        ("hourly", 2),
        ("daily", 2),
        ("hourly", 1),
        ("base", 1),
    ]
    ends = [(low, high) for _, low, high in found]
    assert [low for low, _ in ends[1:]] == [high for _, high in ends[:-1]]
    assert list(pieces(T0, T0, (DAILY, HOURLY, BASE))) == []


def test_intervals_between_tiers_are_merged_from_the_next_finer_one(
    store: Store, db: sqlite3.Connection
) -> None:
    """15 minutes from base, 3 hours from hours, a week from days: aligned to the epoch."""
    series = store.series_id("m", "", {})
    fill(store, [(series, n * 300.0, float(n)) for n in range(24 * 12)])
    quarter = rows_of(db, 900)
    assert [row["count"] for row in quarter] == [3] * 96
    assert quarter[1]["interval_start"] == "2026-03-01T00:15:00Z"
    assert [row["count"] for row in rows_of(db, 3 * HOUR_S)] == [36] * 8
    (week,) = rows_of(db, 7 * DAY_S)
    assert week["count"] == 288
    assert week["interval_start"] == "2026-02-26T00:00:00Z"
    assert [row["count"] for row in rows_of(db, 7 * HOUR_S)] == [
        sum(1 for n in range(288) if (T0 + n * 300) // (7 * HOUR_S) == at)
        for at in range(T0 // (7 * HOUR_S), (T0 + DAY_S - 1) // (7 * HOUR_S) + 1)
    ]


def test_rows_are_whole_intervals_that_overlap_the_range(
    store: Store, db: sqlite3.Connection
) -> None:
    """The range is half open; an interval is never cut, so that its numbers mean what they say."""
    series = store.series_id("m", "", {})
    fill(store, [(series, n * 300.0, 1.0) for n in range(36)])

    def starts(interval_s: int, start_s: int, end_s: int) -> list[str]:
        rows = rows_of(db, interval_s, start_s=start_s, end_s=end_s)
        return [row["interval_start"][11:16] for row in rows]

    assert starts(300, T0 + 300, T0 + 900) == ["00:05", "00:10"]
    assert starts(300, T0 + 301, T0 + 901) == ["00:05", "00:10", "00:15"]
    assert starts(HOUR_S, T0 + 5400, T0 + 7200) == ["01:00"]
    assert starts(HOUR_S, T0 + 5400, T0 + 7201) == ["01:00", "02:00"]
    assert starts(300, T0 + 900, T0 + 900) == []
    assert starts(300, T0 + DAY_S, T0 + 2 * DAY_S) == []


def test_an_interval_is_partial_until_the_watermark_has_passed_it(
    store: Store, db: sqlite3.Connection
) -> None:
    """Without a watermark, the newest record stands for it."""
    series = store.series_id("m", "", {})
    fill(store, [(series, 10.0, 1.0), (series, 310.0, 1.0)])

    def partial(watermark_s: float | None) -> list[bool]:
        return [row["partial"] for row in rows_of(db, 300, watermark_s=watermark_s)]

    assert partial(T0 + 299.9) == [True, True]
    assert partial(T0 + 300) == [False, True]
    assert partial(T0 + 600) == [False, False]
    assert partial(None) == [False, True]


def test_an_empty_interval_has_no_row(store: Store, db: sqlite3.Connection) -> None:
    """Missing is missing: never zeros."""
    series = store.series_id("m", "", {})
    fill(store, [(series, 0.0, 1.0), (series, 3000.0, 1.0)])
    assert [row["interval_start"][11:16] for row in rows_of(db, 300)] == ["00:00", "00:50"]


def test_a_store_without_rollups_has_no_rows(store: Store, db: sqlite3.Connection) -> None:
    """And no newest record."""
    assert rows_of(db, 300) == []
    assert list(query.summary(db, start_s=0, end_s=T0)) == []
    assert query.newest_s(db) is None
    store.series_id("m", "", {})
    store.commit([], {}, {"health": b"{}"})
    assert rows_of(db, 300) == []
    assert query.value(db, "health") == b"{}"
    assert query.value(db, "nothing") is None


def test_the_newest_record_ends_the_default_range(store: Store, db: sqlite3.Connection) -> None:
    """The second after it, so that a half-open range contains it."""
    series = store.series_id("m", "", {})
    fill(store, [(series, 1000.25, 1.0), (series, 10.0, 1.0)])
    assert query.newest_s(db) == T0 + 1001
    assert len(rows_of(db, 300, start_s=T0 + 1000, end_s=T0 + 1001)) == 1


def test_the_newest_record_is_known_when_base_rollups_have_expired(
    store: Store, db: sqlite3.Connection
) -> None:
    """A store that nobody wrote to for a long time."""
    series = store.series_id("m", "", {})
    fill(store, [(series, 10.0, 1.0)])
    store.expire(T0 + DAY_S, 0)
    assert query.newest_s(db) == T0 + 11
    store.expire(T0 + DAY_S, T0 + DAY_S)
    assert query.newest_s(db) == T0 + 11


def test_series_are_chosen_by_patterns(store: Store, db: sqlite3.Connection) -> None:
    """Of the metric and of labels; a series without the label doesn't match, not even a star."""
    names = [
        ("tick_latency", {"engine": "a", "strategy": "swing"}),
        ("tick_latency", {"engine": "b", "strategy": "intraday"}),
        ("order_latency", {"engine": "a"}),
        ("pnl", {"engine": "a[1]"}),
    ]
    ids = [store.series_id(metric, "", labels) for metric, labels in names]
    fill(store, [(series, 1.0, 1.0) for series in ids])

    def chosen(**more: Any) -> list[tuple[str, str]]:
        return [(r["metric"], r["labels"]["engine"]) for r in rows_of(db, 300, **more)]

    assert chosen() == [
        ("order_latency", "a"),
        ("pnl", "a[1]"),
        ("tick_latency", "a"),
        ("tick_latency", "b"),
    ]
    assert chosen(metric="*_latency", match={"engine": "a"}) == [
        ("order_latency", "a"),
        ("tick_latency", "a"),
    ]
    assert chosen(match={"strategy": "*"}) == [("tick_latency", "a"), ("tick_latency", "b")]
    assert chosen(metric="TICK*") == []
    assert chosen(match={"engine": "a[[]1]"}) == [("pnl", "a[1]")]
    assert chosen(metric="pnl'; DROP TABLE series; --") == []


@pytest.mark.parametrize("interval_s", [300, 900, HOUR_S, DAY_S])
def test_few_of_many_series_are_found_by_looking_rows_up(
    store: Store, db: sqlite3.Connection, interval_s: int
) -> None:
    """The plan of a read never changes its answer."""
    ids = [store.series_id("m", "", {"n": str(n)}) for n in range(40)]
    fill(store, [(series, n * 700.0, float(series)) for series in ids for n in range(30)])
    everything = rows_of(db, interval_s)
    for number in ("0", "17"):
        rows = [row for row in everything if row["labels"]["n"] == number]
        assert rows_of(db, interval_s, match={"n": number}) == rows
        assert rows


def test_rows_come_by_time_then_metric_then_labels(
    store: Store, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every tier, over the borders of the windows that are read at a time."""
    for name in ("b", "a"):
        for engine in ("y", "x"):
            store.series_id(name, "", {"engine": engine})
    fill(store, [(s, n * 1800.0, 1.0) for s in (1, 2, 3, 4) for n in range(200)], commits=3)
    monkeypatch.setattr(query, "_ROWS_PER_WINDOW", 16)
    for interval_s, intervals in ((300, 200), (900, 200), (HOUR_S, 100), (7200, 50), (DAY_S, 5)):
        rows = rows_of(db, interval_s)
        keys = [(r["interval_start"], r["metric"], r["labels"]["engine"]) for r in rows]
        assert keys == sorted(keys)
        assert len(set(keys)) == len(keys) == 4 * intervals


def test_reading_in_windows_never_doubles_a_bucket_where_a_tier_ends(
    store: Store, db: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Base rollups expire at a whole hour, in the middle of a 25-minute interval."""
    series = store.series_id("m", "", {})
    fill(store, [(series, n * 300.0, 1.0) for n in range(200)])
    store.expire(T0 + 5 * HOUR_S, 0)
    monkeypatch.setattr(query, "_ROWS_PER_WINDOW", 7)
    rows = rows_of(db, 1500)
    assert sum(row["count"] for row in rows) == 200
    assert len({row["interval_start"] for row in rows}) == len(rows)
    assert {row["interval_seconds"] for row in rows} == {1500, HOUR_S}


def test_a_summary_reaches_into_expired_time(store: Store, db: sqlite3.Connection) -> None:
    """Its range grows to the hours and days that are still kept, and says so."""
    series = store.series_id("m", "", {})
    fill(store, [(series, n * 1800.0, 1.0) for n in range(40 * 48)])
    store.expire(T0 + 30 * DAY_S, T0 + 20 * DAY_S)

    def of(start_s: int, end_s: int) -> tuple[str, str, int]:
        (row,) = query.summary(db, start_s=start_s, end_s=end_s)
        return row["interval_start"], row["interval_end"], row["count"]

    at_s = T0 + 35 * DAY_S + 600
    assert of(at_s, at_s + 1800) == ("2026-04-05T00:10:00Z", "2026-04-05T00:40:00Z", 1)
    at_s = T0 + 25 * DAY_S + 600
    assert of(at_s, at_s + 1800) == ("2026-03-26T00:00:00Z", "2026-03-26T01:00:00Z", 2)
    at_s = T0 + 15 * DAY_S + 600
    assert of(at_s, at_s + 1800) == ("2026-03-16T00:00:00Z", "2026-03-17T00:00:00Z", 48)
    assert of(at_s, T0 + 31 * DAY_S)[2] == 16 * 48


def test_the_open_interval_is_part_of_hours_and_days(store: Store, db: sqlite3.Connection) -> None:
    """Between two commits that end an interval, the hour is as fresh as the five minutes."""
    series = store.series_id("m", "ms", {})
    for n, value in enumerate([1.0, 2.0, 400.0]):
        fill(store, [(series, n * 300.0, value)])
        for interval_s in (HOUR_S, DAY_S):
            (row,) = rows_of(db, interval_s)
            assert (row["count"], row["max"], row["p999"]) == (n + 1, value, value)


def test_hours_come_by_time_and_name_whether_or_not_they_are_merged(
    store: Store, db: sqlite3.Connection
) -> None:
    """Hours before the oldest open row are read as they are; from then on each may need merging.

    What was lost is said of its own hour alone, also where one of several numbers isn't known.
    """
    ids = [store.series_id("m", "", {"engine": name}) for name in "cab"]
    fill(store, [(n, hour * HOUR_S + 1.0, hour + 1.0) for hour in range(6) for n in ids])
    fill(store, [(ids[1], 6 * HOUR_S + 1.0, 7.0), (ids[1], 6 * HOUR_S + 301.0, 8.0)])
    lost = {("a", T0): 2, ("a", T0 + HOUR_S - 300): 3, ("a", T0 + HOUR_S): 4, ("b", T0): None}
    store.commit([], lost, {})
    rows = rows_of(db, HOUR_S)
    found = [(row["interval_start"][11:13], row["labels"]["engine"], row["count"]) for row in rows]
    hours = [(f"{hour:02d}", name, 1) for hour in range(6) for name in "abc"]
    assert found == [*hours, ("06", "a", 2)]
    assert [row["avg"] for row in rows] == [hour + 1.0 for hour in range(6) for _ in "abc"] + [7.5]
    assert [row["lost"] for row in rows[:6]] == [5, None, 0, 4, 0, 0]


def test_a_reader_holds_no_transaction_between_rows(store: Store, db: sqlite3.Connection) -> None:
    """A pager that waits for its user mustn't keep the writer's log from shrinking."""
    series = store.series_id("m", "", {})
    fill(store, [(series, n * 300.0, 1.0) for n in range(100)])
    for f in (
        query.metrics(db, interval_s=300, start_s=0, end_s=2**40),
        query.summary(db, start_s=T0, end_s=T0 + DAY_S),
    ):
        next(f)
        assert not db.in_transaction


def test_reading_changes_nothing(store: Store, db: sqlite3.Connection) -> None:
    """The connection can't write."""
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM series")


def test_trouble_while_reading_is_said(store: Store, path: Path) -> None:
    """In one type, for the commands."""
    db = query.open_readonly(path)
    db.close()
    with pytest.raises(query.StoreError, match="can't be read"):
        query.newest_s(db)


def test_a_missing_store_is_said(tmp_path: Path) -> None:
    """With its absolute path; it isn't made."""
    with pytest.raises(query.StoreMissing, match=r"rollups\.db: no such file: check the data dir"):
        query.open_readonly(tmp_path / "rollups.db")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(query.StoreError, match="can't be read: "):
        query.open_readonly(tmp_path)
    (tmp_path / "rollups.db").touch()
    with pytest.raises(query.StoreMissing, match="no rollups yet"):
        query.open_readonly(str(tmp_path / "rollups.db"))


def test_a_damaged_store_is_said(path: Path) -> None:
    """And left to the service."""
    path.write_text("no database" * 1000)
    with pytest.raises(query.StoreError, match=r"damaged .* the service will move it aside"):
        query.open_readonly(path)


def test_a_store_can_be_read_after_its_writer_was_closed_or_copied(
    path: Path, tmp_path: Path
) -> None:
    """Also with characters in its path that mean something in a URI."""
    with Store.open(path) as store:
        fill(store, [(store.series_id("m", "", {}), 1.0, 1.0)])
    odd = tmp_path / "a b%20?mode=rwc#x"
    odd.mkdir()
    (odd / "rollups.db").write_bytes(path.read_bytes())
    db = query.open_readonly(odd / "rollups.db")
    assert len(rows_of(db, 300)) == 1
    db.close()


def as_nobody(path: Path, code: str) -> str:
    """What *code*, with db open, prints when it is run by another user."""
    nobody = pwd.getpwnam("nobody")
    program = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from aggregator.store import query
os.setgid({nobody.pw_gid})
os.setuid({nobody.pw_uid})
try:
    db = query.open_readonly({str(path)!r})
    {code}
except query.StoreError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.fixture
def open_to_all(path: Path) -> Iterator[Path]:
    """The path of a store in a folder that every user can enter."""
    own = [folder for folder in path.parents if not folder.stat().st_mode & stat.S_IXOTH]
    modes = [stat.S_IMODE(folder.stat().st_mode) for folder in own]
    for folder in own:
        folder.chmod(0o755)
    yield path
    for folder, mode in zip(own, modes, strict=True):
        folder.chmod(mode)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_is_told_whose_store_it_is(open_to_all: Path) -> None:
    """Not SQLite's "unable to open database file"; a closed store needs only the right to read."""
    code = "print(len(list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40))))"
    with Store.open(open_to_all) as store:
        fill(store, [(store.series_id("m", "", {}), 1.0, 1.0)])
        assert "not readable by this user: " in as_nobody(open_to_all, code)
        open_to_all.chmod(0o644)
        assert "not readable by this user: " in as_nobody(open_to_all, code)
    assert as_nobody(open_to_all, code) == "1"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("5m", 300), ("300s", 300), ("1h", 3600), (" 90M ", 5400), ("1d", 86_400), ("1w", 604_800)],
)
def test_intervals_are_a_number_and_a_unit(text: str, seconds: int) -> None:
    """Multiples of the base interval."""
    assert query.parse_interval(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "m", "0m", "-5m", "1.5h", "5 m", "7x", "٣m", "1h30m"])
def test_other_intervals_are_refused_with_an_example(text: str) -> None:
    """One line that says what is allowed."""
    with pytest.raises(ValueError, match=r"use a number and s, m, h, d or w, such as 5m or 1h"):
        query.parse_interval(text)


def test_intervals_must_be_multiples_of_the_base_interval(
    store: Store, db: sqlite3.Connection
) -> None:
    """A rollup can't be taken apart."""
    with pytest.raises(ValueError, match="'7m': must be a multiple of the base interval of 5m"):
        query.parse_interval("7m")
    with pytest.raises(ValueError, match="multiple of the base interval of 1h"):
        query.parse_interval("90m", 3600)
    with pytest.raises(ValueError, match="at most 400d"):
        query.parse_interval("401d")
    for interval_s in (0, -300, 60):
        with pytest.raises(ValueError, match="multiple of the base interval of 5m"):
            query.metrics(db, interval_s=interval_s, start_s=0, end_s=1)


def test_a_range_is_grown_to_what_is_kept() -> None:
    """To base intervals, hours or days."""
    known = fetch.Settled(300, False, T0, T0 - 10 * DAY_S)
    assert fetch.outward(T0 + 10, T0 + 310, known) == (T0, T0 + 600)
    assert fetch.outward(T0 - 10, T0 + 310, known) == (T0 - HOUR_S, T0 + 600)
    low_s, high_s = fetch.outward(T0 - 11 * DAY_S + 10, T0 - 11 * DAY_S + 20, known)
    assert (low_s, high_s) == (T0 - 11 * DAY_S, T0 - 10 * DAY_S)


def test_a_day_of_twenty_series_is_read_fast_enough(store: Store, path: Path) -> None:
    """5,760 rows with ten times the budget of 0.2 s."""
    ids = [store.series_id("m", "ms", {"n": str(n)}) for n in range(20)]
    fill(store, [(series, n * 300.0, n + 0.5) for series in ids for n in range(288)])
    begin = time.perf_counter()
    db = query.open_readonly(path)
    assert len(rows_of(db, 300)) == 5760
    db.close()
    assert time.perf_counter() - begin < 2.0
