"""The demo as a command: real processes, and what every other command says of it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from typing import Any

import duckdb
import pytest

from ringbuf.ownership import holder
from tests.pipeline.conftest import ROOT, Desk
from tests.waiting import PATIENCE_S, wait_for

RECORDING = ROOT.parent / "shared" / "data" / "btcusdt_20240808.gz"
_RECORDS = re.compile(
    r"([\d,]+) written, ([\d,]+) read by the service, ([\d,]+) lost, ([\d,]+) rej"
)


def start(desk: Desk, *arguments: str) -> subprocess.Popen[str]:
    return desk.start("-m", "cli", "demo", "--data-dir", str(desk.data_dir), *arguments)


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for its end and return its stdout."""
    out, err = process.communicate(timeout=2 * PATIENCE_S)
    assert process.returncode == code, (out, err)
    assert "Traceback" not in err
    return out


def records(out: str) -> tuple[int, int, int, int]:
    """Written, read, lost, rejected, as the report says."""
    found = _RECORDS.search(out)
    assert found is not None, out
    written, read, lost, rejected = (int(text.replace(",", "")) for text in found.groups())
    return written, read, lost, rejected


def counts(desk: Desk) -> Counter[str]:
    """Records by metric, as another process reads them from the store."""
    found: Counter[str] = Counter()
    for row in desk.json("metrics", "show", "--interval", "5m"):
        assert row["labels"]["engine"] == "demo"
        found[row["metric"]] += row["count"]
    return found


def wait_for_line(process: subprocess.Popen[str], word: str) -> list[str]:
    """Read stdout up to the line that begins with *word*."""
    assert process.stdout is not None
    lines: list[str] = []
    while not lines or not lines[-1].startswith(word):
        line = process.stdout.readline()
        assert line, lines
        lines.append(line)
    return lines


def test_the_demo_shows_its_alerts_and_its_numbers_add_up(desk: Desk) -> None:
    """Both incidents fire and resolve on the screen; the stores hold every record.

    Latencies are real: a machine under load may add a stall of its own.
    """
    out = finish(start(desk, "--speed", "max"))
    shown = [line.split()[1:3] for line in out.splitlines() if "after the record" in line]
    stalls = shown.count(["fired", "performance_degradation"])
    assert shown.count(["resolved", "performance_degradation"]) == stalls >= 1
    assert [word for word, rule in shown if rule == "daily_loss_high"] == [
        "fired",
        "worse",
        "resolved",
    ]
    assert out.count("INJECTED") == 4
    written, read, lost, rejected = records(out)
    assert written == read > 100_000
    assert (lost, rejected) == (0, 0)
    assert sum(counts(desk).values()) == written
    assert_day_files_agree(desk)
    alerts = {row["rule"]: row for row in desk.json("alerts", "list", "--all")}
    assert {rule for rule in alerts if "lapsed" not in rule} == {
        "performance_degradation",
        "daily_loss_high",
    }
    assert {row["state"] for row in alerts.values()} == {"resolved"}
    assert alerts["daily_loss_high"]["severity"] == "critical"
    commands = [line for line in out.splitlines() if line.endswith(f"--data-dir {desk.data_dir}")]
    assert len(commands) == 3
    for command in commands:
        words = command.removeprefix("python -m cli ").split()[:-2]
        assert desk.command(*words, code=(0, 1, 2, 3))


