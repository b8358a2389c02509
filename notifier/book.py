"""What the notifier has in memory: alerts that live, what was told of them, messages on their way.

The book is what decisions are made from; alerts.db is its copy on disk.  So a disk that can't be
written delays nobody: what changed stays noted here until it could be saved.  An alert leaves the
book once nothing can happen to it any more but a new firing.
"""

import heapq
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from notifier.alert import Transition
from notifier.delivery import Delivery
from notifier.lifecycle import Life, Told
from notifier.routes import Step

_FACTS = ("fires", "again", "quiet", "reason", "earlier")


@dataclass(frozen=True, slots=True)
class Now:
    """One moment on three clocks.

    ``ns`` is the notifier's own time, which nobody can set and in which everything here is
    measured; ``wall_ns`` and ``mono_ns`` judge decisions, which carry both.
    """

    ns: int
    wall_ns: int
    mono_ns: int
    boot_id: str = ""

    def from_wall(self, at_ns: int) -> int:
        """The notifier's time at which the wall clock will say *at_ns*."""
        return self.ns + at_ns - self.wall_ns


@dataclass(slots=True)
class Entry:
    """One alert, what each plugin's people were told, and at most one message each on its way."""

    life: Life
    told: dict[str, Told] = field(default_factory=dict)
    pending: dict[str, Delivery] = field(default_factory=dict)
    step: Step = field(default_factory=Step)
    due_ns: int | None = None

    fingerprint: str = ""

    def __post_init__(self) -> None:
        self.fingerprint = self.fingerprint or self.life.alert.fingerprint

    @property
    def id(self) -> str:
        """The alert's id."""
        return self.life.alert.id

    def memo(self) -> str:
        """What the alert's row doesn't show, as JSON."""
        facts: dict[str, Any] = {name: getattr(self.life, name) for name in _FACTS}
        facts["step"] = [self.step.route, self.step.number, self.step.since_ns]
        return json.dumps(facts)

    @classmethod
    def recall(cls, life: Life, memo: str) -> "Entry":
        """The entry of *life* with what ``memo`` said; unknown fields are ignored."""
        facts: dict[str, Any] = json.loads(memo)
        for name in _FACTS:
            setattr(life, name, facts.get(name, getattr(life, name)))
        return cls(life, step=Step(*facts["step"]) if "step" in facts else Step())


@dataclass(slots=True)
class Changes:
    """What is not on disk yet; ``transitions`` are by their own id, with that of their alert."""

    alerts: dict[str, Entry] = field(default_factory=dict)
    told: dict[tuple[str, str], Told] = field(default_factory=dict)
    deliveries: dict[str, Delivery] = field(default_factory=dict)
    transitions: dict[str, tuple[str, Transition]] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)
    meta: dict[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(
            self.alerts
            or self.told
            or self.deliveries
            or self.transitions
            or self.counts
            or self.meta
        )


@dataclass(slots=True)
class Digest:
    """A message that carries others; its members don't change any more."""

    carrier: Delivery
    members: dict[str, Delivery] = field(default_factory=dict)


class Book:
    """The entries, which of them are to be looked at and when, and what changed."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.digests: dict[str, Digest] = {}
        self.changes = Changes()
        self.dirty: dict[str, None] = {}  # in the order in which they became so
        self._by_fingerprint: dict[str, str] = {}
        self._timers: list[tuple[int, str]] = []

    def add(self, entry: Entry) -> None:
        """Take in an alert, new or from disk."""
        self.entries[entry.id] = entry
        self._by_fingerprint[entry.fingerprint] = entry.id
        self.dirty[entry.id] = None

    def find(self, fingerprint: str) -> Entry | None:
        """The newest alert of one rule on one series."""
        return self.entries.get(self._by_fingerprint.get(fingerprint, ""))

    def drop(self, entry: Entry) -> None:
        """Let an alert go that nothing can happen to."""
        del self.entries[entry.id]
        self.dirty.pop(entry.id, None)
        if self._by_fingerprint.get(entry.fingerprint) == entry.id:
            del self._by_fingerprint[entry.fingerprint]
        self.changes.alerts[entry.id] = entry

    def touch(self, ids: Iterable[str]) -> None:
        """Have these alerts looked at in this step."""
        self.dirty.update(dict.fromkeys(one for one in ids if one in self.entries))

    def set_due(self, entry: Entry, due_ns: int | None) -> None:
        """Have it looked at again at *due_ns*."""
        if due_ns != entry.due_ns and due_ns is not None:
            heapq.heappush(self._timers, (due_ns, entry.id))
        entry.due_ns = due_ns

    def ring(self, now_ns: int) -> None:
        """Mark what is due."""
        while self._timers and self._timers[0][0] <= now_ns:
            due_ns, id = heapq.heappop(self._timers)
            entry = self.entries.get(id)
            if entry is not None and entry.due_ns == due_ns:
                entry.due_ns = None
                self.dirty[id] = None

    def next_due_ns(self) -> int | None:
        """When ``ring`` has something to do, at the earliest."""
        return self._timers[0][0] if self._timers else None

    def note_told(self, entry: Entry, told: Told) -> None:
        """Replace what one plugin's people were told."""
        entry.told[told.plugin] = told
        self.changes.told[entry.id, told.plugin] = told

    def note_alert(self, entry: Entry) -> None:
        """The alert changed."""
        self.changes.alerts[entry.id] = entry

    def note(self, delivery: Delivery) -> None:
        """The delivery changed."""
        self.changes.deliveries[delivery.id] = delivery
