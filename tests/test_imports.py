"""The direction of imports, and what a fresh interpreter loads for each package."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

ALLOWED = {
    "ringbuf": {"ringbuf"},
    "notifier": {"notifier"},
    "aggregator": {"aggregator", "notifier", "ringbuf"},
    "cli": {"cli", "aggregator", "notifier", "ringbuf"},
}

# What each package's import must not load: engines embed ringbuf and aggregator.
FORBIDDEN = {
    "ringbuf": "numpy multiprocessing requests smtplib watchdog docopt pydantic rich sqlite3",
    "aggregator": "requests smtplib watchdog docopt",
    "from aggregator import MonitoringService, Settings": "requests smtplib watchdog docopt",
    "notifier": "numpy requests smtplib watchdog docopt pydantic",
    "cli": "numpy requests smtplib watchdog pydantic",
}


def imported(path: Path) -> set[str]:
    """Top-level names that the module at *path* imports, at any depth of its code."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_what_the_table_allows(package: str) -> None:
    """cli -> aggregator -> {ringbuf, notifier}; nobody imports tests or benchmarks."""
    ours = {*ALLOWED, "tests", "benchmarks"}
    for path in (ROOT / package).rglob("*.py"):
        assert imported(path) & ours <= ALLOWED[package], path


# What a package inside aggregator may use of its neighbours.
INSIDE = {
    "rules": {"rules"},
    "history": {"history"},
    "store": {"store", "history"},  # where rollups are missing, raw records answer
}


@pytest.mark.parametrize("package", INSIDE)
def test_packages_inside_aggregator_know_only_what_they_build_on(package: str) -> None:
    """Rules know of no disk, day files of no rules."""
    for path in (ROOT / "aggregator" / package).rglob("*.py"):
        names = {
            node.module.split(".")[1]
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("aggregator.")
        }
        assert names & {*INSIDE} <= INSIDE[package], path


def test_shared_memory_is_used_in_one_module() -> None:
    """Its traps are dealt with in ringbuf.segment alone."""
    users = {
        path.relative_to(ROOT).as_posix()
        for package in ALLOWED
        for path in (ROOT / package).rglob("*.py")
        if "shared_memory" in path.read_text() and "import" in path.read_text()
        if any(
            "shared_memory" in line for line in path.read_text().splitlines() if "import" in line
        )
    }
    assert users == {"ringbuf/segment.py"}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_a_fresh_interpreter_loads_no_more_than_it_must(what: str) -> None:
    """An engine that embeds us doesn't pay for mail, HTTP or a terminal."""
    statement = what if " " in what else f"import {what}"
    script = (
        f"import sys\nbefore = set(sys.modules)\n{statement}\n"
        f"print(*sorted({{name.split('.')[0] for name in set(sys.modules) - before}}))"
    )
    loaded = subprocess.run(
        [sys.executable, "-W", "error", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    ).stdout.split()
    assert set(loaded) & set(FORBIDDEN[what].split()) == set()
