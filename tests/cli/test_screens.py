"""`watch` and `status --watch` on a real terminal, against a real service and engine."""

import re
import shlex
import sys

import pytest

from tests.environments import clean_environment
from tests.pipeline.conftest import Desk
from tests.tmux import PROMPT, Terminal, require

SIZES = pytest.mark.parametrize(("width", "height"), [(80, 24), (200, 50)], ids=["80x24", "200x50"])
ENGINE = """
recorder = Recorder("intraday", data_dir, labels={"desk": "nifty"})
latency = recorder.metric("tick_latency", unit="ms", strategy="mean_reversion")
breaker = recorder.metric("circuit_breaker_active")
pnl = recorder.metric("pnl", unit="INR")
while word := hear():
    for number in range(1000):
        latency.record(0.4 + number / 1000)
    pnl.record(-1250.0)
    breaker.record(float(word))
    say("done")
"""


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    """A service that runs and an engine that says whether its circuit breaker is active."""
    require()
    folder = tmp_path_factory.mktemp("live")
    environment = clean_environment() | {
        "MONITORING_LOG_DIR": str(folder / "logs"),
        "MONITORING_DATA_DIR": str(folder / "data"),
    }
    desk = Desk(folder, environment)
    try:
        desk.service()
        engine = desk.engine(ENGINE)

        def breaker(active):
            engine.stdin.write("1\n" if active else "0\n")
            engine.stdin.flush()
            assert engine.stdout.readline() == "done\n"

        desk.breaker = breaker
        desk.pid = engine.pid
        breaker(False)
        yield desk
    finally:
        desk.end()


@pytest.fixture
def terminal(live, width, height):
    """A shell on a terminal of that size; the breaker isn't active."""
    with Terminal(width, height, live.environment) as made:
        yield made
    live.breaker(False)


def cli(live, *words):
    """A command line for the shell, which says the exit code afterwards."""
    argv = [sys.executable, "-m", "cli", *words, "--data-dir", str(live.data_dir)]
    return f"{shlex.join(argv)}; echo code $?"


def state(screen):
    """The first word, also where the path behind it has a line of its own."""
    return screen.lines[0].partition(" ")[0]


def ended(terminal, code):
    """The screen after Ctrl-C: a visible cursor behind a prompt, and nothing that isn't wanted."""
    terminal.press("C-c")
    screen = terminal.wait(lambda s: s.lines[-1] == PROMPT, "the prompt")
    assert (screen.cursor, screen.alternate, screen.wraps) == (True, False, True)
    assert screen.lines[-2:] == [f"code {code}", PROMPT]
    assert not re.search("Traceback|Warning|Interrupt", screen.text)
    return screen


@SIZES
def test_the_live_status_fits_follows_and_leaves_a_clean_terminal(live, terminal, width, height):
    """State, reasons, engine and alerts on one screen of whatever size, as they change."""
    terminal.type(cli(live, "status", "--watch"))
    calm = terminal.wait(lambda s: state(s) == "OK" and "p99" in s.text, "it is OK")
    calm.assert_fits()
    assert calm.alternate and not calm.cursor
    assert re.search(rf"^intraday +alive +{live.pid} ", calm.text, re.MULTILINE)
    assert "alerts firing: none" in calm.text
    assert "tick_latency" in calm.text and "-1,250 INR" in calm.text
    assert calm.lines[-1].startswith("disk: ")

    live.breaker(True)
    hot = terminal.wait(lambda s: state(s) == "CRITICAL", "the alert")
    hot.assert_fits()
    assert re.search(r"^  circuit_breaker_triggered .*: critical for ", hot.text, re.MULTILINE)
    assert "alerts firing: 1 critical" in hot.text
    assert hot.lines[-1].startswith("disk: ")

    terminal.resize(60, 15)
    small = terminal.wait(lambda s: max(map(len, s.lines)) <= 60 and "CRI" in s.text, "60 columns")
    small.assert_fits()
    assert state(small) == "CRITICAL"
    terminal.resize(width, height)
    again = terminal.wait(lambda s: s.lines[-1].startswith("disk: "), "all of it again")
    again.assert_fits()
    assert max(map(len, again.lines)) > 60
    # What was drawn is gone with the alternate screen.
    assert "circuit_breaker" not in ended(terminal, 2).text


@SIZES
def test_watch_shows_what_happens_on_lines_that_fit(live, terminal, width, height):
    """Fired, acknowledged, resolved; a resized window gets lines of its width; then a prompt."""
    terminal.type("clear; " + cli(live, "watch", "--rule", "circuit_*"))
    first = terminal.wait(lambda s: "Ctrl-C ends" in s.text, "the first line")
    assert first.cursor and not first.alternate

    def told(name):
        return terminal.wait(lambda s: name in s.lines[newest(s)], f"the event {name!r}")

    live.breaker(True)
    told(" fired").assert_fits()
    live.command("alerts", "ack", "circuit_breaker_triggered", "--reason", "as planned, " * 20)
    told(" acked").assert_fits()
    terminal.resize(60, height)
    live.breaker(False)
    narrow = told(" resolved")
    last = newest(narrow)
    assert max(map(len, narrow.lines[last:])) <= 60
    assert narrow.lines[-1] == narrow.joined[-1]
    ended(terminal, 0)
    live.command("alerts", "clear", "circuit_breaker_triggered")


def newest(screen):
    """The number of the newest event's first line."""
    return max((n for n, line in enumerate(screen.lines) if line.startswith("20")), default=0)
