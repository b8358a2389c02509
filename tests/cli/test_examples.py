"""Every example of the README and of every help text, typed into a shell of its own.

One service, one engine and its alerts serve all of them, in whatever order: what an example needs
is done before.  What stands for something else, such as an id, is replaced.
"""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cli.synthetic import synthetic
from cli.usage import COMMANDS, OVERVIEW, PROGRAM
from tests.cli.conftest import ROOT
from tests.environments import clean_environment, unmeasured
from tests.pipeline.conftest import Desk
from tests.segments import unlink_segments
from tests.servers import HttpServer, Reply
from tests.waiting import PATIENCE_S, wait_for

ENGINE = """
recorder = Recorder("intraday", data_dir, labels={"desk": "nifty"})
for number in range(100):
    recorder.metric("tick_latency", unit="ms", strategy="mean_reversion").record(300 + number)
recorder.metric("pnl", unit="INR").record(-1250.0)
recorder.metric("connected").record(0.0)
recorder.metric("daily_loss_pct").record(-4.5)
say("done")
hear()
"""
_README = (ROOT / "README.md").read_text()
_EXAMPLE = re.compile(rf"^  ({PROGRAM} .+)$", re.MULTILINE)
TYPED = [
    example
    for text in (OVERVIEW, *(command.text for command in COMMANDS.values()))
    for example in _EXAMPLE.findall(text.partition("Examples:\n")[2])
]
EMBEDDED = re.findall(r"```python\n(.*?)```", _README, re.DOTALL)
TYPED += re.findall(r"(?:\.venv/bin/)?python -m cli [a-z][^`\n]*", _README)
# What ends only with Ctrl-C, and what it has said by then and where.
ENDLESS = {
    "run": ("stderr", "started child=aggregator"),
    "status --watch": ("stdout", "connection_lost"),
    "watch": ("stdout", "connection_lost"),
}
DEMO = ("stdout", "service: pid")
# What must be so before an example makes sense.
NEEDED = {
    "alerts clear": "tickwatch alerts ack connection_lost",
    "silences expire": "tickwatch silences add rule=nothing --for 1h",
}
# An alert fires, at first critical, then acknowledged: anything but well.
CODES = {"status": {1, 2}}


class Shell:
    """Types lines into a shell in a folder of its own that finds `tickwatch` and python."""

    def __init__(self, desk, sink, service, engine):
        self.desk, self.sink, self.service, self.engine = desk, sink, service, engine
        self.folder = desk.folder / "work"
        self.folder.mkdir()
        (self.folder / ".venv").symlink_to(sys.prefix)
        tickwatch = self.folder / PROGRAM
        tickwatch.write_text(f'#!/bin/sh\nexec {sys.executable} -m cli "$@"\n')
        tickwatch.chmod(0o755)
        path = f"{self.folder}:{self.folder}/.venv/bin:{desk.environment['PATH']}"
        self.environment = unmeasured(desk.environment) | {"PATH": path}

    def start(self, line):
        """Begin to run *line*: where the service is, or in a place of its own if it starts one."""
        apart = {}
        if words_of(line)[0] in ("run", "demo"):
            own = Path(tempfile.mkdtemp(prefix="alone-", dir=self.folder))
            apart["MONITORING_DATA_DIR"] = str(own / "data")
            apart["MONITORING_LOG_DIR"] = str(own / "logs")
        return subprocess.Popen(
            ["bash", "-c", f"exec {line}"],
            cwd=self.folder,
            env=self.environment | apart,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, line):
        """Run *line* to its end: exit code, stdout, stderr."""
        with self.start(line) as process:
            out, err = process.communicate(timeout=PATIENCE_S)
        return process.returncode, out, err

    def run_until(self, line, stream, word):
        """Run *line* until it says *word*, then press Ctrl-C: the same as of :meth:`run`."""
        said = ""
        with self.start(line) as process:
            late = threading.Timer(PATIENCE_S, process.kill)
            late.start()
            while word not in said and (read := getattr(process, stream).readline()):
                said += read
            late.cancel()
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=PATIENCE_S)
        assert word in said, (said, out, err)
        return process.returncode, said + out, err

    def meant(self, line):
        """*line* with what exists here in place of what stands for something."""
        group, *_ = words = words_of(line)
        if (needed := NEEDED.get(" ".join(words[:2]))) is not None:
            assert self.run(needed)[0] == 0
        if " 3f2a" in line:
            only = ("--state", "dead") if group == "deliveries" else ()
            line = line.replace("3f2a", self.desk.json(group, "list", *only)[0]["id"][:8])
        return line.replace("/var/lib/desk", str(self.folder)).replace("FILE", "feed")


