"""What leaves next, and what follows from how it ended.

Each plugin has a lane: what waits, whether it may be tried now, and the one attempt under way.  An
attempt is noted as open, and saved, before it starts; so one that is found open later is known to
have an unknown outcome.  Storms leave in digests, whose membership is frozen when they are made.
"""

import json
import logging
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from notifier.alert import Severity
from notifier.book import Book, Digest, Entry
from notifier.delivery import DEAD, DELIVERED, PENDING, SKIPPED, Delivery
from notifier.lanes import Lane, make_digest, shown
from notifier.lifecycle import Want, Why, after_death, after_delivery
from notifier.plugin import Message
from notifier.resend import Resends
from notifier.retry import SECOND_NS, Gate, backoff_s
from notifier.settings import NotifierSettings
from notifier.storm import Bucket
from notifier.worker import Job, Outcome, Result, Workers

_log = logging.getLogger("notifier")

ACCEPTED, FAILED = "accepted", "failed"


class Dispatcher:
    """All lanes.

    ``noise`` gives random numbers in [0, 1) for the jitter; ``resend_s`` is how often plugins want
    to be told again what is so.
    """

    def __init__(
        self,
        settings: NotifierSettings,
        book: Book,
        workers: Workers,
        noise: Callable[[], float] = random.random,
        resend_s: Mapping[str, float] | None = None,
    ) -> None:
        self._settings = settings
        self._book = book
        self.workers = workers
        self._noise = noise
        self.resends = Resends(book, resend_s or {})
        self.lanes = {
            plugin.name: Lane(
                plugin,
                Gate(settings.fast_retries, settings.backoff_base_s, settings.probe_s),
                Bucket(plugin.rate_per_s, plugin.burst),
            )
            for plugin in settings.plugins
            if plugin.enabled
        }

    def add(self, delivery: Delivery, now_ns: int) -> None:
        """Have it leave."""
        self.lanes[delivery.plugin].outbox.add(delivery, now_ns)

    def discard(self, delivery: Delivery) -> None:
        """Have it stay."""
        lane = self.lanes.get(delivery.plugin)
        if lane is not None:
            lane.outbox.discard(delivery)

    def resume(self, now_ns: int) -> None:
        """Take up what was on its way when the last process ended."""
        book = self._book
        self.resends.start(now_ns)
        for digest in list(book.digests.values()):
            self._resume(digest.carrier, now_ns)
        for entry in book.entries.values():
            for delivery in list(entry.pending.values()):
                if not delivery.digest:
                    self._resume(delivery, now_ns)
                elif delivery.digest not in book.digests:  # its carrier is gone: on its own again
                    delivery.digest = ""
                    self._resume(delivery, now_ns)

    def next_jobs(self, now_ns: int) -> list[Job]:
        """Attempts to start now; note them as open before they start."""
        jobs = []
        for name, lane in self.lanes.items():
            if lane.under_way is not None or not self.workers.free(name):
                continue
            while (delivery := self._next(lane, now_ns)) and now_ns >= delivery.deadline_ns:
                self._dead(lane, delivery, _too_late(delivery), now_ns)
            if delivery is not None:
                jobs.append(self._start(lane, delivery, now_ns))
            elif (message := self.resends.next(lane, now_ns)) is not None:
                jobs.append(Job(name, message, lane.settings.timeout_s))
        return jobs

    def next_due_ns(self, now_ns: int) -> int | None:
        """When ``next_jobs`` may have something, if nothing happens before."""
        dues = [
            due_ns
            for name, lane in self.lanes.items()
            if lane.under_way is None and self.workers.free(name)
            for due_ns in (lane.due_ns(now_ns), self.resends.due_ns(lane))
        ]
        return min((due for due in dues if due is not None), default=None)

    def settle(self, result: Result, now_ns: int) -> None:
        """Note how an attempt ended."""
        lane = self.lanes[result.plugin]
        if not result.delivery:
            self.resends.settle(lane, result, now_ns, self._noise)
            return
        delivery = lane.under_way
        if delivery is None or (delivery.id, delivery.attempt) != (result.delivery, result.attempt):
            return
        lane.under_way, delivery.open = None, False
        delivery.error = shown(result.error)
        self._book.note(delivery)
        if result.outcome == Outcome.PARTIAL:
            delivery.remaining = result.remaining
            delivery.reached = delivery.reached or result.reached
        served = result.outcome == Outcome.PARTIAL and not result.remaining
        good = result.outcome == Outcome.DELIVERED or (served and delivery.reached)
        lane.hour.add(now_ns, ACCEPTED if good else FAILED)
        if good:
            self._delivered(lane, delivery, now_ns)
        elif result.outcome == Outcome.REFUSED or served:
            lane.gate.refused(now_ns, delivery.error)
            self._dead(lane, delivery, delivery.error, now_ns)
        else:
            self._failed(lane, delivery, result, now_ns)

    def overdue(self, now_ns: int) -> None:
        """Give up what has waited for longer than it may."""
        for lane in self.lanes.values():
            for delivery in lane.outbox.all():
                if now_ns >= delivery.deadline_ns:
                    self._dead(lane, delivery, _too_late(delivery), now_ns)

    def retry(self, delivery: Delivery, members: Sequence[Delivery], now_ns: int) -> None:
        """Try again what was dead, on an operator's word; with *members* if it is a digest."""
        if members:
            self._book.digests[delivery.id] = Digest(delivery, {one.id: one for one in members})
        for one in (delivery, *members):
            one.state, one.reason, one.finished_ns = PENDING, "", None
            one.why = Why.RETRIED
            one.next_ns = now_ns
            one.deadline_ns = now_ns + self._deadline_ns(one.severity)
            self._book.note(one)
        self.lanes[delivery.plugin].gate.opens_ns = now_ns
        self.add(delivery, now_ns)

    def is_stuck(self, lane: Lane) -> bool:
        """Whether both threads of a plugin hang in attempts that were given up."""
        name = lane.settings.name
        busy = lane.under_way is not None or self.resends.under_way(name)
        return not busy and not self.workers.free(name)

    def recall(self, counts: Mapping[str, int], rows: Iterable[Mapping[str, Any]]) -> None:
        """Let counters, and trouble known from the last report, go on."""
        for name, lane in self.lanes.items():
            for what in (DELIVERED, DEAD, FAILED):
                lane.made[what] = counts.get(f"{what}/{name}", 0)
        for row in rows:
            known = self.lanes.get(str(row.get("plugin")))
            if known is not None:
                known.gate.failing = bool(row.get("failing"))
                known.gate.last_error = str(row.get("last_error", ""))

    def idle(self, now_ns: int, until_ns: int) -> bool:
        """Whether nothing is under way, nor waits for something that may well leave by then."""
        for name, lane in self.lanes.items():
            if lane.under_way is not None:
                return False
            due_ns = lane.due_ns(now_ns) if self.workers.free(name) else None
            if not lane.gate.failing and due_ns is not None and due_ns <= until_ns:
                return False
        return True

    def _resume(self, delivery: Delivery, now_ns: int) -> None:
        if delivery.plugin not in self.lanes:
            self._end(delivery, SKIPPED, "plugin removed", now_ns)
            return
        if delivery.open:
            delivery.open, delivery.error = False, str(Outcome.UNKNOWN)
            delivery.next_ns = now_ns
            self._book.note(delivery)
        cap_ns = now_ns + round(self._settings.backoff_cap_s * SECOND_NS)
        delivery.next_ns = min(delivery.next_ns, cap_ns)  # whatever the clock was set to meanwhile
        self.add(delivery, now_ns)

    def _next(self, lane: Lane, now_ns: int) -> Delivery | None:
        """What *lane* attempts now, perhaps as a digest."""
        first, crowd = lane.next(now_ns)
        if len(crowd) < 2:
            return first
        deadline_ns = now_ns + self._deadline_ns(crowd[0].severity)
        digest = make_digest(crowd, now_ns, deadline_ns)
        for one in crowd:
            one.digest = digest.carrier.id
            lane.outbox.discard(one)
            self._book.note(one)
        self._book.digests[digest.carrier.id] = digest
        return digest.carrier

    def _start(self, lane: Lane, delivery: Delivery, now_ns: int) -> Job:
        lane.outbox.discard(delivery)
        lane.bucket.take(now_ns)
        lane.under_way = delivery
        delivery.open = True
        delivery.attempt += 1
        self._book.note(delivery)
        payload = json.loads(delivery.payload) | {"delivery": delivery.id}
        digest = self._book.digests.get(delivery.id)
        if digest is not None:
            members = digest.members.values()
            payload["members"] = [json.loads(one.payload)["alert"] for one in members]
        message = Message.from_payload(
            payload, attempt=delivery.attempt, recipients=delivery.remaining
        )
        return Job(lane.settings.name, message, lane.settings.timeout_s)

    def _delivered(self, lane: Lane, delivery: Delivery, now_ns: int) -> None:
        lane.back(now_ns)
        lane.gate.succeeded(now_ns)
        self._count(lane, DELIVERED, self._end(delivery, DELIVERED, delivery.error, now_ns))

    def _failed(self, lane: Lane, delivery: Delivery, result: Result, now_ns: int) -> None:
        self._count(lane, FAILED, 1)
        lane.gate.failed(
            now_ns, delivery.error, random=self._noise, retry_after_s=result.retry_after_s
        )
        settings = self._settings
        wait_s = backoff_s(
            delivery.attempt, settings.backoff_base_s, settings.backoff_cap_s, self._noise
        )
        delivery.next_ns = max(now_ns + round(wait_s * SECOND_NS), lane.gate.hold_ns)
        _log.warning(
            "delivery failed",
            extra={
                "component": "monitoring",
                "plugin": delivery.plugin,
                "delivery": delivery.id,
                "attempt": delivery.attempt,
                "error": delivery.error,
                "next_try_s": round((delivery.next_ns - now_ns) / SECOND_NS, 1),
            },
        )
        if now_ns >= delivery.deadline_ns:
            self._dead(lane, delivery, _too_late(delivery), now_ns)
            return
        lane.outbox.add(delivery, now_ns)
        self._book.touch([delivery.alert])

    def _dead(self, lane: Lane, delivery: Delivery, reason: str, now_ns: int) -> None:
        lane.outbox.discard(delivery)
        self._count(lane, DEAD, self._end(delivery, DEAD, reason, now_ns))
        lane.gate.failing = True
        _log.error(
            "delivery is dead",
            extra={
                "component": "monitoring",
                "plugin": delivery.plugin,
                "delivery": delivery.id,
                "reason": reason,
            },
        )

    def _end(self, delivery: Delivery, state: str, reason: str, now_ns: int) -> int:
        """Note the end of a delivery, and of those that it carried; how many messages it was."""
        delivery.state, delivery.reason, delivery.finished_ns = state, reason, now_ns
        delivery.open = False
        self._book.note(delivery)
        digest = self._book.digests.pop(delivery.id, None)
        if digest is not None:
            for member in digest.members.values():
                self._end(member, state, reason, now_ns)
            return len(digest.members)
        entry = self._book.entries.get(delivery.alert)
        if entry is not None:
            _note_end(self._book, entry, delivery, now_ns)
        return 1

    def _count(self, lane: Lane, what: str, number: int) -> None:
        lane.made[what] += number
        self._book.changes.counts[f"{what}/{lane.settings.name}"] += number

    def _deadline_ns(self, severity: Severity) -> int:
        return round(self._settings.deadlines_s[severity] * SECOND_NS)


def _note_end(book: Book, entry: Entry, delivery: Delivery, now_ns: int) -> None:
    """Let what was told follow from the end of a delivery, and have the alert looked at."""
    if entry.pending.get(delivery.plugin) is delivery:
        del entry.pending[delivery.plugin]
    told = entry.told.get(delivery.plugin)
    if told is not None and delivery.state != SKIPPED:
        want = Want(Why(delivery.why), delivery.kind, delivery.severity)
        after = after_delivery if delivery.state == DELIVERED else after_death
        book.note_told(entry, after(told, want, delivery.fires, now_ns))
    book.touch([entry.id])


def _too_late(delivery: Delivery) -> str:
    return f"not delivered in time: {delivery.error or 'never tried'}"
