"""The contract of delivery plugins, and what holds for all of them: light imports, no secret
told.
"""

import base64
import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from notifier.plugin import (
    PLUGINS,
    AlertDeliveryPlugin,
    DeliveryError,
    Message,
    PartialError,
    RetryableError,
    load,
)
from tests.messages import message, messages, row
from tests.servers import HttpServer, RawServer, Reply, Request, free_port

SECRET = "s3cr3t-T0KEN-0123456789"
ROOT = Path(__file__).parents[2]
# for each kind: options that hold SECRET wherever a secret may stand; {base} is http://host:port
OPTIONS: Mapping[str, dict[str, Any]] = {
    "webhook": {
        "url": f"{{base}}/hook/{SECRET}?key={SECRET}",
        "headers": {"Authorization": f"Bearer {SECRET}", "X-Key": SECRET},
        "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    },
    "slack": {"url": f"{{base}}/services/T0000/B0000/{SECRET}"},
    "telegram": {"token": f"123456:{SECRET}", "chat_id": "-100200", "api_url": "{base}"},
    "alertmanager": {"url": f"http://user:{SECRET}@{{host}}/am"},
    "email": {
        "host": "{name}",
        "port": "{port}",
        "security": "plain",
        "user": "desk",
        "password": SECRET,
        "from": "a@desk.test",
        "to": ["b@desk.test"],
    },
    "apprise": {"urls": [f"json://user:{SECRET}@{{host}}/{SECRET}"]},
}
NO_SECRETS = (SECRET, SECRET[:12], "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")


def make(kind: str, name: str, port: int, **more: Any) -> AlertDeliveryPlugin:
    """The plugin *kind*, pointed at a host and port."""
    places = {"base": f"http://{name}:{port}", "host": f"{name}:{port}", "name": name, "port": port}

    def fill(value: Any) -> Any:
        if isinstance(value, list):
            return [fill(one) for one in value]
        return value.format(**places) if isinstance(value, str) else value

    options = {option: fill(value) for option, value in OPTIONS[kind].items()}
    return load(kind)(name=kind, options=options, **more)


# Apprise's own import of a module that newer Pythons drop
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.fixture
def echo() -> Iterator[HttpServer]:
    """A server."""
    with HttpServer() as server:
        yield server


def repeated(request: Request, status: int) -> Reply:
    """A reply that repeats everything it was sent, as some error pages do."""
    said = f"{request.path} {dict(request.headers)} {request.body.decode('latin-1')}"
    return Reply(status, said, {"X-Echo": request.path})


def everything(error: BaseException | None) -> str:
    """All that could be printed of an error: itself and whatever it leads to."""
    words = []
    while error is not None:
        words += [str(error), repr(error), repr(error.args), repr(getattr(error, "__dict__", ""))]
        error = error.__cause__ or error.__context__
    return " ".join(words)


def repeat(connection: socket.socket) -> None:
    """A mail server that refuses a login and repeats every line it got."""
    connection.sendall(b"220 mail.test\r\n")
    with connection.makefile("rb") as stream:
        stream.readline()
        connection.sendall(b"250-mail.test\r\n250 AUTH PLAIN LOGIN\r\n")
        for line in stream:
            connection.sendall(b"535 not you: " + line.strip() + b"\r\n")


@pytest.fixture
def told(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Callable[[AlertDeliveryPlugin], str]:
    """Everything that one attempt says, in errors, representations, logs and on the terminal."""
    caplog.set_level(1)

    def deliver(plugin: AlertDeliveryPlugin) -> str:
        words = [repr(plugin), str(plugin), *plugin.check()]
        try:
            assert plugin.deliver(message()) is False
        except DeliveryError as error:
            words.append(everything(error))
        words += [plugin.reply, repr(plugin), caplog.text, *capfd.readouterr()]
        return " ".join([*words, *map(repr, caplog.records)])

    return deliver


@pytest.mark.parametrize("kind", sorted(PLUGINS))
def test_no_secret_is_told_of_a_connection_that_fails(
    kind: str, told: Callable[[AlertDeliveryPlugin], str]
) -> None:
    """Refused, or the name isn't known."""
    text = told(make(kind, "127.0.0.1", free_port()))
    text += told(make(kind, "no-such-host.invalid", 80))
    assert not [secret for secret in NO_SECRETS if secret in text]


@pytest.mark.parametrize("status", [400, 401, 403, 404, 429, 500, 503])
@pytest.mark.parametrize("kind", sorted(set(PLUGINS) - {"email"}))
def test_no_secret_is_told_of_a_refusal(
    kind: str, status: int, echo: HttpServer, told: Callable[[AlertDeliveryPlugin], str]
) -> None:
    """Not even when the other side repeats all that it was sent."""
    echo.default = lambda request: repeated(request, status)
    text = told(make(kind, "127.0.0.1", echo.port))
    assert len(echo.requests) == 1
    assert not [secret for secret in NO_SECRETS if secret in text]


def test_no_secret_is_told_of_a_refused_login(told: Callable[[AlertDeliveryPlugin], str]) -> None:
    """Neither the password nor the form in which it is sent."""
    with RawServer(repeat) as server:
        text = told(make("email", "127.0.0.1", server.port))
    assert "login refused" in text
    sent = base64.b64encode(f"\0desk\0{SECRET}".encode()).decode()
    secrets = [*NO_SECRETS, sent, base64.b64encode(SECRET.encode()).decode()]
    assert not [secret for secret in secrets if secret in text]


@pytest.mark.parametrize("kind", sorted(PLUGINS))
def test_a_good_configuration_has_no_problems(kind: str) -> None:
    """And every kind can be made from plain options."""
    plugin = make(kind, "127.0.0.1", 2525)
    assert plugin.check() == []
    assert plugin.name == plugin.kind == kind
    plugin.prepare()


@pytest.mark.parametrize("kind", sorted(PLUGINS))
def test_an_empty_configuration_is_told_by_its_variables(kind: str) -> None:
    """An operator who only switched it on reads what else to set, and how to switch it off."""
    cls = load(kind)
    problems = cls(name=kind, options={}).check()
    assert problems
    required = [problem for problem in problems if "is empty" in problem]
    assert required
    for problem in required:
        assert problem.startswith(f"{kind}: ")
        assert f"set MONITORING_{kind.upper()}_" in problem
        assert problem.endswith(f"monitoring_enable_{kind}_alerts=false")
    own = cls(name="second", options={}).check()
    assert all("its [[plugin]] table or enabled = false" in one for one in own if "set " in one)


@pytest.mark.parametrize("kind", sorted(PLUGINS))
def test_an_unknown_option_is_told(kind: str) -> None:
    """A typo would otherwise leave a default in place, silently."""
    plugin = load(kind)(name="mine", options={"ulr\n": SECRET})
    problems = plugin.check()
    assert any(p.startswith("mine: no option 'ulr\\\\x0a': use ") for p in problems)
    assert SECRET not in " ".join(problems)


def test_the_message_of_a_half_configured_slack() -> None:
    """The exact words, as documented."""
    [problem] = load("slack")(name="slack", options={"url": ""}).check()
    remedy = "set MONITORING_SLACK_WEBHOOK_URL or monitoring_enable_slack_alerts=false"
    assert problem == f"slack: url is empty: {remedy}"


def test_an_unknown_kind_names_those_there_are() -> None:
    """In one line."""
    with pytest.raises(ValueError, match="plugin kind 'pager': use alertmanager, apprise, email"):
        load("pager")


CHECKING = """
import sys
import notifier, notifier.plugin, notifier.text
from notifier.plugin import PLUGINS, load
for kind in PLUGINS:
    load(kind)(name=kind, options={"url": "https://x.test/y", "urls": ["json://x"]}).check()
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""


def test_checking_a_configuration_imports_nothing_heavy() -> None:
    """An engine checks its settings at start: no requests, smtplib or apprise for that."""
    # measuring coverage would import sqlite3 there
    environment = {name: value for name, value in os.environ.items() if "COV" not in name}
    done = subprocess.run(
        [sys.executable, "-c", CHECKING],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
        env={**environment, "PYTHONPATH": str(ROOT)},
        timeout=60,
    )
    loaded = set(done.stdout.split())
    assert "notifier" in loaded
    assert not loaded & {"requests", "urllib3", "smtplib", "ssl", "apprise", "numpy", "sqlite3"}


@given(messages())
def test_a_frozen_message_comes_back_as_it_was(made: Message) -> None:
    """Through JSON, with another attempt, deadline and recipients."""
    frozen = json.loads(json.dumps(made.payload()))
    again = Message.from_payload({**frozen, "new": 1}, attempt=7, deadline=9.0, recipients=["a"])
    assert (again.attempt, again.deadline, again.recipients) == (7, 9.0, ("a",))
    assert json.dumps(again.payload()) == json.dumps(made.payload())
    assert again.state == made.state


def test_what_a_receiver_sees_is_firing_or_resolved() -> None:
    """A digest is resolved when nothing in it fires; a test fires."""
    fires, ended = row(), row(state="resolved")
    assert message("firing").state == message("test").state == "firing"
    assert message("resolved", alert=fires).state == "resolved"
    assert message("digest", members=(ended, fires)).state == "firing"
    assert message("digest", members=(ended, ended)).state == "resolved"


def test_errors_carry_what_the_caller_acts_upon() -> None:
    """How long to wait, whether it may have arrived, who is left."""
    assert RetryableError("x").retry_after is None
    assert RetryableError("x", 1.5, unknown=True).unknown
    partial = PartialError("x", ["a"], delivered=["b"], refused={"c": "550"})
    assert (partial.recipients, partial.delivered) == (("a",), ("b",))
    assert partial.refused == {"c": "550"}


class Wrapped:
    """A secret as pydantic keeps it."""

    def get_secret_value(self) -> str:
        """The text."""
        return " hidden "


def test_options_are_read_as_plain_values() -> None:
    """Blanks around them don't count, a text may be a list, and a wrapped secret is unwrapped."""
    options = {"a": Wrapped(), "b": "x, y,,", "c": ["x ", ""], "d": 25, "e": None, "f": "  "}
    plugin = load("slack")(name="slack", options=options)
    assert plugin.text("a") == "hidden"
    assert plugin.texts("b") == ["x", "y"]
    assert plugin.texts("c") == ["x"]
    assert plugin.text("d") == "25"
    assert [plugin.text(option, "default") for option in "efg"] == ["default"] * 3


def test_most_plugins_have_nothing_to_tell_again() -> None:
    """Only receivers that forget are told again what is so."""
    slack = load("slack")(name="slack", options={})
    assert slack.resend_s is None
    assert slack.resend([], 0.0) is True
    assert load("alertmanager")(name="am", options={}).resend_s == 60.0


def test_logging_is_left_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    """Silencing libraries while we post changes no level and no handler of anybody."""
    caplog.set_level(logging.DEBUG, "requests")
    loggers = [logging.getLogger(name) for name in ("urllib3", "apprise")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    for kind in PLUGINS:
        load(kind)(name=kind, options={}).prepare()
    assert before == [(logger.level, list(logger.handlers)) for logger in loggers]
