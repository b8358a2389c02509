"""Which decisions hold for an alert now: is it acknowledged, was it, is it silenced?

Whether an alert is acknowledged is computed from the lines and the clock each time it is asked, and
stored nowhere: a stored answer outlives its reason.  In doubt nothing holds, because a message too
many is better than one too few.  Commands ask here as well, so only the standard library is used.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate

from notifier.alert import Ack, Alert, Severity
from notifier.decision import (
    Cover,
    Decision,
    DecisionKind,
    Journal,
    Scope,
    boot_id,
    covering,
    decide,
    matches,
)

__all__ = [
    "Cover",
    "Decision",
    "DecisionKind",
    "Decisions",
    "Journal",
    "Scope",
    "ack_for",
    "boot_id",
    "covering",
    "decide",
    "expired_acks",
    "matches",
    "silenced_by",
    "was_acked",
]

_REMEMBERED_NS = 24 * 3600 * 1_000_000_000  # how long "was acknowledged by" is worth saying
_PER_KEY = 64
_KEPT = 200_000  # decisions and covered alerts together
_Key = tuple[str, str]
_EVERYTHING: _Key = ("all", "")


class Decisions:
    """Decisions indexed by what they are about: a lookup looks at a few, however many there were.

    Bounded: as it grows it forgets what ended a day ago and, beyond the limit, the oldest.
    """

    def __init__(self, decisions: Iterable[Decision] = ()) -> None:
        self.offset = 0
        self.bad = 0  # lines of the journal that were no decision
        self._restarts = 0
        self._forget_all()
        for decision in decisions:
            self.add(decision)

    def refresh(self, source: Journal) -> list[Decision]:
        """Take in what is new in *source* and return it; all of it again if the file was replaced.

        Raises:
            OSError: the journal can't be read; what is known stays.
        """
        fresh, self.offset, bad = source.read(self.offset)
        if source.restarts != self._restarts:
            self._restarts = source.restarts
            self._forget_all()
            self.bad = 0
        self.bad += bad
        for decision in fresh:
            self.add(decision)
        return fresh

    def add(self, decision: Decision) -> None:
        """Take in the next line of the journal; the order of lines counts, not their times."""
        if decision.kind == "retry":
            return  # done once by the notifier, nothing that holds
        if self._size >= self._prune_at:
            self._prune(decision.at_ns)
        self._index(decision)

    def ack_for(self, alert: Alert, now_ns: int, mono_ns: int, boot_id: str) -> Ack | None:
        """The newest ack that holds for *alert*; one given at a lower severity doesn't."""
        for decision, level in self._acks_of(alert):
            ends_ns = decision.ends_at(now_ns, mono_ns, boot_id)
            over = ends_ns is not None and now_ns >= ends_ns
            over = over or (decision.until_resolved and alert.state == "resolved")
            if not over and alert.severity <= level:
                return Ack(decision.by, decision.at_ns, ends_ns, decision.reason)
        return None

    def was_acked(self, alert: Alert, now_ns: int, mono_ns: int, boot_id: str) -> Ack | None:
        """The newest ack of *alert* that holds no more: time over, or severity above the acked one.

        So that a message can say who had acked.  A cleared ack isn't meant, nor one that ended
        before the alert began.
        """
        if self.ack_for(alert, now_ns, mono_ns, boot_id) is not None:
            return None
        for decision, _ in self._acks_of(alert):
            ends_ns = decision.ends_at(now_ns, mono_ns, boot_id)
            if ends_ns is None or ends_ns > alert.started_ns:
                return Ack(decision.by, decision.at_ns, ends_ns, decision.reason)
        return None

    def silenced_by(
        self, alert: Alert, now_ns: int, mono_ns: int = 0, boot_id: str = ""
    ) -> Decision | None:
        """The newest silence that holds for *alert*."""
        for silence in reversed(self._silences.values()):
            begun = now_ns >= (silence.starts_ns or silence.at_ns)
            if begun and not silence.has_ended(now_ns, mono_ns, boot_id):
                patterns = {"rule": silence.rule} if silence.rule else {}
                patterns |= silence.matchers
                if patterns and matches(patterns, alert):
                    return silence
        return None

    def silences(self, now_ns: int, mono_ns: int = 0, boot_id: str = "") -> list[Decision]:
        """Silences that hold or are still to begin, oldest first."""
        return [s for s in self._silences.values() if not s.has_ended(now_ns, mono_ns, boot_id)]

    def expired_acks(self, now_ns: int, mono_ns: int, boot_id: str) -> list[Decision]:
        """Acks whose time is over and whose end nobody has written down yet."""
        return [
            decision
            for decision in self._unwritten.values()
            if decision.has_ended(now_ns, mono_ns, boot_id)
        ]

    def _forget_all(self) -> None:
        self._kept: list[Decision] = []
        self._size = 0
        self._prune_at = 1000
        self._order = 0
        self._acks: dict[_Key, list[tuple[int, Decision, Severity]]] = {}
        self._clears: dict[_Key, int] = {}
        self._series: dict[str, str] = {}  # alert id -> fingerprint, as the acks tell
        self._silences: dict[str, Decision] = {}
        self._unwritten: dict[str, Decision] = {}

    def _index(self, decision: Decision) -> None:
        self._order += 1
        self._kept.append(decision)
        self._size += 1 + len(decision.covers)
        if decision.kind == "ack":
            self._index_ack(decision)
        elif decision.kind == "clear":
            self._index_clear(decision)
        elif decision.kind == "silence":
            self._silences[decision.id] = decision
        elif decision.kind == "unsilence":
            self._silences.pop(decision.of, None)
        elif decision.kind == "expired":
            self._unwritten.pop(decision.of, None)

    def _index_ack(self, ack: Decision) -> None:
        """File *ack* under the series it covers, or the alert if it ends with that."""
        keys: dict[_Key, Severity] = {}
        for cover in ack.covers:
            self._series[cover.alert] = cover.fingerprint
            if ack.until_resolved:
                keys["alert", cover.alert] = cover.severity
            else:
                keys["series", cover.fingerprint] = cover.severity
        level = ack.severity or max((c.severity for c in ack.covers), default=Severity.CRITICAL)
        if ack.alert and not ack.covers:
            keys["alert", ack.alert] = level
        if ack.scope == "future" and ack.rule and ack.ttl_s is not None:
            keys["rule", ack.rule] = level
        for key, level in keys.items():
            entries = self._acks.setdefault(key, [])
            entries.append((self._order, ack, level))
            del entries[:-_PER_KEY]
        if ack.ttl_s is not None:
            self._unwritten[ack.id] = ack

    def _index_clear(self, clear: Decision) -> None:
        """Void the acks before *clear* for what it names; an alert stands for its series."""
        keys: list[_Key] = [("series", cover.fingerprint) for cover in clear.covers]
        if clear.scope == "all":
            keys.append(_EVERYTHING)
        if clear.rule:
            keys.append(("rule", clear.rule))
        if clear.alert:
            keys.append(("alert", clear.alert))
            keys.append(("series", self._series.get(clear.alert, "")))
        for key in keys:
            self._clears[key] = self._order
        for ack in list(self._unwritten.values()):  # a cleared ack has no end to write down
            same_rule = bool(clear.rule) and clear.rule == ack.rule
            same_alert = bool(clear.alert) and clear.alert == ack.alert
            if same_rule or same_alert or clear.scope == "all":
                del self._unwritten[ack.id]

    def _acks_of(self, alert: Alert) -> Iterator[tuple[Decision, Severity]]:
        """Acks about *alert* not cleared since, newest first, each with the level acked."""
        series, one, rule = ("series", alert.fingerprint), ("alert", alert.id), ("rule", alert.rule)
        cleared = max(self._clears.get(key, 0) for key in (series, one, rule, _EVERYTHING))
        named = [*self._acks.get(series, ()), *self._acks.get(one, ())]
        by_name = {order for order, _, _ in named}  # its own level counts, not that of the rule
        named += [entry for entry in self._acks.get(rule, ()) if entry[0] not in by_name]
        for order, decision, level in sorted(named, key=lambda entry: -entry[0]):
            if order < cleared:
                return
            yield decision, level

    def _prune(self, now_ns: int) -> None:
        """Forget what ended long ago; a clear stays while an ack before it does."""
        kept: list[Decision] = []
        for decision in self._kept:
            ends_ns = decision.ends_at(now_ns, 0, "")
            if decision.kind in ("ack", "silence"):
                if ends_ns is None or ends_ns + _REMEMBERED_NS > now_ns:
                    kept.append(decision)
            elif kept:
                kept.append(decision)
        self._forget_all()
        sizes = accumulate(1 + len(decision.covers) for decision in reversed(kept))
        newest = sum(1 for size in sizes if size <= _KEPT)
        for decision in kept[len(kept) - newest :]:
            self._index(decision)
        self._prune_at = 2 * self._size + 1000


def ack_for(
    alert: Alert, decisions: Sequence[Decision], now_ns: int, mono_ns: int, boot_id: str
) -> Ack | None:
    """The ack that holds for *alert* after *decisions*; for many lookups make a Decisions once."""
    return Decisions(decisions).ack_for(alert, now_ns, mono_ns, boot_id)


def was_acked(
    alert: Alert, decisions: Sequence[Decision], now_ns: int, mono_ns: int, boot_id: str
) -> Ack | None:
    """The ack of *alert* that no longer holds, see Decisions.was_acked."""
    return Decisions(decisions).was_acked(alert, now_ns, mono_ns, boot_id)


def silenced_by(alert: Alert, decisions: Sequence[Decision], now_ns: int) -> Decision | None:
    """The silence that holds for *alert* after *decisions*."""
    return Decisions(decisions).silenced_by(alert, now_ns)


def expired_acks(
    decisions: Sequence[Decision], now_ns: int, mono_ns: int, boot_id: str
) -> list[Decision]:
    """Acks whose time is over and whose end isn't written down, see Decisions.expired_acks."""
    return Decisions(decisions).expired_acks(now_ns, mono_ns, boot_id)
