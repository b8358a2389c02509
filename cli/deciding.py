"""Write an operator's decision: who decides, and the one way into the journal.

A command that prints success has its line on disk: the journal returns only after fsync.
"""

import getpass
import os
from collections.abc import Mapping
from typing import Any

from cli import render
from cli.place import Place
from cli.problems import UsageError
from notifier.decisions import Decision, DecisionKind, Journal, decide


def operator(args: Mapping[str, Any]) -> str:
    """Who decides: --operator, else the login name; behind sudo the person, not root."""
    name = args.get("--operator")
    if name is not None:
        if not name.strip():
            raise UsageError("--operator= is empty: use a name")
        return str(name).strip()
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"uid {os.getuid()}"


def write(where: Place, kind: DecisionKind, args: Mapping[str, Any], **fields: Any) -> Decision:
    """Append a decision and return it once it is on disk; note when no service is there to act.

    Raises:
        OSError: it may not be on disk.
    """
    decision = decide(kind, operator(args), reason=reason(args), **fields)
    Journal(where.decisions).append(decision)
    unattended(where)
    return decision


def reason(args: Mapping[str, Any]) -> str:
    """Why, as the operator says; empty for nothing said."""
    return str(args.get("--reason") or "")


def unattended(where: Place) -> None:
    """Tell the operator when nobody is there to act on what was decided."""
    try:
        attended = where.service_pid() is not None
    except OSError as error:  # the decision is on disk all the same
        render.note(f"can't tell whether a service runs on {where.data_dir}: {error}")
        return
    if not attended:
        render.note(f"no service runs on {where.data_dir}: the next one will act on this")
