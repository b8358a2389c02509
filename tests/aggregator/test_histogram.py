"""The histogram's laws: exact buckets, bounded error, merging, and a stored form that is kept."""

import math
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator import histogram
from aggregator.binning import bucket_numbers

finite = st.floats(allow_nan=False, allow_infinity=False)
histograms = st.dictionaries(
    st.integers(-histogram.LARGEST, histogram.LARGEST), st.integers(1, 2**40), max_size=50
)


def rank_value(values: list[float], q: str) -> float:
    """The value of rank ceil(q * n), in whole numbers."""
    return sorted(values)[max(1, math.ceil(Fraction(q) * len(values))) - 1]


def edges_of_every_octave() -> list[float]:
    """Every bucket edge that a double can have, with its neighbours, of both signs."""
    values = []
    for exponent in range(-1074, 1025):
        for edge in histogram.EDGES:
            try:
                at = math.ldexp(edge / 2**53, exponent)
            except OverflowError:
                at = sys.float_info.max
            for value in (math.nextafter(at, 0), at, math.nextafter(at, math.inf)):
                if math.isfinite(value):
                    values += [value, -value]
    return values


@given(finite)
def test_a_bucket_contains_its_values_exactly(value: float) -> None:
    """index = bucket - OFFSET satisfies 2**index < |value|**32 <= 2**(index + 1), in fractions."""
    number = histogram.bucket(value)
    if value == 0:
        assert number == 0
        return
    assert (number > 0) == (value > 0)
    index = abs(number) - histogram.OFFSET
    power = Fraction(abs(value)) ** histogram.PER_OCTAVE
    assert Fraction(2) ** index < power <= Fraction(2) ** (index + 1)


def test_powers_of_two_are_upper_edges() -> None:
    """1 belongs to (2**(-1/32), 1], OpenTelemetry's index -1; the next double to index 0."""
    assert histogram.bucket(1.0) == histogram.OFFSET - 1
    assert histogram.bucket(math.nextafter(1.0, 2.0)) == histogram.OFFSET
    assert histogram.bucket(-1.0) == -(histogram.OFFSET - 1)
    assert histogram.bucket(2.0) == histogram.OFFSET + 31


def test_numbers_of_buckets_are_kept_for_ever() -> None:
    """Stored histograms are merged with new ones: these numbers must never change."""
    values = [0.412, 20.0, 30_000.0, -1250.0, 5e-324, sys.float_info.max, -0.0]
    assert [histogram.bucket(v) for v in values] == [34329, 34508, 34845, -34699, 1, 67137, 0]


def test_vectorised_buckets_equal_the_scalar_ones_on_every_edge() -> None:
    """The lookup table is exact on and beside each edge of each octave, subnormal ones included."""
    values = edges_of_every_octave()
    numbers = bucket_numbers(np.array(values)).tolist()
    assert numbers == [histogram.bucket(value) for value in values]
    assert min(numbers) == -histogram.LARGEST
    assert max(numbers) == histogram.LARGEST


@given(st.lists(finite, min_size=1, max_size=50))
def test_vectorised_buckets_equal_the_scalar_ones(values: list[float]) -> None:
    """Whatever the mixture of signs, zeros and sizes."""
    numbers = bucket_numbers(np.array(values, dtype=np.float64)).tolist()
    assert numbers == [histogram.bucket(value) for value in values]


@given(finite, finite)
def test_bucket_numbers_rise_with_the_values(first: float, second: float) -> None:
    """So that a quantile can be found by adding up counts in the order of the numbers."""
    low, high = sorted((first, second))
    assert histogram.bucket(low) <= histogram.bucket(high)


@given(finite)
def test_bounds_enclose_the_values_of_a_bucket(value: float) -> None:
    """As doubles: rounding of an edge may make it equal to a value next to it."""
    low, high = histogram.bounds(histogram.bucket(value))
    assert low <= value <= high


def test_bounds_of_neighbours_meet() -> None:
    """There is no gap between buckets, across zero either."""
    for number in (-histogram.LARGEST, -40_000, 34_000, 34_369, 50_000, histogram.LARGEST - 1):
        assert histogram.bounds(number)[1] == histogram.bounds(number + 1)[0]
    assert histogram.bounds(-1) == (-5e-324, -5e-324)
    assert histogram.bounds(0) == (0.0, 0.0)
    assert histogram.bounds(histogram.LARGEST)[1] == sys.float_info.max


def test_bounds_of_no_bucket_are_refused() -> None:
    """A number that no double has."""
    with pytest.raises(ValueError, match=r"must be -67137\.\.67137"):
        histogram.bounds(histogram.LARGEST + 1)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_have_no_bucket(value: float) -> None:
    """They are masked before; a bucket for them would poison a quantile."""
    with pytest.raises(ValueError, match="only finite"):
        histogram.bucket(value)


