"""The words of a message: a subject and a few body lines that fit a phone.

Pure: the same row gives the same words.  Everything that came from outside passes ``printable``, so
every line is one line without control characters whatever a label or message holds; plugins only
cut and escape for their own format.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from notifier.alert import Severity, parse_rfc3339
from notifier.plugin import DIGEST, FIRING, RESOLVED, TEST, Message
from notifier.printable import printable

SUBJECT_CHARACTERS = 140
LINE_CHARACTERS = 300
TOP = 5  # members that a digest names
_NAME_CHARACTERS = 60
_RULES = 8  # rules that a digest counts one by one
_EVIDENCE = 3
_SEPARATOR = " · "


def compose(message: Message) -> Message:
    """*message* with its text frozen, subject first."""
    return replace(message, lines=(subject(message), *body(message)))


def lines(message: Message) -> tuple[str, ...]:
    """The message's text, subject first: what was frozen with it, else composed now.

    Never empty, no line is, and every one is printable and bounded.
    """
    found = message.lines or compose(message).lines
    plain = (shorten(printable(line), LINE_CHARACTERS) for line in found)
    return tuple(line for line in plain if line.strip()) or ("alert",)


def subject(message: Message) -> str:
    """The first line, such as ``CRITICAL order_latency p99 812 ms > 250 ms``."""
    row = message.alert
    if message.kind == DIGEST:
        return shorten(_digest_subject(summarise(message.members)), SUBJECT_CHARACTERS)
    if message.kind == TEST:
        return shorten(
            f"TEST {_plain(row, 'message') or 'message of tickwatch'}", SUBJECT_CHARACTERS
        )
    if message.kind == RESOLVED:
        line = f"RESOLVED {name(row)}{_lasted(row)}"
    else:
        still = "STILL " if message.repeat else ""
        line = f"{still}{_severity(row)} {headline(row, message.evidence)}"
    return shorten(line, SUBJECT_CHARACTERS)


def body(message: Message) -> tuple[str, ...]:
    """The lines after the subject: where, since when and how bad; what was said; remarks."""
    row = message.alert
    if message.kind == DIGEST:
        found = _digest_body(summarise(message.members))
    elif message.kind == TEST:
        found = ["This is a test of the delivery; no action is needed."]
    else:
        found = [_where_and_when(message)]
        said = _plain(row, "message")
        if said and said not in subject(message):
            found.append(said)
        if message.kind == FIRING and message.repeat:
            found.append(f"repeat {message.repeat}, seen {number(row.get('count') or 1)} times")
        found += [line for line in (_evidence(message),) if line]
    if message.note:
        found.append(printable(message.note))
    return tuple(shorten(line, LINE_CHARACTERS) for line in found if line)


def name(row: Mapping[str, Any]) -> str:
    """What the alert is about: the series' metric where the labels name it, else the rule."""
    labels = row.get("labels") or {}
    return shorten(
        printable(str(labels.get("metric") or row.get("rule") or "alert")), _NAME_CHARACTERS
    )


def headline(row: Mapping[str, Any], evidence: Sequence[tuple[int, float]] = ()) -> str:
    """Name and value against threshold, or the rule's own words where they say more.

    Its words do when they begin with the name (what follows in brackets is left to the body), and
    when the number has no unit: ``12 > 10`` tells nobody that these are positions.
    """
    value, threshold = row.get("value"), row.get("threshold")
    about, said, unit = name(row), _plain(row, "message"), _plain(row, "unit")
    if said.startswith(f"{about} "):
        return said.partition(" (")[0]
    if said and (value is None or not unit):
        return f"{about}: {said}"
    if value is None:
        return about
    if threshold is None:
        return f"{about} {quantity(value, unit)}"
    worst = evidence[0][1] if evidence else value
    shown, limit = (_with_unit(one, unit) for one in pair(value, threshold))
    if value != threshold and (worst > threshold) == (value > threshold):
        return f"{about} {shown} {'>' if value > threshold else '<'} {limit}"
    return f"{about} {shown} (limit {limit})"


def number(value: float) -> str:
    """A number for people: thousands separators, three significant digits below a thousand."""
    return _digits(value, 3)


def pair(value: float, threshold: float) -> tuple[str, str]:
    """Two numbers with as many digits as it takes to tell them apart."""
    for digits in range(3, 17):
        first, second = _digits(value, digits), _digits(threshold, digits)
        if first != second or value == threshold:
            return first, second
    return repr(value), repr(threshold)


def quantity(value: float, unit: str) -> str:
    """A number with its unit, such as ``1,904 ms``."""
    return _with_unit(number(value), unit)


def shorten(line: str, characters: int) -> str:
    """*line* cut to at most *characters*, the last one then being an ellipsis."""
    return line if len(line) <= characters else line[: characters - 1] + "…"


def clock(at: str | None, beside: str | None = None) -> str:
    """A row's time as local time with its zone, such as ``11:40:03 IST``; with the date where
    *beside* is another day.
    """
    if not at:
        return "an unknown time"
    moment = _local(at)
    day = beside is not None and _local(beside).date() != moment.date()
    return f"{moment:%d %b %H:%M:%S %Z}" if day else f"{moment:%H:%M:%S %Z}"


