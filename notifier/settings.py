"""What the notifier is told when it starts: plain values, parsed and checked by whoever starts it.

The dataclasses are pickled into the notifier's process, hold no file handles and read no
environment.  Options of a plugin may be secrets: they never show in a ``repr``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from notifier.alert import Severity
from notifier.plugin import DEFAULT_TIMEOUT_S, PLUGINS
from notifier.routes import Route, TableError, duration_s

DAY_S = 86_400.0
HOUR_S = 3600.0

# Minutes after the first message at which a firing alert is told again; the last one is the period
# from then on.
REPEATS_S: Mapping[Severity, tuple[float, ...]] = {
    Severity.CRITICAL: (300.0, 900.0, 1800.0, 3600.0),
    Severity.WARNING: (14_400.0,),
    Severity.INFO: (),
}

# How long a delivery is tried before it is dead.
DEADLINES_S: Mapping[Severity, float] = {
    Severity.CRITICAL: 24 * HOUR_S,
    Severity.WARNING: 4 * HOUR_S,
    Severity.INFO: 1 * HOUR_S,
}

_PLUGIN_KEYS = ("name", "kind", "enabled", "severities", "rate", "burst", "timeout")


@dataclass(frozen=True, slots=True)
class PluginSettings:
    """One configured plugin.

    ``rate_per_s`` messages a second leave one by one after a first ``burst``; above it they are
    gathered in digests. ``timeout_s`` is the total time of one attempt.  ``options`` are the
    plugin's own, secrets included.
    """

    name: str
    kind: str
    enabled: bool = True
    severities: tuple[Severity, ...] = tuple(Severity)
    rate_per_s: float = 1.0
    burst: int = 20
    timeout_s: float = DEFAULT_TIMEOUT_S
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class NotifierSettings:
    """Everything that the notifier's process needs.

    ``data_dir`` holds alerts.db and the lock, ``log_dir`` the folder ``alerts`` with the alert log
    and the decisions journal.  ``fast_retries`` follow a failed attempt by the backoff alone; a
    plugin that failed more often than that is reported as failing.  ``keep_s`` bounds how long
    resolved alerts and finished deliveries stay in alerts.db.  ``ping_url`` is that of a dead-man
    service, a secret, pinged each ``ping_interval_s`` while all is well; empty for none.
    """

    data_dir: Path
    log_dir: Path
    plugins: tuple[PluginSettings, ...] = ()
    routes: tuple[Route, ...] = ()
    repeats_s: Mapping[Severity, tuple[float, ...]] = field(default_factory=lambda: dict(REPEATS_S))
    deadlines_s: Mapping[Severity, float] = field(default_factory=lambda: dict(DEADLINES_S))
    reopen_s: float = 600.0
    ack_ttl_s: float = DAY_S
    drain_s: float = 10.0
    fast_retries: int = 3
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 60.0
    probe_s: float = 5.0
    keep_s: float = 90 * DAY_S
    log_keep_days: int | None = None
    log_level: str = "info"
    log_format: str = "text"
    ping_url: str = field(default="", repr=False)
    ping_interval_s: float = 60.0

    @property
    def ledger_path(self) -> Path:
        """Where alerts.db is."""
        return self.data_dir / "alerts.db"

    @property
    def heartbeat_path(self) -> Path:
        """The file whose time the aggregator moves on each second."""
        return self.data_dir / "aggregator.lock"

    @property
    def alerts_dir(self) -> Path:
        """Where the alert log and the decisions journal are."""
        return self.log_dir / "alerts"


def parse_plugins(
    tables: Sequence[Mapping[str, Any]],
    *,
    timeout_s: float = DEFAULT_TIMEOUT_S,
    rate_per_s: float = 1.0,
) -> list[PluginSettings]:
    """The plugins in the ``[[plugin]]`` tables; other keys than ours are the plugin's own options.

    Raises:
        TableError: with every problem of every table.
    """
    found: list[PluginSettings] = []
    problems: list[str] = []
    for number, table in enumerate(tables, 1):
        wrong: list[str] = []
        kind = str(table.get("kind", ""))
        name = str(table.get("name", kind)).strip()
        if kind not in PLUGINS:
            wrong.append(f"kind={kind!r}: use {', '.join(sorted(PLUGINS))}")
        if not name or name in {plugin.name for plugin in found}:
            wrong.append(f"name={name!r}: use a name of its own for each plugin")
        enabled = table.get("enabled", True)
        if not isinstance(enabled, bool):
            wrong.append(f"enabled={enabled!r}: must be true or false")
        found.append(
            PluginSettings(
                name=name,
                kind=kind,
                enabled=bool(enabled),
                severities=_severities(table.get("severities"), wrong),
                rate_per_s=_between(table.get("rate", rate_per_s), "rate", 0.01, 1000, wrong),
                burst=int(_between(table.get("burst", 20), "burst", 1, 10_000, wrong)),
                timeout_s=_timeout(table.get("timeout", timeout_s), wrong),
                options={key: value for key, value in table.items() if key not in _PLUGIN_KEYS},
            )
        )
        problems += [f"plugin {number} ({name or 'unnamed'}): {text}" for text in wrong]
    if problems:
        raise TableError(problems)
    return found


def _severities(value: object, wrong: list[str]) -> tuple[Severity, ...]:
    if value is None:
        return tuple(Severity)
    words = value if isinstance(value, list) else str(value).split(",")
    found = []
    for word in words:
        try:
            found.append(Severity.parse(str(word)))
        except ValueError as problem:
            wrong.append(str(problem))
    return tuple(found)


def _between(value: object, key: str, low: float, high: float, wrong: list[str]) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high:
        return float(value)
    wrong.append(f"{key}={value!r}: must be {low:g}..{high:g}")
    return low


def _timeout(value: object, wrong: list[str]) -> float:
    try:
        seconds = duration_s(value)
    except ValueError as problem:
        wrong.append(f"timeout={problem}")
        return DEFAULT_TIMEOUT_S
    return _between(seconds, "timeout", 0.1, 60, wrong)