def assert_day_files_agree(desk: Desk) -> None:
    """`zcat`, `metrics export --raw` and DuckDB count what `metrics summary` does."""
    told = {
        (row["metric"], row["labels"].get("strategy")): row["count"]
        for row in desk.json("metrics", "summary")
    }
    files = sorted(str(path) for path in (desk.data_dir / "archive").iterdir())
    zcat = subprocess.run(["zcat", *files], capture_output=True, check=True).stdout
    exported = desk.command("metrics", "export", "--raw", "--format", "json")
    for lines in (zcat.splitlines(), exported.splitlines()):
        found: Counter[tuple[str, str | None]] = Counter()
        for row in map(json.loads, lines):
            found[row["metric"], row["labels"].get("strategy")] += 1 + row.get("skipped", 0)
        assert found == told
    # Kind and packing are named: ".part" says neither; and a column that only thinning adds.
    source = (
        f"read_json({files}, format='newline_delimited', compression='gzip', columns="
        "{metric: 'VARCHAR', labels: 'MAP(VARCHAR, VARCHAR)', skipped: 'BIGINT'})"
    )
    with duckdb.connect() as db:
        rows = db.execute(
            "SELECT metric, labels['strategy'], sum(1 + coalesce(skipped, 0))"
            f" FROM {source} GROUP BY ALL"
        ).fetchall()
    assert {(metric, strategy): int(count) for metric, strategy, count in rows} == told


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording isn't beside this checkout")
def test_the_whole_recording_at_full_speed_loses_nothing(desk: Desk) -> None:
    """93,954 messages, as many ticks in the store, the same trades as in any other run."""
    out = finish(start(desk, "--feed", str(RECORDING), "--speed", "max", "--no-incidents"))
    assert "93,954 messages" in out
    assert "0 malformed" in out
    assert "127 paper trades, PnL -38.75 USDT" in out
    assert "INJECTED" not in out
    written, read, lost, rejected = records(out)
    assert (read, lost, rejected) == (written, 0, 0)
    seen = counts(desk)
    assert sum(seen.values()) == written
    ticks = [
        row["count"]
        for row in desk.json("metrics", "show", "--metric", "tick_latency")
        if row["labels"]["strategy"] == "intraday"
    ]
    assert sum(ticks) == 93_954
    assert seen["order_latency"] == 127
    assert desk.json("alerts", "list", "--all") == []


def test_an_interrupted_demo_still_reports(desk: Desk) -> None:
    """Ctrl-C ends the replay; the report comes, the service is ended, the exit code is 0."""
    process = start(desk, "--no-incidents")
    wait_for_line(process, "service:")
    wait_for(lambda: list((desk.data_dir / "rings").glob("*.json")), "the engine")
    wait_for(lambda: written_by(desk), "records")
    process.send_signal(signal.SIGINT)
    out = finish(process)
    assert "Run: interrupted after" in out
    written, read, lost, _ = records(out)
    assert written == read + lost > 0
    assert desk.status()["state"] != "OK"  # nothing runs any more


def test_a_killed_demo_leaves_its_numbers_and_the_next_one_goes_on(desk: Desk) -> None:
    """kill -9: the service tells of the death, commands still answer, a second demo joins."""
    process = start(desk, "--no-incidents")
    [*_, line] = wait_for_line(process, "service:")
    service = int(line.split()[2].rstrip(";"))
    wait_for(lambda: written_by(desk), "records")
    process.kill()
    process.communicate()
    wait_for(lambda: engine(desk).get("state") == "dead", "the death")
    wait_for(
        lambda: "heartbeat_lapsed" in {row["rule"] for row in desk.json("alerts", "list")},
        "the alert of the death",
    )
    before = engine(desk)
    wait_for(lambda: sum(counts(desk).values()) == before["written"], "the last records")
    out = finish(start(desk, "--speed", "max", "--seconds", "5", "--no-incidents"))
    assert f"service: pid {service};" in out
    assert "resolved  heartbeat_lapsed" in out
    written, read, lost, _ = records(out)
    assert (read, lost) == (written, 0)
    assert sum(counts(desk).values()) == before["written"] + written
    assert holder(desk.data_dir / "service.lock") is None


def test_whoever_is_killed_in_the_middle_of_the_demo_the_counts_add_up(desk: Desk) -> None:
    """Aggregator, notifier, service and engine, one after the other, all with kill -9."""
    process = start(desk, "--no-incidents")
    [*_, line] = wait_for_line(process, "service:")
    service = int(line.split()[2].rstrip(";"))
    for name in ("aggregator", "notifier"):
        seen = written_by(desk)
        wait_for(lambda: written_by(desk) > seen, "records")  # noqa: B023
        desk.kill_child(service, name)
        wait_for(lambda: desk.children(service), "restarted children")
    os.kill(service, signal.SIGKILL)
    seen = written_by(desk)
    wait_for(lambda: written_by(desk) > seen, "an engine that doesn't notice")
    process.kill()
    process.communicate()
    out = finish(start(desk, "--speed", "max", "--seconds", "5", "--no-incidents"))
    written, read, lost, rejected = records(out)
    total = written_by(desk)
    assert total > written == read > 0
    assert (lost, rejected) == (0, 0)
    assert sum(counts(desk).values()) == total
    assert_day_files_agree(desk)


