"""``python -m benchmarks``: found by name, verified numbers, one line for wrong use."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """The command, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_record_prints_every_run_beside_its_peers_and_stores_the_machine(tmp_path: Path) -> None:
    """The numbers are for reading; here only that they were verified and are all there."""
    pytest.importorskip("prometheus_client")
    pytest.importorskip("opentelemetry.sdk")
    pytest.importorskip("docopt")
    file = tmp_path / "numbers.json"
    result = run("record", "--calls", "1000", "--runs", "3", "--store", str(file))
    assert result.returncode in (0, 1), result.stderr
    assert "a reader got every record of every run" in result.stdout
    for name in ("prometheus_client Histogram.observe", "opentelemetry", "Queue.put", "p99.9"):
        assert name in result.stdout
    stored = json.loads(file.read_text())
    assert stored["machine"]["python"]
    assert [len(values) for values in stored["results"]["loop_ns"].values()] == [3] * 6


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "use one of"),
        (("nothing",), "use one of"),
        (("machine",), "use one of"),
        (("record", "--fast"), "record [--calls N]"),
        (("record", "--calls", "1"), "--calls 1: use 1000..250000"),
        (("record", "--runs", "0"), "--runs 0: use a number from 1"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(arguments: tuple[str, ...], words: str) -> None:
    """It says what is allowed."""
    pytest.importorskip("docopt")
    result = run(*arguments)
    assert (result.returncode, result.stdout) == (2, "")
    [line] = result.stderr.splitlines()
    assert words in line
