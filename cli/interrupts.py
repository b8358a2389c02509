"""Ctrl-C between two pieces of work, not in the middle of one.

Python raises KeyboardInterrupt wherever the program happens to be, with files and queries half
open; a command that redraws or follows something lets a signal end its waiting instead.
"""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Pause:
    """A wait that SIGINT and SIGTERM end with KeyboardInterrupt, at once or when it begins.

    A second signal raises it wherever the program is, for one that doesn't come to its next wait.
    """

    def __init__(self) -> None:
        """Nothing has been asked yet."""
        self._asked = self._waiting = False

    def __call__(self, wait: Callable[[float], object], seconds: float) -> None:
        """Call ``wait(seconds)``, unless a signal came before."""
        try:
            self._waiting = True
            if self._asked:
                raise KeyboardInterrupt
            wait(seconds)
        finally:
            self._waiting = False

    def take(self, number: int, frame: FrameType | None) -> None:
        """Handle a signal."""
        if self._waiting or self._asked:
            raise KeyboardInterrupt
        self._asked = True


@contextmanager
def only_while_waiting() -> Iterator[Pause]:
    """Hold SIGINT and SIGTERM back until the program waits with the :class:`Pause` it is given.

    One that the caller ignores, as a shell does for what it starts with ``&``, stays ignored.
    """
    pause = Pause()
    heard = [each for each in _SIGNALS if signal.getsignal(each) != signal.SIG_IGN]
    before = {each: signal.signal(each, pause.take) for each in heard}
    try:
        yield pause
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
