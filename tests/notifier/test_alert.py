"""Alerts and transitions: identity, times, and the line that stands for a transition."""

import json
import math
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.alert import (
    Ack,
    Alert,
    Kind,
    Severity,
    Transition,
    decode,
    encode,
    fingerprint,
    finite,
    parse_rfc3339,
    rfc3339,
    transition_id,
)

_FIRST_US = int(datetime(1, 1, 1, tzinfo=UTC).timestamp()) * 1_000_000
_LAST_US = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp()) * 1_000_000
_times = st.integers(_FIRST_US, _LAST_US).map(lambda us: us * 1000)
_text = st.text(max_size=20)
_finite = st.floats(allow_nan=False, allow_infinity=False)
_transitions = st.builds(
    Transition,
    id=_text,
    kind=st.sampled_from(Kind),
    at_ns=_times,
    rule=_text,
    labels=st.dictionaries(_text, _text, max_size=3),
    severity=st.sampled_from(Severity),
    value=st.none() | _finite,
    threshold=st.none() | _finite,
    unit=_text,
    message=_text,
    count=st.integers(0, 2**70),
    free_text=st.booleans(),
    announce=st.booleans(),
    again=st.booleans(),
    reason=_text,
    evidence=st.lists(st.tuples(_times, _finite), max_size=3).map(tuple),
    number=st.integers(0, 2**63),
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_text, inner, max_size=3),
    max_leaves=6,
)


def _line(**changes: Any) -> bytes:
    fields = {
        "n": 1,
        "id": "x",
        "kind": "fired",
        "at": "2026-01-31T09:15:00Z",
        "rule": "r",
        "labels": {},
        "severity": "warning",
    }
    return json.dumps(fields | changes).encode()


@given(_transitions)
def test_decoding_what_was_encoded_gives_the_transition_back(transition: Transition) -> None:
    """Nothing of a transition is lost or changed on its way through the log."""
    line = encode(transition)
    assert decode(line) == transition
    assert line.isascii()
    assert b"\n" not in line


@given(st.binary())
def test_any_bytes_decode_or_are_a_value_error(line: bytes) -> None:
    """No garbage in the log raises anything but ValueError in its reader."""
    try:
        decode(line)
    except ValueError:
        pass


@given(
    st.dictionaries(
        st.sampled_from(
            ["n", "id", "kind", "at", "rule", "labels", "severity", "value", "count", "evidence"]
        ),
        _json | st.just({"a": 1}) | st.just([["2026-01-31T09:15:00Z", None]]) | st.just(10**400),
    )
)
def test_any_json_in_any_field_decodes_or_is_a_value_error(changes: dict[str, Any]) -> None:
    """A line of the right shape with a wrong value in it raises nothing but ValueError."""
    try:
        transition = decode(_line(**changes))
    except ValueError:
        return
    assert decode(encode(transition)) == transition


@pytest.mark.parametrize(
    "changes",
    [
        {"n": -1},
        {"n": True},
        {"n": 1.0},
        {"count": math.inf},
        {"value": "12"},
        {"value": True},
        {"value": math.nan},
        {"value": 10**400},
        {"id": None},
        {"labels": {"a": 1}},
        {"labels": []},
        {"at": 5},
        {"at": "2026-01-31T09:15:00"},
        {"at": "9999-12-31T23:59:59-10:00"},
        {"severity": "worst"},
        {"severity": 3},
        {"kind": "acked"},
        {"evidence": [["2026-01-31T09:15:00Z", None]]},
        {"evidence": [1]},
    ],
)
def test_a_wrong_value_makes_a_line_bad(changes: dict[str, Any]) -> None:
    """What isn't plainly a transition isn't taken for one."""
    with pytest.raises(ValueError, match="not a transition"):
        decode(_line(**changes))


def test_a_deeply_nested_line_is_bad_and_not_fatal() -> None:
    """A line that exhausts the parser's stack is one bad line."""
    with pytest.raises(ValueError, match="not a transition"):
        decode(b"[" * 200_000)


def test_unknown_fields_are_ignored() -> None:
    """A reader survives a writer that is newer."""
    assert decode(_line(colour="red")) == decode(_line())