@dataclass(frozen=True, slots=True)
class Digest:
    """Exact counts over the members of a digest; its first, its last and a few of the worst."""

    total: int
    firing: int
    resolved: int
    severity: str
    rules: Mapping[str, int]
    first: Mapping[str, Any]
    last: Mapping[str, Any]
    top: tuple[Mapping[str, Any], ...]


def summarise(members: Sequence[Mapping[str, Any]]) -> Digest:
    """Count the members.

    Args:
        members: alert rows, at least one.
    """
    resolved = sum(row.get("state") == RESOLVED for row in members)
    by_time = sorted(members, key=lambda row: str(row.get("started_at") or ""))
    worst = sorted(members, key=lambda row: (-_rank(row), row.get("state") == RESOLVED))
    counted = Counter(str(row.get("rule", "")) for row in members)
    return Digest(
        total=len(members),
        firing=len(members) - resolved,
        resolved=resolved,
        severity=str(worst[0].get("severity", "")) if worst else "",
        rules=dict(counted.most_common()),
        first=by_time[0] if by_time else {},
        last=by_time[-1] if by_time else {},
        top=tuple(worst[:TOP]),
    )


def _digest_subject(digest: Digest) -> str:
    word = "RESOLVED" if digest.firing == 0 else printable(digest.severity.upper())
    return f"{word} {_exact(digest.total)} alerts: {', '.join(_counted(digest, 3))}"


def _digest_body(digest: Digest) -> list[str]:
    first, last = digest.first.get("started_at"), digest.last.get("started_at")
    counts = f"{_exact(digest.firing)} firing, {_exact(digest.resolved)} resolved"
    found = [_SEPARATOR.join([counts, f"first {clock(first, last)}", f"last {clock(last)}"])]
    if len(digest.rules) > 1:
        found.append(", ".join(_counted(digest, _RULES)))
    for row in digest.top:
        parts = [f"{_severity(row)} {headline(row)}", _where(row)]
        parts += ["resolved"] if row.get("state") == RESOLVED else []
        found.append(_SEPARATOR.join(part for part in parts if part))
    if digest.total > len(digest.top):
        found.append(f"and {_exact(digest.total - len(digest.top))} more")
    return found


def _counted(digest: Digest, shown: int) -> list[str]:
    """How many alerts of each rule, the most frequent first; what is not shown is summed up."""
    rules = list(digest.rules.items())
    parts = [f"{shorten(printable(rule), 40)} {_exact(count)}" for rule, count in rules[:shown]]
    rest = sum(count for _, count in rules[shown:])
    return parts + ([f"others {_exact(rest)}"] if rest else [])


def _where_and_when(message: Message) -> str:
    row = message.alert
    started, ended = row.get("started_at"), row.get("resolved_at")
    if message.kind == RESOLVED and ended:
        when = f"{clock(started, ended)} to {clock(ended)}"
    else:
        when = f"since {clock(started, row.get('last_seen_at'))}"
    parts = [_where(row), when]
    if message.evidence:
        parts.append(f"worst {quantity(message.evidence[0][1], _plain(row, 'unit'))}")
    return _SEPARATOR.join(part for part in parts if part)


def _where(row: Mapping[str, Any]) -> str:
    """The labels' values, the engine first; the metric stands in the subject."""
    labels = dict(row.get("labels") or {})
    labels.pop("metric", None)
    first = [labels.pop("engine")] if "engine" in labels else []
    values = [str(value) for value in first + [labels[key] for key in sorted(labels)]]
    return printable(" ".join(value for value in values if value))


def _evidence(message: Message) -> str:
    """The next worst records after the very worst, which the first line holds."""
    unit = _plain(message.alert, "unit")
    rest = message.evidence[1 : 1 + _EVIDENCE]
    return "then " + ", ".join(quantity(value, unit) for _, value in rest) if rest else ""


def _lasted(row: Mapping[str, Any]) -> str:
    started, ended = row.get("started_at"), row.get("resolved_at")
    if not started or not ended:
        return ""
    seconds = max(0, parse_rfc3339(ended) - parse_rfc3339(started)) // 1_000_000_000
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f" after {number(seconds // size)} {unit} (was {_severity(row)})"
    return f" after {seconds} s (was {_severity(row)})"


def _local(at: str) -> datetime:
    return datetime.fromtimestamp(parse_rfc3339(at) / 1e9).astimezone()


def _severity(row: Mapping[str, Any]) -> str:
    return printable(str(row.get("severity", ""))).upper()


def _rank(row: Mapping[str, Any]) -> int:
    try:
        return int(Severity.parse(str(row.get("severity", ""))))
    except ValueError:
        return 0


def _plain(row: Mapping[str, Any], key: str) -> str:
    return printable(str(row.get(key) or "").strip())


def _with_unit(shown: str, unit: str) -> str:
    return f"{shown} {unit}" if unit else shown


def _exact(count: int) -> str:
    return f"{count:,}"


def _digits(value: float, digits: int) -> str:
    if isinstance(value, int) and abs(value) < 1e15:
        return f"{value:,}"
    size = abs(value)
    if not math.isfinite(size) or size >= 1e15 or 0 < size < 1e-4:
        return f"{value:.{digits - 1}e}"
    places = max(0, digits - 1 - math.floor(math.log10(size))) if size else 0
    text = f"{value:,.{places}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
