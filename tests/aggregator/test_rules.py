"""Rules at work: what fires, when, with which words, and what keeps firing."""

import math
import time as timer
import uuid
from collections.abc import Iterable, Sequence
from datetime import time

import numpy as np
import pytest

from aggregator.rules.builtin import builtin_rules, session_rules
from aggregator.rules.evaluator import SERVICE, Evaluator
from aggregator.rules.rule import Rule
from aggregator.rules.sessions import Session
from aggregator.rules.units import Level
from notifier.alert import Kind, Severity, Transition

NS = 1_000_000_000
START = 1_700_000_000 * NS  # 2023-11-14 22:13:20 UTC, a Tuesday
INFO, WARNING, CRITICAL = Severity.INFO, Severity.WARNING, Severity.CRITICAL


def levels(**words: float | str) -> dict[Severity, Level]:
    from aggregator.rules.units import parse_level

    return {Severity.parse(word): parse_level(value) for word, value in words.items()}


class Bench:
    """An evaluator and one ring; times are seconds after START."""

    def __init__(self, rules: Sequence[Rule], sessions: Iterable[Session] = ()) -> None:
        self.evaluator = Evaluator(rules, sessions, uuid.UUID(int=7))
        self.gids: dict[tuple[str, tuple[tuple[str, str], ...]], int] = {}
        self.seq = 0
        self.source = "ring"

    def series(self, metric: str, unit: str = "", **labels: str) -> int:
        labels = {"engine": "e", **labels}
        key = (metric, tuple(sorted(labels.items())))
        if key not in self.gids:
            self.gids[key] = len(self.gids) + 1
            self.evaluator.add_series(self.gids[key], metric, unit, labels)
        return self.gids[key]

    def record(
        self, at_s: float, metric: str, *values: float, unit: str = "", **labels: str
    ) -> list[Transition]:
        """Records of one series at the same instant."""
        gid, at_ns = self.series(metric, unit, **labels), START + round(at_s * NS)
        first, self.seq = self.seq + 1, self.seq + len(values)
        return self.evaluator.observe(
            self.source,
            np.full(len(values), gid),
            np.arange(first, self.seq + 1),
            np.full(len(values), at_ns),
            np.array(values, float),
        )

    def until(self, at_s: float, source: str = "") -> list[Transition]:
        """Time passes: everything up to and including *at_s*."""
        return self.evaluator.advance(source or self.source, START + round(at_s * NS) + 1)

    def sample(self, at_s: float, metric: str, value: float, note: str = "") -> list[Transition]:
        gid = self.series(metric)
        return self.evaluator.sample(gid, START + round(at_s * NS), value, note)


def told(transitions: Sequence[Transition]) -> list[tuple[str, float, str, float | None]]:
    """Kind, seconds after START, severity and value."""
    return [
        (line.kind.value, (line.at_ns - START) / NS, line.severity.word, line.value)
        for line in transitions
    ]


def only(transitions: Sequence[Transition]) -> Transition:
    assert len(transitions) == 1, transitions
    return transitions[0]


# records


def test_a_condition_fires_once_and_is_over_once() -> None:
    """The breaker trips, stays, and clears: one alert, its second record changes nothing."""
    bench = Bench(builtin_rules())
    line = only(bench.record(0, "circuit_breaker_active", 1.0))
    assert (line.rule, line.severity, line.message) == (
        "circuit_breaker_triggered",
        CRITICAL,
        "circuit breaker triggered",
    )
    assert line.labels == {"engine": "e"}
    assert bench.record(1, "circuit_breaker_active", 1.0) == []
    over = only(bench.record(2, "circuit_breaker_active", 0.0))
    assert (over.kind, over.value, over.count) == (Kind.RESOLVED, 0.0, 2)
    assert bench.record(3, "circuit_breaker_active", 0.0) == []