def test_a_middle_is_within_the_relative_error() -> None:
    """At most 1.083 % off, at both ends of every bucket of normal numbers."""
    assert histogram.RELATIVE_ERROR < 0.010831
    allowed = histogram.RELATIVE_ERROR + 1e-12
    for value in edges_of_every_octave():
        if abs(value) >= sys.float_info.min:
            middle = histogram.middle(histogram.bucket(value))
            assert abs(middle - value) <= allowed * abs(value)


@given(
    st.lists(
        st.floats(-1e9, 1e9) | st.floats(0.01, 100.0) | st.just(0.0), min_size=1, max_size=300
    ),
    st.sampled_from(["0", "0.01", "0.5", "0.9", "0.99", "0.999", "1"]),
)
def test_a_quantile_is_within_the_error_of_the_exact_one(values: list[float], q: str) -> None:
    """Of the value with rank ceil(q * n), whatever the signs; the first and last are exact."""
    counts: dict[int, int] = {}
    for value in values:
        histogram.add_into(counts, {histogram.bucket(value): 1})
    answer = histogram.quantile(counts, float(q), min(values), max(values))
    exact = rank_value(values, q)
    if abs(exact) >= sys.float_info.min:
        assert abs(answer - exact) <= (histogram.RELATIVE_ERROR + 1e-12) * abs(exact)
    assert min(values) <= answer <= max(values)


def test_a_stall_shows_in_the_last_quantile() -> None:
    """1,000 values at 20 ms and one of 30 s: p99 says nothing, the p99.9 of 999 values does."""
    counts = {histogram.bucket(20.0): 998, histogram.bucket(30_000.0): 1}
    p50, p99, p999 = histogram.quantiles(counts, (0.5, 0.99, 0.999), 20.0, 30_000.0)
    assert p50 == pytest.approx(20.0, rel=0.011)
    assert p99 == pytest.approx(20.0, rel=0.011)
    assert p999 == 30_000.0


def test_ranks_are_whole_numbers_however_many_values_there_are() -> None:
    """0.9 of ten billion is rank 9,000,000,000, not one more for a rounding error."""
    low, high = histogram.bucket(1.5), histogram.bucket(9.0)
    counts = {low: 9_000_000_000, high: 1_000_000_000}
    assert histogram.quantile(counts, 0.9, 1.5, 9.0) == pytest.approx(1.5, rel=0.011)
    assert histogram.quantile(counts, 0.900001, 1.5, 9.0) == pytest.approx(9.0, rel=0.011)


def test_wrong_quantiles_are_refused() -> None:
    """Out of range, and of nothing."""
    with pytest.raises(ValueError, match=r"must be 0\.\.1"):
        histogram.quantile({1: 1}, 1.5, 0.0, 1.0)
    with pytest.raises(ValueError, match="without values"):
        histogram.quantile({}, 0.5, 0.0, 0.0)


@given(histograms, histograms, histograms)
def test_merging_is_associative_and_commutative(
    a: dict[int, int], b: dict[int, int], c: dict[int, int]
) -> None:
    """Merging early or late, in any order, is the same; the inputs stay as they are."""
    before = dict(a)
    assert histogram.merge(a, b) == histogram.merge(b, a)
    assert histogram.merge(histogram.merge(a, b), c) == histogram.merge(a, histogram.merge(b, c))
    assert a == before


@given(histograms)
def test_the_stored_form_gives_back_the_counts(counts: dict[int, int]) -> None:
    """Whatever the range of numbers and counts."""
    assert histogram.decode(histogram.encode(counts)) == counts


def test_the_stored_form_is_compact_and_is_kept() -> None:
    """Two bytes a bucket for neighbours with small counts; stored bytes stay readable for ever."""
    counts = dict.fromkeys(range(34_000, 34_100), 7)
    blob = histogram.encode(counts)
    assert len(blob) == 5 + 99 + 100
    kept = bytes.fromhex("11d0840000010501002c010200")
    assert histogram.decode(kept) == {34_000: 1, 34_001: 300, 34_006: 2}
    assert histogram.encode({34_000: 1, 34_001: 300, 34_006: 2}) == kept
    assert histogram.encode({}) == b""


@pytest.mark.parametrize("blob", [b"\x11", b"\x11\x00\x00\x00\x00", b"\x11" + b"\x00" * 7])
def test_a_cut_stored_form_is_refused(blob: bytes) -> None:
    """A number of bytes that can't be whole buckets."""
    with pytest.raises(ValueError, match="whole number of buckets"):
        histogram.decode(blob)


def test_a_later_stored_form_is_refused() -> None:
    """Its columns would be read as something else."""
    with pytest.raises(ValueError, match="version 2: this program reads 1"):
        histogram.decode(b"\x20" + b"\x00" * 20)


def test_reading_histograms_and_rollups_loads_no_numpy() -> None:
    """Commands start fast: the store, its queries and histograms are plain Python."""
    code = (
        "import sys\n"
        "before = set(sys.modules)\n"
        "import aggregator.store.store, aggregator.store.query\n"
        "heavy = {'numpy', 'pydantic', 'requests', 'smtplib', 'watchdog', 'multiprocessing'}\n"
        "print(sorted(heavy & set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
