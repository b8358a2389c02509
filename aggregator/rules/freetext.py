"""Free-text alerts: what an engine says in words, made into the same transitions.

The same words again raise the count.  An alert is over when the engine says so, or, told to nobody,
after five quiet minutes.  Only those that are firing are remembered, at most MOST of them: above
that the one that was quiet longest is over, and counted in ``dropped``.
"""

import heapq
import uuid
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgpack

from aggregator.rules.emitted import (
    BY_RECORD,
    BY_TIMER,
    LOG_PRECISION_NS,
    NEVER_NS,
    Emitted,
    Expected,
    Identity,
)
from aggregator.rules.units import NS_PER_S
from notifier.alert import Kind, Severity, Transition

QUIET_NS = 300 * NS_PER_S
UPDATE_NS = 10 * NS_PER_S
MOST = 8192
# An engine whose ring is gone can't pass the time itself; the aggregator's own clock does, this
# much later.
ORPHANED_NS = 60 * NS_PER_S
QUIET, CROWDED = "quiet", "too many free-text alerts"
# Free-text alerts come after those of rules in the order of one instant.
_PLACE = 1 << 30


@dataclass(slots=True)
class _Text:
    identity: Identity
    source: str
    severity: Severity
    message: str
    fired_ns: int
    seen_ns: int
    seq: int
    count: int = 1
    firing: bool = True
    update_ns: int = NEVER_NS
    skip_ns: int = -1
    expected: Expected = field(default_factory=Expected)
    queued_ns: int = NEVER_NS  # its earliest place in the queue of its source

    @property
    def due_ns(self) -> int:
        """The next thing that happens by itself."""
        if self.expected.lines or self.skip_ns < 0:
            over_ns = NEVER_NS
        else:
            over_ns = self.skip_ns
        quiet_ns = self.seen_ns + QUIET_NS if self.firing else over_ns
        return min(self.update_ns, quiet_ns, self.expected.due_ns)


