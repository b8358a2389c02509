"""The aggregator: from the rings to rollups, transitions and the checkpoint.

``step()`` does what there is to do and returns how much that was; waiting and signals are
outside.  Nothing in a step waits for a disk.  Whatever a step changes is either in the ring still
or in the next checkpoint, so that a kill at any instruction loses and doubles nothing.
"""

import dataclasses
import json
import logging
import os
import time
import uuid
from collections.abc import Mapping, Sequence
from functools import partial
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Full
from typing import Any

import numpy as np

from aggregator import health
from aggregator.anchor import Anchor, wall_offset_ns
from aggregator.binning import IntArray, bucket_numbers
from aggregator.configuration import Configuration, configure
from aggregator.crashes import save_crash
from aggregator.disk import LOG_KEY, Commit, Disk
from aggregator.engines import Engines
from aggregator.historian import Historian
from aggregator.rings import CHECKPOINT_PREFIX, Ring, Rings
from aggregator.rollup import WORTHWHILE, RollupBuffer
from aggregator.rules.episode import PENDING
from aggregator.rules.evaluator import SERVICE, Evaluator
from aggregator.settings import SettingsError
from aggregator.store.store import Store
from notifier.alert import Transition, encode, finite, rfc3339
from notifier.alertlog import AlertLog, Position, read
from ringbuf.clock import boot_id
from ringbuf.survey import survey

_log = logging.getLogger("aggregator")

SECOND_NS = 1_000_000_000
_EVALUATOR_PREFIXES = ("rule/", "window/")
# Starts from one checkpoint without reaching the next: so often, then what is unread is skipped.
_ATTEMPTS_KEY = "attempts"
_MAX_ATTEMPTS = 3
DRAIN_S = 5.0
# Pending alerts in the health report; it is written each second.
_PENDING_SHOWN = 100
# How often the folder of the rings is asked for newcomers: one stat, a few microseconds.
_PEEK_NS = 50_000_000
# How long a writer may take between a record's time and its publication before rules count it late.
_PUBLISHING_NS = 5_000_000


