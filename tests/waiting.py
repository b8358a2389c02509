"""Wait on a condition with a deadline, never for a guess."""

import threading
import time
from collections.abc import Callable
from typing import Any

# Generous: a machine under load is slow, and nothing that waits here measures speed.
PATIENCE_S = 60.0
_NEVER = threading.Event()


def wait_for(condition: Callable[[], Any], what: str, timeout_s: float = PATIENCE_S) -> Any:
    """Poll *condition* until it is true and return its value; *what* names it when it never is."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {timeout_s} s for {what}"
        _NEVER.wait(0.02)
    return value
