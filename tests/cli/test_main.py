"""Exit codes, streams and start-up of the whole command line, most of it from a second process."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cli import __main__ as entry
from tests.environments import clean_environment, unmeasured


@pytest.fixture
def command(tmp_path):
    """Runs the command line in a process of its own, from another directory than the sources'."""

    def run(*argv):
        return subprocess.run(
            [sys.executable, "-m", "cli", *argv],
            check=False,
            cwd=tmp_path,
            env=clean_environment(),
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["alrts"], 2),
        (["alerts"], 2),
        (["alerts", "list", "--sevrity", "x"], 2),
        (["--bogus", "status"], 3),
        (["status", "extra"], 3),
        (["status", "--data-dir"], 3),
        (["alerts", "list", "status"], 2),
    ],
)
def test_wrong_use_is_one_line_and_an_exit_code(capsys, argv, code):
    """2, and 3 where a monitoring system asks: wrong use is never healthy, nor merely a warning."""
    assert entry.main(argv) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert re.fullmatch(r"tickwatch: [^\n]+\n", captured.err)


@pytest.mark.parametrize(
    "argv", [["--help"], ["help"], ["alerts", "list", "--help"], ["help", "metrics"], ["-h"]]
)
def test_help_is_data_on_stdout(capsys, argv):
    """Asked for, it isn't an error."""
    assert entry.main(argv) == 0
    captured = capsys.readouterr()
    assert "tickwatch" in captured.out
    assert captured.err == ""


def test_help_wins_over_whatever_else_is_wrong(capsys):
    """Somebody who is lost gets help."""
    assert entry.main(["alerts", "ack", "--bogus", "--help"]) == 0
    assert "Acknowledge" in capsys.readouterr().out


def test_without_a_command_the_overview_is_shown_as_wrong_use(capsys):
    """On stderr, with exit code 2, so that a script notices."""
    assert entry.main([]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Commands:" in captured.err


def test_the_version_is_one_line(capsys):
    """With the program's name."""
    assert entry.main(["--version"]) == 0
    assert re.fullmatch(r"tickwatch \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("error", "text", "code"),
    [
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied", 1),
        (OSError("odd"), "odd", 1),
        (KeyboardInterrupt(), "", 130),
        (RuntimeError("a bug"), "Traceback", 1),
    ],
)
def test_what_goes_wrong_inside_a_command_is_an_exit_code(monkeypatch, capsys, error, text, code):
    """Files that can't be read are an operator's business, bugs show where they are."""

    def fail(*args):
        raise error

    monkeypatch.setattr(entry, "_run", fail)
    assert entry.main(["metrics", "show"]) == code
    assert text in capsys.readouterr().err


def test_a_bug_in_status_is_unknown_not_a_warning(monkeypatch, capsys):
    """Python's own exit code 1 would read as WARNING."""
    monkeypatch.setattr(entry, "_run", lambda *args: 1 / 0)
    assert entry.main(["status"]) == 3
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_damaged_store_is_one_line(monkeypatch, capsys):
    """SQLite's own words, no traceback."""
    import sqlite3

    def fail(*args):
        raise sqlite3.DatabaseError("database disk image is malformed")

    monkeypatch.setattr(entry, "_run", fail)
    assert entry.main(["alerts", "list"]) == 1
    assert capsys.readouterr().err == (
        "tickwatch: a store can't be read: database disk image is malformed\n"
    )


def test_a_reader_that_leaves_early_ends_the_command_quietly(command):
    """`tickwatch ... | head` prints no traceback and isn't an error."""
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write) as broken:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--help"],
            check=False,
            stdout=broken,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, b"")


def test_a_full_disk_behind_stdout_is_an_error(command):
    """Output that didn't get out must not look like success."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "cli", "--help"],
            check=False,
            stdout=full,
            stderr=subprocess.PIPE,
            timeout=60,
        )
    assert done.returncode == 1
    assert done.stderr.count(b"\n") == 1
    assert b"No space left" in done.stderr


def test_closed_streams_are_no_trouble(command):
    """`tickwatch ... >&- 2>&-` as cron scripts do it."""
    shell = f"{sys.executable} -m cli --help >&- 2>&-"
    assert subprocess.run(["sh", "-c", shell], check=False, timeout=60).returncode == 0


def test_parsing_loads_nothing_heavy():
    """What every command pays for is the standard library and docopt."""
    code = (
        "import sys; from cli.__main__ import main; main(['--help']);"
        "heavy = {'numpy', 'requests', 'watchdog', 'smtplib', 'multiprocessing', 'pydantic',"
        " 'rich', 'msgpack', 'asyncio', 'sqlite3'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(
        argv, check=False, env=unmeasured(), capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_a_systemd_unit_can_be_printed(command, tmp_path):
    """It names this interpreter, this directory and the options given, quoted for systemd."""
    done = command("run", "--print-unit", "--data-dir", "my data/50%")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"WorkingDirectory={tmp_path}" in done.stdout
    assert f'--data-dir "{tmp_path}/my data/50%%"' in done.stdout
    assert f"ExecStart={sys.executable} -m cli run" in done.stdout
