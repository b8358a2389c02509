"""What the rules remember, and how it survives a restart.

The checkpoint has the state of every alert, the slices of the windows and the sources' clocks, each
under its own key, so that a commit writes what changed alone.  The alert log may be ahead of it:
``fold`` takes in what it has beyond.
"""

import dataclasses
import logging
import uuid
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgpack

from aggregator.rules.applied import Applied
from aggregator.rules.emitted import BY_TIMER, Emitted, Identity
from aggregator.rules.episode import FIRING
from aggregator.rules.freetext import FreeTexts
from aggregator.rules.roster import Roster
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.timeline import SERVICE, Source
from notifier.alert import Kind, Severity, Transition, decode, encode

_log = logging.getLogger("aggregator")

# Rings whose clock is remembered; far more than a host ever has at a time.
_MOST_SOURCES = 256
_ALERT, _TEXT, _SOURCE, _WINDOW = "rule/alert/", "rule/text/", "rule/source/", "window/"
# Lines of the log whose series no record has made known yet: a commit may not lose them.
_EARLY = "rule/early/"
REMOVED = "rule removed"


class RuleState:
    """Applied rules, free-text alerts and sources, and the states that no rule claims any more."""

    def __init__(
        self,
        rules: Sequence[Rule],
        sessions: Iterable[Session],
        installation: uuid.UUID,
        out: list[Emitted],
    ) -> None:
        self._installation = installation
        self._rules = frozenset(rule.name for rule in rules)
        self._out = out
        self.roster = Roster(rules, sessions, installation, out)
        self.texts = FreeTexts(installation, out)
        self.sources: dict[str, Source] = {}
        self._orphans: dict[str, dict[str, Any]] = {}
        self._early: dict[str, list[Transition]] = {}
        self._early_changed: set[str] = set()
        self._gone: set[str] = set()

    def source(self, name: str) -> Source:
        """The source of this name, new if it wasn't known."""
        source = self.sources.get(name)
        if source is None:
            source = self.sources[name] = Source(name)
        return source

    def bind(self, applied: Applied, origin: Source) -> None:
        """A series' records come from *origin* now, perhaps a new ring of the same engine."""
        before = applied.episode.source
        if before == origin.name:
            return
        fingerprint = applied.identity.fingerprint
        if before:
            old = self.source(before)
            old.applied.pop(fingerprint, None)
            old.stuck.pop(fingerprint, None)
            applied.floor_ns = old.clock_ns  # what the old ring's clock has passed is decided
        applied.episode.source = origin.name
        origin.applied[fingerprint] = applied

    def settle(self) -> None:
        """Hand early lines of the log to rules that are applied by now."""
        applied = self.roster.applied
        for fingerprint in self._early.keys() & applied.keys():
            self._early_changed.add(fingerprint)
            for line in self._early.pop(fingerprint):
                applied[fingerprint].expect(line)

    def dirty(self) -> dict[str, bytes | None]:
        """What changed since the last call: the store's keys and values, None for what is gone."""
        self._forget_sources()
        values: dict[str, bytes | None] = dict.fromkeys(self._gone)
        self._gone.clear()
        for fingerprint, applied in self.roster.applied.items():
            if applied.changed:
                values[_ALERT + fingerprint] = self._packed(fingerprint, applied)
            for key, blob in applied.slices().items():
                values[f"{_WINDOW}{fingerprint}/{key}"] = blob
        for fingerprint in self._early_changed:
            lines = self._early.get(fingerprint)
            values[_EARLY + fingerprint] = (
                msgpack.packb(list(map(encode, lines))) if lines else None
            )
        self._early_changed.clear()
        for fingerprint, blob in self.texts.saved().items():
            values[_TEXT + fingerprint] = blob
        for name, source in self.sources.items():
            if source.changed:
                source.changed = False
                fields = [source.clock_ns, source.last_ns, source.last_seq]
                values[_SOURCE + name] = msgpack.packb(fields)
        return values

    def _packed(self, fingerprint: str, applied: Applied) -> bytes | None:
        state = applied.state()
        if state is None:
            return None
        metric, unit, labels = self.roster.series[fingerprint]
        packed: bytes = msgpack.packb(
            {
                "rule": applied.identity.rule,
                "shown": dict(applied.identity.labels),
                "series": [metric, unit, dict(labels)],
                "source": applied.episode.source,
                "floor_ns": applied.floor_ns,
                "state": state,
            }
        )
        return packed

    def _forget_sources(self) -> None:
        spare = len(self.sources) - _MOST_SOURCES
        if spare <= 0:
            return
        idle = [s for s in self.sources.values() if not s.applied and s.name != SERVICE]
        for source in sorted(idle, key=lambda each: each.clock_ns)[:spare]:
            del self.sources[source.name]
            self._gone.add(_SOURCE + source.name)

    def load(self, values: Mapping[str, bytes]) -> None:
        """Take over what :meth:`dirty` gave, gathered over the calls; before any record."""
        slices: dict[str, dict[str, bytes]] = {}
        alerts: dict[str, dict[str, Any]] = {}
        for key, value in values.items():
            try:
                self._load_one(key, value, alerts, slices)
            except (ValueError, TypeError, KeyError, msgpack.UnpackException):
                # One state that can't be read must not keep all others from being evaluated.
                self._gone.add(key)
                _log.error(
                    "state of a rule is unreadable, dropped",
                    extra={"component": "monitoring", "key": key},
                )
        self.texts.settle()
        for saved in alerts.values():
            self.roster.add(None, *saved["series"])
        for fingerprint, saved in alerts.items():
            self._restore(fingerprint, saved, slices.pop(fingerprint, {}))
        self.settle()
        for fingerprint, lost in slices.items():
            self._gone.update(f"{_WINDOW}{fingerprint}/{key}" for key in lost)

    def _load_one(
        self,
        key: str,
        value: bytes,
        alerts: dict[str, dict[str, Any]],
        slices: dict[str, dict[str, bytes]],
    ) -> None:
        if key.startswith(_SOURCE):
            name = key.removeprefix(_SOURCE)
            clock_ns, last_ns, last_seq = msgpack.unpackb(value)
            self.sources[name] = Source(name, clock_ns, last_ns, last_seq)
        elif key.startswith(_ALERT):
            saved = msgpack.unpackb(value, strict_map_key=False)
            if not saved.keys() >= {"rule", "shown", "series", "source", "floor_ns", "state"}:
                raise ValueError("incomplete")
            alerts[key.removeprefix(_ALERT)] = saved
        elif key.startswith(_EARLY):
            lines = [decode(line) for line in msgpack.unpackb(value)]
            self._early[key.removeprefix(_EARLY)] = lines
        elif key.startswith(_TEXT):
            self.texts.restore(value)
        elif key.startswith(_WINDOW):
            fingerprint, _, rest = key.removeprefix(_WINDOW).partition("/")
            slices.setdefault(fingerprint, {})[rest] = value

    def _restore(
        self, fingerprint: str, saved: dict[str, Any], slices: Mapping[str, bytes]
    ) -> None:
        applied = self.roster.applied.get(fingerprint)
        if applied is None:
            self._orphans[fingerprint] = saved
            self._gone.update(f"{_WINDOW}{fingerprint}/{key}" for key in slices)
            return
        source = self.source(saved["source"]) if saved["source"] else Source("")
        applied.restore(saved["state"])
        applied.floor_ns = saved["floor_ns"]
        unused = applied.restore_slices(slices, source.clock_ns)
        self._gone.update(f"{_WINDOW}{fingerprint}/{key}" for key in unused)
        applied.episode.source = source.name
        source.applied[fingerprint] = applied
        source.planned(applied)

    def fold(self, line: Transition) -> None:
        """Take in a transition that the log has beyond the checkpoint, in the log's order.

        It isn't derived a second time, and if the records behind it are gone its state holds.
        """
        if line.free_text:
            self.texts.expect(line)
            return
        applied = self.roster.applied.get(line.fingerprint)
        if applied is None:
            self._early.setdefault(line.fingerprint, []).append(line)
            self._early_changed.add(line.fingerprint)
            return
        applied.expect(line)
        if applied.episode.source:
            self.source(applied.episode.source).planned(applied)

    # rules and engines that are gone

    def orphans(self) -> list[str]:
        """Names of rules that have a state and are not there any more, or not for that series.

        A line of the log about a series that no record has shown yet is no orphan while its rule
        is there.
        """
        names = {saved["rule"] for saved in self._orphans.values()}
        early = {lines[-1].rule for lines in self._early.values()}
        return sorted(names | (early - self._rules))

    def retire(self, names: Iterable[str], at_ns: int, reason: str = REMOVED) -> None:
        """Resolve what orphans of these rules still fire, and forget them."""
        wanted = set(names)
        early = {key for key, lines in self._early.items() if lines[-1].rule not in self._rules}
        for fingerprint in self._orphans.keys() | early:
            saved, lines = self._orphans.get(fingerprint), self._early.get(fingerprint, [])
            last = lines[-1] if lines else _last_said(saved)
            if (saved["rule"] if saved else lines[-1].rule) not in wanted:
                continue
            if last is not None and last.kind is not Kind.RESOLVED:
                self._say_resolved(last, at_ns, reason)
            self._orphans.pop(fingerprint, None)
            if self._early.pop(fingerprint, None):
                self._early_changed.add(fingerprint)
            self._gone.add(_ALERT + fingerprint)

    def _say_resolved(self, last: Transition, at_ns: int, reason: str) -> None:
        who = Identity.of(self._installation, 0, last.rule, "", last.labels)
        # Named by what came last, so that a restart in between derives the same id.
        identity = who.transition(Kind.RESOLVED, SERVICE, last.at_ns)
        resolved = dataclasses.replace(
            last, id=identity, kind=Kind.RESOLVED, at_ns=at_ns, reason=reason, number=0
        )
        self._out.append(who.emit(resolved, BY_TIMER, 0))

    def forget(self, engine: str, at_ns: int, reason: str) -> None:
        """Resolve whatever an engine has firing; it is gone for good."""
        for applied in self.roster.applied.values():
            if applied.identity.labels.get("engine") == engine:
                applied.end(at_ns, reason)
        self.texts.end(engine, at_ns, reason)

    def handed_over(self) -> tuple[dict[str, bytes], set[str]]:
        """Everything, for a state with other rules: what :meth:`load` takes, and gone keys."""
        self.touch()
        dirty = self.dirty()
        values = {key: value for key, value in dirty.items() if value is not None}
        for fingerprint, saved in self._orphans.items():
            values[_ALERT + fingerprint] = msgpack.packb(saved)
        return values, {key for key, value in dirty.items() if value is None}

    def touch(self, gone: Iterable[str] = ()) -> None:
        """Let everything count as changed, and these keys as gone."""
        self._gone.update(gone)
        for applied in self.roster.applied.values():
            applied.touch()
        self.texts.touch()
        self._early_changed.update(self._early)
        for source in self.sources.values():
            source.changed = True


def _last_said(saved: Mapping[str, Any] | None) -> Transition | None:
    """The alert of a saved state as a transition, None unless it is firing."""
    if saved is None:
        return None
    state = saved["state"]["episode"]
    if state is None:
        return None
    if state["expected"]:
        return decode(state["expected"][-1])
    if state["status"] != FIRING:
        return None
    return Transition(
        id="",
        kind=Kind.FIRED,
        at_ns=state["_fired_ns"],
        rule=saved["rule"],
        labels=saved["shown"],
        severity=Severity(state["severity"]),
        value=state["value"],
        message=state["_message"],
        count=state["count"],
    )
