"""Bring what is on its way in line with what should be told, for one alert at a time.

Here the pure decision of ``lifecycle`` meets decisions, routes and the book; nothing else writes or
takes back a message.  A message that is under way (an attempt is open, or a digest carries it) is
left alone: the alert is looked at again when it has ended.
"""

import json
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from notifier.alert import Ack, Alert, Severity
from notifier.book import Book, Entry, Now
from notifier.decisions import Decisions
from notifier.delivery import SKIPPED, Delivery
from notifier.lifecycle import (
    FIRING,
    Held,
    Hold,
    Pace,
    Told,
    Verdict,
    Want,
    Why,
    decide,
)
from notifier.plugin import Message
from notifier.routes import Route, advance, route_for
from notifier.settings import NotifierSettings, PluginSettings

SECOND_NS = 1_000_000_000
NAMESPACE = uuid.UUID("5b0f8a52-6a5e-4c43-9e0e-3f6e5b6e2c11")
SUPERSEDED = "superseded"
_NOTES = {Why.AGAIN: "fired again", Why.LATE: "fired, and resolved before it could be told"}


class Outgoing(Protocol):
    """Where messages wait to leave."""

    def add(self, delivery: Delivery, now_ns: int) -> None:
        """It may leave."""

    def discard(self, delivery: Delivery) -> None:
        """It stays."""


class Reconciler:
    """Looks at alerts.

    Args:
        in_session: whether the session of an alert's rule is open at a time; None: rules' sessions
            are judged by whoever evaluates them.
    """

    def __init__(
        self,
        settings: NotifierSettings,
        plugins: Iterable[PluginSettings],
        decisions: Decisions,
        in_session: Callable[[Alert, int], bool] | None = None,
    ) -> None:
        self._routes = settings.routes
        self._deadlines_s = settings.deadlines_s
        self._decisions = decisions
        self._in_session = in_session
        enabled = [plugin for plugin in plugins if plugin.enabled]
        self._everyone = tuple(plugin.name for plugin in enabled)
        self._takers = {
            severity: tuple(plugin.name for plugin in enabled if severity in plugin.severities)
            for severity in Severity
        }
        window_ns = round(settings.reopen_s * SECOND_NS)
        self._paces = {
            severity: Pace(settings.repeats_s.get(severity, ()), window_ns) for severity in Severity
        }

    def run(self, entry: Entry, book: Book, out: Outgoing, now: Now) -> None:
        """Write, replace or take back the messages of one alert, and note when to look again."""
        alert = entry.life.alert
        ack = self._ack(alert, now)
        hold = self._hold(alert, ack, now)
        route = route_for(self._routes, self._everyone, alert.rule, alert.labels, alert.severity)
        targets, due_ns = self._targets(entry, book, route, hold is None, now)
        broken = self._broken(alert, ack, now)
        dues = [due_ns]
        for name in dict.fromkeys((*targets, *entry.told)):
            if name not in self._everyone:
                continue  # no longer configured
            pending = entry.pending.get(name)
            if pending is not None and (pending.open or pending.digest):
                continue
            told = entry.told.get(name) or Told(name)
            verdict = decide(
                entry.life,
                told,
                _want(pending),
                targeted=name in targets,
                hold=hold,
                broken=broken,
                pace=self._paces[alert.severity],
                now_ns=now.ns,
            )
            dues.append(verdict.due_ns)
            writer = _Writer(entry, book, out, now, ack)
            self._act(writer, told, verdict, name in targets, hold)
        book.set_due(entry, min((due for due in dues if due is not None), default=None))

    def _targets(
        self, entry: Entry, book: Book, route: Route, free: bool, now: Now
    ) -> tuple[list[str], int | None]:
        """The plugins that the alert's route has come to, and when it may come to more."""
        takers = self._takers[entry.life.alert.severity]
        told = entry.told.values()
        step, due_ns = advance(
            entry.step,
            route,
            takers,
            [one.plugin for one in told if one.state and not one.failed],
            [one.plugin for one in told if one.failed],
            waiting=free and entry.life.alert.state == FIRING,
            now_ns=now.ns,
        )
        if step != entry.step:
            entry.step = step
            book.note_alert(entry)
        names = [name for plugins in route.steps[: step.number + 1] for name in plugins]
        return [name for name in dict.fromkeys(names) if name in takers], due_ns

    def _act(
        self,
        writer: "_Writer",
        told: Told,
        verdict: Verdict,
        targeted: bool,
        hold: Hold | None,
    ) -> None:
        life, pending = writer.entry.life, writer.entry.pending.get(told.plugin)
        before = (told.held, told.fires, told.number)
        told.held = verdict.held
        if verdict.want is not None:
            if pending is not None:
                writer.skip(pending, SUPERSEDED)
            deadline_ns = round(self._deadlines_s[verdict.want.severity] * SECOND_NS)
            writer.write(told, verdict.want, pending, deadline_ns)
        elif pending is not None and not verdict.keep:
            writer.skip(pending, hold.note if hold is not None else SUPERSEDED)
        elif (
            hold is not None
            and targeted
            and told.number == 0
            and (life.alert.state == FIRING or verdict.settled)
        ):
            writer.write_skipped(told, hold)
        if verdict.settled:
            told.fires = life.fires
        if before != (told.held, told.fires, told.number):
            writer.book.note_told(writer.entry, told)

    def _ack(self, alert: Alert, now: Now) -> Ack | None:
        return self._decisions.ack_for(alert, now.wall_ns, now.mono_ns, now.boot_id)

    def _hold(self, alert: Alert, ack: Ack | None, now: Now) -> Hold | None:
        """The first of session, silence and ack that holds messages of *alert* back now."""
        if self._in_session is not None and not self._in_session(alert, now.wall_ns):
            return Hold(Held.SESSION, until_ns=now.ns + 60 * SECOND_NS)
        silence = self._decisions.silenced_by(alert, now.wall_ns, now.mono_ns, now.boot_id)
        if silence is not None:
            ends_ns = silence.ends_at(now.wall_ns, now.mono_ns, now.boot_id)
            return Hold(Held.SILENCE, silence.by, _at(now, ends_ns))
        if ack is not None:
            return Hold(Held.ACK, ack.by, _at(now, ack.expires_at_ns))
        return None

    def _broken(self, alert: Alert, ack: Ack | None, now: Now) -> str:
        """Who had acknowledged, if nothing but the severity ended it."""
        if ack is not None:
            return ""
        was = self._decisions.was_acked(alert, now.wall_ns, now.mono_ns, now.boot_id)
        if was is None or (was.expires_at_ns is not None and was.expires_at_ns <= now.wall_ns):
            return ""
        return f"{Held.ACK} by {was.by}"


