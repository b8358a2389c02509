"""A thread that does one kind of slow work, again and again, and ends when asked.

What it does is a plain function that returns how long it may rest, so that tests call that function
and need no thread.
"""

import logging
import threading
from collections.abc import Callable

_log = logging.getLogger("aggregator")

_AFTER_FAILURE_S = 1.0


class Background:
    """Calls ``step()`` on a thread of its own, each time after as many seconds as it returned.

    A step that returns 0 has more to do: asked to end, the thread does so after one that returns
    more.
    """

    def __init__(self, name: str, step: Callable[[], float]) -> None:
        self._step = step
        self._bell = threading.Event()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """End the rest."""
        self._bell.set()

    def close(self, timeout_s: float) -> bool:
        """Let it do what is due and end; False if it didn't within *timeout_s*."""
        self._stopping = True
        self._bell.set()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        said = ""
        while True:
            stopping = self._stopping
            try:
                rest_s = self._step()
                said = ""
            except Exception as error:  # noqa: BLE001 - the thread must outlive what a step meets
                if repr(error) != said:  # once, not each second
                    said = repr(error)
                    _log.exception(
                        "background work failed, trying again",
                        extra={"component": "monitoring", "work": self._thread.name},
                    )
                rest_s = _AFTER_FAILURE_S
            if stopping and rest_s > 0:
                return
            self._bell.wait(rest_s)
            self._bell.clear()
