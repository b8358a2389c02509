"""The metrics commands on history that is partly in the store and partly in day files."""

import csv
import io
import json
import subprocess
import sys

import numpy as np
import pytest

from aggregator.history.dayfolder import FOLDER
from aggregator.rollup import RollupBuffer
from aggregator.store.store import Store
from tests.daywrite import record, write_days
from tests.environments import unmeasured

T0 = 1_769_850_000  # 2026-01-31 09:00 UTC
LABELS = {"engine": "intraday"}


@pytest.fixture
def recorded(desk):
    """Three hours of two series, rolled up and in the day files."""
    records = [
        record(T0 + n * 10 + part, float(n % 7 + part), metric, LABELS, unit)
        for n in range(1080)
        for part, (metric, unit) in enumerate((("tick_latency", "ms"), ("pnl", "INR")))
    ]
    with Store.open(desk.data_dir / "rollups.db", 300) as store:
        buffer = RollupBuffer(300)
        buffer.add(
            np.array([store.series_id(r.metric, r.unit, r.labels) for r in records], np.int64),
            np.array([r.time_ns for r in records], np.int64),
            np.array([r.value for r in records], np.float64),
        )
        store.commit(buffer.drain(), {}, {})
    write_days(desk.data_dir / FOLDER, records, per_member=50)
    return desk


def lose_the_store(desk, *, damaged=True):
    """The service finds its store damaged, or gone, and begins a new one."""
    path = desk.data_dir / "rollups.db"
    if damaged:
        path.write_bytes(path.read_bytes()[:100] + b"\xff" * 50_000)
    else:
        path.unlink()
    Store.open(path, 300).close()


@pytest.mark.parametrize("damaged", [True, False])
def test_commands_answer_as_before_after_the_store_was_lost(recorded, damaged):
    """show, summary, export and report, in text and as JSON, and nothing on stderr."""
    asked = [
        ("metrics", "show", "--json"),
        ("metrics", "show", "--json", "--interval", "1h", "--metric", "pnl"),
        ("metrics", "show", "--hours", "1"),
        ("metrics", "summary", "--json"),
        ("metrics", "summary", "--hours", "1"),
        ("metrics", "export"),
        ("metrics", "export", "--match", "engine=intra*", "--format", "json"),
        ("report",),
        ("report", "--hours", "2"),
    ]
    before = [recorded.run(*argv) for argv in asked]
    assert all(ended.code == 0 and ended.out for ended in before)
    lose_the_store(recorded, damaged=damaged)
    assert [recorded.run(*argv) for argv in asked] == before
    assert recorded.command(*asked[0]) == before[0]
    assert bool([*recorded.data_dir.glob("*.damaged-*")]) == damaged
    ended = recorded.run("metrics", "show", "--metric", "tick_latncy")
    assert "no records" in ended.err


