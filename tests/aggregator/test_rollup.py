"""The rollups' laws: batching, merging and coarsening never change what they say."""

import itertools
import math
import sys
import time
from collections.abc import Callable, Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import histogram, rollup
from aggregator.binning import bucket_numbers, columns, ranks, tally
from aggregator.interval import average
from aggregator.rollup import Rollup, RollupBuffer, coarsen, merge

S = 1_000_000_000
Record = tuple[int, int, float]  # series, wall_ns, value

# Eighths of moderate size: sums of them are exact in any order, so that laws hold to the bit.
exact = st.integers(-8000, 8000).map(lambda eighths: eighths / 8)
records = st.lists(
    st.tuples(st.integers(1, 4), st.integers(0, 40).map(lambda tick: tick * 30 * S), exact),
    max_size=60,
)


def add(buffer: RollupBuffer, batch: Iterable[Record]) -> None:
    """Add records given as tuples; every other time with the buckets that the caller knows."""
    rows = list(batch)
    values = np.array([r[2] for r in rows], dtype=np.float64)
    buffer.add(
        np.array([r[0] for r in rows], dtype=np.int64),
        np.array([r[1] for r in rows], dtype=np.int64),
        values,
        bucket_numbers(values) if len(rows) % 2 and np.isfinite(values).all() else None,
    )


def rolled(batch: Iterable[Record], interval_s: int = 300) -> list[Rollup]:
    """Rollups of one batch."""
    buffer = RollupBuffer(interval_s)
    add(buffer, batch)
    return buffer.drain()


def expected(batch: Iterable[Record], interval_s: int = 300) -> list[Rollup]:
    """The same, record by record: what a rollup means."""
    found: dict[tuple[int, int], Rollup] = {}
    for series, at_ns, value in batch:
        start_s = at_ns // S // interval_s * interval_s
        one = Rollup(
            series,
            start_s,
            1,
            value,
            value,
            value,
            value,
            at_ns,
            value,
            at_ns,
            {histogram.bucket(value): 1},
        )
        key = (start_s, series)
        found[key] = merge(found[key], one) if key in found else one
    return [found[key] for key in sorted(found)]


@pytest.fixture(params=["small", "large"])
def sizes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways through the buffer: batches that wait for each other, and batches that don't."""
    if request.param == "large":
        monkeypatch.setattr(rollup, "WORTHWHILE", 1)
    return str(request.param)


@given(records)
def test_a_batch_is_rolled_up_like_its_records_one_by_one(batch: list[Record]) -> None:
    """Counts, sums, extremes, first and last by time then arrival, and every bucket."""
    assert rolled(batch) == expected(batch)


@given(records, st.lists(st.integers(0, 60), max_size=4))
def test_any_split_into_batches_gives_the_same_rollups(
    batch: list[Record], cuts: list[int]
) -> None:
    """Records of equal time included: the order of arrival decides, not the batch."""
    for worthwhile in (rollup.WORTHWHILE, 1):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rollup, "WORTHWHILE", worthwhile)
            buffer = RollupBuffer()
            edges = [0, *sorted(cuts), len(batch)]
            for begin, end in itertools.pairwise(edges):
                add(buffer, batch[begin:end])
            assert buffer.drain() == expected(batch)


@given(records, records)
def test_merging_rollups_equals_rolling_up_the_union(a: list[Record], b: list[Record]) -> None:
    """Deltas of two drains, merged, say the same as one drain of both."""
    buffer = RollupBuffer()
    add(buffer, a)
    first = buffer.drain()
    add(buffer, b)
    second = buffer.drain()
    assert coarsen([*first, *second], 300) == rolled([*a, *b])


single_series = st.lists(
    st.tuples(st.just(1), st.integers(0, 10**6), exact),
    min_size=1,
    max_size=20,
)


