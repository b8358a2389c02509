"""Test messages: one through each enabled plugin, and what the other side said to it.

A message goes through the very code that delivers alerts, marked as a test in a way that every
plugin shows.  No text here holds a secret: errors and replies come without them.
"""

import getpass
import logging
import socket
import time
import uuid
from collections.abc import Iterator, Sequence

from cli import times
from cli.checks import Check
from cli.condition import CRITICAL, OK, WARNING
from notifier.alert import Alert, Severity
from notifier.plugin import TEST, AlertDeliveryPlugin, Message, load
from notifier.settings import PluginSettings
from notifier.worker import GRACE_S, Job, Outcome, Result, Threads

_NAME = "delivery"
_POLL_S = 0.01
RULE = "delivery_test"


def send(plugins: Sequence[PluginSettings]) -> Iterator[Check]:
    """Try every enabled plugin, all at the same time; none can hold up the others."""
    logging.getLogger("notifier").addHandler(logging.NullHandler())  # the outcome says it all
    enabled = [each for each in plugins if each.enabled]
    if not enabled:
        todo = "enable one, such as MONITORING_ENABLE_WEBHOOK_ALERTS=true"
        yield Check(_NAME, WARNING, "no plugin is enabled: nobody is told of any alert", todo)
        return
    made = {each.name: _made(each) for each in enabled}
    sound: dict[str, AlertDeliveryPlugin] = {}
    for name, plugin in made.items():
        problems = plugin.check()
        for problem in problems:
            yield Check(_NAME, CRITICAL, problem, "mend its settings")
        if not problems:
            sound[name] = plugin
    results = _results(sound, {each.name: each.timeout_s for each in enabled})
    for name, plugin in sound.items():
        yield _outcome(plugin, results.get(name))


def _made(one: PluginSettings) -> AlertDeliveryPlugin:
    return load(one.kind)(
        name=one.name, enabled=True, options=dict(one.options), timeout_s=one.timeout_s
    )


def _results(
    plugins: dict[str, AlertDeliveryPlugin], timeouts_s: dict[str, float]
) -> dict[str, Result]:
    """How each attempt ended; one that doesn't is left behind at its deadline."""
    workers = Threads(plugins, lambda: None)
    for name in plugins:
        workers.submit(Job(name, _message(name), timeouts_s[name]))
    results: dict[str, Result] = {}
    ends = time.monotonic() + max(timeouts_s.values(), default=0.0) + 2 * GRACE_S
    while len(results) < len(plugins) and time.monotonic() < ends:
        results |= {result.plugin: result for result in workers.collect()}
        time.sleep(_POLL_S)
    workers.stop()
    return results


def _message(plugin: str) -> Message:
    """A test message; its alert is one that no rule makes."""
    now_ns = times.now_ns()
    text = f"message of tickwatch on {socket.gethostname()}, sent by {getpass.getuser()}"
    alert = Alert(
        id=str(uuid.uuid4()),
        rule=RULE,
        labels={"plugin": plugin},
        severity=Severity.INFO,
        state="firing",
        started_ns=now_ns,
        last_seen_ns=now_ns,
        message=text,
    )
    return Message(TEST, alert.row(), str(uuid.uuid4()))


def _outcome(plugin: AlertDeliveryPlugin, result: Result | None) -> Check:
    name = f"{plugin.name} ({plugin.kind})" if plugin.name != plugin.kind else plugin.name
    if result is None:
        text, todo = f"{name}: no end in time", "see whether the other side can be reached"
        return Check(_NAME, CRITICAL, text, todo)
    said = f": {plugin.reply}" if plugin.reply else ""
    if result.outcome == Outcome.DELIVERED:
        return Check(_NAME, OK, f"{name} accepted a test message{said}")
    todo = "mend its settings, or the other side"
    state = WARNING if result.reached else CRITICAL
    return Check(_NAME, state, f"{name}: {result.outcome}: {result.error}", todo)
