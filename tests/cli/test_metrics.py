"""`metrics show`, `summary` and `export` on a store that another process wrote."""

import csv
import io
import json
import time
from datetime import UTC, datetime

import pytest

from aggregator import histogram
from aggregator.interval import Rollup
from aggregator.store.store import Store
from cli import export, lines

# 2026-01-31 09:00 UTC, on the hour and on the day's grid.
T0 = 1_769_850_000
FIELDS = {
    "metric", "labels", "unit", "interval_start", "interval_end", "interval_seconds", "count",
    "min", "max", "avg", "sum", "p50", "p90", "p99", "p999", "lost", "partial",
}  # fmt: skip


def rollup(series, start_s, values):
    buckets = {}
    for value in values:
        bucket = histogram.bucket(value)
        buckets[bucket] = buckets.get(bucket, 0) + 1
    first_ns = start_s * 10**9
    last_ns = first_ns + 10**9 * (len(values) - 1)
    return Rollup(
        series, start_s, len(values), float(sum(values)), float(min(values)), float(max(values)),
        float(values[0]), first_ns, float(values[-1]), last_ns, buckets,
    )  # fmt: skip


@pytest.fixture
def store(desk):
    with Store.open(desk.data_dir / "rollups.db", 300) as made:
        yield made


@pytest.fixture
def filled(desk, store):
    """Two series over one hour, one record lost, an hour before it for comparison."""
    latency = store.series_id("tick_latency", "ms", {"engine": "intraday", "strategy": "swing"})
    pnl = store.series_id("pnl", "INR", {"engine": "intraday"})
    rollups = [rollup(latency, T0 + 300 * i, [1.0 + i, 2.0 + i, 30.0]) for i in range(12)]
    rollups += [rollup(latency, T0 - 3600 + 300 * i, [0.5, 1.0, 15.0]) for i in range(12)]
    rollups.append(rollup(pnl, T0 + 600, [-1250.0, 700.0]))
    store.commit(rollups, {("intraday", T0 + 300): 7}, {})
    store.close()
    return desk


HOUR = ("--from", "2026-01-31T09:00:00Z", "--to", "2026-01-31T10:00:00Z")


def test_metrics_of_a_dead_service_are_shown_in_a_new_process(filled):
    """All fields of the contract, by interval, with what was lost."""
    ended = filled.command("metrics", "show", "--json", *HOUR)
    assert (ended.code, ended.err) == (0, "")
    rows = ended.rows
    assert all(set(row) == FIELDS for row in rows)
    assert len(rows) == 13
    first = rows[0]
    assert (first["metric"], first["unit"]) == ("tick_latency", "ms")
    assert first["interval_start"] == "2026-01-31T09:00:00Z"
    assert (first["count"], first["min"], first["max"], first["avg"]) == (3, 1.0, 30.0, 11.0)
    assert [row["lost"] for row in rows[:2]] == [0, 7]
    assert rows[-1]["partial"] and not first["partial"]


def test_the_interval_is_a_width_not_a_look_back(filled):
    """1h is the merge of its twelve 5m intervals."""
    rows = filled.command("metrics", "show", "--interval", "1h", "--json", *HOUR).rows
    [latency] = [row for row in rows if row["metric"] == "tick_latency"]
    assert latency["interval_seconds"] == 3600
    assert (latency["count"], latency["min"], latency["max"]) == (36, 1.0, 30.0)
    assert latency["p99"] == pytest.approx(30.0, rel=0.011)


def test_without_a_range_the_last_day_of_records_is_shown(filled):
    """However long ago it was."""
    rows = filled.command("metrics", "show", "--json").rows
    assert sum(row["count"] for row in rows) == 12 * 3 * 2 + 2
    rows = filled.command("metrics", "show", "--hours", "0.5", "--json").rows
    assert len(rows) == 7


