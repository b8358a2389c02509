"""`rules replay`: what would these rules have told about the past?

The evaluator is the one that runs live; only where its records come from differs.  Whatever rests
on records that aren't kept any more is marked: it comes from rollups.
"""

import sys
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from aggregator.rules import ruleset
from aggregator.rules.builtin import OWN_METRICS
from aggregator.rules.evaluator import Evaluator
from aggregator.rules.rule import ABSENT, Rule
from aggregator.rules.rulefile import RuleFile
from aggregator.settings import Settings
from aggregator.store import query
from cli import known, place, render, rollups, rulecheck, times
from cli.past import Batch, Names, Past, Stretch
from cli.problems import UsageError
from cli.quiet import Quiet
from cli.render import Cell, Column, Look, Styled
from cli.stand_in import Shape
from cli.times import NS
from cli.would_send import Sent, Telling, messages
from notifier.alert import Severity, Transition
from notifier.settings import REPEATS_S

_LONGEST_WARMUP_S = 86_400
_PROGRESS_S = 0.5
BOTH, FIRST, SECOND = "both", "first", "second"
_MARKS = {BOTH: " ", FIRST: "-", SECOND: "+"}

_COLUMNS = (
    Column("time", whole=True),
    Column("severity", whole=True),
    Column("why", whole=True),
    Column("message"),
    Column("labels"),
    Column("from", whole=True),
)

Row = dict[str, Any]


@dataclass
class Trial:
    """One set of rules being applied, and the transitions that came of it."""

    rules: RuleFile
    evaluator: Evaluator = field(init=False)
    transitions: list[Transition] = field(default_factory=list)
    _series: int = 0
    _seqs: Counter[str] = field(default_factory=Counter)
    _last_ns: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.evaluator = Evaluator(self.rules.rules, self.rules.sessions, uuid.UUID(int=0))

    def take(self, batch: Batch, names: Names) -> None:
        """Apply the rules to records of one engine."""
        for number in range(self._series, len(names.known)):
            metric, unit, labels = names.known[number]
            self.evaluator.add_series(number, metric, unit, dict(labels))
        self._series = len(names.known)
        count = len(batch.series)
        first = self._seqs[batch.source]
        self._seqs[batch.source] += count
        self._last_ns[batch.source] = int(batch.times_ns[-1])
        seqs = np.arange(first, first + count)
        self.transitions += self.evaluator.observe(
            batch.source, batch.series, seqs, batch.times_ns, batch.values
        )

    def finish(self) -> None:
        """Let the last second of each engine be judged; its silence after that isn't."""
        for source, last_ns in self._last_ns.items():
            self.transitions += self.evaluator.advance(source, last_ns + NS + 1)
        self.transitions.sort(key=lambda each: each.at_ns)


@dataclass(frozen=True)
class Asked:
    """What is replayed: range in epoch seconds, one or two sets of rules."""

    start_s: int
    end_s: int
    rules: list[RuleFile]
    telling: Telling


def main(args: Mapping[str, Any]) -> int:
    """Print every message that would have been sent, or what two rule files differ in."""
    how = render.look(args)
    settings = rulecheck.read_settings(args)
    named = rulecheck.existing(args["--rules"]) or ruleset.configured_file(settings)
    files = [rulecheck.in_force(settings, named)]
    if args["--diff"] is not None:
        files.append(rulecheck.in_force(settings, rulecheck.existing(args["--diff"])))
    where = place.find(args)
    known.require(where)
    watching = [rule for each in files for rule in each.rules]
    names = Names(lambda metric, labels: _shape(watching, metric, labels))
    with rollups.opened(where) as db:
        is_live = where.service_pid() is not None
        past = Past(db, where.data_dir / "archive", is_live, Quiet(watching), names)
        newest_s = query.newest_s(db) or times.now_ns() // NS
        asked = Asked(*times.span_s(args, newest_s), files, _telling(settings))
        if asked.end_s <= asked.start_s:
            raise UsageError("--to must be after --from")
        warmup_s = _warmup_s(watching)
        trials, stretches = _replay(past, asked, warmup_s)
    found = [_sent(trial, asked) for trial in trials]
    rows = [*_merged(found, [_doubtful(trial, stretches) for trial in trials])]
    if how.json:
        render.json_rows(_row(each, len(trials) > 1) for each in rows)
    elif rows:
        _show(rows, len(trials) > 1, how)
    _notes(rows, stretches, past, asked, how)
    return 0


def _telling(settings: Settings) -> Telling:
    critical, warning = (
        settings.monitoring_repeat_critical_minutes,
        settings.monitoring_repeat_warning_minutes,
    )
    repeats = {
        **REPEATS_S,
        Severity.CRITICAL: [60.0 * minutes for minutes in critical],
        Severity.WARNING: [60.0 * minutes for minutes in warning],
    }
    return Telling(settings.monitoring_reopen_window_seconds, repeats)


def _replay(past: Past, asked: Asked, warmup_s: int) -> tuple[list[Trial], list[Stretch]]:
    trials = [Trial(rules) for rules in asked.rules]
    stretches = past.stretches(asked.start_s - warmup_s, asked.end_s)
    shown_s = time.monotonic()
    for number, stretch in enumerate(stretches):
        passed_over = past.passed_over
        for batch in past.batches(stretch):
            for trial in trials:
                trial.take(batch, past.names)
            if sys.stderr.isatty() and time.monotonic() - shown_s > _PROGRESS_S:
                shown_s = time.monotonic()
                at = times.show_ns(int(batch.times_ns[-1]), precision="minutes")
                print(f"\rreplayed until {at}", end="", file=sys.stderr, flush=True)
        if past.passed_over != passed_over:  # its members said they were whole
            stretches[number] = replace(stretch, exact=False)
    if sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    for trial in trials:
        trial.finish()
    return trials, stretches


