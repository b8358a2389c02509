"""Laws of the rules: batching, restarts, other sources and bad values change no transition."""

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aggregator.binning import bucket_numbers
from aggregator.rules import episode as episode_module
from aggregator.rules import evaluator as rules_module
from aggregator.rules.evaluator import Evaluator
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from aggregator.rules.windows import Window
from notifier.alert import Kind, Severity, Transition, decode, encode

NS = 1_000_000_000
START = 1_700_000_000 * NS  # 2023-11-14 22:13:20 UTC, a whole second
INSTALLATION = uuid.UUID(int=7)
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL
# Opens 40 s after the start and closes two minutes later, so that short runs cross both.
SESSION = Session("SHORT", open=time(22, 14), close=time(22, 16))


def levels(**words: float) -> dict[Severity, Level]:
    return {Severity.parse(word): Level(value) for word, value in words.items()}


RULES = (
    Rule("last", "a", above=levels(warning=3, critical=6)),
    Rule("hysteresis", "a", above=levels(info=2, warning=5), clear=Level(0)),
    Rule("pending", "a", above=levels(warning=3), for_s=2.5),
    Rule("low", "b", below=levels(warning=-2, critical=-4), clear=Level(1)),
    Rule("in_session", "b", above=levels(warning=2), session="SHORT"),
    Rule("window", "a", stat=("avg", "p99", "max"), window_s=5, above=levels(warning=4)),
    Rule("wild", "[ab]", stat=("min",), window_s=3, below=levels(warning=-3), for_s=1.5),
    Rule("sum", "c", stat=("sum",), window_s=8, above=levels(warning=4, critical=9)),
    Rule("rare", "c", stat=("count",), window_s=4, below=levels(warning=1)),
    Rule("coarse", "c", stat=("count",), window_s=900, above=levels(warning=6)),
    Rule("rate", "c", stat=("rate",), window_s=2, above=levels(warning=1.5), session="SHORT"),
    Rule("ratio", "c", per="d", stat=("sum",), window_s=6, min_count=2, above=levels(warning=0.5)),
    Rule("silent", "a", stat=("absent",), above=levels(warning=3, critical=20)),
    Rule(
        "stale",
        "[ad]",
        stat=("absent",),
        by=("desk",),
        when="up",
        session="SHORT",
        above=levels(critical=5),
    ),
)
METRICS = ("a", "b", "c", "d", "up", "unwatched")


@dataclass(frozen=True)
class Record:
    gid: int
    at_ns: int
    value: float
    seq: int = 0


def evaluator() -> Evaluator:
    made = Evaluator(RULES, [SESSION], INSTALLATION)
    add_all(made)
    return made


def add_all(made: Evaluator) -> None:
    for engine in (0, 1):
        for index, metric in enumerate(METRICS):
            made.add_series(engine * 10 + index + 1, metric, "", {"engine": f"e{engine}"})


def feed(made: Evaluator, records: Sequence[Record], source: str = "ring") -> list[Transition]:
    if not records:
        return []
    values = np.array([r.value for r in records])
    return made.observe(
        source,
        np.array([r.gid for r in records]),
        np.array([r.seq for r in records]),
        np.array([r.at_ns for r in records]),
        values,
        bucket_numbers(values) if len(records) % 2 and np.isfinite(values).all() else None,
    )


