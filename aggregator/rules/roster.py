"""Which rule applies to which series: who takes a series' records, and as what.

Each pair of a rule and a series (or group of series) is applied once, whatever the order in which
series become known.
"""

import logging
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence

from aggregator.rules.absentrule import AbsentRule
from aggregator.rules.applied import BASE, GATE, MAIN, Applied
from aggregator.rules.emitted import Emitted, Identity
from aggregator.rules.lastrule import LastRule
from aggregator.rules.levels import compile_levels
from aggregator.rules.rule import ABSENT, LAST, Rule
from aggregator.rules.sessions import Session
from aggregator.rules.windowrule import WindowRule

_log = logging.getLogger("aggregator")

Labels = Mapping[str, str]
_Key = tuple[int, frozenset[tuple[str, str]]]


class Roster:
    """All applied rules, by fingerprint.

    ``feeds`` lists, for a series' id, who takes its records and as which input; ``newly_fed``
    gathers ids that it got.  ``problems`` has a line for each rule that can't be applied to a
    series it fits.
    """

    def __init__(
        self,
        rules: Sequence[Rule],
        sessions: Iterable[Session],
        installation: uuid.UUID,
        out: list[Emitted],
    ) -> None:
        self._rules = tuple(rules)
        self._sessions = {session.name: session for session in sessions}
        self._installation = installation
        self._out = out
        self.applied: dict[str, Applied] = {}
        self.series: dict[str, tuple[str, str, Labels]] = {}
        self.feeds: dict[int, list[tuple[Applied, int]]] = {}
        self.newly_fed: list[int] = []
        self.problems: list[str] = []
        self._by_labels: dict[_Key, list[Applied]] = {}
        self._bases: dict[_Key, list[int]] = {}
        self._gates: dict[int, list[tuple[int, Labels]]] = {}

    def add(self, gid: int | None, metric: str, unit: str, labels: Labels) -> None:
        """Apply the rules to a series; its id may be told later."""
        for place, rule in enumerate(self._rules):
            if metric == rule.per:
                self._add_base(gid, place, rule, labels)
            elif rule.fits(metric, labels):
                applied = self._apply(place, rule, metric, unit, labels)
                if applied is not None:
                    self._feed(gid, applied, MAIN)
            if metric == rule.when:
                self._add_gate(gid, place, labels)

    def _apply(
        self, place: int, rule: Rule, metric: str, unit: str, labels: Labels
    ) -> Applied | None:
        own = _projected(rule, labels)
        shown = dict(own)
        if rule.wild or self._shares_name(place, rule):
            shown["metric"] = metric
        identity = Identity.of(self._installation, place, rule.name, metric, shown)
        applied = self.applied.get(identity.fingerprint)
        if applied is not None:
            if applied.identity.place == place:
                return applied
            self._problem(f"rule {rule.name!r} watches {metric} of {dict(labels)} twice")
            return None
        try:
            levels = compile_levels(rule, unit)
        except ValueError as problem:
            self._problem(f"rule {rule.name!r} can't watch {metric}: {problem}")
            return None
        session = self._sessions.get(rule.session)
        applied = _kind(rule)(rule, levels, identity, session, self._out)
        self.applied[identity.fingerprint] = applied
        self.series[identity.fingerprint] = (metric, unit, labels)
        key = (place, frozenset(own.items()))
        self._by_labels.setdefault(key, []).append(applied)
        for base in self._bases.get(key, ()):
            self._feed(base, applied, BASE)
        for gate, gate_labels in self._gates.get(place, ()):
            if _agree(gate_labels, own):
                self._feed(gate, applied, GATE)
        return applied

    def _shares_name(self, place: int, rule: Rule) -> bool:
        """Whether an earlier rule of this name is about another metric: alerts must differ."""
        return any(
            earlier.name == rule.name and earlier.metric != rule.metric
            for earlier in self._rules[:place]
        )

    def _add_base(self, gid: int | None, place: int, rule: Rule, labels: Labels) -> None:
        if gid is None:
            return
        if not rule.wild and rule.fits(rule.metric, labels):
            # Before the first of what is held against it: that must find the base complete.
            self._apply(place, rule, rule.metric, "", labels)
        key = (place, frozenset(_projected(rule, labels).items()))
        known = self._bases.setdefault(key, [])
        if gid not in known:
            known.append(gid)
        for applied in self._by_labels.get(key, ()):
            self._feed(gid, applied, BASE)

    def _add_gate(self, gid: int | None, place: int, labels: Labels) -> None:
        if gid is None:
            return
        self._gates.setdefault(place, []).append((gid, labels))
        for (other, own), all_applied in self._by_labels.items():
            if other == place and _agree(labels, dict(own)):
                for applied in all_applied:
                    self._feed(gid, applied, GATE)

    def _feed(self, gid: int | None, applied: Applied, part: int) -> None:
        if gid is None:
            return
        takers = self.feeds.get(gid)
        if takers is None:
            takers = self.feeds[gid] = []
            self.newly_fed.append(gid)
        if (applied, part) not in takers:
            takers.append((applied, part))

    def _problem(self, text: str) -> None:
        if text not in self.problems:
            self.problems.append(text)
            _log.warning("rule not applied", extra={"component": "monitoring", "problem": text})


def _projected(rule: Rule, labels: Labels) -> dict[str, str]:
    """The labels that tell the rule's alerts apart; those of different engines always are."""
    if not rule.by:
        return dict(labels)
    return {name: labels[name] for name in ("engine", *rule.by) if name in labels}


def _agree(first: Labels, second: Labels) -> bool:
    """Whether no label that both have differs, and the engine, if any, is the same."""
    return first.get("engine") == second.get("engine") and all(
        second.get(name, value) == value for name, value in first.items()
    )


def _kind(rule: Rule) -> Callable[..., Applied]:
    if rule.stat == (LAST,):
        return LastRule
    return AbsentRule if rule.stat == (ABSENT,) else WindowRule
