"""The engine's side: a recorder that costs well under a microsecond and can't hurt its engine.

Nothing on the path of ``Metric.record`` may block, lock (unless asked for), log, format, grow or
raise.  Trouble of any kind turns the recorder off or is counted; the engine goes on trading.
"""

import logging
import os
import threading
from collections.abc import Callable, Mapping
from time import perf_counter_ns
from types import TracebackType

from ringbuf import clock, descriptor, layout
from ringbuf.errors import WriterBusy
from ringbuf.hotpath import LOCK_WAIT_S, record_function
from ringbuf.opening import Rings, open_rings
from ringbuf.series import OVERFLOW, Key, series_key
from ringbuf.texts import EMIT, RESOLVE, pack_text

log = logging.getLogger("ringbuf")


class Metric:
    """One series of one recorder.

    ``record(value)`` writes one record with the present time.  It never blocks and never raises:
    what is no finite number is counted as rejected.
    """

    __slots__ = ("name", "record")

    record: Callable[[float], None]

    def __init__(self, name: str, record: Callable[[float], None]) -> None:
        self.name = name
        self.record = record

    def time(self) -> "Timing":
        """A context manager that records its body's milliseconds, also when the body raises."""
        return Timing(self.record)


class Timing:
    """Measures the body of a ``with`` statement; nested use of the same object is right, too."""

    __slots__ = ("_record", "_started")

    def __init__(self, record: Callable[[float], None]) -> None:
        self._record = record
        self._started: tuple[int, tuple[object, ...]] | tuple[()] = ()

    def __enter__(self) -> None:
        self._started = (perf_counter_ns(), self._started)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        ended = perf_counter_ns()
        if self._started:
            started, self._started = self._started  # type: ignore[assignment]
            self._record((ended - started) / 1e6)


