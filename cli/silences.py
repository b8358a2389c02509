"""`silences add`, `silences list` and `silences expire`."""

from collections.abc import Mapping, Sequence
from typing import Any

from cli import deciding, known, place, render, times
from cli.known import Known
from cli.problems import Failed, UsageError
from cli.render import Column
from notifier.alert import rfc3339
from notifier.decisions import Decision, matches

_MAX_S = 90 * 86_400

_COLUMNS = (
    Column("id", whole=True),
    Column("matches"),
    Column("from", whole=True),
    Column("until", whole=True),
    Column("left", whole=True),
    Column("by"),
    Column("reason"),
    Column("alerts now", right=True),
)


def add(args: Mapping[str, Any]) -> int:
    """Silence what matches, and say which alerts that is now.

    Raises:
        UsageError: a matcher or the time is wrong.
    """
    how = render.look(args)
    matchers = parse_matchers(args["<label=pattern>"])
    seconds = times.duration_s(args["--for"], "--for")
    if not 1 <= seconds <= _MAX_S:
        raise UsageError(f"--for={args['--for']}: must be 1s to 90d")
    where = place.find(args)
    now = known.load(where)
    start_ns = now.now_ns
    if args["--from"] is not None:
        start_ns = times.time_ns(args["--from"], "--from", utc=bool(args["--utc"]))
    end_ns = start_ns + int(seconds * times.NS)
    if end_ns <= now.now_ns:
        raise UsageError(f"--from={args['--from']}: it would be over already: use a later time")
    ends = {"starts_ns": start_ns, "ends_ns": end_ns}
    silence = deciding.write(where, "silence", args, matchers=matchers, **ends)
    now.decisions.add(silence)
    if how.json:
        render.json_rows([row(silence, now)])
        return 0
    until = times.show_ns(end_ns, utc=how.utc)
    what = f"{_patterns(silence)} until {until} by {silence.by}"
    render.line(how, f"silenced {what}: {silence.id[:8]}")
    for alert in now.active:
        if matches(matchers, alert):
            render.line(how, f"  matches now: {alert.rule} {render.labels(alert.labels)}")
    return 0


def parse_matchers(words: Sequence[str]) -> dict[str, str]:
    """Patterns by label from ``label=pattern`` words.

    Raises:
        UsageError: a word isn't of this form, or a label comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        label, equals, pattern = word.partition("=")
        if not (label and equals and pattern):
            raise UsageError(f"{word}: use label=pattern, such as engine=swing or 'rule=daily_*'")
        if label in found:
            raise UsageError(f"{word}: {label} is given twice: add a second silence instead")
        found[label] = pattern
    return found


def list_silences(args: Mapping[str, Any]) -> int:
    """Print silences that hold or are still to begin."""
    how = render.look(args)
    now = known.load(place.find(args))
    rows = [row(silence, now) for silence in _current(now)]
    if how.json:
        render.json_rows(rows)
    elif rows:
        render.table(how, _COLUMNS, [_cells(s, now, how) for s in _current(now)])
    else:
        render.note("nothing is silenced; `tickwatch silences add --help` says how")
    return 0


def expire(args: Mapping[str, Any]) -> int:
    """End a silence now.

    Raises:
        Failed: no such silence, or more than one.
    """
    how = render.look(args)
    where = place.find(args)
    now = known.load(where)
    word = args["<id>"].lower()
    current = _current(now)
    found = [s for s in current if len(word) >= known.ID_DIGITS and s.id.startswith(word)]
    if len(found) != 1:
        ids = ", ".join(f"{s.id[:8]} ({_patterns(s)})" for s in found or current) or "none"
        problem = f"{len(found)} silences begin like this" if found else "no such silence"
        raise Failed(f"{word}: {problem} (silences: {ids})")
    silence = found[0]
    deciding.write(where, "unsilence", args, of=silence.id)
    if how.json:
        render.json_rows([row(silence, now)])
    else:
        render.line(how, f"ended {_patterns(silence)} (silenced by {silence.by})")
    return 0


def row(silence: Decision, now: Known) -> dict[str, Any]:
    """*silence* as its JSON row."""
    return {
        "id": silence.id,
        "matchers": _matchers(silence),
        "starts_at": rfc3339(silence.starts_ns or silence.at_ns),
        "ends_at": rfc3339(_end(silence, now)),
        "by": silence.by,
        "at": rfc3339(silence.at_ns),
        "reason": silence.reason,
        "alerts": [alert.id for alert in now.active if matches(_matchers(silence), alert)],
    }


def _cells(silence: Decision, now: Known, how: render.Look) -> list[str]:
    starts_ns, ends_ns = silence.starts_ns or silence.at_ns, _end(silence, now)
    return [
        silence.id[:8],
        _patterns(silence),
        times.show_ns(starts_ns, utc=how.utc),
        times.show_ns(ends_ns, utc=how.utc),
        times.spoken(((ends_ns or 0) - max(now.now_ns, starts_ns)) / times.NS),
        silence.by,
        silence.reason,
        str(sum(matches(_matchers(silence), alert) for alert in now.active)),
    ]


def _current(now: Known) -> list[Decision]:
    return now.decisions.silences(now.now_ns, now.mono_ns, now.boot_id)


def _end(silence: Decision, now: Known) -> int | None:
    return silence.ends_at(now.now_ns, now.mono_ns, now.boot_id)


def _matchers(silence: Decision) -> dict[str, str]:
    return ({"rule": silence.rule} if silence.rule else {}) | dict(silence.matchers)


def _patterns(silence: Decision) -> str:
    return " ".join(f"{label}={pattern}" for label, pattern in _matchers(silence).items())