STEPS = st.sampled_from(
    [0, 1, 1000, NS // 3, NS // 2, NS - 1, NS, 2 * NS, 5 * NS, 13 * NS, 61 * NS, 400 * NS]
)
VALUES = st.integers(-6, 9).map(float)


@st.composite
def histories(draw: st.DrawFn, size: int = 40) -> list[Record]:
    """Records of one ring in order: any series, many at one instant or around whole seconds."""
    steps = draw(st.lists(st.tuples(st.integers(1, len(METRICS)), STEPS, VALUES), max_size=size))
    records, at_ns = [], START + draw(st.sampled_from([0, 1, NS // 7, 35 * NS]))
    for seq, (gid, step, value) in enumerate(steps):
        at_ns += step
        records.append(Record(gid, at_ns, value, seq))
    return records


def reference(records: Sequence[Record], source: str = "ring") -> list[Transition]:
    """What comes out one by one, with nothing but records to move the clock until the end."""
    made, out = evaluator(), []
    for record in records:
        out += feed(made, [record], source)
    return out + made.advance(source, end_of(records))


def end_of(records: Sequence[Record]) -> int:
    return (records[-1].at_ns if records else START) + 700 * NS + 1


@pytest.fixture(params=["arrays", "one by one", "trembling"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small batches take the way of large ones too; and alerts are held back early."""
    if request.param != "one by one":
        monkeypatch.setattr(rules_module, "_FEW", 0)
    if request.param == "trembling":
        monkeypatch.setattr(episode_module, "MOST_CHANGES", 2)


def check_turns(out: Sequence[Transition]) -> None:
    assert len({line.id for line in out}) == len(out)
    firing: set[str] = set()
    for line in out:
        assert (line.fingerprint in firing) is (line.kind is not Kind.FIRED), line
        if line.kind is Kind.FIRED:
            firing.add(line.fingerprint)
        elif line.kind is Kind.RESOLVED:
            firing.remove(line.fingerprint)


def still_firing(out: Sequence[Transition]) -> list[Transition]:
    last = {line.fingerprint: line for line in out}
    return [line for line in last.values() if line.kind is not Kind.RESOLVED]


SETTINGS = settings(max_examples=60, deadline=None)


@SETTINGS
@given(histories(), st.data())
def test_batching_does_not_change_transitions(records: list[Record], data: st.DataObject) -> None:
    """Any chunks, with time passing at any points up to the next record: the same transitions."""
    made, out, start = evaluator(), [], 0
    while start < len(records):
        end = data.draw(st.integers(start + 1, len(records)))
        out += feed(made, records[start:end])
        start = end
        last = records[start - 1].at_ns
        next_ns = records[start].at_ns if start < len(records) else last + 30 * NS
        for watermark in sorted(data.draw(st.lists(st.integers(last, next_ns), max_size=2))):
            out += made.advance("ring", watermark)
    out += made.advance("ring", end_of(records))
    assert out == reference(records)


@SETTINGS
@given(histories(), st.data())
def test_restart_anywhere_changes_nothing(records: list[Record], data: st.DataObject) -> None:
    """Killed after any record with an older checkpoint, and replayed from there: the same log."""
    log: list[Transition] = []
    stored: dict[str, bytes] = {}
    made, at, checkpoint, logged = evaluator(), 0, 0, 0
    for _ in range(data.draw(st.integers(1, 4))):
        cut = data.draw(st.integers(at, len(records)))
        log += feed(made, records[at:cut])
        if 0 < cut < len(records) and data.draw(st.booleans()):
            log += made.advance("ring", records[cut].at_ns)
        at = cut
        if data.draw(st.booleans()):
            for key, value in made.dirty().items():
                if value is None:
                    stored.pop(key, None)
                else:
                    stored[key] = value
            checkpoint, logged = at, len(log)
        if data.draw(st.booleans()):
            made = Evaluator(RULES, [SESSION], INSTALLATION)
            early = data.draw(st.booleans())
            if early:
                add_all(made)
            made.load(stored)
            for line in log[logged:]:
                made.fold(decode(encode(line)))
            if not early:
                add_all(made)
            at = checkpoint
            made_up = made.retire(made.orphans(), START)
            assert made_up == []
    log += feed(made, records[at:])
    log += made.advance("ring", end_of(records))
    assert log == reference(records)


@SETTINGS
@given(histories(), st.data())
def test_records_lost_over_a_restart_fire_nothing_twice(
    records: list[Record], data: st.DataObject
) -> None:
    """The ring was overwritten while nobody read: each alert still fires and resolves in turn."""
    checkpoint = data.draw(st.integers(0, len(records)))
    crash = data.draw(st.integers(checkpoint, len(records)))
    resume = data.draw(st.integers(checkpoint, len(records)))
    made = evaluator()
    log = feed(made, records[:checkpoint])
    stored = {key: value for key, value in made.dirty().items() if value is not None}
    beyond = feed(made, records[checkpoint:crash])
    made = evaluator()
    made.load(stored)
    for line in beyond:
        made.fold(decode(encode(line)))
    log += beyond + feed(made, records[resume:]) + made.advance("ring", end_of(records))
    check_turns(log)
    shown = {(row["rule"], *sorted(row["labels"].items())) for row in made.active()}
    assert shown >= {(line.rule, *sorted(line.labels.items())) for line in still_firing(log)}


@SETTINGS
@given(histories(), st.data())
def test_values_that_are_no_numbers_change_nothing(
    records: list[Record], data: st.DataObject
) -> None:
    """NaN and infinities between the records are passed over."""
    bad = st.sampled_from([float("nan"), float("inf"), float("-inf")])
    mixed: list[Record] = []
    for record in records:
        if data.draw(st.booleans()):
            mixed.append(replace(record, value=data.draw(bad)))
        mixed.append(record)
    renumbered = [replace(record, seq=seq) for seq, record in enumerate(mixed)]
    clean = [record for record in renumbered if np.isfinite(record.value)]
    made = evaluator()
    out = feed(made, renumbered) + made.advance("ring", end_of(records))
    assert out == reference(clean)


@SETTINGS
@given(histories(20), histories(20), st.data())
def test_interleaving_of_two_sources_changes_nothing_for_either(
    first: list[Record], second: list[Record], data: st.DataObject
) -> None:
    """However far one ring is ahead of the other, each gets the transitions it would get alone."""
    second = [replace(record, gid=record.gid + 10) for record in second]
    left = {"one": list(first), "two": list(second)}
    out: dict[str, list[Transition]] = {"one": [], "two": []}
    made = evaluator()
    while any(left.values()):
        name = data.draw(st.sampled_from([name for name, records in left.items() if records]))
        count = data.draw(st.integers(1, len(left[name])))
        out[name] += feed(made, left[name][:count], name)
        del left[name][:count]
    for name, records in (("one", first), ("two", second)):
        out[name] += made.advance(name, end_of(records))
    assert out["one"] == reference(first, "one")
    assert out["two"] == reference(second, "two")


@SETTINGS
@given(
    st.lists(st.floats(-1e9, 1e9).map(lambda v: v + 0.0), min_size=1, max_size=60),
    st.lists(st.integers(1, 60), max_size=4),
    st.sampled_from([1.0, -1.0]),
)
def test_a_window_is_the_same_to_the_last_bit_however_it_is_filled(
    values: list[float], cuts: list[int], sign: float
) -> None:
    """One by one or in chunks: sums, quantiles and worst records are equal, not just close."""
    stats = ("avg", "sum", "min", "max", "p50", "p999")
    single, chunks = Window(7, sign, stats), Window(7, sign, stats)
    times = np.arange(START + 1, START + 1 + len(values))
    for at_ns, value in zip(times.tolist(), values, strict=True):
        single.add_one(at_ns, value)
    ends = sorted({min(cut, len(values)) for cut in cuts} | {len(values)})
    start = 0
    for end in ends:
        chunks.add(times[start:end], np.array(values[start:end]))
        start = end
    assert chunks.values() == single.values()
    assert chunks.worst() == single.worst()
    assert chunks.saved() == single.saved()


@SETTINGS
@given(histories())
def test_transitions_of_an_alert_take_turns(records: list[Record]) -> None:
    """Fired, then changes, then resolved, and only then fired again; ids are never repeated."""
    out = reference(records)
    check_turns(out)
    assert out == sorted(out, key=lambda line: line.at_ns)
    updates: dict[str, int] = {}
    for line in out:
        if line.kind is Kind.UPDATE:
            assert line.at_ns - updates.get(line.fingerprint, -NS * 10) >= 10 * NS
            updates[line.fingerprint] = line.at_ns