def test_series_are_chosen_by_pattern_and_label(filled):
    """Of their names and of any label."""
    assert len(filled.run("metrics", "show", "--metric", "p*", *HOUR, "--json").rows) == 1
    match = ["--match", "strategy=sw*", "--match", "engine=intraday"]
    assert len(filled.run("metrics", "show", *match, *HOUR, "--json").rows) == 12


@pytest.mark.parametrize(
    ("argv", "code", "text"),
    [
        (["--interval", "7x"], 2, "--interval=7x: use a number and s, m, h, d or w, such as 5m"),
        (["--interval", "7m"], 2, "--interval=7m: must be a multiple of the base interval of 5m"),
        (["--metric", "tick_latncy"], 1, "did you mean tick_latency? (metrics: pnl, tick_latency)"),
        (["--match", "engine=x"], 1, "no series matches --match engine=x"),
        (["--match", "engine"], 2, "engine: use label=pattern"),
        (["--hours", "-1"], 2, "--hours=-1: use a positive number"),
        (["--from", "x"], 2, "--from=x: use a time"),
        (["--hours", "1", "--from", "2026-01-31"], 2, "can't be combined"),
    ],
)
def test_a_bad_question_says_what_is_allowed(filled, argv, code, text):
    """One line; 2 for a wrong value, 1 for something that isn't there, of what engines record."""
    with Store.open(filled.data_dir / "rollups.db", 300) as store:
        store.series_id("disk_used_pct", "%", {"mount": "/"})  # the aggregator's own
    ended = filled.run("metrics", "show", *argv)
    assert (ended.code, ended.out) == (code, "")
    assert text in ended.err
    assert ended.err.count("\n") == 1


def test_a_pipe_gets_one_flat_table_and_the_course_of_each_series(filled):
    """Local time with its offset, plain numbers, what is lost, what isn't over."""
    out = filled.command("metrics", "show", *HOUR, TZ="Asia/Kolkata").out
    table, courses = out.split("\n\n")
    titles, *lines = table.splitlines()
    assert titles.split()[:5] == ["start", "metric", "labels", "unit", "count"]
    assert len(lines) == 13
    assert lines[0].startswith("2026-01-31 14:30+05:30  tick_latency  engine=intraday strategy=")
    assert lines[-1].endswith("partial")
    assert "▁" in courses and "█" in courses
    assert "2026-01-31 09:00Z" in filled.command("metrics", "show", *HOUR, "--utc").out


def test_other_encodings_get_ascii(filled):
    """A terminal or pipe that can't show blocks isn't sent any."""
    out = filled.command("metrics", "show", *HOUR, PYTHONIOENCODING="latin-1").out
    assert out.isascii()
    assert "_" in out.split("\n\n")[1]


def test_gaps_are_gaps(desk, store):
    """An interval without records has no row, and a space in the course."""
    series = store.series_id("a", "", {})
    store.commit([rollup(series, T0, [1.0]), rollup(series, T0 + 900, [9.0])], {}, {})
    assert len(desk.run("metrics", "show", "--json").rows) == 2
    assert desk.run("metrics", "show").out.splitlines()[-1].endswith("▁  █")


def test_nothing_in_the_range_is_said_with_what_to_do(filled):
    """On stderr; no zeros are invented."""
    argv = ["metrics", "show", "--from", "2020-01-01", "--to", "2020-01-02"]
    ended = filled.run(*argv)
    assert (ended.code, ended.out) == (0, "")
    assert "no records from 2020-01-01" in ended.err and "tickwatch status" in ended.err
    assert filled.run(*argv, "--json").rows == []
    assert filled.run("metrics", "summary", *argv[2:]).out == ""


def test_a_store_that_isnt_there_is_an_error(desk):
    """With the path."""
    ended = desk.run("metrics", "show")
    assert ended.code == 1
    assert f"{desk.data_dir}/rollups.db: no such file" in ended.err
    (desk.data_dir / "rollups.db").write_bytes(b"no database at all, but long enough" * 100)
    ended = desk.run("metrics", "show")
    assert ended.code == 1
    assert "damaged" in ended.err


