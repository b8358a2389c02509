"""What may go wrong for an operator: wrong use, and a command that can't do its work.

``main`` turns both into one line on stderr and an exit code; nothing else in this package prints
an error or exits. Texts name the subject, what was seen and what is allowed, and never hold a
secret.
"""

import difflib
from collections.abc import Iterable


class UsageError(Exception):
    """Wrong use: a command, option or value that doesn't exist (exit code 2; 3 for `status`)."""


class Failed(Exception):
    """Right use that can't succeed: nothing by that name, no such file, no access (exit code 1)."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` for the known word closest to *word*, or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""
