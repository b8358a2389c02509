"""Start the service for an engine: a process in a session of its own, nobody's child.

Settings, secrets included, go through a pipe: neither the process list nor a file shows them.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import BinaryIO

from aggregator.settings import Settings
from ringbuf.ownership import holder

LOG_FILE = "service.log"
_LOG_LIMIT_BYTES = 10 * 1024 * 1024
_TIMEOUT_S = 30.0
_POLL_S = 0.02
# Starts the service, says its pid and is gone: the engine keeps no child, and neither its end nor
# its signals reach the service.
_LAUNCHER = (
    "import subprocess, sys; "
    "service = subprocess.Popen(sys.argv[1:], stdout=sys.stderr, start_new_session=True); "
    "print(service.pid, flush=True); "
    "service.returncode = 0"  # so that the interpreter doesn't complain of a child that lives on
)


class LaunchError(RuntimeError):
    """The service didn't start; the message says why, as far as its log tells."""


def launch(settings: Settings) -> int:
    """Start the service of *settings*' directories and return its pid; it may not be ready yet.

    Raises:
        OSError: the directories, the log or the process can't be made.
        LaunchError: the interpreter can't start it.
    """
    data_dir = Path(settings.monitoring_data_dir).absolute()
    log_dir = Path(settings.monitoring_log_dir).absolute()
    for folder in (data_dir, log_dir):
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    values = settings.revealed()
    values["monitoring_data_dir"], values["monitoring_log_dir"] = str(data_dir), str(log_dir)
    root = str(Path(__file__).parents[1])  # the packages are there, installed or not
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, sys.executable, "-m"]
    with _open_log(log_dir / LOG_FILE) as log:
        launcher = subprocess.run(
            [*command, "aggregator.service"],
            env={**os.environ, "PYTHONPATH": path},
            input=json.dumps(values).encode(),
            stdout=subprocess.PIPE,
            stderr=log,
            timeout=_TIMEOUT_S,
            check=False,
        )
    try:
        return int(launcher.stdout)
    except ValueError:
        raise LaunchError(f"the service didn't start: see {log_dir / LOG_FILE}") from None


def wait_until_ready(settings: Settings, pid: int, timeout_s: float = _TIMEOUT_S) -> None:
    """Wait until the service *pid* holds its directory and its aggregator works.

    Raises:
        LaunchError: it ended, or isn't ready in time.
    """
    data_dir = Path(settings.monitoring_data_dir)
    log = Path(settings.monitoring_log_dir).absolute() / LOG_FILE
    deadline = time.monotonic() + timeout_s
    while not (_held(data_dir / "service.lock") and _held(data_dir / "aggregator.lock")):
        if not Path(f"/proc/{pid}").exists():
            raise LaunchError(f"the service didn't start: {_last_line(log)} (see {log})")
        if time.monotonic() > deadline:
            raise LaunchError(f"the service isn't ready after {timeout_s:g} s: see {log}")
        time.sleep(_POLL_S)


def _held(lock: Path) -> bool:
    try:
        return holder(lock) is not None
    except OSError:
        return False


def _open_log(path: Path) -> BinaryIO:
    """The service's log file, appended to; a large one is set aside first."""
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW
    return os.fdopen(os.open(path, flags, 0o600), "ab")


def _last_line(log: Path) -> str:
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        return "it left no word"
    return lines[-1] if lines else "it left no word"