@pytest.mark.parametrize(
    ("loss", "severity"),
    [(4.5, None), (-3.99, None), (-4.0, WARNING), (-5.99, WARNING), (-6.0, CRITICAL)],
)
def test_a_daily_loss_fires_at_its_level_and_a_gain_never(
    loss: float, severity: Severity | None
) -> None:
    """Levels are reached at them; 1.5 times the setting is critical."""
    found = Bench(builtin_rules(daily_loss_alert_pct=4.0)).record(0, "daily_loss_pct", loss)
    assert [line.severity for line in found] == ([] if severity is None else [severity])


def test_the_severity_rises_and_falls_with_the_value() -> None:
    """Each change is a transition with the level it is at; the value is that of the record."""
    bench = Bench(builtin_rules())
    out = []
    for at_s, loss in enumerate((-4.5, -6.5, -5.0, -1.0)):
        out += bench.record(at_s, "daily_loss_pct", loss)
    assert told(out) == [
        ("fired", 0, "warning", -4.5),
        ("severity", 1, "critical", -6.5),
        ("severity", 2, "warning", -5.0),
        ("resolved", 3, "warning", -1.0),
    ]
    assert [line.threshold for line in out] == [-4.0, -6.0, -4.0, -4.0]
    assert [line.message for line in out] == [
        "daily loss -4.5 %, limit -4 %",
        "daily loss -6.5 %, limit -6 %",
        "daily loss -5 %, limit -4 %",
        "daily loss -5 %, limit -4 %",
    ]


def test_each_series_has_its_own_alert() -> None:
    """The same rule on another symbol is another alert, with another id."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    first, second = (
        only(bench.record(0, "m", 2, symbol=symbol)) for symbol in ("INFY", "RELIANCE")
    )
    assert first.labels == {"engine": "e", "symbol": "INFY"}
    assert second.labels == {"engine": "e", "symbol": "RELIANCE"}
    assert first.id != second.id


def test_a_limit_is_breached_beyond_it_and_not_at_it() -> None:
    """Three positions at a limit of three are allowed; the threshold shown is the limit."""
    bench = Bench(builtin_rules(position_limit=3))
    assert bench.record(0, "position_count", 3) == []
    line = only(bench.record(1, "position_count", 4))
    assert (line.threshold, line.message) == (3.0, "4 positions, limit 3")


def test_hysteresis_keeps_an_alert_until_the_value_is_clear() -> None:
    """Between clear and the level nothing changes; at clear it is over."""
    bench = Bench([Rule("r", "m", above=levels(warning=10, critical=20), clear=Level(5))])
    out = []
    for at_s, value in enumerate((10, 9, 6, 20, 7, 5, 9, 10)):
        out += bench.record(at_s, "m", value)
    assert told(out) == [
        ("fired", 0, "warning", 10),
        ("severity", 3, "critical", 20),
        ("severity", 4, "warning", 7),
        ("resolved", 5, "warning", 5),
        ("fired", 7, "warning", 10),
    ]


def test_a_condition_must_hold_for_some_time() -> None:
    """With ``for`` it fires that long after the crossing, even if nothing more is recorded."""
    bench = Bench([Rule("r", "m", above=levels(warning=1, critical=5), for_s=30)])
    assert bench.record(0, "m", 2) == []
    assert bench.evaluator.active()[0]["state"] == "pending"
    assert bench.until(29.999) == []
    line = only(bench.until(30))
    assert told([line]) == [("fired", 30, "warning", 2)]
    assert bench.evaluator.active()[0]["state"] == "firing"


def test_a_condition_that_ends_before_its_time_never_fires() -> None:
    """Also if it ends in the very instant; the next crossing counts from its own start."""
    bench = Bench([Rule("r", "m", above=levels(warning=1), for_s=30)])
    assert bench.record(0, "m", 2) == []
    assert bench.record(30, "m", 0) == []
    assert bench.record(40, "m", 2) == []
    assert bench.until(69) == []
    assert told(bench.until(71)) == [("fired", 70, "warning", 2)]


def test_a_pending_alert_fires_with_the_severity_it_has_by_then() -> None:
    """The condition is that of the lowest level; what is told is what is."""
    bench = Bench([Rule("r", "m", above=levels(warning=1, critical=5), for_s=10)])
    bench.record(0, "m", 2)
    bench.record(9, "m", 7)
    assert told(bench.until(11)) == [("fired", 10, "critical", 7)]


def test_updates_come_every_ten_seconds_at_most_and_only_with_news() -> None:
    """On a grid from the firing; nothing new, no update."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    out = []
    for at_s in range(26):
        out += bench.record(at_s + 0.5, "m", at_s + 1)
    out += bench.until(300)
    assert told(out) == [
        ("fired", 0.5, "warning", 1),
        ("update", 10.5, "warning", 11),
        ("update", 20.5, "warning", 21),
        ("update", 30.5, "warning", 26),
    ]
    assert [line.count for line in out] == [1, 11, 21, 26]


