"""Leaving records out: what stays says exactly what went, and how much may stay."""

import logging
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aggregator.history import budget, handover, thinning
from aggregator.history.budget import Budget
from aggregator.history.thinning import ROW

rows = st.builds(
    lambda pairs: np.array(
        [
            (0, series, seq, seq, value, skipped)
            for seq, (series, value, skipped) in enumerate(pairs)
        ],
        ROW,
    ),
    st.lists(st.tuples(st.integers(-2, 6), st.floats(-9, 9), st.integers(0, 5)), max_size=60),
)


def weights(some: Any) -> Counter[int]:
    """Per series how many records the rows stand for."""
    found: Counter[int] = Counter()
    for series, skipped in zip(some["series"].tolist(), some["skipped"].tolist(), strict=True):
        found[series] += 1 + skipped
    return found


@given(rows, st.integers(1, 9), st.floats(-9, 9), st.floats(-9, 9))
def test_thinning_keeps_counts_order_and_all_beyond_a_level(
    some: Any, nth: int, low: float, high: float
) -> None:
    """Per series 1 + skipped adds up to what came; records beyond a level all stay."""
    levels = {1: (low, high), 2: (-np.inf, high)}
    beyond = thinning.beyond(some, levels)
    kept = thinning.every_nth(some, nth, beyond)
    assert weights(kept) == weights(some)
    assert np.all(np.diff(kept["seq"]) > 0)
    assert set(some["seq"][beyond].tolist()) <= set(kept["seq"].tolist())
    expected = [
        bool((value <= low or value >= high) if series == 1 else series == 2 and value >= high)
        for series, value in zip(some["series"].tolist(), some["value"].tolist(), strict=True)
    ]
    assert beyond.tolist() == expected
    for series in set(some["series"].tolist()):
        mine = some["seq"][some["series"] == series].tolist()
        assert set(mine[::nth]) <= set(kept["seq"].tolist())


@given(rows, st.integers(1, 9))
def test_keeping_the_newest_keeps_counts_and_order(some: Any, each: int) -> None:
    """The last of every series stay, in the order in which they came."""
    kept = thinning.newest(some, each)
    assert weights(kept) == weights(some)
    assert np.all(np.diff(kept["seq"]) > 0)
    for series in set(some["series"].tolist()):
        mine = some["seq"][some["series"] == series].tolist()
        assert kept["seq"][kept["series"] == series].tolist() == mine[-each:]


def test_series_numbers_may_be_large() -> None:
    """Sorting is exact beyond 16 bits as well."""
    some = np.zeros(4, ROW)
    some["series"] = [70_000, 1, 70_000, 1]
    some["seq"] = range(4)
    assert thinning.newest(some, 1)["seq"].tolist() == [2, 3]


def test_room_made_meanwhile_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that came when all was full is handed over whole if all was taken just now."""
    monkeypatch.setattr(handover, "MAX_PENDING", 4)
    queue = handover.Handover()
    for start in (0, 3, 6):
        seqs = np.arange(start, start + 3)
        batch = handover.Batch(0, seqs % 2, seqs, seqs, seqs.astype(float))
        if start == 3:
            monkeypatch.setattr(type(queue), "waiting", property(lambda _: 4))
            queue._pending.clear()
        queue.put(batch)
    assert [len(each.seqs) for each in queue._pending] == [3]
    assert queue._squeezed[0]["seq"].tolist() == [7, 8]


class Time:
    """A clock that stands until it is set."""

    def __init__(self) -> None:
        self.now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


def test_the_budget_follows_a_slow_disk(caplog: pytest.LogCaptureFixture) -> None:
    """Four fifths of what the disk was seen to take, and no more than the budget; the log says when
    thinning begins and when it has been over for a while."""
    caplog.set_level(logging.INFO)
    clock = Time()
    limited = Budget(1000, clock)
    assert limited.rate == 1000
    assert limited.nth(5000, 0, lambda: 0) == 1
    limited.spent(5000, 50.0)
    assert limited.rate == 80
    limited.spent(100, 50.0)  # too few to tell
    assert limited.rate == 80
    limited.spent(5000, 1.0)
    assert limited.rate == 1000
    clock.now_s += 1.5  # the debt is one second's worth, so there is credit for 500
    assert limited.nth(1000, 0, lambda: 0) == 2
    assert limited.nth(1000, 0, lambda: 400) == 6
    assert limited.nth(1000, 9000, lambda: 0) == 20
    clock.now_s += 100
    assert limited.nth(10, 0, lambda: 0) == 1
    assert [each.levelname for each in caplog.records] == ["WARNING", "INFO"]
    assert budget._QUIET_S < 100