class FreeTexts:
    """All free-text alerts that are firing."""

    def __init__(self, installation: uuid.UUID, out: list[Emitted]) -> None:
        self._installation = installation
        self._out = out
        # By fingerprint, the one that was quiet longest first.
        self._texts: OrderedDict[str, _Text] = OrderedDict()
        # By source, (due, fingerprint); an entry may be out of date, but never too late.
        self._queues: dict[str, list[tuple[int, str]]] = {}
        self._changed: set[str] = set()
        self.dropped = 0

    def take(
        self,
        source: str,
        seq: int,
        at_ns: int,
        kind: str,
        rule: str,
        severity: str,
        message: str,
        labels: Mapping[str, str],
    ) -> None:
        """An engine emits (``kind`` "emit") or resolves ("resolve") an alert."""
        self.run(source, at_ns)
        identity = Identity.of(self._installation, _PLACE, rule, "", dict(labels))
        text = self._texts.get(identity.fingerprint)
        if text is not None:
            at_ns = max(at_ns, text.seen_ns)
            self._run_one(text, at_ns)  # it may belong to another source, of an earlier ring
            if at_ns <= text.skip_ns:
                return
        firing = text is not None and text.firing
        if kind == "resolve":
            if text is not None and firing:
                self._heard(text, source, at_ns, seq)
                self._resolve(text, at_ns, BY_RECORD, "", announce=True)
                self._queue(text)
            return
        level = _severity(severity)
        if text is None or not firing:
            self._fire(source, seq, at_ns, identity, level, message, text)
        else:
            self._again(text, source, seq, at_ns, level, message)

    def _fire(
        self,
        source: str,
        seq: int,
        at_ns: int,
        identity: Identity,
        severity: Severity,
        message: str,
        before: _Text | None,
    ) -> None:
        text = _Text(identity, source, severity, message, at_ns, at_ns, seq)
        if before is not None:
            text.expected = before.expected
        # It notifies even inside the reopen window: what an engine says anew is news.
        self._say(text, Kind.FIRED, at_ns, seq, BY_RECORD, again=True)
        self._keep(text)
        self._make_room(at_ns)

    def _again(
        self, text: _Text, source: str, seq: int, at_ns: int, severity: Severity, message: str
    ) -> None:
        self._heard(text, source, at_ns, seq)
        text.message = message
        text.count += 1
        if severity is not text.severity:
            text.severity = severity
            if not self._say(text, Kind.SEVERITY, at_ns, seq, BY_RECORD):
                self._queue(text)
                return
        elif text.update_ns == NEVER_NS:
            steps = max(1, -(-(at_ns - text.fired_ns) // UPDATE_NS))
            text.update_ns = text.fired_ns + steps * UPDATE_NS
        self._keep(text)

    def _heard(self, text: _Text, source: str, at_ns: int, seq: int) -> None:
        if text.source != source:
            text.source, text.queued_ns = source, NEVER_NS
        text.seen_ns, text.seq = at_ns, seq

    def _keep(self, text: _Text) -> None:
        fingerprint = text.identity.fingerprint
        self._texts[fingerprint] = text
        self._texts.move_to_end(fingerprint)
        self._changed.add(fingerprint)
        self._queue(text)

    def _queue(self, text: _Text) -> None:
        if text.due_ns < text.queued_ns:
            text.queued_ns = text.due_ns
            queue = self._queues.setdefault(text.source, [])
            heapq.heappush(queue, (text.due_ns, text.identity.fingerprint))

    def _make_room(self, at_ns: int) -> None:
        while len(self._texts) > MOST:
            oldest = next(iter(self._texts.values()))
            self.dropped += 1
            if oldest.firing:
                self._resolve(oldest, at_ns, BY_TIMER, CROWDED, announce=False)
            else:
                self._forget(oldest)

    # time

    def run(self, source: str, clock_ns: int) -> None:
        """Do what is due before *clock_ns* on the alerts of *source*."""
        queue = self._queues.get(source)
        if queue is None:
            return
        while queue and queue[0][0] < clock_ns:
            text = self._texts.get(heapq.heappop(queue)[1])
            if text is None or text.source != source:
                continue
            text.queued_ns = NEVER_NS
            self._run_one(text, clock_ns)
            if text.identity.fingerprint in self._texts:
                self._queue(text)
        if not queue:
            del self._queues[source]

    def run_orphans(self, clock_ns: int) -> None:
        """Do what was due a while ago on alerts whose own source doesn't pass the time any more."""
        for source in list(self._queues):
            self.run(source, clock_ns - ORPHANED_NS)

    def _run_one(self, text: _Text, clock_ns: int) -> None:
        while text.due_ns < clock_ns and text.identity.fingerprint in self._texts:
            due_ns = text.due_ns
            self._changed.add(text.identity.fingerprint)
            if text.update_ns <= due_ns:
                self._say(text, Kind.UPDATE, due_ns, due_ns, BY_TIMER)
            elif text.firing and text.seen_ns + QUIET_NS <= due_ns:
                self._resolve(text, due_ns, BY_TIMER, QUIET, announce=False)
            elif text.expected.lines:
                self._take_over(text, text.expected.give_up())
            else:  # over for good: the words that its last line stands for have passed
                self._forget(text)

    # transitions

    def _say(
        self,
        text: _Text,
        kind: Kind,
        at_ns: int,
        occasion: int,
        phase: int,
        *,
        again: bool = False,
        announce: bool = True,
        reason: str = "",
    ) -> bool:
        """Tell it, unless the log has it; False if the log has something else instead."""
        text.update_ns = NEVER_NS
        identity = text.identity.transition(kind, text.source, occasion)
        if text.expected.lines:
            if text.expected.has(identity):
                return True
            self._take_over(text, text.expected.give_up())
            return False
        transition = Transition(
            id=identity,
            kind=kind,
            at_ns=at_ns,
            rule=text.identity.rule,
            labels=text.identity.labels,
            severity=text.severity,
            message=text.message,
            count=text.count,
            free_text=True,
            announce=announce,
            again=again,
            reason=reason,
        )
        self._out.append(text.identity.emit(transition, phase, occasion))
        return True

    def _resolve(self, text: _Text, at_ns: int, phase: int, reason: str, *, announce: bool) -> None:
        # Named by the last word of the engine, whoever finds out that it was the last.
        if not self._say(
            text, Kind.RESOLVED, at_ns, text.seq, phase, announce=announce, reason=reason
        ):
            return
        text.firing = False
        if not text.expected.lines:
            self._forget(text)

    def _forget(self, text: _Text) -> None:
        self._changed.add(text.identity.fingerprint)
        self._texts.pop(text.identity.fingerprint, None)

    def end(self, engine: str, at_ns: int, reason: str) -> None:
        """Resolve all alerts of an engine that is gone for good."""
        for text in list(self._texts.values()):
            if text.identity.labels.get("engine") == engine:
                if text.expected.lines:
                    self._take_over(text, text.expected.give_up())
                if text.firing:
                    self._resolve(text, at_ns, BY_TIMER, reason, announce=True)

    # view, checkpoint and restart

    def rows(self) -> Iterator[dict[str, Any]]:
        """What `status` shows of them."""
        for text in self._texts.values():
            if text.firing:
                yield {
                    "rule": text.identity.rule,
                    "labels": dict(text.identity.labels),
                    "severity": text.severity.word,
                    "state": "firing",
                    "message": text.message,
                    "value": None,
                    "threshold": None,
                    "unit": "",
                    "since_ns": text.fired_ns,
                    "count": text.count,
                }

    def expect(self, line: Transition) -> None:
        """The log has this transition and the checkpoint hasn't."""
        identity = Identity.of(self._installation, _PLACE, line.rule, "", dict(line.labels))
        text = self._texts.get(identity.fingerprint)
        if text is None:
            text = _Text(identity, "", line.severity, line.message, 0, 0, 0, firing=False)
        text.expected.lines.append(line)
        self._keep(text)

    def _take_over(self, text: _Text, line: Transition) -> None:
        text.skip_ns = line.at_ns + LOG_PRECISION_NS
        text.firing = line.kind is not Kind.RESOLVED
        text.severity, text.message, text.count = line.severity, line.message, line.count
        text.fired_ns = text.seen_ns = line.at_ns
        text.seq = line.at_ns  # that of the words is lost, and its old one may name another end
        text.update_ns = NEVER_NS

    def saved(self) -> dict[str, bytes | None]:
        """States that changed since the last call, by fingerprint; None for those that are over."""
        blobs = {name: self._packed(name) for name in sorted(self._changed)}
        self._changed.clear()
        return blobs

    def _packed(self, fingerprint: str) -> bytes | None:
        text = self._texts.get(fingerprint)
        if text is None:
            return None
        fields = [
            text.identity.rule, dict(text.identity.labels), text.source, int(text.severity),
            text.message, text.fired_ns, text.seen_ns, text.seq, text.count, text.firing,
            text.update_ns, text.skip_ns, text.expected.encoded(),
        ]  # fmt: skip
        packed: bytes = msgpack.packb(fields)
        return packed

    def touch(self) -> None:
        """Let everything count as changed."""
        self._changed.update(self._texts)

    def restore(self, blob: bytes) -> None:
        """Take back one saved state."""
        rule, labels, source, severity, message, *rest, expected = msgpack.unpackb(blob)
        identity = Identity.of(self._installation, _PLACE, rule, "", labels)
        text = _Text(identity, source, Severity(severity), message, *rest)
        text.expected = Expected.decoded(expected)
        self._keep(text)
        self._changed.discard(identity.fingerprint)

    def settle(self) -> None:
        """After the last :meth:`restore`: the one that was quiet longest comes first again."""
        by_age = sorted(self._texts.values(), key=lambda each: (each.seen_ns, each.seq))
        self._texts = OrderedDict((each.identity.fingerprint, each) for each in by_age)


def _severity(word: str) -> Severity:
    try:
        return Severity.parse(word)
    except ValueError:
        return Severity.CRITICAL  # what can't be read might be the worst