class Recorder:
    """The single writer of one ring.

    ``problem`` is None, or why records don't reach the service: every call is still harmless, and
    a mark in the data directory tells the service.
    """

    def __init__(
        self,
        name: str,
        data_dir: str | os.PathLike[str] | None = None,
        labels: Mapping[str, str] | None = None,
        *,
        capacity: int = layout.DEFAULT_CAPACITY,
        threads: bool = False,
        strict: bool = False,
    ) -> None:
        """Open the ring, resuming where a crashed writer left off.

        Args:
            name: of the ring, 1 to 64 of ``A-Z a-z 0-9 . _ -``; the label ``engine`` of its series.
            data_dir: default $MONITORING_DATA_DIR, else data/monitoring.
            labels: added to each series.
            capacity: records the ring holds, a power of two; 32 bytes each.
            threads: allow any thread to record, for a lock's price.
            strict: raise what would otherwise be ``problem``.

        Raises:
            ValueError: a name, label or capacity that can never work.
            WriterBusy: (strict only) another writer has the ring.
            OSError: (strict only) no room, no shared memory, no permission.
        """
        self.name = descriptor.check_name(name)
        problem = layout.capacity_problem(capacity)
        if problem:
            raise ValueError(problem)
        self.labels = {str(key): str(value) for key, value in (labels or {}).items()}
        if "engine" in self.labels:
            raise ValueError("label 'engine' is reserved: it is always the ring's name")
        self._directory = descriptor.rings_directory(data_dir)
        self._lock = threading.Lock() if threads else None
        self._metrics: dict[Key, Metric] = {}
        self._problem: str | None = None
        self._keeping = threading.Lock()
        self._rings: Rings | None = None
        try:
            self._rings = open_rings(self._directory, self.name, capacity, self.labels)
        except Exception as trouble:
            # The engine's boundary: whatever is wrong with its monitoring, it must go on.
            if strict:
                raise
            self._turn_off(str(trouble) or type(trouble).__name__)

    @property
    def problem(self) -> str | None:
        """Why nothing is recorded, or None."""
        if self._rings is not None and self._rings.forked:
            return f"ring {self.name!r} belongs to the process this one was forked from"
        return self._problem

    @property
    def uuid(self) -> str:
        """The ring's identity, 32 hex digits; empty when the ring couldn't be opened."""
        return self._rings.pair.uuid if self._rings else ""

    @property
    def published(self) -> int:
        """Records written since the ring was made, by earlier writers too."""
        return self._rings.records.published if self._rings else 0

    @property
    def rejected(self) -> int:
        """Values that were no finite numbers, and texts and records that couldn't be written."""
        if self._rings is None:
            return 0
        return self._rings.records.rejected + self._rings.texts.rejected

    def metric(self, name: str, unit: str = "", **labels: object) -> Metric:
        """The series called *name* with these labels; call it once, keep the result.

        The label ``engine`` can't be given.  Never raises: a series that finds no room, or can't be
        encoded, goes to the series "overflow" and is counted.
        """
        try:
            return self._metric(name, unit, labels)
        except Exception:  # noqa: BLE001 - the engine's boundary
            return Metric(str(name), _nothing)

    def _metric(self, name: str, unit: str, labels: Mapping[str, object]) -> Metric:
        rings = self._rings
        if rings is None or rings.forked:
            return Metric(name, _nothing)
        self._keep(rings)
        key = series_key(name, unit, labels)
        known = self._metrics.get(key) if key else None
        if known is not None:
            return known
        series = rings.table.intern(key)
        metric = Metric(name, record_function(rings.records, series, self._lock))
        if key and series != OVERFLOW:  # which has no bound of its own
            self._metrics[key] = metric
        return metric

    def emit_alert(self, rule: str, severity: str, message: str = "", **labels: object) -> None:
        """Say that something happened, in words; never blocks, never raises."""
        self._text(EMIT, rule, severity, message, labels)

    def resolve_alert(self, rule: str, **labels: object) -> None:
        """Say that it is over, for the same rule and labels; never blocks, never raises."""
        self._text(RESOLVE, rule, "", "", labels)

    def _text(
        self, kind: str, rule: str, severity: str, message: str, labels: Mapping[str, object]
    ) -> None:
        rings = self._rings
        if rings is None or rings.forked:
            return
        try:
            body = pack_text(kind, rule, severity, message, {**self.labels, **labels})
            if self._lock is None:
                rings.texts.write_text(body)
                return
            if self._lock.acquire(True, LOCK_WAIT_S):
                try:
                    rings.texts.write_text(body)
                    return
                finally:
                    self._lock.release()
        except Exception:  # noqa: BLE001, S110 - the engine's boundary
            pass
        rings.texts.reject()

    def heartbeat(self) -> None:
        """Show that the engine lives when there is nothing to record; never raises."""
        rings = self._rings
        if rings is None or rings.forked:
            return
        try:
            rings.records.words[layout.HEARTBEAT_NS] = clock.monotonic_ns()
            self._keep(rings)
        except Exception:  # noqa: BLE001, S110 - the engine's boundary
            pass

    def _keep(self, rings: Rings) -> None:
        """Every ten seconds: a fresh anchor, and a look whether the ring is still ours."""
        if not rings.records.anchor_is_old or not self._keeping.acquire(blocking=False):
            return
        try:
            for ring in (rings.records, rings.texts):
                ring.renew_anchor()
            rings.lock.confirm()
            if self._problem is None and not rings.are_current:
                # Readers that are attached go on; so does writing.
                self._turn_off("its shared memory was removed: new readers can't find it")
        except WriterBusy as trouble:
            rings.abandon()
            self._turn_off(str(trouble))
        finally:
            self._keeping.release()

    def close(self) -> None:
        """End on purpose, the only clean end; later calls of anything do nothing."""
        if self._rings is not None:
            self._rings.close()

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _turn_off(self, problem: str) -> None:
        """Say once that the engine runs without its ring; the mark becomes an alert."""
        self._problem = problem
        extra = {"component": "monitoring", "ring": self.name, "problem": problem}
        log.error("monitoring is off, the engine goes on: %s", problem, extra=extra)
        try:
            descriptor.make_private(self._directory)
            descriptor.leave_mark(self._directory, self.name, problem)
        except OSError as trouble:
            log.error("no mark could be left either: %s", trouble, extra=extra)


def _nothing(value: float) -> None:
    """What a recorder that is off does with a value."""