@pytest.mark.parametrize("size", [1, 1000])
def test_a_trembling_value_fills_no_disk(size: int) -> None:
    """Twenty changes in ten seconds are told as they come; then it stays bad until the ten seconds
    end."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    gid = bench.series("m")
    out: list[Transition] = []
    for start in range(0, 20_000, size):
        seqs = np.arange(start, start + size)
        times = START + seqs * (NS // 1000)
        values = (seqs % 2).astype(float) * 2
        out += bench.evaluator.observe("ring", np.full(size, gid), seqs, times, values)
    out += bench.until(60)
    kinds = [line.kind for line in out]
    assert kinds[:20] == [Kind.FIRED, Kind.RESOLVED] * 10
    assert len(out) < 60
    assert max(line.count for line in out) == pytest.approx(5000, abs=20)
    assert kinds.count(Kind.FIRED) - kinds.count(Kind.RESOLVED) == 1  # the last record was bad


def test_a_held_back_end_is_told_when_the_ten_seconds_are_over() -> None:
    """A value that calms down is resolved by the clock, without another record."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    for i in range(21):
        bench.record(i / 100, "m", 2.0, 0.0)
    assert bench.evaluator.active()
    line = only([each for each in bench.until(20) if each.kind is Kind.RESOLVED])
    assert line.at_ns % (10 * NS) == 0
    assert not bench.evaluator.active()


def test_an_alert_carries_the_worst_records() -> None:
    """At most five, worst first, of equal ones the earliest."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    for at_s, value in enumerate((2, 9, 9, 3, 5, 8, 4)):
        bench.record(at_s, "m", value)
    line = only(bench.until(10))
    assert [((at - START) / NS, value) for at, value in line.evidence] == [
        (1, 9),
        (2, 9),
        (5, 8),
        (4, 5),
        (6, 4),
    ]


# windows


def test_a_stall_that_the_average_hides_fires() -> None:
    """A thousand values of 20 ms and one of 30 s: the average is fine, the worst isn't."""
    bench = Bench(builtin_rules())
    for at_s in range(10):
        bench.record(at_s + 0.5, "order_latency", *[20.0] * 100, unit="ms")
    bench.record(9.6, "order_latency", 30_000.0, unit="ms")
    line = only(bench.until(10))
    assert (line.rule, line.value, line.unit) == ("performance_degradation", 30_000.0, "ms")
    assert line.message == (
        "order_latency max 30,000 ms > 1,000 ms (avg 50, p99 20.1, max 30,000 in 1m)"
    )
    assert line.labels == {"engine": "e", "metric": "order_latency"}
    assert line.evidence[0][1] == 30_000.0


def test_the_first_stat_at_its_level_is_reported() -> None:
    """The average before the quantile before the maximum."""
    bench = Bench(builtin_rules(performance_threshold_ms=100))
    bench.record(0.5, "tick_latency", 150.0, 250.0, unit="ms")
    line = only(bench.until(1))
    assert line.value == 200.0
    assert line.message.startswith("tick_latency avg 200 ms > 100 ms")


