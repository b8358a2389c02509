"""What an alert is, and what the people behind one plugin should be told of it now.

Pure functions: no clock, no file, no setting.  ``apply`` folds transitions into an alert.
``decide`` compares what one plugin was told with what is so, and is the only place where a message
comes from: repeats, break-through, expiry, "fired, resolved" and silence after a restart are its
answers, never cases of their own.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, replace

from notifier.alert import Alert, Kind, Severity, Transition

FIRING, RESOLVED = "firing", "resolved"
_SECOND_NS = 1_000_000_000


class Why(enum.StrEnum):
    """Why a message is sent."""

    FIRED = "fired"
    SEVERITY = "severity rose"
    AGAIN = "fired again"
    RELEASED = "no longer held back"
    REPEAT = "still firing"
    RESOLVED = "resolved"
    LATE = "fired and resolved"
    RETRIED = "tried again by an operator"


class Held(enum.StrEnum):
    """What holds a message back, in the order in which it is asked."""

    SESSION = "outside its session"
    SILENCE = "silenced"
    ACK = "acknowledged"


@dataclass(frozen=True, slots=True)
class Hold:
    """Something that holds messages back now; ``until_ns`` is when that may change."""

    why: Held
    by: str = ""
    until_ns: int | None = None

    @property
    def note(self) -> str:
        """Such as ``acknowledged by asha``."""
        return f"{self.why} by {self.by}" if self.by else str(self.why)


@dataclass(slots=True)
class Life:
    """An alert with what its row doesn't show.

    ``fires`` counts its firings, ``again`` is the newest one that must be told even inside the
    reopen window, ``quiet`` says that nobody is to hear of the resolution, ``earlier`` is the count
    of earlier firings.
    """

    alert: Alert
    fires: int = 1
    again: int = 0
    quiet: bool = False
    reason: str = ""
    earlier: int = 0


@dataclass(slots=True)
class Told:
    """What the people behind one plugin were told of one alert.

    ``state`` is "" before the first message.  ``fires`` is the firing they know of.  Repeats are
    counted from ``since_ns``; ``at_ns`` is the newest message.  ``number`` counts the messages
    written for them, also those that never left. ``held`` is what held messages back since the
    newest one.  ``failed``: the newest one could not be delivered.
    """

    plugin: str
    state: str = ""
    severity: int = 0
    fires: int = 0
    since_ns: int = 0
    at_ns: int = 0
    repeat: int = 0
    number: int = 0
    held: str = ""
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Want:
    """A message that should be told; ``state`` is what it says of the alert."""

    why: Why
    state: str
    severity: Severity
    note: str = ""


@dataclass(frozen=True, slots=True)
class Pace:
    """How often the same may be told: repeats as in the settings, one firing a ``window_ns``."""

    repeats_s: Sequence[float]
    window_ns: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """What to do for one plugin.

    ``want`` None with ``keep`` leaves a message that has not left as it is, without ``keep`` takes
    it back. ``due_ns`` is when to ask again if nothing happens before.  ``held`` and ``settled``
    are to be noted in what was told: what holds messages back, and that this firing needs no
    message any more.
    """

    want: Want | None = None
    keep: bool = False
    due_ns: int | None = None
    held: str = ""
    settled: bool = False


def apply(life: Life | None, transition: Transition, reopen_ns: int) -> Life | None:
    """The alert after *transition*; fired again within *reopen_ns* of its end, it is the same one.

    None for the end of something that nobody has seen begin.  *life* is changed in place.
    """
    if life is not None and life.alert.state == RESOLVED and transition.kind != Kind.RESOLVED:
        resolved_ns = life.alert.resolved_ns or 0
        if transition.kind != Kind.FIRED and transition.at_ns <= resolved_ns:
            return life  # an old line that was read again
        if transition.at_ns - resolved_ns > reopen_ns:
            life = None
        else:
            life.fires += 1
            life.again = life.fires if transition.again else life.again
            life.earlier = life.alert.count
            life.quiet, life.reason = False, ""
            life.alert.state, life.alert.resolved_ns = FIRING, None
            life.alert.severity = transition.severity
    if life is None:
        return None if transition.kind == Kind.RESOLVED else Life(_begin(transition))
    _take(life, transition)
    return life


def decide(
    life: Life,
    told: Told,
    pending: Want | None,
    *,
    targeted: bool,
    hold: Hold | None,
    broken: str,
    pace: Pace,
    now_ns: int,
) -> Verdict:
    """What one plugin should be told of *life* now.

    Args:
        pending: the message that is written but has not left. targeted: whether the alert's route
        has come to this plugin. hold: what holds messages back. broken: who had acknowledged when
        an ack exists that the severity rose above, such as ``acknowledged by asha``.
    """
    if pending is not None and pending.why == Why.RETRIED:
        return Verdict(keep=True, held=told.held)
    if life.alert.state == RESOLVED:
        return _when_resolved(life, told, pending, targeted, hold)
    if not targeted:
        return Verdict(keep=pending is not None and pending.why == Why.FIRED, held=told.held)
    if hold is not None:
        first = pending is not None and pending.why == Why.FIRED and hold.why == Held.ACK
        return Verdict(keep=first, due_ns=hold.until_ns, held=hold.note)
    why, due_ns = _firing(life, told, pace, now_ns)
    if why is None:
        return Verdict(due_ns=due_ns, held=told.held)
    held = told.held or (broken if why in (Why.SEVERITY, Why.FIRED) else "")
    want = Want(why, FIRING, life.alert.severity, f"was {held}" if held else "")
    return _against(pending, want, told.held)


def next_repeat_ns(repeats_s: Sequence[float], since_ns: int, at_ns: int) -> int | None:
    """When something told at *at_ns*, first at *since_ns*, is told again; None for never.

    A repeat that was late doesn't bring the next one nearer than half of the shortest wait.
    """
    if not repeats_s:
        return None
    offsets_ns = [round(offset * _SECOND_NS) for offset in repeats_s]
    *fixed, period = offsets_ns
    after_ns = at_ns + min(offsets_ns) // 2
    for offset in fixed:
        if since_ns + offset > after_ns:
            return since_ns + offset
    start = since_ns + (fixed[-1] if fixed else 0)
    return start + max(1, (after_ns - start) // period + 1) * period


def _begin(transition: Transition) -> Alert:
    return Alert(
        id=transition.id,
        rule=transition.rule,
        labels=dict(transition.labels),
        severity=transition.severity,
        state=FIRING,
        started_ns=transition.at_ns,
        last_seen_ns=transition.at_ns,
        value=transition.value,
        threshold=transition.threshold,
        unit=transition.unit,
        message=transition.message,
        count=transition.count,
        free_text=transition.free_text,
        evidence=transition.evidence,
    )


def _take(life: Life, transition: Transition) -> None:
    """Let the alert's row say what *transition* says; what it doesn't say stays."""
    alert = life.alert
    alert.last_seen_ns = max(alert.last_seen_ns, transition.at_ns)
    if transition.kind == Kind.RESOLVED:
        if alert.state == RESOLVED:
            return
        alert.state, alert.resolved_ns = RESOLVED, transition.at_ns
        life.quiet, life.reason = not transition.announce, transition.reason
    else:
        alert.severity = transition.severity
        alert.count = max(alert.count, life.earlier + transition.count)
        alert.evidence = transition.evidence or alert.evidence
    if transition.value is not None:
        alert.value = transition.value
    if transition.threshold is not None:
        alert.threshold = transition.threshold
    alert.unit = transition.unit or alert.unit
    alert.message = transition.message or alert.message


def _firing(life: Life, told: Told, pace: Pace, now_ns: int) -> tuple[Why | None, int | None]:
    """Why a firing alert should be told now, else when it should be."""
    if told.fires == 0:
        return Why.FIRED, None
    if life.alert.severity > told.severity:
        return Why.SEVERITY, None
    if told.held:
        return Why.RELEASED, None
    if life.again > told.fires:
        return Why.AGAIN, None
    if told.state == RESOLVED:  # a flapping one is told once per window, whatever came between
        due_ns: int | None = told.since_ns + pace.window_ns
        why = Why.AGAIN
    else:
        due_ns = next_repeat_ns(pace.repeats_s, told.since_ns, told.at_ns)
        why = Why.REPEAT
    return (why, None) if due_ns is not None and now_ns >= due_ns else (None, due_ns)


def _when_resolved(
    life: Life, told: Told, pending: Want | None, targeted: bool, hold: Hold | None
) -> Verdict:
    """Whoever was told of the firing is told of its end; one never told is told with its end."""
    unheard = (targeted or pending is not None) and (told.fires == 0 or life.again > told.fires)
    severity = life.alert.severity
    if told.state == FIRING and not life.quiet:
        want = Want(Why.RESOLVED, RESOLVED, severity)
    elif not unheard:
        return Verdict()
    elif life.quiet:
        want = Want(Why.AGAIN if told.fires else Why.FIRED, FIRING, severity)
    else:
        want = Want(Why.LATE, RESOLVED, severity)
    if hold is None or (hold.why == Held.ACK and (want.why == Why.RESOLVED or pending is not None)):
        return _against(pending, want, "")
    if want.why == Why.RESOLVED:  # silence only delays the end: whoever was told still hears of it
        return Verdict(due_ns=hold.until_ns)
    return Verdict(settled=True, held=hold.note)


def _against(pending: Want | None, want: Want, held: str) -> Verdict:
    """Ask for *want* unless the pending message says it; one that says worse needs no change."""
    same = (
        pending is not None
        and pending.why == want.why
        and pending.state == want.state
        and pending.severity >= want.severity
    )
    return Verdict(keep=True, held=held) if same else Verdict(want=want, held=held)


def after_delivery(told: Told, want: Want, fires: int, at_ns: int) -> Told:
    """What is told once *want* was delivered."""
    repeat = want.why == Why.REPEAT
    anew = not repeat and want.why != Why.RESOLVED
    return replace(
        told,
        state=want.state,
        severity=int(want.severity),
        fires=max(fires, told.fires),
        since_ns=at_ns if anew else told.since_ns,
        at_ns=at_ns,
        repeat=told.repeat + 1 if repeat else 0,
        held="",
        failed=False,
    )


def after_death(told: Told, want: Want, fires: int, at_ns: int) -> Told:
    """What is told once *want* couldn't be delivered: nothing new; the next try is the next repeat.

    An end that could not be delivered isn't tried for ever: it counts as told.
    """
    after = after_delivery(told, want, fires, at_ns)
    state = RESOLVED if want.state == RESOLVED else told.state
    return replace(after, state=state, repeat=told.repeat, failed=True)
