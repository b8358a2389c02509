"""The engine's facade: one object to record with, and to join or start the service.

The engine's process owns neither queue, thread nor child of ours.  Recording goes through the ring;
everything else here reads the stores or appends a decision, as a command would.
"""

import contextlib
import json
import logging
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from aggregator.configuration import configure
from aggregator.history.dayfolder import FOLDER
from aggregator.launch import LaunchError, launch, wait_until_ready
from aggregator.settings import Settings
from aggregator.store import query
from aggregator.store.dayrows import DayRows
from notifier import standing
from notifier.alert import Alert
from notifier.standing import Known
from ringbuf import Recorder
from ringbuf.layout import DEFAULT_CAPACITY
from ringbuf.ownership import holder
from ringbuf.recorder import Metric

_log = logging.getLogger("aggregator")

_START_TIMEOUT_S = 10.0
_EMITTED_TIMEOUT_S = 1.0
_POLL_S = 0.02


class MonitoringService:
    """Record ticks, latencies and alerts of one engine; safe from any thread.

    Joins the service of the settings' data directory or starts it.  If neither works the engine
    runs on and a log line says so: its ring keeps the newest records for whoever comes later.

    Raises:
        SettingsError: settings, rules or plugins are wrong; before anything is started.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        engine: str,
        labels: Mapping[str, str] | None = None,
        capacity: int = DEFAULT_CAPACITY,
    ) -> None:
        self._settings = settings or Settings()
        configure(self._settings)
        self._data_dir = Path(self._settings.monitoring_data_dir).absolute()
        self._log_dir = Path(self._settings.monitoring_log_dir).absolute()
        self.recorder = Recorder(engine, self._data_dir, labels, capacity=capacity, threads=True)
        self._metrics: dict[tuple[str, str, tuple[tuple[str, str], ...]], Metric] = {}
        self._join_or_start()

    def record_tick(
        self,
        *,
        pnl: float | None = None,
        position_count: float | None = None,
        daily_loss_pct: float | None = None,
        circuit_breaker_active: bool | None = None,
        connected: bool | None = None,
    ) -> None:
        """Record what a tick left behind; what is None isn't known and isn't recorded.

        Args:
            daily_loss_pct: the day's result in percent, negative for a loss.
        """
        for name, unit, value in (
            ("pnl", "", pnl),
            ("position_count", "", position_count),
            ("daily_loss_pct", "%", daily_loss_pct),
            ("circuit_breaker_active", "", circuit_breaker_active),
            ("connected", "", connected),
        ):
            if value is not None:
                self._metric(name, unit, {}).record(value)

    def record_performance_metric(
        self, name: str, value_ms: float, context: Mapping[str, str] | None = None
    ) -> None:
        """Record a latency in ms, such as ``sentiment_latency``; *context* becomes labels."""
        self._metric(name, "ms", context or {}).record(value_ms)

    def emit_alert(self, rule: str, severity: str, message: str = "", **labels: str) -> None:
        """Raise a free-text alert."""
        self.recorder.emit_alert(rule, severity, message, **labels)

    def resolve_alert(self, rule: str, **labels: str) -> None:
        """Resolve the free-text alert of *rule* with these labels."""
        self.recorder.resolve_alert(rule, **labels)

    def heartbeat(self) -> None:
        """Say that the engine lives, in a market without ticks."""
        self.recorder.heartbeat()

    def acknowledge_alert(
        self,
        rule: str,
        *,
        acknowledged_by: str,
        reason: str = "",
        ttl_seconds: int | None = None,
    ) -> None:
        """Acknowledge the active alerts of *rule*; an alert that was just emitted is waited for, up
        to 1 s.

        Raises:
            LookupError: the rule has no alert, naming those that have.
            OSError: the decision may not be on disk.
        """
        ttl_s = self._settings.monitoring_ack_ttl_seconds if ttl_seconds is None else ttl_seconds
        known, alerts = self._alerts_of(rule, lambda now: now.reachable)
        standing.acknowledge(
            known, alerts, acknowledged_by, rule=rule, scope="active", reason=reason, ttl_s=ttl_s
        )

    def clear_acknowledgement(self, rule: str, *, cleared_by: str = "engine") -> None:
        """Take back the acknowledgements of *rule*.

        Raises:
            LookupError: nothing of the rule is acknowledged, naming what is.
            OSError: the decision may not be on disk.
        """
        known, alerts = self._alerts_of(rule, lambda now: now.acked())
        standing.clear(known, alerts, cleared_by, rule=rule)

    def get_aggregated_metrics(
        self, start: datetime, end: datetime, interval: str = "5m"
    ) -> list[dict[str, Any]]:
        """History in [*start*, *end*), as rows with the fields of ``metrics show --json``.

        Raises:
            ValueError: *interval* is no multiple of the base interval, or a time has no offset.
            OSError: nothing was rolled up yet.
        """
        if start.tzinfo is None or end.tzinfo is None:
            raise ValueError("start and end need an offset, such as datetime.now(timezone.utc)")
        with contextlib.closing(query.open_readonly(self._data_dir / "rollups.db")) as db:
            rows: Iterator[dict[str, Any]] = query.metrics(
                db,
                interval_s=query.parse_interval(interval),
                start_s=int(start.timestamp()),
                end_s=int(end.timestamp()),
                days=DayRows(self._data_dir / FOLDER),
            )
            return list(rows)

    def close(self) -> None:
        """End the engine's recording; the service goes on for whoever needs it."""
        self.recorder.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _alerts_of(
        self, rule: str, among: Callable[[Known], list[Alert]]
    ) -> tuple[Known, list[Alert]]:
        """What is known, and the alerts of *rule* among those meant; waits for one just emitted."""
        deadline = time.monotonic() + _EMITTED_TIMEOUT_S
        while True:
            known = standing.read(
                self._data_dir / "alerts.db",
                self._service_log_dir() / "alerts",
                reopen_s=self._settings.monitoring_reopen_window_seconds,
            )
            found = among(known)
            alerts = [alert for alert in found if alert.rule == rule]
            if alerts:
                return known, alerts
            if time.monotonic() > deadline:
                others = ", ".join(sorted({alert.rule for alert in found})) or "none"
                raise LookupError(f"rule {rule!r}: no such alert (there are: {others})")
            time.sleep(_POLL_S)

    def _service_log_dir(self) -> Path:
        """The running service's log directory: it may have been started with another one."""
        try:
            told = json.loads((self._data_dir / "service.json").read_text(encoding="utf-8"))
            return Path(told["log_dir"])
        except (OSError, ValueError, KeyError):
            return self._log_dir

    def _metric(self, name: str, unit: str, labels: Mapping[str, str]) -> Metric:
        key = (name, unit, tuple(sorted(labels.items())))
        metric = self._metrics.get(key)
        if metric is None:
            metric = self.recorder.metric(name, unit, **labels)
            if len(self._metrics) < 10_000:  # beyond it the recorder itself counts an overflow
                self._metrics[key] = metric
        return metric

    def _join_or_start(self) -> None:
        try:
            if holder(self._data_dir / "service.lock") is None:
                wait_until_ready(self._settings, launch(self._settings), _START_TIMEOUT_S)
        except (OSError, LaunchError, subprocess.SubprocessError) as error:
            _log.error(
                "monitoring service can't be started, the engine goes on",
                extra={"component": "monitoring", "problem": str(error)},
            )