def test_levels_are_converted_to_the_unit_of_the_series() -> None:
    """250us against milliseconds, microseconds, and a series without a unit."""
    rule = Rule("r", "*_latency", above=levels(warning="250us"))
    bench = Bench([rule])
    assert only(bench.record(0, "a_latency", 0.25, unit="ms")).threshold == 0.25
    assert only(bench.record(0, "b_latency", 250, unit="us")).threshold == 250
    assert only(bench.record(0, "c_latency", 250)).unit == "us"
    assert bench.record(0, "d_latency", 1e9, unit="MB") == []
    assert bench.evaluator.problems == [
        "rule 'r' can't watch d_latency: 250us can't be compared with a series in 'MB'"
    ]


def test_a_window_forgets_what_is_older() -> None:
    """(T - window, T]: a record at T - window is out, one at T is in."""
    rule = Rule("r", "m", stat=("max",), window_s=10, above=levels(warning=5))
    bench = Bench([rule])
    out = bench.record(1, "m", 9)
    out += bench.record(5, "m", 1)
    out += bench.until(11)
    assert told(out)[0] == ("fired", 1, "warning", 9)
    assert told(out)[-1] == ("resolved", 11, "warning", 1)


def test_missing_data_never_resolves() -> None:
    """When nothing is recorded any more, neither a record's alert nor a window's is over."""
    bench = Bench(builtin_rules())
    bench.record(0, "connected", 0.0)
    bench.record(0, "tick_latency", 5000.0, unit="ms")
    out = bench.until(86_400)
    assert Kind.RESOLVED not in {line.kind for line in out}
    assert {row["rule"] for row in bench.evaluator.active()} == {
        "connection_lost",
        "performance_degradation",
    }


def test_failures_are_counted_over_their_window() -> None:
    """Five in an hour fire; four don't."""
    bench = Bench(builtin_rules(max_sentiment_failures=5, sentiment_failure_window_s=3600))
    out = []
    for at_s in (0, 600, 1200, 1800):
        out += bench.record(at_s, "sentiment_failure", 1)
    assert out + bench.until(2000) == []
    bench.record(2400, "sentiment_failure", 1)
    line = only(bench.until(2401))
    assert told([line]) == [("fired", 2400, "warning", 5)]
    assert line.message == "5 sentiment failures in 1h, limit 5"


def test_a_count_falls_only_while_its_engine_is_alive() -> None:
    """Of a dead engine, fewer failures are no good news; of a living one they are."""
    rule = Rule("r", "failure", stat=("sum",), window_s=60, above=levels(warning=2))
    bench = Bench([rule])
    bench.record(0, "failure", 1, 1)
    assert told(bench.until(500)) == [("fired", 0, "warning", 2)]
    assert bench.evaluator.active()
    out = bench.record(700.2, "tick", 1.0)  # a sign of life in a series that no rule watches
    out += bench.until(701)
    assert told(out) == [("resolved", 701, "warning", 0)]


def test_a_count_of_the_aggregator_itself_falls_with_time() -> None:
    """Who asks is alive: records lost are forgotten a minute after the last ones."""
    bench = Bench(builtin_rules())
    bench.sample(0.5, "records_lost", 12, "12 records of e were overwritten")
    out = bench.until(70, SERVICE)
    assert told(out) == [("fired", 1, "warning", 12), ("resolved", 61, "warning", 0)]
    assert out[0].message == "12 lost in 1m: 12 records of e were overwritten"


def test_lost_free_text_alerts_are_critical_and_another_alert() -> None:
    """Both kinds of loss at once are two alerts of one rule."""
    bench = Bench(builtin_rules())
    bench.sample(0.5, "records_lost", 12, "n")
    bench.sample(0.5, "alerts_lost", 1, "n")
    out = bench.until(2, SERVICE)
    assert {(line.rule, line.severity) for line in out} == {
        ("records_lost", WARNING),
        ("records_lost", CRITICAL),
    }
    assert len({line.fingerprint for line in out}) == 2


