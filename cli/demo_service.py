"""The service that watches the demo: whose it is, how it is set up, its start and its end.

The demo keeps to itself.  It uses none of the operator's plugins, routes and rules, and it refuses
to inject anything into the data directory of a service that somebody else runs: a made-up drawdown
must never wake a person.
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from cli import incidents, place
from cli.place import Place
from cli.problems import Failed, UsageError
from ringbuf.survey import survey

if TYPE_CHECKING:
    from aggregator.settings import Settings

ENGINE = "demo"  # the name of its ring
RULES_FILE = "demo.toml"
_CONFIG = "MONITORING_CONFIG"
_NOTE_FILE = "demo.json"  # the sink's port and the pid of the service that posts there
_DELIVERIES_PER_S = 20.0  # the demo shows each alert; a digest would hide how fast they arrive
_STOP_S = 30.0


def where(args: Mapping[str, Any]) -> Place:
    """Where the data goes: as for every command, but the logs of a --data-dir stay within it.

    Two directories that log to the same place would read each other's alerts.  A log directory that
    somebody named is used, and so is that of a service that was there before.
    """
    found = place.find(args)
    if not args["--data-dir"] or found.service or _logs_are_named():
        return found
    return replace(found, log_dir=found.data_dir / "logs")


def _logs_are_named() -> bool:
    from aggregator.settings import Settings, SettingsError  # 170 ms that --help doesn't need

    try:
        return "monitoring_log_dir" in Settings().model_fields_set
    except SettingsError:
        return False  # what is wrong is said when the demo's own settings are made


class Claim(NamedTuple):
    """What the demo may do with a data directory.

    ``pid`` is that of the service that runs there (None: one is to be started); ``own`` whether
    that service is the demo's to end; ``port`` where one of an earlier, killed demo posts to.
    """

    pid: int | None
    own: bool
    port: int = 0


def claim(at: Place, inject: bool) -> Claim:
    """Whether the demo may use the place.

    Raises:
        Failed: another demo runs there, or somebody else's service does and alerts are to be
            injected.
    """
    for ring in survey(at.data_dir):
        if ring.name == ENGINE and ring.alive:
            raise Failed(
                f"a demo (pid {ring.pid}) writes to {at.data_dir} already: wait for its end, or "
                f"use another --data-dir"
            )
    pid = at.service_pid()
    if pid is None:
        return Claim(None, True)
    try:
        note = json.loads((at.data_dir / _NOTE_FILE).read_bytes())
        if note["pid"] == pid:
            return Claim(pid, True, int(note["port"]))
    except (OSError, ValueError, TypeError, KeyError):
        pass  # no demo was here, or its note is torn: then the service isn't ours
    if inject:
        raise Failed(
            f"a service (pid {pid}) runs on {at.data_dir}, and injected "
            f"alerts would reach its plugins: use --no-incidents, or another --data-dir"
        )
    return Claim(pid, False)


@contextlib.contextmanager
def own_rules(at: Place) -> Iterator[None]:
    """Write the demo's rules, and let them stand for the operator's TOML file meanwhile."""
    at.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    rules = at.data_dir / RULES_FILE
    rules.write_text(incidents.rules_toml(), encoding="utf-8")
    before = os.environ.get(_CONFIG)
    os.environ[_CONFIG] = str(rules)  # the service that is started inherits it
    try:
        yield
    finally:
        os.environ.pop(_CONFIG)
        if before is not None:
            os.environ[_CONFIG] = before


def configure(at: Place, sink_url: str) -> "Settings":
    """The settings of the demo's service.

    Raises:
        UsageError: the environment or .env holds a setting that is wrong.
    """
    from aggregator.settings import Settings, SettingsError  # 170 ms that --help doesn't need

    try:
        return Settings(**settings_values(at, sink_url))
    except SettingsError as error:
        raise UsageError(str(error)) from None


def settings_values(at: Place, sink_url: str) -> dict[str, Any]:
    """The arguments for ``Settings`` with which the demo keeps to itself."""
    others = ("email", "slack", "telegram", "alertmanager", "apprise")
    return {
        "monitoring_data_dir": at.data_dir,
        "monitoring_log_dir": at.log_dir,
        "monitoring_rules_file": str(at.data_dir / RULES_FILE),
        "monitoring_enable_webhook_alerts": True,
        "monitoring_webhook_url": sink_url,
        "monitoring_webhook_headers": {},
        "monitoring_webhook_secret": "",
        "monitoring_webhook_severities": ["info", "warning", "critical"],
        "monitoring_delivery_rate_per_second": _DELIVERIES_PER_S,
        "monitoring_daily_loss_alert_pct": incidents.LOSS_LIMIT_PCT,
        "monitoring_enable_performance_tracking": True,
        "monitoring_performance_alert_threshold_ms": incidents.LATENCY_LIMIT_MS,
        "monitoring_enable_aggregation": True,
        # a second demo within ten minutes is to show its own alerts, not to go on with old ones
        "monitoring_reopen_window_seconds": 0,
        **{f"monitoring_enable_{other}_alerts": False for other in others},
    }


def remember(at: Place, port: int, pid: int) -> None:
    """Note whose service this is, for a demo that comes after this one was killed."""
    note = json.dumps({"pid": pid, "port": port})
    (at.data_dir / _NOTE_FILE).write_text(note, encoding="utf-8")


@contextlib.contextmanager
def start_service(settings: "Settings", at: Place, claim: Claim) -> Iterator[int]:
    """Join the service that was found, or start one; its pid.

    The service is a process of its own in a session of its own, so that neither Ctrl-C nor the
    death of the demo ends it; one that is the demo's own ends with this context.

    Raises:
        Failed: it doesn't start, or the one that was found is gone.
    """
    from aggregator.launch import LaunchError, launch, wait_until_ready

    try:
        pid = launch(settings) if claim.pid is None else claim.pid
        wait_until_ready(settings, pid)
    except LaunchError as error:
        raise Failed(str(error)) from None
    try:
        yield pid
    finally:
        if claim.own:
            _stop(pid, at)


def _stop(pid: int, at: Place) -> None:
    """End the service in order: it takes in what the rings hold and delivers what is due."""
    if at.service_pid() == pid:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + _STOP_S
    while Path(f"/proc/{pid}").exists():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
            return
        time.sleep(0.02)