@given(single_series, single_series, single_series)
def test_merging_is_associative(a: list[Record], b: list[Record], c: list[Record]) -> None:
    """In the order of arrival, with records of equal time."""
    ra, rb, rc = rolled(a)[0], rolled(b)[0], rolled(c)[0]
    assert merge(merge(ra, rb), rc) == merge(ra, merge(rb, rc))


@given(
    st.lists(
        st.tuples(st.just(1), st.integers(0, 10**6), exact), min_size=2, unique_by=lambda r: r[1]
    )
)
def test_merging_is_commutative_where_times_differ(batch: list[Record]) -> None:
    """Records can arrive out of time order between rings; only equal times need the arrival."""
    a, b = rolled(batch[::2])[0], rolled(batch[1::2])[0]
    assert merge(a, b) == merge(b, a)


def test_of_equal_times_the_first_and_the_last_to_arrive_count() -> None:
    """Within a batch, between batches and between drains."""
    at_ns = 1000 * S
    batch = [(1, at_ns, 1.0), (1, at_ns, 2.0), (1, at_ns, 3.0)]
    one = rolled(batch)[0]
    assert (one.first, one.last) == (1.0, 3.0)
    merged = merge(rolled(batch[:2])[0], rolled(batch[2:])[0])
    assert (merged.first, merged.last) == (1.0, 3.0)


def test_records_out_of_time_order_keep_their_first_and_last(sizes: str) -> None:
    """A ring that was read late brings older records into an interval that has newer ones."""
    buffer = RollupBuffer()
    add(buffer, [(1, 200 * S, 2.0), (1, 100 * S, 1.0)])
    add(buffer, [(1, 50 * S, 0.5), (1, 250 * S, 2.5), (1, 10 * S, 0.25)])
    (one,) = buffer.drain()
    assert (one.first, one.first_ns, one.last, one.last_ns) == (0.25, 10 * S, 2.5, 250 * S)


@given(records, st.sampled_from([600, 900, 3600]))
def test_coarsening_equals_rolling_up_at_once(batch: list[Record], interval_s: int) -> None:
    """Twelve 5-minute rollups are the hour."""
    ordered = sorted(batch, key=lambda record: record[1])
    assert coarsen(rolled(ordered), interval_s) == expected(ordered, interval_s)


def test_coarsening_leaves_its_input_alone() -> None:
    """The same deltas go into three tiers."""
    deltas = rolled([(1, 10 * S, 1.0), (1, 400 * S, 2.0)])
    before = [(d.start_s, d.count, dict(d.buckets)) for d in deltas]
    coarsen(deltas, 3600)
    assert [(d.start_s, d.count, dict(d.buckets)) for d in deltas] == before


def test_values_that_are_not_finite_are_left_out_and_counted(sizes: str) -> None:
    """NaN and infinities reach no sum, extreme, bucket, first or last."""
    buffer = RollupBuffer()
    add(
        buffer, [(1, 1 * S, math.nan), (1, 2 * S, 5.0), (1, 3 * S, math.inf), (2, 4 * S, -math.inf)]
    )
    add(buffer, [(2, 5 * S, math.nan)])
    (one,) = buffer.drain()
    assert (one.series, one.count, one.total, one.first, one.last) == (1, 1, 5.0, 5.0, 5.0)
    assert buffer.nonfinite == 4


def test_huge_tiny_zero_and_negative_values_are_kept(sizes: str) -> None:
    """Sums stop at the largest double instead of turning into infinity, and on to NaN."""
    largest = sys.float_info.max
    values = [largest, largest, 5e-324, 0.0, -0.0, -largest]
    (one,) = rolled([(1, n * S, value) for n, value in enumerate(values)])
    assert (one.count, one.minimum, one.maximum) == (6, -largest, largest)
    assert math.isfinite(one.total)
    assert one.buckets == {
        -histogram.LARGEST: 1,
        0: 2,
        1: 1,
        histogram.LARGEST: 2,
    }
    twice = merge(one, one)
    assert math.isfinite(twice.total)
    assert one.minimum <= twice.average <= one.maximum