def test_the_demo_never_injects_into_somebody_elses_service(desk: Desk) -> None:
    """One line says why and what to do; without incidents it joins and leaves the service alone."""
    service = desk.service()
    refused = start(desk)
    _, err = refused.communicate(timeout=PATIENCE_S)
    assert refused.returncode == 1
    assert len(err.splitlines()) == 1
    assert f"a service (pid {service.pid}) runs on" in err
    assert "--no-incidents" in err
    out = finish(start(desk, "--no-incidents", "--speed", "max", "--seconds", "3"))
    assert f"service: pid {service.pid}, joined" in out
    written, read, lost, _ = records(out)
    assert (read, lost) == (written, 0)
    assert service.poll() is None


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--feed", "none.gz"], 1, "--feed=none.gz: No such file"),
        (["--feed", "empty"], 1, "--feed=empty: the file is empty"),
        (["--seconds", "soon"], 2, "--seconds=soon: use"),
        (["--speed", "fast"], 2, "--speed=fast: use max"),
    ],
)
def test_a_wrong_feed_or_option_is_one_line(
    desk: Desk, arguments: Sequence[str], code: int, said: str
) -> None:
    """Before anything is started or written."""
    (desk.folder / "empty").touch()
    process = start(desk, *arguments)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, len(err.splitlines())) == (code, "", 1)
    assert said in err
    assert not desk.data_dir.exists()


def test_a_demo_whose_output_nobody_reads_ends(desk: Desk) -> None:
    """``| head -1`` ends the demo without a traceback, and its service too."""
    command = [sys.executable, "-m", "cli", "demo", "--data-dir", str(desk.data_dir)]
    process = desk.start(*command[1:], "--no-incidents")
    wait_for_line(process, "feed:")
    assert process.stdout is not None
    process.stdout.close()
    process.stdout = None
    _, err = process.communicate(timeout=2 * PATIENCE_S)
    assert "Traceback" not in err
    assert desk.status()["state"] != "OK"


def engine(desk: Desk) -> dict[str, Any]:
    """What the service says of the demo's engine, or nothing yet."""
    engines = desk.status()["engines"] if desk.data_dir.exists() else []
    return next((row for row in engines if row["engine"] == "demo"), {})


def written_by(desk: Desk) -> int:
    """What the demo's engine has written, as far as anybody knows."""
    return int(engine(desk).get("written") or 0)


def test_the_demos_rules_are_read(desk: Desk) -> None:
    """service.json has the demo's settings: one plugin, its limits, no reopen window."""
    process = start(desk, "--no-incidents")
    wait_for_line(process, "service:")
    settings = json.loads((desk.data_dir / "service.json").read_text())["settings"]
    assert settings["monitoring_enable_webhook_alerts"] is True
    assert settings["monitoring_enable_slack_alerts"] is False
    assert settings["monitoring_performance_alert_threshold_ms"] == 200
    assert settings["monitoring_log_dir"] == str(desk.folder / "logs")
    process.send_signal(signal.SIGINT)
    finish(process)


def test_two_demos_dont_share_a_ring(desk: Desk) -> None:
    """The second one says who writes there and touches nothing; the first one goes on."""
    first = start(desk, "--no-incidents")
    wait_for_line(first, "service:")
    wait_for(lambda: written_by(desk), "records")
    second = start(desk, "--no-incidents")
    _, err = second.communicate(timeout=PATIENCE_S)
    assert second.returncode == 1
    assert f"a demo (pid {first.pid}) writes to {desk.data_dir} already" in err
    first.send_signal(signal.SIGINT)
    written, read, lost, _ = records(finish(first))
    assert written == read + lost > 0
