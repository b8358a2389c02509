"""The reader's side: drains rings, rolls records up, evaluates rules, keeps history.

Importing this package loads none of it: a command that only wants a pure part must not pay for the
rest.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aggregator.facade import MonitoringService
    from aggregator.settings import Settings

__all__ = ["MonitoringService", "Settings"]

_HOMES = {"MonitoringService": "aggregator.facade", "Settings": "aggregator.settings"}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
