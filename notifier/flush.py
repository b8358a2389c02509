"""Has commits on disk: an fsync of the write-ahead log, in a thread of its own.

A commit outlives this process at once; only a power cut can take the newest ones, and the thread
closes that window within milliseconds.  Nobody waits for it whose work can be derived again from
the alert log, which was fsynced before: the same alerts, messages and ids.  Whose can't, is put off
until ``clean``.
"""

import logging
import os
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

_log = logging.getLogger("notifier")

RETRY_S = 1.0
SLOW_S = 5.0  # a disk that takes longer is told as a problem


class Flush:
    """Fsyncs the file at *path*, and calls *wake* after each time.

    Without *wake* it is done in the caller's thread, at once.
    """

    def __init__(self, path: Path, wake: Callable[[], None] | None = None) -> None:
        self._path = path
        self._wake = wake
        self._descriptor = -1
        self._asked = 0
        self._done = 0  # written by the thread alone, ``_asked`` by the others
        self._began_s: float | None = None  # while an fsync runs
        self._error = ""
        self._bell: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    @property
    def clean(self) -> bool:
        """Whether all that was asked for is on disk."""
        return self._done == self._asked

    @property
    def problem(self) -> str:
        """Why that is not so for a while, else empty."""
        began_s = self._began_s
        slow = began_s is not None and time.monotonic() - began_s > SLOW_S
        return self._error or (f"alerts.db: the disk is slower than {SLOW_S:g} s" if slow else "")

    def ask(self) -> None:
        """Have what is written by now on disk soon."""
        self._asked += 1
        if self._wake is None:
            self._flush(self._asked)
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="flush", daemon=True)
            self._thread.start()
        self._bell.put(True)

    def ticket(self) -> int:
        """What ``reached`` is asked with later, for all that was asked for by now."""
        return self._asked

    def reached(self, ticket: int) -> bool:
        """Whether that is on disk, or will not be soon: trouble with a disk holds nothing back."""
        return self._done >= ticket or bool(self.problem)

    def close(self) -> None:
        """End the thread, after what it is at; an fsync that hangs ends with the process."""
        if self._thread is not None:
            self._bell.put(False)
            self._thread.join(SLOW_S)
            if self._thread.is_alive():
                return
            self._thread = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _run(self) -> None:
        while self._bell.get():
            while not self._flush(self._asked):
                try:
                    if not self._bell.get(timeout=RETRY_S):
                        return
                except queue.Empty:
                    pass

    def _flush(self, wanted: int) -> bool:
        """One fsync, for what was asked for before it; whether there was nothing wrong."""
        if self._done >= wanted:
            return True
        try:
            if self._descriptor < 0:
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptor = os.open(self._path, flags)
            self._began_s = time.monotonic()
            os.fsync(self._descriptor)
        except FileNotFoundError:
            pass  # a database without a write-ahead log syncs by itself
        except OSError as problem:
            if not self._error:
                _log.critical(
                    "alerts.db can't be brought to disk; a power cut now would repeat messages",
                    extra={"component": "monitoring", "problem": str(problem)},
                )
            self._error = f"alerts.db: {problem.strerror or problem}"
            return False
        finally:
            self._began_s = None
        self._done, self._error = wanted, ""
        if self._wake is not None:
            self._wake()
        return True