def words_of(line):
    """The words behind the program."""
    return shlex.split(re.split(rf"^{PROGRAM} |^\S*python -m cli ", line, maxsplit=1)[-1])


TYPED = list({tuple(words_of(line)): line for line in reversed(TYPED)}.values())[::-1]
READ = [
    *(f"alerts {words}" for words in ("list", "list --all", "list --hours 8")),
    *(f"metrics {words}" for words in ("show", "summary", "export --format json")),
    *("silences list", "deliveries list", "ring dump intraday", "rules check"),
    *("rules replay --hours 8", "report --hours 8", "status", "health"),
]


def endless(line):
    """Where to read what until *line* works, when it doesn't end by itself."""
    words = " ".join(words_of(line))
    if "--print-unit" in words:
        return None
    return next((how for begin, how in ENDLESS.items() if words.startswith(begin)), None)


@pytest.fixture
def shell(place):
    """The shell, with a service and an engine that run whatever happened before."""
    if place.service.poll() is not None:
        place.service = place.desk.service()
    elif place.engine.poll() is None:
        return place
    if place.engine.poll() is not None:
        place.engine = trouble(place.desk)
    settle(place.desk)
    return place


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A service whose webhook refuses one alert for good, an engine in trouble, and a shell."""
    folder = tmp_path_factory.mktemp("examples")
    with HttpServer() as sink:
        environment = clean_environment() | {
            "MONITORING_LOG_DIR": str(folder / "logs"),
            "MONITORING_DATA_DIR": str(folder / "data"),
            "MONITORING_ENABLE_WEBHOOK_ALERTS": "true",
            "MONITORING_WEBHOOK_URL": sink.url,
        }
        sink.answer(Reply(404))
        desk = Desk(folder, environment)
        try:
            service = desk.service()
            engine = trouble(desk)
            wait_for(lambda: desk.json("deliveries", "list", "--state", "dead"), "a dead delivery")
            wait_for(lambda: len(desk.json("alerts", "list")) >= 2, "the alerts")
            settle(desk)
            made = Shell(desk, sink, service, engine)
            (made.folder / "feed").write_bytes(b"\n".join(synthetic(2.0)))
            (made.folder / "new.toml").write_text(
                '[[rule]]\nname = "loss"\nmetric = "pnl"\nbelow = {warning = -1000}\n'
            )
            yield made
        finally:
            desk.end()
            unlink_segments(folder)


def trouble(desk):
    """An engine that has recorded what makes alerts."""
    engine = desk.engine(ENGINE)
    assert engine.stdout.readline() == "done\n"
    return engine


def settle(desk):
    """Wait until the service has read and reported all that its engine wrote."""
    wait_for(lambda: _settled(desk.status()), "a service that has read all of its engine")


def _settled(status):
    engines = [(row["state"], row["read"] == row["written"] > 0) for row in status["engines"]]
    started = [reason for reason in status["reasons"] if "started" in reason]
    return engines == [("alive", True)] and not started


@pytest.mark.parametrize("typed", [line for line in TYPED if words_of(line)[0] != "demo"])
def test_an_example_does_what_it_says(shell, typed):
    """It ends well, or works until Ctrl-C, with something to read and no traceback."""
    line = shell.meant(typed)
    until = endless(line)
    code, out, err = shell.run_until(line, *until) if until else shell.run(line)
    assert code in CODES.get(words_of(line)[0], {0}), (out, err)
    assert out + err
    assert "Traceback" not in err
    if "--json" in line and until is None:
        assert json.loads(out)


def test_every_example_of_a_demo_begins(shell):
    """At once, because each has a service of its own to start; how it goes on is tested apart."""
    demos = [shell.meant(line) for line in TYPED if words_of(line)[0] == "demo"]
    with ThreadPoolExecutor(len(demos)) as threads:
        for code, out, err in threads.map(lambda line: shell.run_until(line, *DEMO), demos):
            assert (code, out.startswith("feed: ")) == (0, True), (out, err)
            assert "Traceback" not in err


def test_the_examples_of_embedding_run(shell):
    """The engine's successor, as the README has it, joins the service; what it says is heard."""
    end(shell.engine)
    for source in EMBEDDED:
        code, out, err = shell.run(f"python -c {shlex.quote(source)}")
        assert (code, out, err) == (0, "", "")

    def told():
        found = {row["rule"] for row in shell.desk.json("alerts", "list", "--all")}
        series = {row["metric"] for row in shell.desk.json("metrics", "summary")}
        return "order_rejected" in found and {"sentiment_latency", "position_count"} <= series

    wait_for(told, "the alert and the metrics of the examples")


