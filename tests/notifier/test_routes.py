"""Routes and plugins as tables, and how far an alert has come on its route."""

import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.alert import Severity
from notifier.routes import (
    Route,
    Step,
    TableError,
    advance,
    duration_s,
    parse_routes,
    route_for,
)
from notifier.settings import NotifierSettings, parse_plugins

SECOND = 1_000_000_000


def test_the_first_route_that_matches_decides():
    """Rule, severity and labels match by pattern, one of several; a missing label is empty."""
    routes = parse_routes(
        [
            {"match": {"severity": "critical", "desk": "nifty*"}, "steps": [["phone"]]},
            {"match": {"rule": ["disk_*", "records_lost"]}, "steps": [["ops"]]},
        ]
    )

    def to(rule, severity, **labels):
        return route_for(routes, ("mail", "slack"), rule, labels, severity).steps

    assert to("slow", Severity.CRITICAL, desk="nifty-1") == (("phone",),)
    assert to("disk_full", Severity.CRITICAL, desk="bank") == (("ops",),)
    assert to("records_lost", Severity.INFO) == (("ops",),)


def test_an_alert_without_a_route_goes_to_everyone():
    """A gap in the routes must not lose an alert."""
    routes = [Route((("phone",),), {"desk": ("nifty",)})]
    assert route_for(routes, ("mail", "slack"), "slow", {}, Severity.INFO).steps == (
        ("mail", "slack"),
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("15s", 15),
        ("15m", 900),
        ("1.5h", 5400),
        ("250ms", 0.25),
        ("2d", 172_800),
        (7, 7),
        (0.5, 0.5),
    ],
)
def test_durations_have_units(text, seconds):
    """A bare number is seconds."""
    assert duration_s(text) == seconds


@pytest.mark.parametrize("wrong", ["", "7x", "-1s", "m", -1, True, None, float("nan"), "1 s s"])
def test_a_duration_that_is_none_says_what_is_allowed(wrong):
    """So that the operator needn't look it up."""
    with pytest.raises(ValueError, match="such as 15s or 15m"):
        duration_s(wrong)


def test_all_problems_of_all_routes_are_told_at_once():
    """Each with the number of its route, and a suggestion where one is near."""
    with pytest.raises(TableError) as error:
        parse_routes(
            [
                {"step": [["slack"]], "match": "critical"},
                {"steps": [["slak"], ["mail"]], "undelivered": "soon"},
                {"steps": [["slack"], ["mail"]]},
                {"steps": [], "match": {"severity": "fatal", "desk": 3}},
            ],
            ["slack", "mail"],
        )
    assert error.value.problems == [
        "route 1: no such key 'step'; did you mean 'steps'?",
        'route 1: steps: use lists of plugin names, such as [["slack"], ["email"]]',
        'route 1: match: use a table such as {severity = "critical"}',
        "route 2: steps: no plugin 'slak'; did you mean 'slack'?",
        "route 2: undelivered='soon': use a number and s, m, h or d, such as 15s or 15m",
        "route 2: steps after the first never start: set undelivered or unacked",
        "route 3: steps after the first never start: set undelivered or unacked",
        'route 4: steps: use lists of plugin names, such as [["slack"], ["email"]]',
        "route 4: match severity 'fatal': use info, warning, critical",
        "route 4: match desk: use a pattern, or a list of patterns",
    ]


TWO = Route((("slack",), ("mail",)), undelivered_s=15, unacked_s=900)


def come(step, at_s, *, reached=(), failed=(), waiting=True, route=TWO, takers=("slack", "mail")):
    return advance(
        step, route, takers, reached, failed, waiting=waiting, now_ns=round(at_s * SECOND)
    )


def test_nobody_reached_starts_the_next_step():
    """Fallback: after the time for delivery, not before."""
    step, due_ns = come(Step(), 100)
    assert (step.number, due_ns) == (0, 115 * SECOND)
    assert come(step, 114.9)[0].number == 0
    assert come(step, 115)[0].number == 1


def test_somebody_reached_who_does_not_acknowledge_starts_the_next_step():
    """Escalation is the same mechanism with another time."""
    step, _ = come(Step(), 100)
    assert come(step, 999, reached=["slack"]) == (step, 1000 * SECOND)
    assert come(step, 1000, reached=["slack"])[0].number == 1