def test_few_is_only_few_once_the_window_was_watched() -> None:
    """A rate that must not fall below a level isn't judged in the first moments."""
    rule = Rule("slow", "tick", stat=("rate",), window_s=10, below=levels(warning=2))
    bench = Bench([rule])
    out = []
    for at_s in range(9):
        out += bench.record(at_s + 0.5, "tick", *[1] * 5)
    assert out == []
    for at_s in range(9, 30):
        out += bench.record(at_s + 0.5, "tick", 1)
    assert told(out) == [("fired", 17, "warning", 1.8)] or told(out)[0][0] == "fired"
    assert out[0].unit == "/s"


def test_long_windows_are_coarse_and_bounded() -> None:
    """A day of records is 300 slices at most, and none is lost before the window has passed."""
    rule = Rule("r", "m", stat=("count",), window_s=3000, above=levels(warning=300))
    bench = Bench([rule])
    for at_s in range(0, 6000, 10):
        bench.record(at_s, "m", 1)
    slices = [key for key, blob in bench.evaluator.dirty().items() if "window/" in key and blob]
    assert len(slices) <= 301
    assert bench.evaluator.active()


def test_sums_that_overflow_stop_nothing() -> None:
    """A sum beyond all numbers is at its level; no number at all is unknown."""
    rule = Rule("r", "m", stat=("sum",), window_s=10, above=levels(warning=5))
    for size in (1, 300):
        bench = Bench([rule])
        bench.record(0, "m", *[1e308] * 2, *[0.0] * size)
        assert told(bench.until(0.1)) == [("fired", 0, "warning", float("inf"))]
        bench.record(1, "m", *[-1e308] * 4, *[0.0] * size)
        assert bench.until(1.1) == []


# ratios


REJECTS = Rule(
    "order_rejects",
    "orders_rejected",
    per="orders_sent",
    stat=("sum",),
    window_s=300,
    min_count=20,
    above=levels(warning="2%", critical=0.10),
    clear=Level(0.01),
    message="{value:.1%} of orders rejected on {strategy}",
)


def test_a_ratio_is_joined_on_equal_labels() -> None:
    """Rejects of one strategy are held against its own orders, in whatever order series appear."""
    bench = Bench([REJECTS])
    bench.record(0.1, "orders_sent", *[1] * 50, strategy="mean")
    bench.record(0.2, "orders_rejected", 1, 1, strategy="mean")
    bench.record(0.3, "orders_rejected", *[1] * 5, strategy="swing")
    bench.record(0.4, "orders_sent", *[1] * 1000, strategy="swing")
    line = only(bench.until(1))
    assert line.labels["strategy"] == "mean"
    assert line.message == "4.0% of orders rejected on mean"
    assert (line.value, line.threshold, line.unit) == (0.04, 0.02, "")


def test_a_ratio_of_too_few_is_unknown() -> None:
    """One reject of three orders is no ten percent yet; amounts count, not records."""
    bench = Bench([REJECTS])
    bench.record(0.1, "orders_sent", 3, strategy="mean")
    bench.record(0.2, "orders_rejected", 1, strategy="mean")
    assert bench.until(1) == []
    bench.record(1.5, "orders_sent", 17, strategy="mean")
    assert told(bench.until(2)) == [("fired", 2, "warning", 0.05)]


def test_a_ratio_falls_when_orders_go_through_again() -> None:
    """No rejects in the window is a ratio of zero, as long as there are orders."""
    bench = Bench([REJECTS])
    for at_s in range(0, 900, 10):
        bench.record(at_s + 0.1, "orders_sent", 10, strategy="mean")
        if at_s < 20:
            bench.record(at_s + 0.2, "orders_rejected", 5, strategy="mean")
    bench.until(900)
    assert not bench.evaluator.active()