_SEQUENCE = """
import contextlib, io, json, sys
from cli.__main__ import main
ended = {}
for line in sys.argv[1:]:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            code = main([*line.split(), "--json"])
    ended[line] = [code, out.getvalue(), err.getvalue()]
print(json.dumps(ended))
"""


def read(shell, *lines):
    """What reading commands end with, one after the other in one other process."""
    code, out, err = shell.run(shlex.join(["python", "-c", _SEQUENCE, *lines]))
    assert code == 0, err
    ended = json.loads(out)
    for line, (code, said, complaint) in ended.items():
        assert said.startswith(("[", "{")), (line, complaint)
        assert "Traceback" not in complaint
        if line not in ("status", "health"):
            assert code == 0, (line, complaint)
    return {line: (code, said) for line, (code, said, _) in ended.items()}


def numbers(ended):
    """What must be the same whoever runs: statistics of what was recorded, and the alerts."""
    rows = json.loads(ended["metrics summary"][1])
    alerts = json.loads(ended["alerts list --all"][1])
    return (
        {(row["metric"], row["count"], row["min"], row["p99"], row["max"]) for row in rows},
        {(alert["id"], alert["rule"], alert["severity"]) for alert in alerts},
    )


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=lambda n: n.name)
def test_every_reading_command_answers_after_the_service(shell, number):
    """Killed, or stopped after it was started again: the same numbers and alerts, never healthy."""
    before = numbers(read(shell, "metrics summary", "alerts list --all"))
    children = shell.desk.children(shell.service.pid)
    if number == signal.SIGKILL:
        for pid in (*children.values(), shell.service.pid):
            os.kill(pid, number)
    else:
        shell.service.terminate()
    shell.service.communicate(timeout=PATIENCE_S)
    wait_for(lambda: not any(map(_runs, children.values())), "the end of the service's children")
    after = read(shell, *READ)
    assert numbers(after) == before
    assert (after["status"][0], json.loads(after["status"][1])["state"]) == (3, "UNKNOWN")
    assert after["health"][0] in (2, 3)
    assert shell.run_until("tickwatch watch", "stdout", "connection_lost")[0] == 0
    assert shell.run_until("tickwatch status --watch", "stdout", "no service runs")[0] == 3


def _runs(pid):
    return Path(f"/proc/{pid}").exists()


def end(process):
    """Let the engine end without a word, as one that is killed."""
    process.kill()
    process.communicate()
