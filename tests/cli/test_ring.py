"""`ring dump` of live, closed, killed and vanished rings, from another process."""

import gzip
import json
import subprocess
import sys

import pytest

from ringbuf import Recorder
from tests.cli.conftest import unlink_segments
from tests.environments import clean_environment


@pytest.fixture
def recorder(desk):
    with Recorder("intraday", desk.data_dir, {"desk": "nifty"}, capacity=1024) as made:
        yield made


def test_the_last_records_of_a_live_engine_are_shown(desk, recorder):
    """From another process, with names, units and times; the engine goes on."""
    metric = recorder.metric("tick_latency", "ms", strategy="swing")
    for i in range(100):
        metric.record(i / 2)
    rows = desk.command("ring", "dump", "intraday", "--last", "10", "--json").rows
    assert [row["seq"] for row in rows] == list(range(90, 100))
    assert rows[-1]["value"] == 49.5
    assert rows[-1]["labels"] == {"engine": "intraday", "desk": "nifty", "strategy": "swing"}
    assert (rows[-1]["metric"], rows[-1]["unit"]) == ("tick_latency", "ms")
    ended = desk.run("ring", "dump", "intraday", "--utc")
    assert ended.code == 0
    head, second, _, titles, *lines = ended.out.splitlines()
    assert head.startswith("intraday: alive, pid ")
    newest = rows[-1]["time"][:23].replace("T", " ")
    assert f"100 records written, last heartbeat or record {newest}" in second
    assert titles.split()[0] == "seq"
    assert len(lines) == 50
    assert "0.000000 s" in lines[-1] and "49.5" in lines[-1]
    metric.record(1.0)
    assert recorder.published == 101 and recorder.problem is None


def test_more_than_the_ring_holds_is_what_it_holds(desk, recorder):
    """Overwritten records are gone; the rest is exact."""
    metric = recorder.metric("a")
    for i in range(3000):
        metric.record(i)
    rows = desk.command("ring", "dump", "intraday", "--last", "5000", "--json").rows
    assert [row["seq"] for row in rows] == list(range(3000 - 1023, 3000))


def test_a_closed_engine_still_has_its_records(desk):
    """And says that it was closed."""
    with Recorder("swing", desk.data_dir, capacity=1024) as recorder:
        recorder.metric("a").record(1)
    assert desk.run("ring", "dump", "swing").out.startswith("swing: closed\n")


def test_an_engine_killed_in_mid_burst_shows_its_last_records(desk):
    """SIGKILL: the ring is what is left, up to the moment of death."""
    code = (
        "import os, signal, sys; from ringbuf import Recorder;"
        "r = Recorder('swing', sys.argv[1], capacity=1024); m = r.metric('a');"
        "[m.record(i) for i in range(777)]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run(
        [sys.executable, "-c", code, str(desk.data_dir)],
        check=False,
        env=clean_environment(),
        timeout=60,
    )
    assert "died without close()" in desk.command("ring", "dump", "swing").out
    assert desk.command("ring", "dump", "swing", "--last", "1", "--json").rows[0]["value"] == 776


def _save_crash(desk, name, value):
    folder = desk.data_dir / "crashes"
    folder.mkdir(exist_ok=True)
    head = {"engine": "intraday", "pid": 7, "published": 1, "last_heartbeat": None}
    row = {
        "seq": 0, "time": "2026-01-31T09:15:00.000000Z", "metric": "a", "labels": {},
        "value": value, "unit": "ms",
    }  # fmt: skip
    with gzip.open(folder / f"{name}.json.gz", "wt") as file:
        file.write(json.dumps(head) + "\n" + json.dumps(row) + "\n")


def test_what_was_saved_of_a_dead_engine_is_found_after_its_restart(desk, recorder):
    """The ring's own records first, with a hint; the saved ones by their name."""
    recorder.metric("a").record(1)
    _save_crash(desk, "intraday-20260130T091500000Z", 41.0)
    _save_crash(desk, "intraday-20260131T091500000Z", 42.0)
    ended = desk.run("ring", "dump", "intraday")
    assert "ring dump intraday-20260131T091500000Z" in ended.err
    saved = desk.run("ring", "dump", "intraday-20260131T091500000Z", "--utc")
    assert "died without close(), pid 7" in saved.out
    assert "2026-01-31 09:15:00.000Z" in saved.out


def test_what_was_saved_is_found_after_a_reboot(desk, recorder):
    """Shared memory is empty then; the newest file stands in, and says so."""
    recorder.metric("a").record(1)
    recorder.close()
    unlink_segments(desk.data_dir)
    assert "can't be read" in desk.run("ring", "dump", "intraday").err
    _save_crash(desk, "intraday-20260131T091500000Z", 42.0)
    ended = desk.run("ring", "dump", "intraday", "--json")
    assert ended.rows[0]["value"] == 42.0
    assert "this was saved when it died" in ended.err
    (desk.data_dir / "crashes" / "intraday-20260131T091500000Z.json.gz").write_bytes(b"damaged")
    assert desk.run("ring", "dump", "intraday").code == 1


def test_an_unknown_engine_is_an_error_that_names_those_there_are(desk, recorder):
    """With a suggestion."""
    ended = desk.run("ring", "dump", "intradya")
    assert ended.code == 1
    assert "did you mean intraday? (rings: intraday)" in ended.err
    assert desk.run("ring", "dump", "intraday", "--last", "-1").code == 2


def test_an_empty_ring_says_so(desk, recorder):
    """Head and note, no table."""
    ended = desk.run("ring", "dump", "intraday")
    assert "0 records written" in ended.out
    assert "no record yet" in ended.err


def test_files_of_engines_with_similar_names_are_kept_apart(desk, recorder):
    """`intraday-b` is no crash of `intraday`."""
    recorder.metric("a").record(1)
    _save_crash(desk, "intraday-b-20260131T091500000Z", 42.0)
    assert desk.run("ring", "dump", "intraday").err == ""
