"""The demo's screen: lines on stdout, a progress line on stderr, both written by one thread.

Whoever has something to say only puts it into a queue, so that a slow terminal, a full pipe or a
stopped pager never holds up the engine.
"""

import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable

from notifier.printable import printable

_LIVE_S = 0.5  # between two progress lines on a terminal, where one overwrites the other
_PLAIN_S = 5.0  # elsewhere each is a line
_STOP_S = 5.0


class Screen:
    """Lines as they come, and in between what ``progress`` returns.

    ``broken`` is True once nobody reads stdout any more.
    """

    def __init__(self, live: bool) -> None:
        """Begin.  *live*: stderr is a terminal whose line can be overwritten."""
        self.broken = False
        self.progress: Callable[[], str] = str
        self._live = live
        self._shown = 0  # width of the progress line that stands on the terminal
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="screen", daemon=True)
        self._thread.start()

    def say(self, text: str) -> None:
        """Have *text* printed as one line; never waits."""
        self._lines.put(text)

    def close(self) -> None:
        """Print what is left, and take the progress line away."""
        self._lines.put(None)
        self._thread.join(_STOP_S)

    def _run(self) -> None:
        every_s = _LIVE_S if self._live else _PLAIN_S
        due_s = time.monotonic() + every_s
        while True:
            try:
                line = self._lines.get(timeout=max(0.0, due_s - time.monotonic()))
            except queue.Empty:
                self._show(printable(self.progress()))
                due_s = time.monotonic() + every_s
                continue
            self._show("")
            if line is None:
                return
            self._print(printable(line))

    def _print(self, line: str) -> None:
        try:
            print(line, flush=True)
        except (OSError, ValueError):  # a closed pipe, a closed stream
            self.broken = True

    def _show(self, text: str) -> None:
        if not self._live:
            if text:
                self._write(text + "\n")
            return
        text = text[: shutil.get_terminal_size().columns - 1]  # a line that wraps can't be undone
        if text or self._shown:
            self._write("\r" + text.ljust(self._shown) + ("" if text else "\r"))
        self._shown = len(text)

    def _write(self, text: str) -> None:
        try:
            sys.stderr.write(text)
            sys.stderr.flush()
        except (OSError, ValueError):
            pass  # the progress line is a courtesy