class Aggregator:
    """All state of the aggregator's process."""

    def __init__(
        self,
        configuration: Configuration,
        doorbell: "Queue[tuple[int, list[bytes]]]",
        *,
        deaths: Sequence[tuple[str, int | None]] = (),
        inline_disk: bool = False,
    ) -> None:
        settings = configuration.settings
        self._configuration = configuration
        self._doorbell = doorbell
        self._data_dir = Path(settings.monitoring_data_dir)
        self._base_s = settings.monitoring_aggregation_interval_seconds
        log_dir = Path(settings.monitoring_log_dir) / "alerts"
        self._store = Store.open(
            self._data_dir / "rollups.db",
            self._base_s,
            rolling=settings.monitoring_enable_aggregation,
        )
        self._anchor = self._restore_anchor()
        self._buffer = RollupBuffer(self._base_s)
        self._series: dict[tuple[str, str, tuple[tuple[str, str], ...]], int] = {}
        self._evaluator = Evaluator(
            configuration.rules, configuration.sessions, self._installation()
        )
        retired = self._restore_rules(log_dir)
        attempts = int(self._store.value(_ATTEMPTS_KEY) or b"0")
        self._store.commit([], {}, {_ATTEMPTS_KEY: b"%d" % (attempts + 1)})
        self._rings = Rings(
            self._data_dir,
            self._store.values(CHECKPOINT_PREFIX),
            self._series_id,
            skip=attempts >= _MAX_ATTEMPTS,
        )
        self._disk = Disk(
            self._store, AlertLog(log_dir), self._ring_bell, self._wall_ns, inline=inline_disk
        )
        self._commit = Commit()
        self._historian = Historian(
            self._data_dir,
            settings,
            configuration.rules,
            self._store,
            self._anchor,
            inline=inline_disk,
        )
        self._deaths = deaths
        lapse_ns = settings.monitoring_heartbeat_lapse_seconds * SECOND_NS
        self._engines = Engines(self._data_dir, lapse_ns)
        self._now_ns = time.monotonic_ns()
        self._next_second_ns = self._next_peek_ns = 0
        self._rings_seen_ns = 0
        self._log_transitions(retired)
        for problem in self._evaluator.problems:
            _log.warning(
                "rule can't be applied", extra={"component": "monitoring", "problem": problem}
            )

    # one step

    def step(self, now_ns: int) -> int:
        """Drain every ring once and, each second, look at the world and commit.

        Args:
            now_ns: CLOCK_MONOTONIC, of which each second begins with a look around.

        Returns:
            The number of records read.
        """
        self._now_ns = now_ns
        done = 0
        transitions: list[Transition] = []
        is_second = now_ns >= self._next_second_ns
        due_ns = now_ns + self._anchor.steady_ns - _PUBLISHING_NS
        for ring in self._rings.open.values():
            # Without news and nothing due its clock moves on once a second.
            if ring.has_news or is_second or self._evaluator.due_ns(ring.uuid) < due_ns:
                done += self._drain(ring, transitions)
                done += self._drain_texts(ring, transitions)
        if now_ns >= self._next_peek_ns:
            self._next_peek_ns = now_ns + _PEEK_NS
            self._peek()
        if is_second:
            self._next_second_ns = (now_ns // SECOND_NS + 1) * SECOND_NS
            self._look_around(transitions)
            self._log_transitions(transitions)
            self.commit()
        else:
            self._log_transitions(transitions)
        return done

    def commit(self) -> None:
        """Hand the checkpoint to the disk, unless it still works on the last one."""
        if not self._disk.idle:
            return
        commit, self._commit = self._commit, Commit()
        commit.rollups = self._buffer.drain()
        commit.values.update(self._evaluator.dirty())
        commit.values[_ATTEMPTS_KEY] = None
        for ring in self._rings.open.values():
            ring.written = self._historian.written(ring)
            commit.values[CHECKPOINT_PREFIX + ring.uuid] = ring.checkpoint()
        self._disk.submit([], commit)

    def close(self) -> bool:
        """Drain what the rings hold, commit, detach; False if the disk didn't finish."""
        deadline = time.monotonic() + DRAIN_S
        while self.step(time.monotonic_ns()) and time.monotonic() < deadline:
            pass
        while not self._disk.idle and time.monotonic() < deadline:
            time.sleep(0.001)
        finished = self._historian.close(max(0.1, deadline - time.monotonic()))
        self.commit()
        finished = self._disk.close(max(0.1, deadline - time.monotonic())) and finished
        self._rings.close()
        if finished:
            self._store.close()
        return finished

    def reload(self) -> None:
        """Go on with the rules and sessions that the files have now; the service checked them."""
        try:
            fresh = configure(self._configuration.settings)
        except SettingsError as error:
            _log.error("rules not reloaded", extra={"component": "monitoring", "why": str(error)})
            return
        self._configuration = fresh
        at_ns = self._now_ns + self._anchor.steady_ns
        self._historian.reload(fresh.rules)
        self._log_transitions(self._evaluator.reload(fresh.rules, fresh.sessions, at_ns))

    # records

    def _drain(self, ring: Ring, transitions: list[Transition]) -> int:
        batch = ring.poll()
        count = len(batch.records)
        if batch.lost:
            self._evaluator.interrupted(ring.uuid)
        if count:
            records = batch.records
            ids = ring.series_ids(records["series"])
            times = self._past(records["time_ns"])
            wall_ns = times + self._anchor.wall_ns
            values = np.ascontiguousarray(records["value"])
            buckets = None
            if count >= WORTHWHILE and np.isfinite(values).all():
                buckets = bucket_numbers(values)  # once for rollups and rules
            if self._configuration.settings.monitoring_enable_aggregation:
                self._buffer.add(ids, wall_ns, values, buckets)
            self._historian.resume(ring, self._anchor.wall_ns)
            self._historian.add(ring, batch, ids, wall_ns)
            transitions += self._evaluator.observe(
                ring.uuid, ids, records["seq"], times + self._anchor.steady_ns, values, buckets
            )
        if count and ring.gap_unknown:
            ring.gap_unknown = False
            self._commit.lose(self._place(ring, int(batch.records["time_ns"][0])), None)
        if batch.lost:
            first_ns = int(batch.records["time_ns"][0]) if count else self._now_ns
            self._book_loss(ring, batch.lost, first_ns, transitions)
        if batch.watermark_ns is not None and not ring.ended:
            # A record whose time was taken may not be published yet: wait for it a little.
            watermark = batch.watermark_ns + self._anchor.steady_ns - _PUBLISHING_NS
            transitions += self._evaluator.advance(ring.uuid, watermark)
        return count

    def _past(self, times: IntArray) -> IntArray:
        """Record times, none in the future: a damaged one would move the rules' clock for good."""
        now_ns = time.monotonic_ns()
        return times if int(times.max()) <= now_ns else np.minimum(times, now_ns)

    def _drain_texts(self, ring: Ring, transitions: list[Transition]) -> int:
        batch = ring.poll_texts()
        if batch is None:
            return 0
        for text in batch.texts:
            transitions += self._evaluator.text(
                ring.texts.uuid,
                text.seq,
                text.time_ns + self._anchor.steady_ns,
                text.kind,
                text.rule,
                text.severity,
                text.message,
                text.labels,
            )
        if batch.lost:
            note = f"{batch.lost} free-text alerts of {ring.engine} were overwritten unread"
            sample = health.Sample("alerts_lost", {"engine": ring.engine}, batch.lost, "", note)
            self._sample(sample, transitions)
        return len(batch.texts)

    def _book_loss(
        self, ring: Ring, lost: int, first_ns: int, transitions: list[Transition]
    ) -> None:
        self._commit.lose(self._place(ring, first_ns), lost)
        note = f"{lost} records of {ring.engine} were overwritten before they were read"
        sample = health.Sample("records_lost", {"engine": ring.engine}, lost, "", note)
        self._sample(sample, transitions)

    def _place(self, ring: Ring, at_ns: int) -> tuple[str, int]:
        """Where a loss before the record of *at_ns* is booked: engine and start of the interval."""
        wall_s = (at_ns + self._anchor.wall_ns) // SECOND_NS
        return ring.engine, wall_s - wall_s % self._base_s

    # once a second

    def _peek(self) -> None:
        """Attach to a ring that just appeared: an engine's first alert shouldn't wait a second."""
        try:
            changed_ns = (self._data_dir / "rings").stat().st_mtime_ns
        except OSError:
            return  # no engine has been here yet
        if changed_ns != self._rings_seen_ns:
            self._rings_seen_ns = changed_ns
            self._commit.values.update(self._rings.discover(survey(self._data_dir)))

    def _look_around(self, transitions: list[Transition]) -> None:
        if self._anchor.follow(wall_offset_ns()):
            self._commit.values[self._anchor_key()] = self._anchor_value()
            _log.warning("wall clock was set", extra={"component": "monitoring"})
        self._historian.look()
        infos = survey(self._data_dir)
        ended = {ring.uuid for ring in self._rings.open.values() if ring.ended}
        self._commit.values.update(self._rings.discover(infos))
        rule_ns = self._now_ns + self._anchor.steady_ns
        for each in self._rings.open.values():
            if each.uuid in ended and not each.ended:
                self._evaluator.interrupted(each.uuid)  # its silence meanwhile means nothing
            if not each.texts.unread:
                transitions += self._evaluator.advance(each.texts.uuid, rule_ns - _PUBLISHING_NS)
        settings = self._configuration.settings
        samples = [
            *health.disk_samples([self._data_dir, Path(settings.monitoring_log_dir)]),
            *health.artifact_samples(settings.monitoring_artifact_paths, time.time()),
            *health.delivery_samples(self._data_dir / "alerts.db"),
            *health.death_samples(self._deaths),
            *self._engines.unwatched(),
            *self._historian.samples(),
        ]
        self._deaths = ()
        engines = []
        for info in infos:
            ring = self._rings.open.get(info.uuid)
            row, more, died = self._engines.look(info, ring, self._now_ns, self._anchor)
            engines.append(row)
            samples += more
            if died:
                self._disk.run(partial(save_crash, self._data_dir, info, self._anchor))
        for sample in samples:
            self._sample(sample, transitions)
        transitions += self._evaluator.advance(SERVICE, rule_ns)
        self._commit.values["health"] = self._report(engines)

    def _report(self, engines: Sequence[Mapping[str, Any]]) -> bytes:
        report = {
            "at": rfc3339(self._wall_ns()),
            "pid": os.getpid(),
            "engines": engines,
            "disk_problem": self._disk.problem,
            "transitions_dropped": self._disk.dropped,
            "pending": self._pending(),
            "history": self._historian.report(),
        }
        return json.dumps(report).encode()

    def _pending(self) -> list[dict[str, Any]]:
        """Alerts that wait for their ``for``: no transition tells of them yet."""
        rows = [row for row in self._evaluator.active() if row["state"] == PENDING][:_PENDING_SHOWN]
        for row in rows:
            row["since"] = rfc3339(row.pop("since_ns") + self._anchor.correction_ns)
            row["value"], row["threshold"] = finite(row["value"]), finite(row["threshold"])
        return rows

    def _sample(self, sample: health.Sample, transitions: list[Transition]) -> None:
        gid = self._series_id(sample.metric, sample.unit, sample.labels)
        at_ns = self._now_ns + self._anchor.steady_ns
        transitions += self._evaluator.sample(gid, at_ns, sample.value, sample.note)

    # transitions

    def _log_transitions(self, transitions: list[Transition]) -> None:
        if not transitions:
            return
        if correction := self._anchor.correction_ns:
            transitions = [
                dataclasses.replace(each, at_ns=each.at_ns + correction) for each in transitions
            ]
        self._disk.submit(transitions)

    def _ring_bell(self, number: int, transitions: Sequence[Transition]) -> None:
        # What the log has is read from there; copies travel only while it can't be written.
        copies = [] if number else [encode(each) for each in transitions]
        try:
            self._doorbell.put_nowait((number, copies))
        except Full:
            pass  # only a bell: the notifier reads the log at least each 100 ms

    # identity, time and restart

    def _series_id(self, metric: str, unit: str, labels: Mapping[str, str]) -> int:
        key = (metric, unit, tuple(sorted(labels.items())))
        if key not in self._series:
            gid = self._store.series_id(metric, unit, labels)
            self._series[key] = gid
            self._evaluator.add_series(gid, metric, unit, labels)
            self._historian.add_series(gid, metric, unit, labels)
        return self._series[key]

    def _installation(self) -> uuid.UUID:
        stored = self._store.value("installation")
        if stored is None:
            stored = uuid.uuid4().bytes
            self._store.commit([], {}, {"installation": stored})
        return uuid.UUID(bytes=stored)

    def _anchor_key(self) -> str:
        return f"anchor/{boot_id().hex()}"

    def _anchor_value(self) -> bytes:
        return json.dumps([self._anchor.steady_ns, self._anchor.wall_ns]).encode()

    def _restore_anchor(self) -> Anchor:
        stored = self._store.value(self._anchor_key())
        anchor = Anchor(*json.loads(stored)) if stored else Anchor.measure()
        anchor.follow(wall_offset_ns())
        self._anchor = anchor
        self._store.commit([], {}, {self._anchor_key(): self._anchor_value()})
        return anchor

    def _restore_rules(self, log_dir: Path) -> list[Transition]:
        """Load the rules' states and take in what the log knows beyond the checkpoint.

        Returns:
            The ends of alerts whose rule isn't there any more.
        """
        for series in self._store.series():
            self._evaluator.add_series(*series)
        saved: dict[str, bytes] = {}
        for prefix in _EVALUATOR_PREFIXES:
            saved.update(self._store.values(prefix))
        self._evaluator.load(saved)
        stored = self._store.value(LOG_KEY)
        known = position = Position.decode(stored.decode()) if stored else Position()
        while True:
            transitions, position, bad = read(log_dir, position)
            if not transitions and not bad:
                break
            for each in transitions:
                if each.number <= known.number:
                    continue
                at_ns = each.at_ns - self._anchor.correction_ns
                self._evaluator.fold(dataclasses.replace(each, at_ns=at_ns))
        rule_now_ns = time.monotonic_ns() + self._anchor.steady_ns
        return self._evaluator.retire(self._evaluator.orphans(), rule_now_ns)

    def _wall_ns(self) -> int:
        return time.monotonic_ns() + self._anchor.wall_ns