def test_an_average_never_leaves_the_extremes() -> None:
    """Three times 0.1 adds up to more than 0.3."""
    assert average(0.1 + 0.1 + 0.1, 3, 0.1, 0.1) == 0.1
    assert average(-0.1 - 0.1 - 0.1, 3, -0.1, -0.1) == -0.1


def test_a_drain_gives_deltas() -> None:
    """Nothing is given out twice, and nothing without records is given out."""
    buffer = RollupBuffer()
    assert buffer.drain() == []
    add(buffer, [(1, 1 * S, 1.0)])
    assert [r.count for r in buffer.drain()] == [1]
    assert buffer.drain() == []
    add(buffer, [(1, 2 * S, 7.0)])
    (one,) = buffer.drain()
    assert (one.count, one.first, one.buckets) == (1, 7.0, {histogram.bucket(7.0): 1})


def test_rollups_hold_plain_numbers() -> None:
    """SQLite stores numpy's integers as bytes."""
    (one,) = rolled([(1, 1 * S, 1.5)])
    fields = [getattr(one, name) for name in Rollup.__slots__ if name != "buckets"]
    fields += [*one.buckets, *one.buckets.values()]
    assert {type(field) for field in fields} == {int, float}


def test_the_callers_arrays_may_be_used_again(sizes: str) -> None:
    """A reader polls into the same memory again and again."""
    series, wall_ns, values = np.array([1]), np.array([1 * S]), np.array([1.0])
    buffer = RollupBuffer()
    buffer.add(series, wall_ns, values)
    values[0], wall_ns[0] = 9.0, 9 * S
    buffer.add(series, wall_ns, values)
    (one,) = buffer.drain()
    assert (one.first, one.last, one.total) == (1.0, 9.0, 10.0)


def test_fields_of_structured_records_can_be_added_as_they_are(sizes: str) -> None:
    """Strided views and narrow types are what a reader hands over."""
    batch = np.zeros(3, dtype=[("time", "i8"), ("value", "f8"), ("series", "u4"), ("flags", "u4")])
    batch["series"], batch["time"], batch["value"] = 7, [S, 2 * S, 3 * S], [1.0, 2.0, 3.0]
    buffer = RollupBuffer()
    buffer.add(batch["series"], batch["time"], batch["value"])  # type: ignore[arg-type]
    assert [(r.series, r.count, r.total) for r in buffer.drain()] == [(7, 3, 6.0)]


def test_scattered_times_and_ids_are_grouped_like_any_others(sizes: str) -> None:
    """A clock that jumped by decades, and ids far apart, cost time but no memory."""
    batch = [(1, -5 * S, 1.0), (10**12, 0, 2.0), (1, 4 * 10**9 * S, 3.0), (1, -4 * S, 4.0)]
    assert rolled(batch) == expected(batch)


def test_more_rollups_than_there_was_room_for_are_kept(sizes: str) -> None:
    """Series come into being while the buffer is in use."""
    batch = [(series, series * 7 * S, float(series)) for series in range(1, 1000)]
    buffer = RollupBuffer()
    add(buffer, batch[:10])
    add(buffer, batch[10:])
    assert buffer.drain() == expected(batch)