def _shape(rules: Sequence[Rule], metric: str, labels: Mapping[str, str]) -> Shape | None:
    watching = [
        rule
        for rule in rules
        if rule.fits(metric, labels) or metric == rule.per or metric == rule.when
    ]
    return Shape(watching) if watching else None


def _warmup_s(rules: Sequence[Rule]) -> int:
    """How long before the range rules must have seen records to know its first second."""
    return min(_LONGEST_WARMUP_S, max((round(_reach_s(rule)) for rule in rules), default=0))


def _reach_s(rule: Rule) -> float:
    """How far back what a rule says now can rest."""
    silence = max((level.to("s") for _, level in rule.levels), default=0.0)
    return rule.window_s + rule.for_s + (silence if rule.stat == (ABSENT,) else 0.0)


def _sent(trial: Trial, asked: Asked) -> list[Sent]:
    start_ns, end_ns = asked.start_s * NS, asked.end_s * NS
    inside = [each for each in trial.transitions if each.at_ns < end_ns]
    return [one for one in messages(inside, asked.telling, end_ns) if one.at_ns >= start_ns]


def _doubtful(trial: Trial, stretches: Sequence[Stretch]) -> "Doubt":
    reach_s = {rule.name: _reach_s(rule) for rule in trial.rules.rules}
    return Doubt(reach_s, [each for each in stretches if not each.exact])


@dataclass(frozen=True)
class Doubt:
    """Tells which messages rest on rollups."""

    reach_s: Mapping[str, float]
    approximate: Sequence[Stretch]

    def exact(self, one: Sent) -> bool:
        """Whether all that the rule looked at were raw records."""
        since_s = one.at_ns / NS - self.reach_s.get(one.rule, 0.0)
        return not any(
            each.start_s * NS < one.at_ns and since_s < each.end_s for each in self.approximate
        )


@dataclass(frozen=True)
class Shown:
    """A message, whether it is exact, and with which of two rule files it is sent."""

    sent: Sent
    exact: bool
    side: str = BOTH


def _merged(found: Sequence[list[Sent]], doubts: Sequence[Doubt]) -> Iterator[Shown]:
    """The messages of one trial, or of two with what they have in common once, by time."""
    if len(found) == 1:
        yield from (Shown(one, doubts[0].exact(one)) for one in found[0])
        return
    keys = [{_key(one) for one in several} for several in found]
    shown = [
        Shown(one, doubts[0].exact(one), BOTH if _key(one) in keys[1] else FIRST)
        for one in found[0]
    ]
    shown += [
        Shown(one, doubts[1].exact(one), SECOND) for one in found[1] if _key(one) not in keys[0]
    ]
    yield from sorted(shown, key=lambda each: each.sent.at_ns)


def _key(one: Sent) -> tuple[Any, ...]:
    return one.at_ns, one.fingerprint, one.why, one.state, one.severity


def _row(each: Shown, compared: bool) -> Row:
    row = {**each.sent.row(), "exact": each.exact}
    return {**row, "rules": each.side} if compared else row


def _show(rows: Sequence[Shown], compared: bool, how: Look) -> None:
    columns = (Column("", whole=True), *_COLUMNS) if compared else _COLUMNS
    cells = [_cells(each, how) for each in rows]
    if compared:
        cells = [[_MARKS[each.side], *one] for each, one in zip(rows, cells, strict=True)]
    render.table(how, columns, cells)


def _cells(each: Shown, how: Look) -> list[Cell]:
    one = each.sent
    return [
        times.show_ns(one.at_ns, utc=how.utc),
        Styled(one.severity.word, one.severity.word),
        one.why,
        one.text,
        render.labels(one.labels),
        "records" if each.exact else "rollups ~",
    ]


def _notes(
    rows: Sequence[Shown], stretches: Sequence[Stretch], past: Past, asked: Asked, how: Look
) -> None:
    """What was replayed, how well, and what can't be: on stderr."""
    counts = Counter(each.side for each in rows)
    since, until = (times.show_s(at, utc=how.utc) for at in (asked.start_s, asked.end_s))
    if len(asked.rules) > 1:
        only = f"{counts[FIRST]} only with the first, {counts[SECOND]} only with the second"
        render.note(f"{counts[BOTH]} messages with both rule files, {only}, {since} to {until}")
    else:
        render.note(f"{len(rows)} messages from {since} to {until}")
    inside = [each for each in stretches if each.end_s > asked.start_s]
    exact = sum(each.records for each in inside if each.exact)
    total = sum(each.records for each in inside)
    if not total:
        render.note("nothing was recorded in that time: see `tickwatch metrics show`")
    elif exact < total:
        share = render.share(exact, total)
        render.note(f"raw records are complete for {share} of {total:,}: ~ rests on rollups")
    if past.trouble:
        render.note(f"{past.passed_over} damaged members or lines of day files were passed over")
    rules = {rule.name for files in asked.rules for rule in files.rules}
    own = {rule.name for files in asked.rules for rule in files.rules if rule.metric in OWN_METRICS}
    if own and rules:
        render.note(f"not in any history, so not replayed: {', '.join(sorted(own))}")
