"""A real terminal for tests: a shell in a tmux server of its own, whose screen can be read."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import pytest

from tests.waiting import wait_for

PROMPT = "desk$"


def require() -> None:
    """Skip where tmux is missing; fail where it must not be."""
    if shutil.which("tmux") is None:
        if "CI" in os.environ:
            pytest.fail("tmux must be installed for CI")
        pytest.skip("tmux isn't installed")


@dataclass(frozen=True)
class Screen:
    """What a terminal shows: its lines without trailing spaces, and the modes that it is in."""

    lines: list[str]
    joined: list[str]  # the same with lines that the terminal wrapped put together again
    width: int
    height: int
    cursor: bool
    alternate: bool
    wraps: bool

    @property
    def text(self) -> str:
        """All lines."""
        return "\n".join(self.lines)

    def assert_fits(self) -> None:
        """No line is longer than the screen is wide, or was wrapped, and none scrolled away."""
        assert max(map(len, self.lines), default=0) <= self.width, self.text
        assert self.lines == self.joined, self.text
        assert len(self.lines) <= self.height, self.text


class Terminal:
    """A shell of *width* columns and *height* lines; ends with the context."""

    def __init__(self, width: int, height: int, environment: Mapping[str, str]) -> None:
        """Start the server; the shell has *environment*."""
        self._environment = {k: v for k, v in environment.items() if not k.startswith("TMUX")}
        self._folder = tempfile.TemporaryDirectory(prefix="tmux-")  # a socket's path must be short
        self._environment |= {"LC_ALL": "C.UTF-8", "TMUX_TMPDIR": self._folder.name}
        shell = f"exec env PS1='{PROMPT} ' HISTFILE= bash --norc --noprofile"
        size = ("-x", str(width), "-y", str(height))
        self._tmux("-u", "-f", "/dev/null", "new-session", "-d", *size, shell)

    def __enter__(self) -> "Terminal":
        """The shell is ready for a command."""
        try:
            self.wait(lambda screen: PROMPT in screen.text, "a prompt")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the shell and whatever runs in it."""
        self._end()

    def _end(self) -> None:
        self._tmux("kill-server")
        self._folder.cleanup()

    def _tmux(self, *argv: str) -> str:
        done = subprocess.run(
            ["tmux", "-L", "test", *argv],
            check=True,
            env=self._environment,
            capture_output=True,
            text=True,
            timeout=60,
        )
        return done.stdout

    def type(self, text: str) -> None:
        """Type *text* and press Enter."""
        self._tmux("send-keys", "-l", text)
        self.press("Enter")

    def press(self, key: str) -> None:
        """Press a key, such as ``C-c``."""
        self._tmux("send-keys", key)

    def resize(self, width: int, height: int) -> None:
        """Make the window another size."""
        self._tmux("resize-window", "-x", str(width), "-y", str(height))

    def screen(self) -> Screen:
        """What is on it now, in one look."""
        modes = "#{pane_width} #{pane_height} #{cursor_flag} #{alternate_on} #{wrap_flag}"
        # One call, so that nothing is drawn between its parts.
        out = self._tmux(
            "display-message", "-p", modes, ";", "capture-pane", "-p", ";",
            "display-message", "-p", "=joined=", ";", "capture-pane", "-p", "-J",
        )  # fmt: skip
        head, _, rest = out.partition("\n")
        shown, _, joined = rest.partition("=joined=\n")
        width, height, *flags = map(int, head.split())
        lines, whole = (
            [line.rstrip() for line in part.rstrip("\n").split("\n")] for part in (shown, joined)
        )
        return Screen(lines, whole, width, height, *map(bool, flags))

    def wait(self, condition: Callable[[Screen], Any], what: str) -> Screen:
        """The first screen on which *condition* holds."""
        screen = self.screen()

        def holds() -> bool:
            nonlocal screen
            screen = self.screen()
            return bool(condition(screen))

        try:
            wait_for(holds, what)
        except AssertionError as error:
            raise AssertionError(f"{error}; the screen:\n{screen.text}") from None
        return screen