def test_a_fresh_store_has_no_rows(desk, store):
    """A service that has just started is no error."""
    assert desk.run("metrics", "show", "--json").rows == []
    assert desk.run("metrics", "show", "--metric", "x", "--json").rows == []


def test_a_summary_merges_the_range_and_compares(filled):
    """With the equal period before it; a series without one has nothing to compare with."""
    rows = filled.command("metrics", "summary", "--json", *HOUR).rows
    pnl, latency = rows
    assert set(latency) > FIELDS
    assert (latency["count"], latency["max"]) == (36, 30.0)
    assert latency["before"]["count"] == 36
    assert latency["before"]["avg"] == pytest.approx(5.5)
    expected = 100 * (latency["avg"] / 5.5 - 1)
    assert latency["avg_change_pct"] == pytest.approx(expected, abs=0.01)
    assert latency["p99_change_pct"] == pytest.approx(100, abs=3)
    assert (pnl["before"], pnl["avg_change_pct"]) == (None, None)
    out = filled.run("metrics", "summary", *HOUR).out
    assert f"{expected:+.1f} %" in out


def test_changes_of_negative_means_have_the_right_sign(desk, store):
    """A loss that grew is a fall."""
    series = store.series_id("pnl", "", {})
    store.commit([rollup(series, T0 - 3600, [-100.0]), rollup(series, T0, [-150.0])], {}, {})
    [row] = desk.run("metrics", "summary", "--json", *HOUR).rows
    assert row["avg_change_pct"] == -50.0


def test_csv_reads_back_as_the_rows_of_the_json(filled):
    """Same fields, same numbers."""
    ended = filled.command("metrics", "export", *HOUR)
    assert (ended.code, ended.err) == (0, "")
    rows = list(csv.DictReader(io.StringIO(ended.out)))
    expected = filled.run("metrics", "show", "--json", *HOUR).rows
    assert len(rows) == len(expected)
    for row, wanted in zip(rows, expected, strict=True):
        assert set(row) == FIELDS
        assert json.loads(row["labels"]) == wanted["labels"]
        assert float(row["p99"]) == wanted["p99"] and int(row["count"]) == wanted["count"]
        assert row["partial"] == str(wanted["partial"]).lower()
        assert row["interval_start"] == wanted["interval_start"]


def test_json_export_is_one_object_a_line(filled):
    """By --format json or by --json."""
    lines = filled.run("metrics", "export", *HOUR, "--format", "json").out.splitlines()
    assert [json.loads(line) for line in lines] == filled.run(
        "metrics", "show", *HOUR, "--json"
    ).rows
    assert filled.run("metrics", "export", *HOUR, "--json").out.splitlines() == lines
    assert "use csv or json" in filled.run("metrics", "export", "--format", "cvs").err


def test_a_file_appears_when_it_is_complete(filled, monkeypatch):
    """Atomically, and never half of it."""
    target = filled.folder / "out.csv"
    ended = filled.run("metrics", "export", *HOUR, "-o", str(target))
    assert (ended.code, ended.out) == (0, "")
    assert f"13 rows in {target}" in ended.err
    whole = target.read_text()
    assert whole == filled.run("metrics", "export", *HOUR).out

    def fails(rows):
        yield "metric"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lines, "csv_rows", fails)
    ended = filled.run("metrics", "export", *HOUR, "-o", str(target))
    assert ended.code == 1
    assert f"{target}: No space left on device" in ended.err
    assert target.read_text() == whole
    assert [path.name for path in filled.folder.iterdir() if "out.csv" in path.name] == ["out.csv"]