def test_a_step_whose_messages_are_all_dead_is_left_at_once():
    """Even without a time for delivery; so is one whose plugins don't take the severity."""
    route = Route((("slack",), ("mail",)), unacked_s=900)
    assert come(Step(), 100, failed=["slack"], route=route)[0].number == 1
    assert come(Step(), 100, takers=["mail"], route=route)[0].number == 1


def test_the_clock_of_a_step_stands_while_messages_are_held_back():
    """After an ack ends, whoever was told gets the time again before others are woken."""
    step, _ = come(Step(), 100)
    held, due_ns = come(step, 500, waiting=False)
    assert (held.since_ns, due_ns) == (None, None)
    again, due_ns = come(held, 5000, reached=["slack"])
    assert (again.number, due_ns) == (0, 5900 * SECOND)


def test_a_changed_route_begins_at_its_first_step():
    """Steps of one route mean nothing in another."""
    step, _ = come(Step(), 100)
    step, _ = come(step, 115)
    other = Route((("phone",), ("mail",)), undelivered_s=15)
    assert come(step, 116, route=other, takers=("phone", "mail"))[0] == Step(
        other.key, 0, 116 * SECOND
    )


@given(
    moments=st.lists(
        st.tuples(st.integers(0, 2000), st.booleans(), st.booleans(), st.booleans()), max_size=20
    )
)
def test_steps_only_go_on(moments):
    """Within one firing nobody is taken off the list of those who are told."""
    step, number, at_s = Step(), 0, 0
    for wait_s, reached, failed, waiting in moments:
        at_s += wait_s
        step, due_ns = come(
            step, at_s, reached=["slack"] * reached, failed=["slack"] * failed, waiting=waiting
        )
        assert step.number >= number
        assert due_ns is None or due_ns > at_s * SECOND
        number = step.number


def test_plugins_are_tables_whose_other_keys_are_their_own():
    """Common keys are checked here, the rest by the plugin."""
    [plugin] = parse_plugins(
        [
            {
                "kind": "webhook", "name": "ops", "severities": "critical,warning", "rate": 5,
                "timeout": "2s", "url": "https://ops.example/secret",
            }
        ]
    )  # fmt: skip
    assert (plugin.name, plugin.kind, plugin.rate_per_s, plugin.timeout_s) == (
        "ops",
        "webhook",
        5,
        2,
    )
    assert plugin.severities == (Severity.CRITICAL, Severity.WARNING)
    assert plugin.options == {"url": "https://ops.example/secret"}
    assert "secret" not in repr(plugin)


def test_all_problems_of_all_plugins_are_told_at_once():
    """Each with the plugin's name, never with an option's value."""
    with pytest.raises(TableError) as error:
        parse_plugins(
            [
                {"kind": "pigeon", "rate": 0, "severities": ["fatal"]},
                {"kind": "slack", "enabled": "yes", "timeout": 900, "burst": 0},
                {"kind": "slack", "timeout": "long"},
            ]
        )
    problems = "\n".join(error.value.problems)
    for words in (
        "plugin 1 (pigeon): kind='pigeon': use alertmanager,",
        "plugin 1 (pigeon): severity 'fatal'",
        "plugin 1 (pigeon): rate=0: must be 0.01..1000",
        "plugin 2 (slack): enabled='yes': must be true or false",
        "plugin 2 (slack): timeout=900.0: must be 0.1..60",
        "plugin 2 (slack): burst=0: must be 1..10000",
        "plugin 3 (slack): name='slack': use a name of its own for each plugin",
        "plugin 3 (slack): timeout='long'",
    ):
        assert words in problems


def test_settings_cross_to_the_child_process():
    """They are pickled, and mean the same on the other side."""
    settings = NotifierSettings(
        Path("data"), Path("logs"), plugins=tuple(parse_plugins([{"kind": "slack"}])), routes=(TWO,)
    )
    assert pickle.loads(pickle.dumps(settings)) == settings  # noqa: S301 - made a line above
    assert settings.ledger_path == Path("data/alerts.db")
    assert settings.alerts_dir == Path("logs/alerts")