def test_numbers_that_json_has_not_are_left_out() -> None:
    """An infinite value is stored as no value, and such evidence not at all."""
    infinite = replace(decode(_line()), value=math.inf, evidence=((1000, math.nan), (2000, 1.5)))
    kept = decode(encode(infinite))
    assert (kept.value, kept.evidence) == (None, ((2000, 1.5),))
    assert (finite(None), finite(2.0), finite(-math.inf)) == (None, 2.0, None)


@given(_times)
def test_a_time_survives_its_text_to_the_microsecond(at_ns: int) -> None:
    """rfc3339 and parse_rfc3339 are inverse, without floating point in between."""
    text = rfc3339(at_ns)
    assert text is not None
    assert text.endswith("Z")
    assert parse_rfc3339(text) == at_ns
    assert len(text) == len("2026-01-31T09:15:00.000250Z")


def test_times_are_utc_with_microseconds() -> None:
    """The written form is fixed, an offset is understood, and what has none is refused."""
    assert rfc3339(1_769_850_900_000_250_999) == "2026-01-31T09:15:00.000250Z"
    assert rfc3339(None) is None
    assert parse_rfc3339("2026-01-31T14:45:00.00025+05:30") == 1_769_850_900_000_250_000
    with pytest.raises(ValueError, match="no offset: add Z"):
        parse_rfc3339("2026-01-31T14:45:00")
    with pytest.raises(ValueError, match="years 1 to 9999"):
        rfc3339(2**80)


def test_identity_is_rule_and_labels_in_any_order() -> None:
    """Severity, value and text aren't identity; the order of labels isn't either."""
    one = fingerprint("r", {"a": "1", "b": "2"})
    assert one == fingerprint("r", {"b": "2", "a": "1"})
    assert one != fingerprint("r", {"a": "2", "b": "1"})
    assert one != fingerprint("q", {"a": "1", "b": "2"})
    assert len(one) == 16
    transition = replace(decode(_line()), rule="r", labels={"b": "2", "a": "1"})
    assert transition.fingerprint == one
    assert replace(transition, severity=Severity.INFO, value=3.0).fingerprint == one


def test_a_transitions_id_depends_on_what_happened_alone() -> None:
    """Derived again after a crash it has the same id; another record or kind has another."""
    home = uuid.UUID(int=1)
    one = transition_id(home, "f", Kind.FIRED, "ring", 7)
    assert one == transition_id(home, "f", Kind.FIRED, "ring", 7)
    assert one != transition_id(home, "f", Kind.RESOLVED, "ring", 7)
    assert one != transition_id(home, "f", Kind.FIRED, "ring", 8)
    assert one != transition_id(uuid.UUID(int=2), "f", Kind.FIRED, "ring", 7)


def test_severities_are_ordered_words() -> None:
    """They compare by how bad it is and are written in lower case."""
    assert Severity.parse(" Critical ") is Severity.CRITICAL
    assert Severity.INFO < Severity.WARNING < Severity.CRITICAL
    assert Severity.WARNING.word == "warning"
    with pytest.raises(ValueError, match="use info, warning or critical"):
        Severity.parse("fatal")


def test_an_alerts_row_has_the_contracts_fields() -> None:
    """Names and forms of the row are fixed: others read them."""
    alert = Alert("id", "r", {"engine": "e"}, Severity.WARNING, "firing", 0, 1_000_000_000)
    row = alert.row()
    assert list(row) == [
        "id",
        "rule",
        "labels",
        "severity",
        "state",
        "message",
        "value",
        "threshold",
        "unit",
        "started_at",
        "last_seen_at",
        "resolved_at",
        "count",
        "ack",
    ]
    assert row["ack"] is None
    assert row["last_seen_at"] == "1970-01-01T00:00:01.000000Z"
    assert alert.fingerprint == fingerprint("r", {"engine": "e"})
    assert alert.row(Ack("asha", 0, None, "known"))["ack"] == {
        "by": "asha",
        "at": "1970-01-01T00:00:00.000000Z",
        "expires_at": None,
        "reason": "known",
    }
