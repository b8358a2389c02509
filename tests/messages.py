"""Alert rows and messages for tests, and strategies that make hostile ones."""

import time
from typing import Any

from hypothesis import strategies as st

from notifier.plugin import Message

ROW: dict[str, Any] = {
    "id": "0b51d4a6-6a51-5d6f-9d4f-0f3a4c1f7a10",
    "rule": "performance_degradation",
    "labels": {"engine": "intraday", "metric": "order_latency", "strategy": "mean_reversion"},
    "severity": "critical",
    "state": "firing",
    "message": "avg 31 ms, p99 812 ms, max 1,904 ms",
    "value": 812.0,
    "threshold": 250.0,
    "unit": "ms",
    "started_at": "2026-01-30T06:10:03.000250Z",
    "last_seen_at": "2026-01-30T06:10:03.000250Z",
    "resolved_at": None,
    "count": 1,
    "ack": None,
}


def row(**changes: Any) -> dict[str, Any]:
    """An alert row: a firing latency alert, with changes."""
    return {**ROW, **changes}


def message(kind: str = "firing", within_s: float = 5.0, **fields: Any) -> Message:
    """A message about ``row()`` whose attempt may take *within_s* from now."""
    fields.setdefault("alert", row(state="resolved" if kind == "resolved" else "firing"))
    fields.setdefault("delivery", "7c9e6679-7425-50de-944b-e07fc1f90ae7")
    return Message(kind=kind, deadline=time.monotonic() + within_s, **fields)


# every character there is, lone surrogates included, with those that do harm more often
nasty = st.text(
    st.one_of(
        st.characters(),
        st.sampled_from("\r\n\t\0\x1b\x7f\x85\x9b\u2028\u2029\u202e\u200b<>&\"'*_`~@|\\ud800"),
        st.sampled_from(["\ud800", "\udfff", "\U0001f4a5", "\u200d", "\U000e0041"]),
    ),
    max_size=400,
)
numbers = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False), st.integers())
times = st.one_of(st.integers(0, 4_000_000_000), st.integers(2_500_000_000, 4_000_000_000)).map(
    lambda s: time.strftime("%Y-%m-%dT%H:%M:%S.000000Z", time.gmtime(s))
)


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    """Alert rows with any text, number and time in them."""
    started, ended = sorted([draw(times), draw(times)])
    state = draw(st.sampled_from(["firing", "resolved"]))
    return row(
        rule=draw(nasty),
        labels=draw(st.dictionaries(nasty, nasty, max_size=12)),
        severity=draw(st.sampled_from(["info", "warning", "critical"])),
        state=state,
        message=draw(nasty),
        value=draw(numbers),
        threshold=draw(numbers),
        unit=draw(st.one_of(st.sampled_from(["", "ms", "%"]), nasty)),
        started_at=started,
        last_seen_at=ended,
        resolved_at=ended if state == "resolved" else None,
        count=draw(st.integers(0, 10**9)),
    )


@st.composite
def messages(draw: st.DrawFn) -> Message:
    """Messages of every kind about any row."""
    kind = draw(st.sampled_from(["firing", "resolved", "digest", "test"]))
    alert = draw(rows())
    members = [alert, *draw(st.lists(rows(), max_size=7))] if kind == "digest" else []
    return Message(
        kind=kind,
        alert=alert,
        delivery=draw(st.one_of(st.uuids().map(str), nasty)),
        attempt=draw(st.integers(1, 100)),
        members=tuple(members),
        lines=tuple(draw(st.lists(nasty, max_size=3))),
        note=draw(nasty),
        repeat=draw(st.integers(0, 1000)),
        evidence=tuple(
            (at * 1_000_000_000, value)
            for at, value in draw(
                st.lists(st.tuples(st.integers(0, 4_000_000_000), st.floats()), max_size=5)
            )
        ),
    )
