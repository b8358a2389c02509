"""Environments for processes that tests start."""

import os
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]


def clean_environment() -> dict[str, str]:
    """The environment without settings of the machine's own, and with the sources on the path."""
    own = ("MONITORING_", "COLUMNS", "LINES", "NO_COLOR")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(own)}
    return environment | {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "USER": "asha"}


def unmeasured(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment, the clean one by default, in which coverage doesn't start.

    It loads modules of its own and doubles what a command costs; what commands do is measured where
    they run inside the tests' own process.
    """
    given = clean_environment() if environment is None else environment
    return {k: v for k, v in given.items() if not k.startswith("COV")}