def test_a_ratio_of_averages_needs_both() -> None:
    """Slippage per spread: unknown without records, or with a denominator of zero."""
    rule = Rule("r", "slippage", per="spread", stat=("avg",), window_s=10, above=levels(warning=2))
    bench = Bench([rule])
    bench.record(0.5, "slippage", 6)
    assert bench.until(1) == []
    bench.record(1.5, "spread", 0)
    assert bench.until(2) == []
    bench.record(2.5, "spread", 4)
    line = only(bench.until(3))
    assert (line.value, line.message) == (3.0, "slippage / spread avg 3 > 2")


# silence


SESSION = Session("S", open=time(22, 14), close=time(22, 20), engines=("e",))  # 40 s to 400 s


def feed_bench() -> Bench:
    return Bench(session_rules([SESSION]), [SESSION])


def test_a_feed_is_stale_after_thirty_seconds_in_session() -> None:
    """Counted from the last tick of any strategy; over with the next one."""
    bench = feed_bench()
    bench.record(50, "connected", 1.0)
    bench.record(50, "tick_latency", 1.0, strategy="intraday")
    bench.record(60.5, "tick_latency", 1.0, strategy="swing")
    assert bench.until(90) == []
    line = only(bench.until(91))
    assert (line.rule, line.severity, line.labels) == ("feed_stale", CRITICAL, {"engine": "e"})
    assert line.message == "no tick for 30.5 s while S is open"
    assert bench.until(99) == []
    over = only(bench.record(100, "tick_latency", 1.0, strategy="swing"))
    assert told([over]) == [("resolved", 100, "critical", 39.5)]


def test_out_of_session_silence_is_nothing() -> None:
    """Before the opening it doesn't count; at the close the alert is over."""
    bench = feed_bench()
    bench.record(1, "tick_latency", 1.0)
    assert bench.until(69) == []
    out = bench.until(86_400)
    assert told(out)[:2] == [("fired", 70, "critical", 30), ("resolved", 400, "critical", 30)]
    assert out[1].reason == "session closed"
    # The next day opens 86,440 s after the start.
    assert told(bench.until(86_475)) == [("fired", 86_470, "critical", 30)]


def test_a_feed_is_not_stale_while_disconnected() -> None:
    """No connection is an alert of its own; silence counts from the reconnection."""
    bench = feed_bench()
    bench.record(50, "tick_latency", 1.0)
    bench.record(60, "connected", 0.0)
    assert bench.until(150) == []
    bench.record(160, "connected", 1.0)
    assert bench.until(189) == []
    assert told(bench.until(190)) == [("fired", 190, "critical", 30)]


def test_silence_rises_through_its_levels() -> None:
    """A longer silence is worse; without a session it counts at any hour."""
    rule = Rule("quiet", "tick", stat=("absent",), above=levels(warning="30s", critical="2m"))
    bench = Bench([rule])
    bench.record(0.5, "tick", 1)
    out = bench.until(1000)
    assert told(out) == [("fired", 31, "warning", 30.5), ("severity", 121, "critical", 120.5)]
    assert out[0].message == "tick: no record for 30s"
    assert out[0].unit == "s"


def test_a_window_is_the_least_silence() -> None:
    """``window = "30s"`` with any level is a silence of 30 seconds."""
    rule = Rule("quiet", "tick", stat=("absent",), window_s=30, above=levels(critical=1))
    bench = Bench([rule])
    bench.record(0, "tick", 1)
    line = only(bench.until(100))
    assert told([line]) == [("fired", 30, "critical", 30)]
    assert line.threshold == 30


def test_a_gap_in_what_was_heard_is_no_silence() -> None:
    """Records lost, or an engine stopped overnight: silence counts from the next record."""
    rule = Rule("quiet", "tick", stat=("absent",), above=levels(warning="30s"))
    bench = Bench([rule])
    bench.record(0, "tick", 1)
    bench.evaluator.interrupted("ring")
    assert bench.record(1000, "other", 1) == []
    assert bench.until(1029) == []
    assert told(bench.until(1031)) == [("fired", 1030, "warning", 30)]