def test_numpy_is_loaded_only_for_day_files(recorded):
    """A store that lacks nothing starts as fast as ever."""
    code = (
        "import sys; from cli.__main__ import main;"
        f"main(['--data-dir', {str(recorded.data_dir)!r}, 'metrics', 'show', '--json']);"
        "sys.exit('numpy' in sys.modules)"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, check=False, env=unmeasured(), capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    lose_the_store(recorded)
    again = subprocess.run(argv, check=False, env=unmeasured(), capture_output=True, timeout=60)
    assert (again.returncode, again.stderr, again.stdout) == (1, b"", done.stdout)


def test_what_day_files_left_out_and_what_is_damaged_is_said_once(desk):
    """On stderr: stdout stays data."""
    Store.open(desk.data_dir / "rollups.db", rolling=False).close()
    archive = desk.data_dir / FOLDER
    write_days(
        archive,
        [record(T0 + n * 400, 1.0, "m", LABELS, skipped=9) for n in range(60)],
        per_member=10,
    )
    [path] = archive.iterdir()
    content = bytearray(path.read_bytes())
    content[content.index(b"\x1f\x8b\x08\x04", 1) - 6] ^= 0xFF  # a checksum
    path.write_bytes(content)
    thinned = "450 records were left out of the day files when they came too fast: counted, but in"
    damaged = "day files: passed over 1 damaged member\n"
    for argv in (("show", "--json"), ("show",), ("summary",), ("export",), ("export", "--raw")):
        ended = desk.run("metrics", *argv)
        assert ended.code == 0
        assert thinned in ended.err and damaged in ended.err, argv
        assert ended.err.count("\n") == 2
    ended = desk.run("report")
    assert ended.err.count("\n") == 2 and thinned in ended.err and damaged in ended.err
    assert sum(row["count"] for row in desk.run("metrics", "show", "--json").rows) == 500


def test_a_mistaken_name_is_told_where_day_files_might_know_it(desk):
    """Of a metric that the store can't rule out."""
    with Store.open(desk.data_dir / "rollups.db", rolling=False) as store:
        store.series_id("tick_latency", "ms", LABELS)
        store.commit([], {}, {"made": b"1"})
    write_days(desk.data_dir / FOLDER, [record(T0, 1.0, "tick_latency", LABELS)])
    for words in (("show",), ("summary",)):
        ended = desk.run("metrics", *words, "--metric", "tick_latncy", "--hours", "1")
        assert (ended.code, ended.out) == (0, "")
        assert "no records" in ended.err and "did you mean tick_latency?" in ended.err


def test_silences_are_reported_after_the_store_was_lost(desk):
    """When an engine wrote is known from its day files as well."""
    records = [record(T0 + at_s, 1.0, "m", LABELS) for at_s in (0, 300, 3000, 3300)]
    write_days(desk.data_dir / FOLDER, records)
    Store.open(desk.data_dir / "rollups.db", rolling=False).close()
    [report] = desk.run("report", "--hours", "1", "--json").rows
    [gap] = report["gaps"]
    assert (gap["engine"], gap["from"], gap["to"]) == (
        "intraday", "2026-01-31T09:10:00.000000Z", "2026-01-31T09:50:00.000000Z"
    )  # fmt: skip


# raw records


def raw(desk, *argv):
    """What `metrics export --raw` prints."""
    return desk.run("metrics", "export", "--raw", *argv)


def test_raw_records_are_exported_as_csv_and_as_json(recorded):
    """The same records in both, with all that the day files say of them."""
    ended = raw(recorded, "--hours", "1")
    assert (ended.code, ended.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    assert list(rows[0]) == ["time", "metric", "labels", "value", "unit", "skipped"]
    lines = raw(recorded, "--hours", "1", "--json").out.splitlines()
    objects = [json.loads(line) for line in lines]
    assert len(rows) == len(objects) == 720
    for row, each in zip(rows, objects, strict=True):
        assert json.loads(row["labels"]) == each["labels"] == LABELS
        assert [row["time"], row["metric"], row["unit"]] == [
            each[n] for n in ("time", "metric", "unit")
        ]
        assert (float(row["value"]), int(row["skipped"])) == (each["value"], each["skipped"])
    assert objects[0] == {
        "time": "2026-01-31T11:00:00.000000000Z",
        "metric": "tick_latency",
        "labels": LABELS,
        "value": float(720 % 7),
        "unit": "ms",
        "skipped": 0,
    }
    assert recorded.command("metrics", "export", "--raw", "--hours", "1").out == ended.out


def test_raw_records_are_chosen_like_rows(recorded):
    """By series and range, into a file; the store isn't needed."""
    (recorded.data_dir / "rollups.db").unlink()
    span = ("--from", "2026-01-31T09:00:00Z", "--to", "2026-01-31T09:01:00Z")
    target = recorded.folder / "raw.csv"
    ended = raw(recorded, "--metric", "p*", "--match", "engine=*", *span, "-o", str(target))
    assert (ended.code, ended.out, ended.err) == (0, "", f"6 records in {target}\n")
    assert len(target.read_text().splitlines()) == 7
    ended = raw(recorded, "--metric", "nothing")
    assert ended.out == "time,metric,labels,value,unit,skipped\n"
    assert "no such raw records" in ended.err
    ended = raw(recorded, "--interval", "5m")
    assert (ended.code, ended.out) == (2, "")
    assert "--interval can't be combined with --raw" in ended.err


def test_a_metric_that_has_no_raw_records_may_be_a_slip(recorded):
    """One that is near to it is named; a right one, or a folder without a store, suggests none."""
    asked = ("metrics", "export", "--raw", "--metric")
    assert "did you mean tick_latency?" in recorded.run(*asked, "tick_latncy").err
    assert "did you mean" not in recorded.run(*asked, "pnl", "--match", "engine=other").err
    (recorded.data_dir / "rollups.db").unlink()
    ended = recorded.run(*asked, "tick_latncy")
    assert "no such raw records" in ended.err and "did you mean" not in ended.err


@pytest.mark.parametrize("text", ["=1+1", "@SUM(A1)", "\t=1", ' "a,b"', ""])
def test_spreadsheets_execute_nothing_of_raw_records(desk, text):
    """Quotes and commas survive, formulas don't, an empty unit stays empty."""
    write_days(desk.data_dir / FOLDER, [record(T0, -5.0, text, {text: text}, text)])
    [_, cells] = csv.reader(io.StringIO(raw(desk).out))
    assert json.loads(cells[2]) == {text: text}
    assert cells[3] == "-5.0"
    for cell in (cells[1], cells[4]):
        assert cell == text if text.startswith(" ") or not text else cell.startswith("'")
    [line] = raw(desk, "--json").out.splitlines()
    assert json.loads(line)["metric"] == json.loads(line)["unit"] == text


def test_a_replay_has_stand_ins_where_only_thinned_day_files_are(desk):
    """Rollups were off and records came too fast: what was written still tells of extremes."""
    Store.open(desk.data_dir / "rollups.db", rolling=False).close()
    write_days(
        desk.data_dir / FOLDER,
        [record(T0 + n, 5000.0 if n == 200 else 1.0, "tick_latency", LABELS, skipped=3)
         for n in range(900)],
        per_member=50,
    )  # fmt: skip
    ended = desk.run(
        "rules",
        "replay",
        "--from",
        "2026-01-31T09:00:00Z",
        "--to",
        "2026-01-31T09:20:00Z",
        "--json",
    )
    assert ended.code == 0
    assert [(r["rule"], r["exact"]) for r in ended.rows if r["state"] == "firing"] == [
        ("performance_degradation", False)
    ]
