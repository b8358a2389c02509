"""The store's promises: all or nothing, deltas add up, damage and strangers are survived."""

import itertools
import json
import logging
import os
import random
import signal
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator import histogram
from aggregator.interval import DAY_S, HOUR_S, Rollup, coarsen
from aggregator.store import query, schema, storefile
from aggregator.store.schema import StoreDamaged, StoreError, StoreNewer
from aggregator.store.store import Store

NS = 1_000_000_000
T0 = 1_772_323_200  # midnight of 2026-03-01, UTC
ROOT = Path(__file__).parents[2]


def delta(series: int, start_s: int, *values: float) -> Rollup:
    """A rollup of values one second apart."""
    buckets: dict[int, int] = {}
    for value in values:
        histogram.add_into(buckets, {histogram.bucket(value): 1})
    return Rollup(
        series,
        start_s,
        len(values),
        sum(values),
        min(values),
        max(values),
        values[0],
        start_s * NS,
        values[-1],
        (start_s + len(values) - 1) * NS,
        buckets,
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the store is."""
    return tmp_path / "rollups.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An open store."""
    with Store.open(path) as opened:
        yield opened


def counts(path: Path, interval_s: int, **more: object) -> dict[str, list[tuple[str, int]]]:
    """(start, count) of each metric's rows, through the reader's side."""
    db = query.open_readonly(path)
    try:
        found: dict[str, list[tuple[str, int]]] = {}
        rows = query.metrics(db, interval_s=interval_s, start_s=0, end_s=2**40, **more)  # type: ignore[arg-type]
        for row in rows:
            found.setdefault(row["metric"], []).append((row["interval_start"], row["count"]))
        return found
    finally:
        db.close()


def totals(path: Path) -> dict[int, int]:
    """Records per interval length, all series together."""
    return {
        interval_s: sum(n for rows in counts(path, interval_s).values() for _, n in rows)
        for interval_s in (300, HOUR_S, DAY_S)
    }


def test_deltas_of_an_interval_add_up_in_every_tier(store: Store, path: Path) -> None:
    """A commit a second refreshes the open interval, hour and day alike."""
    series = store.series_id("tick_latency", "ms", {"engine": "a"})
    store.commit([delta(series, T0, 1.0, 2.0)], {}, {})
    assert totals(path) == {300: 2, HOUR_S: 2, DAY_S: 2}
    store.commit([delta(series, T0, 8.0)], {}, {})
    store.commit([delta(series, T0 + 300, 4.0)], {}, {})
    assert totals(path) == {300: 4, HOUR_S: 4, DAY_S: 4}
    assert counts(path, 300)["tick_latency"] == [
        ("2026-03-01T00:00:00Z", 3),
        ("2026-03-01T00:05:00Z", 1),
    ]


def test_late_deltas_merge_into_stored_rows(store: Store, path: Path) -> None:
    """Into rows of the last interval, of another hour and day, and where there was no row."""
    series = store.series_id("pnl", "", {})
    store.commit([delta(series, T0 + DAY_S, 1.0)], {}, {})
    store.commit([delta(series, T0 + DAY_S + 300, 2.0)], {}, {})
    for start_s in (T0 + DAY_S, T0, T0 + HOUR_S, T0, T0 + DAY_S):
        store.commit([delta(series, start_s, 3.0)], {}, {})
    assert [n for _, n in counts(path, 300)["pnl"]] == [2, 1, 3, 1]
    assert [n for _, n in counts(path, HOUR_S)["pnl"]] == [2, 1, 4]
    assert [n for _, n in counts(path, DAY_S)["pnl"]] == [3, 4]


steps = st.lists(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.integers(0, 30).map(lambda n: n * 300 + n // 10 * 6 * HOUR_S),
            st.integers(-80, 80).map(lambda eighths: eighths / 8),
        ),
        max_size=6,
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(steps, st.sets(st.integers(0, 8)))
def test_stored_tiers_equal_the_union_of_all_deltas(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[list[tuple[int, int, float]]],
    restarts: set[int],
) -> None:
    """In whatever order intervals come, over commits and restarts: nothing is lost or doubled."""
    path = tmp_path_factory.mktemp("store") / "rollups.db"
    store = Store.open(path)
    everything = []
    for number, batch in enumerate(batches):
        deltas = [
            delta(store.series_id(f"m{which}", "", {}), T0 + offset_s, value)
            for which, offset_s, value in batch
        ]
        everything += deltas
        store.commit(deltas, {}, {})
        if number in restarts:
            store.close()
            store = Store.open(path)
    store.close()
    db = query.open_readonly(path)
    for interval_s in (300, 900, HOUR_S, 3 * HOUR_S, DAY_S):
        rows = list(query.metrics(db, interval_s=interval_s, start_s=0, end_s=2**40))
        wanted = coarsen(everything, interval_s)
        assert len(rows) == len(wanted)
        assert sorted((r["count"], r["sum"], r["min"], r["max"], r["p50"]) for r in rows) == sorted(
            (
                w.count,
                w.total,
                w.minimum,
                w.maximum,
                histogram.quantile(w.buckets, 0.5, w.minimum, w.maximum),
            )
            for w in wanted
        )
    db.close()


def test_an_open_interval_survives_a_restart_neither_wiped_nor_doubled(path: Path) -> None:
    """Deltas are added to what is stored; nothing of it needs to be in memory."""
    for value in (1.0, 2.0, 3.0):
        with Store.open(path) as store:
            store.commit([delta(store.series_id("m", "", {}), T0, value)], {}, {})
    assert totals(path) == {300: 3, HOUR_S: 3, DAY_S: 3}


def test_first_and_last_are_stored_by_time(store: Store, path: Path) -> None:
    """With their times, so that a late delta can't displace a later record."""
    series = store.series_id("m", "", {})
    early, late = delta(series, T0, 1.0), delta(series, T0, 9.0)
    early.last_ns += 5 * NS
    early.first_ns += 5 * NS
    for one in (early, late):
        store.commit([one], {}, {})
    db = sqlite3.connect(path)
    assert db.execute("SELECT first, last FROM base").fetchall() == [(9.0, 1.0)]
    db.close()


def test_series_ids_are_the_same_for_ever(path: Path) -> None:
    """However the labels are ordered; another unit or label is another series."""
    with Store.open(path) as store:
        first = store.series_id("m", "ms", {"engine": "a", "x": "1"})
        assert store.series_id("m", "ms", {"x": "1", "engine": "a"}) == first
        others = {
            store.series_id("m", "s", {"engine": "a", "x": "1"}),
            store.series_id("m", "ms", {"engine": "b", "x": "1"}),
            store.series_id("m", "ms", {}),
        }
        assert len({first, *others}) == 4
        store.commit([], {}, {})
    with Store.open(path) as store:
        assert store.series_id("m", "ms", {"engine": "a", "x": "1"}) == first
        assert store.series_id("new", "", {}) not in {first, *others}


def test_all_series_are_listed_stored_or_not(path: Path) -> None:
    """Those of earlier runs too: the rules' states are kept by id."""
    with Store.open(path) as store:
        first = store.series_id("m", "ms", {"engine": "a", "x": "1"})
        store.commit([], {}, {})
    with Store.open(path) as store:
        second = store.series_id("pnl", "", {})
        assert store.series() == [
            (first, "m", "ms", {"engine": "a", "x": "1"}),
            (second, "pnl", "", {}),
        ]


def test_a_name_that_utf8_cannot_hold_is_stored_escaped(store: Store, path: Path) -> None:
    """Text from outside never stops a commit."""
    series = store.series_id("m\udcff", "\ud800", {"k\udcff": "v\udcff"})
    assert store.series_id("m\udcff", "\ud800", {"k\udcff": "v\udcff"}) == series
    store.commit([delta(series, T0, 1.0)], {("e\udcff", T0): 1}, {})
    assert list(counts(path, 300)) == ["m\\udcff"]


def test_values_are_replaced_and_deleted_with_the_commit(store: Store) -> None:
    """The checkpoint is a map from key to bytes."""
    store.commit([], {}, {"rule/a": b"1", "rule/b": b"2", "window/a": b"3", "empty": b""})
    assert store.value("rule/a") == b"1"
    assert store.value("nothing") is None
    assert store.values("rule/") == {"rule/a": b"1", "rule/b": b"2"}
    store.commit([], {}, {"rule/a": None, "rule/b": b"22", "absent": None})
    assert store.values() == {"empty": b"", "rule/b": b"22", "window/a": b"3"}


def test_prefixes_of_keys_are_taken_literally(store: Store) -> None:
    """No character of a prefix is a pattern."""
    store.commit([], {}, {"a%b": b"", "a_b": b"", "axb": b"", "A%b": b""})
    assert list(store.values("a%")) == ["a%b"]
    assert list(store.values("a_")) == ["a_b"]


def test_numbers_from_numpy_are_stored_as_numbers(store: Store, path: Path) -> None:
    """A caller's slip must not turn counts into bytes."""
    series = np.int64(store.series_id("m", "", {}))
    one = Rollup(
        series,  # type: ignore[arg-type]
        np.int64(T0),  # type: ignore[arg-type]
        np.int64(1),  # type: ignore[arg-type]
        np.float64(2.0),
        np.float64(2.0),
        np.float64(2.0),
        np.float64(2.0),
        np.int64(T0 * NS),  # type: ignore[arg-type]
        np.float64(2.0),
        np.int64(T0 * NS),  # type: ignore[arg-type]
        {np.int64(histogram.bucket(2.0)): np.int64(1)},  # type: ignore[dict-item]
    )
    store.commit([one], {("a", np.int64(T0)): np.int64(3)}, {})  # type: ignore[dict-item]
    assert totals(path) == {300: 1, HOUR_S: 1, DAY_S: 1}
    db = sqlite3.connect(path)
    types = "SELECT DISTINCT typeof(start), typeof(series), typeof(count), typeof(first_ns) FROM {}"
    for table in ("base", "hourly", "daily"):
        assert db.execute(types.format(table)).fetchall() in ([], [("integer",) * 4])
    assert db.execute("SELECT lost, typeof(lost) FROM lost").fetchall() == [(3, "integer")]
    db.close()


def test_a_failed_commit_keeps_nothing_and_can_be_repeated(store: Store, path: Path) -> None:
    """A full disk: the rollups, the losses and the checkpoint stay as they were, together."""
    series = store.series_id("m", "", {})
    store.commit([delta(series, T0, 1.0)], {}, {"position": b"1"})
    pages = store._connection().execute("PRAGMA page_count").fetchone()[0]
    store._connection().execute(f"PRAGMA max_page_count = {pages}")
    fresh = store.series_id("fresh", "", {})
    args = (
        [delta(series, T0, 2.0), delta(fresh, T0, 3.0)],
        {("a", T0): 7},
        {"position": b"2", "large": bytes(100_000)},
    )
    for _ in range(3):
        with pytest.raises(StoreError, match="full"):
            store.commit(*args)  # type: ignore[arg-type]
    assert totals(path) == {300: 1, HOUR_S: 1, DAY_S: 1}
    assert store.value("position") == b"1"
    store._connection().execute("PRAGMA max_page_count = 1000000")
    store.commit(*args)  # type: ignore[arg-type]
    assert totals(path) == {300: 3, HOUR_S: 3, DAY_S: 3}
    assert store.value("position") == b"2"


def test_an_error_of_the_callers_rolls_back(store: Store, path: Path) -> None:
    """Whatever is raised in the middle of a commit."""
    series = store.series_id("m", "", {})
    with pytest.raises(TypeError):
        store.commit([delta(series, T0, 1.0)], {}, {"x": "text"})  # type: ignore[dict-item]
    store.commit([delta(series, T0, 1.0)], {}, {})
    assert totals(path) == {300: 1, HOUR_S: 1, DAY_S: 1}


def test_an_idle_commit_writes_nothing(store: Store, path: Path) -> None:
    """No records, no losses, no values: no transaction."""
    store.commit([delta(store.series_id("m", "", {}), T0, 1.0)], {}, {})
    log = path.with_name("rollups.db-wal")
    before = log.stat().st_size
    for _ in range(10):
        store.commit([], {}, {})
    assert log.stat().st_size == before


CHILD = """
import sys
sys.path.insert(0, sys.argv[2])
from tests_delta import delta, T0
from aggregator.store.store import Store

store = Store.open(sys.argv[1])
number = int(store.value("committed") or b"0")
while True:
    number += 1
    series = store.series_id(f"m{number % 7}", "ms", {"engine": "a"})
    deltas = [delta(series, T0 + number * 60 // 300 * 300, float(number), 0.5)]
    store.commit(deltas, {("a", T0): 1}, {"committed": str(number).encode()})
    if number % 10 == 0:
        store.checkpoint_wal()
    if number % 50 == 0:
        store.expire(T0 - 10, T0 - 10)
    print(number, flush=True)
"""


def test_kill_at_any_time_leaves_totals_equal_to_the_checkpoint(path: Path, tmp_path: Path) -> None:
    """kill -9 in the middle of commits: what the checkpoint says is exactly what the tiers hold."""
    (tmp_path / "tests_delta.py").write_text(
        "import importlib.util\n"
        f"spec = importlib.util.spec_from_file_location('its_test', {__file__!r})\n"
        "module = importlib.util.module_from_spec(spec)\n"
        "spec.loader.exec_module(module)\n"
        "delta, T0 = module.delta, module.T0\n"
    )
    chance = random.Random(11)
    committed = 0
    for _ in range(8):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(path), str(tmp_path)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert child.stdout is not None
        said = child.stdout.readline()
        time.sleep(chance.uniform(0.0, 0.15))
        child.send_signal(signal.SIGKILL)
        said = (said + child.communicate()[0]).rpartition("\n")[0].rpartition("\n")[2]
        db = query.open_readonly(path)
        committed = int(query.value(db, "committed") or b"0")
        rows = list(query.metrics(db, interval_s=DAY_S, start_s=0, end_s=2**40))
        db.close()
        assert int(said) <= committed <= int(said) + 1
        assert totals(path) == dict.fromkeys((300, HOUR_S, DAY_S), 2 * committed)
        assert sum(row["sum"] for row in rows) == committed * (committed + 1) / 2 + committed / 2
        assert {row["lost"] for row in rows} == {committed}
    assert committed > 8


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_all_files_belong_to_the_user_alone(path: Path, umask: int) -> None:
    """Mode 0600, whatever the umask, the log included; a looser mode is repaired."""
    before = os.umask(umask)
    try:
        with Store.open(path) as store:
            store.commit([], {}, {"x": b""})
            modes = {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()}
            assert modes == {0o600}
        path.chmod(0o644)
        Store.open(path).close()
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        os.umask(before)


def test_a_missing_directory_is_said(tmp_path: Path) -> None:
    """The service makes its directories; the store names the one that isn't there."""
    with pytest.raises(StoreError, match=r"none/rollups\.db: can't be made: No such file"):
        Store.open(tmp_path / "none" / "rollups.db")


def test_something_that_is_no_file_is_said(tmp_path: Path) -> None:
    """A directory of that name."""
    (tmp_path / "rollups.db").mkdir()
    with pytest.raises(StoreError, match="unable to open"):
        Store.open(tmp_path / "rollups.db")


def test_a_base_interval_must_divide_an_hour(path: Path) -> None:
    """Or hours couldn't be merged from it."""
    for wrong in (0, -300, 7, 3601):
        with pytest.raises(ValueError, match="must divide an hour"):
            Store.open(path, wrong)


def damage(path: Path, how: str) -> None:
    """Spoil a closed store."""
    content = path.read_bytes()
    if how == "text":
        path.write_text("this is no database, but long enough to be taken for one" * 100)
    elif how == "header":
        path.write_bytes(bytes(100) + content[100:])
    elif how == "cut":
        path.write_bytes(content[: len(content) // 2 + 100])
    else:
        path.write_bytes(content[:4096] + os.urandom(len(content) - 4096))


@pytest.mark.parametrize("how", ["text", "header", "cut", "noise"])
def test_a_damaged_file_is_moved_aside_and_a_new_one_started(
    path: Path, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    """With a message that says where the old one is; monitoring goes on."""
    with Store.open(path) as store:
        for number in range(50):
            store.series_id(f"m{number}", "", {"text": "x" * 100})
        store.commit([delta(1, T0 + n * 300, 1.0, 2.0, 3.0) for n in range(500)], {}, {"x": b"y"})
    damage(path, how)
    spoiled = path.read_bytes()
    with caplog.at_level(logging.CRITICAL, "aggregator"), Store.open(path) as store:
        store.commit([delta(store.series_id("m1", "", {}), T0, 1.0)], {}, {})
    assert totals(path)[300] == 1
    (aside,) = path.parent.glob("rollups.db.damaged-*Z")
    assert aside.read_bytes() == spoiled
    (said,) = caplog.records
    assert said.__dict__["component"] == "monitoring"
    assert said.__dict__["aside"] == str(aside)


def spoil_base(path: Path) -> None:
    """Overwrite the pages of the base rollups alone."""
    db = sqlite3.connect(path)
    (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'base'").fetchone()
    db.close()
    with path.open("r+b") as file:
        file.seek((root - 1) * 4096)
        file.write(b"\xff" * 4096)


def test_damage_met_while_running_is_survived_by_the_repeated_commit(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Series keep their ids, and the checkpoint is carried over from what is readable."""
    with Store.open(path) as store:
        series = store.series_id("m", "ms", {"engine": "a"})
        store.commit([delta(series, T0, 1.0)], {}, {"position": b"41", "rule/a": b"firing"})
    spoil_base(path)
    with caplog.at_level(logging.CRITICAL, "aggregator"), Store.open(path) as store:
        assert store.value("position") == b"41"
        fresh = store.series_id("fresh", "", {})
        args = ([delta(series, T0, 2.0), delta(fresh, T0, 3.0)], {}, {"position": b"42"})
        with pytest.raises(StoreDamaged, match="damaged"):
            store.commit(*args)  # type: ignore[arg-type]
        store.commit(*args)  # type: ignore[arg-type]
        assert store.values() == {"position": b"42", "rule/a": b"firing"}
        assert store.series_id("m", "ms", {"engine": "a"}) == series
        assert store.series_id("fresh", "", {}) == fresh
    assert counts(path, 300) == {
        "m": [("2026-03-01T00:00:00Z", 1)],
        "fresh": [("2026-03-01T00:00:00Z", 1)],
    }
    assert len(caplog.records) == 1


def test_a_file_removed_while_running_is_replaced(
    store: Store, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Somebody cleans up: noticed with the next checkpoint; ids and checkpoint values stay."""
    series = store.series_id("m", "", {})
    store.commit([delta(series, T0, 1.0)], {}, {"position": b"1"})
    path.unlink()
    with caplog.at_level(logging.CRITICAL, "aggregator"):
        store.checkpoint_wal()
    assert "removed" in caplog.text
    store.commit([delta(series, T0, 2.0)], {}, {})
    assert store.value("position") == b"1"
    assert totals(path)[300] == 1
    assert store.series_id("m", "", {}) == series


def test_a_file_replaced_while_running_is_said(store: Store, path: Path, tmp_path: Path) -> None:
    """A restored backup has other ids: only a restart can take it up."""
    store.commit([], {}, {"x": b""})
    with Store.open(tmp_path / "other.db"):
        pass
    (tmp_path / "other.db").rename(path)
    with pytest.raises(StoreError, match="replaced while in use: restart"):
        store.checkpoint_wal()


def test_damage_that_cannot_be_moved_aside_is_said(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A directory that became read-only."""
    path.write_text("no database" * 1000)

    def refuse(_: Path, __: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(storefile, "move_aside", refuse)
    with pytest.raises(StoreError, match="can't be moved aside: Permission denied"):
        Store.open(path)


def test_a_newer_store_is_refused_and_left_alone(path: Path) -> None:
    """Both by the writer and by readers, with the way out."""
    Store.open(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    before = path.read_bytes()
    for opening in (Store.open, query.open_readonly):
        with pytest.raises(StoreNewer, match=r"version 99, this program knows 1: upgrade"):
            opening(path)
    assert path.read_bytes() == before
    assert list(path.parent.glob("*damaged*")) == []


def test_an_older_store_is_upgraded_in_one_transaction(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A migration that fails leaves the old version whole; readers say what to do meanwhile."""
    with Store.open(path) as store:
        store.commit([delta(store.series_id("m", "", {}), T0, 1.0)], {}, {"x": b"1"})
    wrong = "ALTER TABLE series ADD COLUMN note TEXT; ALTER TABLE absent ADD COLUMN note TEXT;"
    monkeypatch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, wrong))
    with pytest.raises(StoreError, match="no such table"):
        Store.open(path)
    right = "ALTER TABLE series ADD COLUMN note TEXT"
    monkeypatch.setattr(schema, "MIGRATIONS", (schema.MIGRATIONS[0], right))
    with pytest.raises(StoreError, match=r"version 1, older .* 2: start the service once"):
        query.open_readonly(path)
    with Store.open(path) as store:
        assert store.value("x") == b"1"
    assert totals(path)[300] == 1


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    """It may be a typing error in a setting."""
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE orders (id INTEGER)")
    db.commit()
    db.close()
    before = path.read_bytes()
    for opening in (Store.open, query.open_readonly):
        with pytest.raises(StoreError, match="another program"):
            opening(path)
    assert path.read_bytes() == before


def test_a_closed_store_says_so(path: Path) -> None:
    """Closing twice is harmless."""
    store = Store.open(path)
    store.close()
    store.close()
    with pytest.raises(StoreError, match="closed"):
        store.value("x")


def test_the_log_stays_bounded_under_overlapping_readers(
    store: Store, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some reader is always in the middle of a read: beyond the limit new ones have to wait."""
    monkeypatch.setattr(storefile, "_LOG_LIMIT_BYTES", 400_000)
    stop = threading.Event()

    def keep_reading() -> None:
        db = sqlite3.connect(path, isolation_level=None, timeout=10)
        while not stop.is_set():
            db.execute("BEGIN")
            db.execute("SELECT count(*) FROM checkpoint").fetchone()
            stop.wait(0.01)
            db.execute("COMMIT")
        db.close()

    readers = [threading.Thread(target=keep_reading) for _ in range(2)]
    for reader in readers:
        reader.start()
    sizes = []
    try:
        for number in range(300):
            store.commit([], {}, {"health": os.urandom(20_000)})
            if number % 10 == 9:
                sizes.append(store.checkpoint_wal())
    finally:
        stop.set()
        for reader in readers:
            reader.join(30)
    assert max(sizes) < 1_200_000 < 300 * 20_000


def test_the_log_can_be_moved_while_commits_go_on(store: Store, path: Path) -> None:
    """checkpoint_wal has a thread of its own in the service."""
    series = store.series_id("m", "", {})
    stop = threading.Event()

    def keep_moving() -> None:
        while not stop.is_set():
            store.checkpoint_wal()

    mover = threading.Thread(target=keep_moving)
    mover.start()
    try:
        for _ in range(200):
            store.commit([delta(series, T0, 1.0)], {}, {})
    finally:
        stop.set()
        mover.join(30)
    assert totals(path) == {300: 200, HOUR_S: 200, DAY_S: 200}


def test_a_series_can_be_named_while_the_disk_is_busy(store: Store) -> None:
    """Naming never waits for a commit."""
    named: list[int] = []
    with store._transaction():
        worker = threading.Thread(target=lambda: named.append(store.series_id("m", "", {})))
        worker.start()
        worker.join(30)
    assert named == [1]


def test_another_base_interval_is_taken_up_without_losing_or_doubling(path: Path) -> None:
    """Rows carry their interval; hours and days stay exact."""
    plans = ((60, (0, 60, 300)), (900, (0, 900)), (300, (0, 900, 1200)))
    for base_s, starts in plans:
        with Store.open(path, base_s) as store:
            series = store.series_id("m", "", {})
            for start_s in starts:
                store.commit([delta(series, T0 + start_s, 1.0)], {}, {})
    for interval_s in (300, 900, HOUR_S, DAY_S):
        assert sum(n for _, n in counts(path, interval_s)["m"]) == 8
    assert counts(path, HOUR_S)["m"] == [("2026-03-01T00:00:00Z", 8)]
    db = query.open_readonly(path)
    rows = query.metrics(db, interval_s=300, start_s=T0, end_s=T0 + HOUR_S)
    found = [(row["interval_start"][11:16], row["interval_seconds"], row["count"]) for row in rows]
    assert found == [
        ("00:00", 300, 1),
        ("00:00", 900, 3),
        ("00:05", 300, 1),
        ("00:15", 900, 2),
        ("00:20", 300, 1),
    ]
    assert query.base_s(db) == 300
    db.close()


def test_old_rollups_expire_by_tier_and_days_stay(store: Store, path: Path) -> None:
    """The rest is untouched, and is still one history for readers."""
    series = store.series_id("m", "", {})
    days = range(40)
    hours = [T0 + day * DAY_S + hour * HOUR_S for day in days for hour in (0, 10)]
    store.commit([delta(series, start_s + 300, 1.0, 2.0) for start_s in hours], {}, {})
    deleted = store.expire(T0 + 30 * DAY_S, T0 + 20 * DAY_S)
    assert deleted == 60 + 40
    assert sum(n for _, n in counts(path, DAY_S)["m"]) == 160
    db = query.open_readonly(path)
    rows = list(query.metrics(db, interval_s=300, start_s=0, end_s=2**40))
    db.close()
    assert [row["interval_seconds"] for row in rows] == [DAY_S] * 20 + [HOUR_S] * 20 + [300] * 20
    assert sum(row["count"] for row in rows) == 160
    assert store.expire(T0 + 30 * DAY_S, T0 + 20 * DAY_S) == 0


def test_an_open_interval_expires_into_the_coarser_tiers(store: Store, path: Path) -> None:
    """A series that ended a month ago keeps its hours and days."""
    series = store.series_id("m", "", {})
    store.commit([delta(series, T0, 1.0)], {}, {})
    assert store.expire(T0 + DAY_S, 0) == 1
    assert counts(path, HOUR_S) == {"m": [("2026-03-01T00:00:00Z", 1)]}
    store.commit([delta(series, T0, 2.0)], {}, {})
    store.commit([delta(series, T0 + 300, 2.0)], {}, {})
    assert [n for _, n in counts(path, DAY_S)["m"]] == [3]


def test_expiry_never_goes_back(store: Store, path: Path) -> None:
    """A longer limit can't bring rollups back: readers must still be told where they end."""
    series = store.series_id("m", "", {})
    store.commit([delta(series, T0 + n * HOUR_S, 1.0) for n in range(50)], {}, {})
    store.expire(T0 + 40 * HOUR_S, 0)
    store.expire(T0, 0)
    assert sum(n for _, n in counts(path, 300)["m"]) == 50


def test_losses_stay_known_when_their_intervals_expire(store: Store, path: Path) -> None:
    """Per hour, then per day, added up."""
    series = store.series_id("m", "", {"engine": "a"})
    starts = [T0 + 300, T0 + 600, T0 + 2 * HOUR_S]
    store.commit(
        [delta(series, start_s, 1.0) for start_s in starts],
        {("a", start_s): 10 for start_s in starts},
        {},
    )

    def lost(interval_s: int) -> list[int | None]:
        db = query.open_readonly(path)
        try:
            rows = query.metrics(db, interval_s=interval_s, start_s=0, end_s=2**40)
            return [row["lost"] for row in rows]
        finally:
            db.close()

    assert lost(300) == [10, 10, 10]
    store.expire(T0 + DAY_S, 0)
    assert lost(HOUR_S) == [20, 10]
    store.expire(T0 + DAY_S, T0 + DAY_S)
    assert lost(DAY_S) == [30]


def test_losses_are_booked_once_per_engine_and_interval(store: Store, path: Path) -> None:
    """Shown on every series of that engine, never on another's, never summed over series."""
    ids = [
        store.series_id(name, "", {"engine": engine})
        for engine, name in itertools.product("ab", ("x", "y"))
    ]
    store.commit([delta(series, T0, 1.0) for series in ids], {("a", T0): 5}, {})
    store.commit([], {("a", T0): 2, ("a", T0 + 300): 100}, {})
    db = query.open_readonly(path)
    rows = list(query.metrics(db, interval_s=300, start_s=T0, end_s=T0 + 300))
    assert [(row["labels"]["engine"], row["metric"], row["lost"]) for row in rows] == [
        ("a", "x", 7),
        ("b", "x", 0),
        ("a", "y", 7),
        ("b", "y", 0),
    ]
    hour = list(
        query.metrics(db, interval_s=HOUR_S, start_s=T0, end_s=T0 + 300, match={"engine": "a"})
    )
    assert [row["lost"] for row in hour] == [107, 107]
    db.close()


def test_an_unknown_loss_is_not_zero(store: Store, path: Path) -> None:
    """After a reboot nobody knows how many records were overwritten."""
    series = store.series_id("m", "", {"engine": "a"})
    store.commit([delta(series, T0, 1.0)], {("a", T0): None}, {})
    store.commit([], {("a", T0): 4}, {})
    db = query.open_readonly(path)
    assert [r["lost"] for r in query.metrics(db, interval_s=300, start_s=T0, end_s=T0 + 1)] == [
        None
    ]
    assert json.dumps(next(query.summary(db, start_s=T0, end_s=T0 + 1))["lost"]) == "null"
    db.close()


def test_a_commit_a_second_is_cheap_enough(store: Store) -> None:
    """200 series over three tiers, with ten times the budget of 50 ms."""
    ids = [store.series_id(f"m{n}", "ms", {"engine": "a"}) for n in range(200)]
    chance = random.Random(3)
    times = []
    for _ in range(5):
        deltas = [
            delta(series, T0, *(chance.lognormvariate(0.0, 0.4) for _ in range(50)))
            for series in ids
        ]
        begin = time.perf_counter()
        store.commit(deltas, {}, {})
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.5