def test_small_batches_wait_for_each_other_but_not_for_ever() -> None:
    """Forty thousand records in tens: rolled up whenever enough of them wait."""
    batch = [(1 + n % 3, n * S // 100, float(n % 40)) for n in range(40_000)]
    buffer = RollupBuffer()
    for begin in range(0, len(batch), 10):
        add(buffer, batch[begin : begin + 10])
    assert buffer.drain() == expected(batch)


def test_memory_is_bounded_by_what_is_in_use_not_by_records() -> None:
    """Counts of equal buckets are added up long before the drain."""
    buffer = RollupBuffer()
    values = np.random.default_rng(5).lognormal(0.0, 2.0, 8192)
    series, wall_ns = np.ones(8192, dtype=np.int64), np.arange(8192) * 1000
    held = []
    for _ in range(1500):
        buffer.add(series, wall_ns, values)
        held.append(buffer._pairs._held)
    assert max(held) <= rollup._PAIRS
    assert buffer.drain()[0].count == 1500 * 8192


def test_the_bound_follows_the_buckets_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """More buckets than the bound: nothing is lost, and adding up doesn't happen every time."""
    monkeypatch.setattr(rollup, "_PAIRS", 8)
    monkeypatch.setattr(rollup, "WORTHWHILE", 1)
    batch = [(1 + n % 3, n * S, float(n % 40)) for n in range(240)]
    buffer = RollupBuffer()
    for begin in range(0, 240, 10):
        add(buffer, batch[begin : begin + 10])
    assert buffer.drain() == expected(batch)


def test_columns_of_different_lengths_are_refused() -> None:
    """Otherwise numpy would repeat a single value."""
    with pytest.raises(ValueError, match="2 series, 1 times, 2 values"):
        RollupBuffer().add(np.array([1, 1]), np.array([1]), np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="at least 1 second"):
        RollupBuffer(0)


def test_rollups_of_two_series_do_not_merge() -> None:
    """It would be a mistake of the caller's."""
    one, two = rolled([(1, S, 1.0), (2, S, 1.0)])
    with pytest.raises(ValueError, match="series 1 and 2"):
        merge(one, two)


@given(st.lists(st.integers(-(10**6), 10**6), min_size=1), st.integers(1, 40))
def test_columns_stand_for_the_values(values: list[int], rows: int) -> None:
    """Near to each other or far apart, few rows or many."""
    array = np.array(values, dtype=np.int64)
    meaning, column = columns(array, rows)
    assert meaning[column].tolist() == values
    assert (np.diff(meaning) > 0).all()


@given(st.lists(st.integers(0, 9), min_size=1, max_size=300), st.booleans())
def test_the_ends_of_each_group_are_found_wherever_they_are(rows: list[int], later: bool) -> None:
    """Also of a group that comes once, behind everything else."""
    distinct = sorted(set(rows))
    group = np.array([distinct.index(row) for row in rows])
    wall_ns = np.arange(len(rows)) * (1 if later else -1)
    first, last = rollup._ends(group, wall_ns, len(distinct))
    ordered = rows if later else rows[::-1]
    places = range(len(rows)) if later else range(len(rows) - 1, -1, -1)
    told = list(zip(ordered, places, strict=True))
    assert first.tolist() == [next(p for r, p in told if r == row) for row in distinct]
    assert last.tolist() == [next(p for r, p in reversed(told) if r == row) for row in distinct]


@given(st.lists(st.integers(-(2**62), 2**62) | st.integers(0, 9), min_size=1, max_size=30))
def test_ranks_give_back_the_values(values: list[int]) -> None:
    """Dense or sparse."""
    distinct, rank = ranks(np.array(values, dtype=np.int64))
    assert distinct[rank].tolist() == values
    assert distinct.tolist() == sorted(set(values))


@pytest.mark.parametrize("size", [10, 10**9])
def test_tallies_count_cells(size: int) -> None:
    """Dense or sparse."""
    cells, counts = tally(np.array([3, 9, 3, 0]), size)
    assert cells.tolist() == [0, 3, 9]
    assert counts.tolist() == [1, 2, 1]


def test_a_batch_of_records_is_rolled_up_fast_enough() -> None:
    """A tenth of the ten million records a second that one core must manage."""
    n = 65_536
    rng = np.random.default_rng(1)
    series = rng.integers(1, 21, n)
    walk = np.cumsum(rng.normal(0.0, 50.0, n))
    values = np.where(series % 4 == 0, walk, rng.lognormal(0.0, 0.5, n))
    wall_ns = np.arange(n) * 1000

    def seconds(work: Callable[[], object]) -> float:
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin

    buffer = RollupBuffer()
    best = min(seconds(lambda: buffer.add(series, wall_ns, values)) for _ in range(5))
    assert n / best > 1_000_000