class _Writer:
    """Writes messages of one alert into the book."""

    def __init__(self, entry: Entry, book: Book, out: Outgoing, now: Now, ack: Ack | None) -> None:
        self.entry = entry
        self.book = book
        self._out = out
        self._now = now
        self._ack = ack

    def write(self, told: Told, want: Want, replaced: Delivery | None, deadline_ns: int) -> None:
        """Have *want* told; it stands for the first message if the one that it replaces did."""
        delivery = self._delivery(told, want, deadline_ns)
        if replaced is not None and replaced.first:
            replaced.first, delivery.first = False, True
        self.entry.pending[told.plugin] = delivery
        self.book.note(delivery)
        self._out.add(delivery, self._now.ns)

    def write_skipped(self, told: Told, hold: Hold) -> None:
        """Note that the first message was held back, which is an end like any other."""
        want = Want(Why.FIRED, FIRING, self.entry.life.alert.severity)
        delivery = self._delivery(told, want, 0)
        self._end(delivery, hold.note)

    def skip(self, delivery: Delivery, reason: str) -> None:
        """Take a message back that has not left."""
        self._out.discard(delivery)
        self.entry.pending.pop(delivery.plugin, None)
        self._end(delivery, reason)

    def _end(self, delivery: Delivery, reason: str) -> None:
        delivery.state, delivery.reason = SKIPPED, reason
        delivery.finished_ns = self._now.ns
        self.book.note(delivery)

    def _delivery(self, told: Told, want: Want, deadline_ns: int) -> Delivery:
        alert = self.entry.life.alert
        first = told.number == 0
        what = f"{alert.id}/{told.plugin}/{told.number}/{want.state}/{want.severity.word}"
        told.number += 1
        return Delivery(
            id=str(uuid.uuid5(NAMESPACE, what)),
            alert=alert.id,
            plugin=told.plugin,
            kind=want.state,
            why=want.why,
            severity=want.severity,
            fires=self.entry.life.fires,
            first=first,
            created_ns=self._now.ns,
            next_ns=self._now.ns,
            deadline_ns=self._now.ns + deadline_ns,
            payload=json.dumps(self._frozen(told, want), separators=(",", ":")),
        )

    def _frozen(self, told: Told, want: Want) -> Mapping[str, Any]:
        """The message as it will be sent, but for its id and the attempt."""
        alert = self.entry.life.alert
        row = alert.row(self._ack) | {"state": want.state, "severity": want.severity.word}
        repeat = told.repeat + 1 if want.why == Why.REPEAT else 0
        note = ", ".join(one for one in (_NOTES.get(want.why, ""), want.note) if one)
        reason = self.entry.life.reason
        if reason and want.state != FIRING:
            note = ", ".join(one for one in (note, reason) if one)
        message = Message(
            want.state, row, delivery="", note=note, repeat=repeat, evidence=alert.evidence
        )
        return message.payload()


def _want(delivery: Delivery | None) -> Want | None:
    if delivery is None:
        return None
    return Want(Why(delivery.why), delivery.kind, delivery.severity)


def _at(now: Now, wall_ns: int | None) -> int | None:
    return None if wall_ns is None else now.from_wall(wall_ns)