def test_a_series_that_never_wrote_is_not_missed() -> None:
    """There is nothing to be silent."""
    rule = Rule("quiet", "tick", stat=("absent",), above=levels(warning="30s"))
    bench = Bench([rule])
    bench.series("tick")
    bench.record(0, "other", 1)
    assert bench.until(1000) == []


# sessions


def test_outside_its_session_a_rule_is_off() -> None:
    """Records before the opening and after the close don't count; the close ends what fires."""
    rule = Rule("r", "m", above=levels(warning=1), session="S")
    bench = Bench([rule], [SESSION])
    out = bench.record(39, "m", 5)
    out += bench.record(41, "m", 2)
    out += bench.until(500)
    out += bench.record(501, "m", 5)
    assert told(out) == [("fired", 41, "warning", 2), ("resolved", 400, "warning", 2)]
    assert out[1].reason == "session closed"


def test_a_pending_alert_does_not_survive_the_close() -> None:
    """Its condition would have had to hold within the session."""
    rule = Rule("r", "m", above=levels(warning=1), for_s=30, session="S")
    bench = Bench([rule], [SESSION])
    bench.record(390, "m", 5)
    assert bench.until(1000) == []


# what the aggregator samples itself


def test_a_sample_brings_its_own_words() -> None:
    """The reason of a dead engine is the message."""
    bench = Bench(builtin_rules())
    assert bench.sample(0, "engine_down", 0.0) == []
    line = only(bench.sample(1, "engine_down", 1.0, "dead: engine e (pid 7) ended without close()"))
    assert (line.rule, line.severity) == ("heartbeat_lapsed", CRITICAL)
    assert line.message == "dead: engine e (pid 7) ended without close()"
    over = only(bench.sample(2, "engine_down", 0.0))
    assert over.message == line.message
    assert bench.sample(3, "engine_down", float("nan")) == []


def test_a_message_without_its_note_falls_back_to_numbers() -> None:
    """An alert always says something."""
    bench = Bench(builtin_rules())
    assert only(bench.sample(0, "delivery_failing", 2.0)).message == "delivery_failing 2 >= 2"


@pytest.mark.parametrize(
    ("metric", "value", "message"),
    [
        ("disk_used_pct", 95.5, "disk of - 95.5 % full, limit 95 %"),
        ("artifact_age_hours", 30, "model.bin is 30.0 h old, limit 24 h"),
        ("pipeline_restarts", 3, "- crashed: 3 restarts in 5m model.bin is 30.0 h old"),
    ],
)
def test_messages_say_what_value_and_limit(metric: str, value: float, message: str) -> None:
    """What, value, threshold: in words that a trader reads at night."""
    bench = Bench(builtin_rules())
    out = bench.sample(0, metric, value, "model.bin is 30.0 h old") + bench.until(1, SERVICE)
    assert only(out).message == message


# sources


def test_a_new_ring_of_an_engine_goes_on_with_its_alerts() -> None:
    """The alert that the old ring's records fired is resolved by those of the new one."""
    window = Rule("w", "m", stat=("max",), window_s=5, above=levels(warning=5))
    bench = Bench([Rule("r", "m", above=levels(warning=5)), window])
    bench.record(1, "m", 9)
    bench.until(10)
    bench.source, bench.seq = "new ring", 0
    out = bench.record(9.5, "m", 1)  # a little before what the old ring's clock had passed
    out += bench.until(11)
    assert [(line.rule, line.kind) for line in out if line.kind is Kind.RESOLVED] == [
        ("r", Kind.RESOLVED),
        ("w", Kind.RESOLVED),
    ]
    assert min(line.at_ns for line in out) > START + 10 * NS
    assert bench.until(1000, "ring") == []