def test_a_file_that_cannot_be_made_is_named(filled):
    """A missing folder, a folder in its place."""
    refused = filled.run("metrics", "export", "-o", "no/such/file.csv")
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.splitlines() == ["tickwatch: no/such/file.csv: No such file or directory"]
    ended = filled.run("metrics", "export", "-o", str(filled.folder))
    assert ended.code == 1
    assert "is a directory" in ended.err


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "＝1", "=cmd|' /C calc'!A0"]
)
def test_spreadsheets_execute_nothing(desk, store, text):
    """Text that a spreadsheet would compute begins with an apostrophe; numbers stay numbers."""
    store.commit([rollup(store.series_id(text, text, {text: text}), T0, [-5.0])], {}, {})
    rows = list(csv.reader(io.StringIO(desk.run("metrics", "export").out)))
    for cell in (rows[1][0], rows[1][2]):
        assert cell.startswith("'")
    assert rows[1][1].startswith("{")
    assert "-5.0" in rows[1]


def test_ordinary_text_is_exported_as_it_is():
    """Only what is dangerous is touched; what acts on a terminal is escaped."""
    assert lines.harmless("tick_latency") == "tick_latency"
    assert lines.harmless("a\x1b[2J") == "a\\x1b[2J"


def test_progress_is_shown_on_a_terminal_only(monkeypatch, capsys):
    """On stderr, and wiped at the end."""
    monkeypatch.setattr(export, "_PROGRESS_S", 0.0)
    assert len(list(export._Counted(iter([{}] * 2500)))) == 2500
    assert capsys.readouterr().err == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    list(export._Counted(iter([{}] * 2500)))
    shown = capsys.readouterr().err
    assert "2,000 rows" in shown and shown.endswith("\r\x1b[K")


def test_an_empty_export_has_a_header_and_a_hint(filled):
    """Still readable by whatever reads it."""
    ended = filled.run("metrics", "export", "--from", "2020-01-01", "--to", "2020-01-02")
    assert ended.out.split(",")[0] == "metric"
    assert "no records" in ended.err


def test_a_year_of_twenty_series_is_shown_in_time(desk, store):
    """The coarse budget: ten times half a second, on whatever machine this is."""
    ids = [store.series_id("latency", "ms", {"engine": "e", "n": str(i)}) for i in range(20)]
    days = 365
    rollups = [rollup(n, T0 - 86_400 * d, [1.0, 2.0]) for d in range(days) for n in ids]
    store.commit(rollups, {}, {})
    began = time.monotonic()
    rows = desk.run("metrics", "show", "--hours", "8760", "--interval", "1d", "--json").rows
    assert time.monotonic() - began < 5.0
    assert len(rows) == 20 * days


def test_reading_metrics_writes_nothing(filled):
    """SQLite's own files aside."""

    def files():
        return sorted(
            (str(p), p.stat().st_mtime_ns)
            for p in filled.folder.rglob("*")
            if not p.name.endswith(("-wal", "-shm")) and p.is_file()
        )

    before = files()
    for argv in (["show"], ["summary"], ["export"]):
        assert filled.command("metrics", *argv).code == 0
    assert files() == before


def test_times_of_rows_are_the_buckets_own():
    """The fixture's grid is what it says."""
    assert datetime.fromtimestamp(T0, UTC).isoformat() == "2026-01-31T09:00:00+00:00"


def test_a_terminal_gets_a_table_per_series_that_fits(filled):
    """Name, unit and course above it; what isn't over is marked and explained."""
    lines = filled.screen("metrics", "show", *HOUR, "--utc").splitlines()
    assert lines[0].startswith("pnl engine=intraday (INR) ")
    assert lines[2].startswith("01-31 09:10Z")
    heading = next(i for i, line in enumerate(lines) if line.startswith("tick_latency"))
    assert lines[heading - 1] == ""
    assert "engine=intraday strategy=swing (ms) ▁" in lines[heading]
    assert lines[-2].rstrip().endswith("*")
    assert lines[-1] == "* not over yet"
    assert max(map(len, lines)) <= 80