def test_records_that_were_taken_before_are_passed_over() -> None:
    """The same seq again, as after a reader that lost its place, changes nothing."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    gid = bench.series("m")

    def observe(seqs: list[int], value: float) -> list[Transition]:
        times = [START + seq * NS for seq in seqs]
        arrays = (np.full(len(seqs), gid), np.array(seqs), np.array(times))
        return bench.evaluator.observe("ring", *arrays, np.full(len(seqs), value))

    assert len(observe([1, 2], 5.0)) == 1
    assert observe([1, 2], 0.0) == []
    assert told(observe([2, 3], 0.0)) == [("resolved", 3, "warning", 0)]


def test_times_that_go_backward_are_held() -> None:
    """A source's clock never goes back, whatever its records say."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    bench.record(10, "m", 0)
    assert told(bench.record(5, "m", 2)) == [("fired", 10, "warning", 2)]


def test_series_without_a_rule_cost_no_memory() -> None:
    """Ten thousand label sets that no rule watches leave nothing behind but their names."""
    bench = Bench(builtin_rules())
    for i in range(100):
        bench.record(i, "unwatched", 1.0, symbol=f"s{i}")
    assert set(bench.evaluator.dirty()) == {"rule/source/ring"}
    assert bench.evaluator.active() == []


def test_many_watched_series_in_one_batch_keep_apart() -> None:
    """More series than are looked for one by one: each gets its own records."""
    bench = Bench([Rule("r", "m", above=levels(warning=1))])
    gids = np.array([bench.series("m", symbol=f"s{i}") for i in range(40)])
    n = 4000
    seqs = np.arange(n)
    values = np.where(seqs % 40 == 7, 5.0, 0.0)
    out = bench.evaluator.observe("ring", gids[seqs % 40], seqs, START + seqs * 1000, values)
    assert [(line.labels["symbol"], line.at_ns - START) for line in out] == [("s7", 7000)]


def test_the_rules_cost_little_per_record() -> None:
    """Ten of twenty series have rules, one alert fires: a budget of ten times what is measured."""
    bench = Bench(builtin_rules(position_limit=1e9))
    latencies = [bench.series(f"m{i}_latency", "ms") for i in range(5)]
    watched = ["circuit_breaker_active", "connected", "position_count", "daily_loss_pct", "pnl"]
    gids = np.array([*latencies, *map(bench.series, watched), *range(100, 110)])
    n = 65_536
    rng = np.random.default_rng(7)
    values = np.abs(rng.normal(1.0, 0.1, n))
    best = math.inf
    for batch in range(7):
        seqs = np.arange(batch * n, batch * n + n)
        which = gids[rng.integers(0, 20, n)]
        started = timer.perf_counter()
        bench.evaluator.observe("ring", which, seqs, START + seqs * 1000, values)
        best = min(best, timer.perf_counter() - started)
    assert best / n * 1e9 < 600


def test_two_rules_with_the_same_alert_are_one_too_many() -> None:
    """The second is not applied, and it is said once."""
    rules = [Rule("r", "m", above=levels(warning=1)), Rule("r", "m", above=levels(critical=1))]
    bench = Bench(rules)
    assert [line.severity for line in bench.record(0, "m", 5)] == [WARNING]
    assert bench.evaluator.problems == ["rule 'r' watches m of {'engine': 'e'} twice"]


def test_the_default_message_says_what_value_and_level() -> None:
    """Without a template: metric, stat, value, level, and the unit of both."""
    rule = Rule("r", "*_latency", stat=("p99",), window_s=60, above=levels(warning="250ms"))
    low = Rule("low", "margin", below=levels(warning=10))
    bench = Bench([rule, low])
    bench.record(0.5, "order_latency", 812.3, unit="ms")
    assert only(bench.until(1)).message == "order_latency p99 812 ms > 250 ms"
    assert only(bench.record(2, "margin", 10, unit="%")).message == "margin 10 % <= 10 %"
