"""The webhook plugin, its signature checked by the standard's own package."""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from standardwebhooks.webhooks import Webhook

from notifier.plugin import Message, PermanentError, RetryableError
from notifier.plugins.webhook import WebhookPlugin, payload, sign
from notifier.text import lines
from tests.messages import message, messages, row
from tests.servers import HttpServer, Reply

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A receiver."""
    with HttpServer() as server:
        yield server


def plugin(server: HttpServer, **options: Any) -> WebhookPlugin:
    """The plugin for that receiver."""
    return WebhookPlugin("webhook", options={"url": server.url, **options})


def test_the_body_is_the_alert_row_with_the_delivery(server: HttpServer) -> None:
    """The contract's fields, the id that is also in the header, and the attempt."""
    sender = plugin(server)
    assert sender.deliver(message(attempt=2)) is True
    [request] = server.wait(1)
    body = request.json()
    assert request.headers["webhook-id"] == body["delivery"] == message().delivery
    assert request.headers["content-type"] == "application/json"
    assert "webhook-signature" not in request.headers
    assert body["attempt"] == 2
    assert {key: body[key] for key in row()} == row()
    assert body["text"].splitlines() == list(lines(message()))
    assert "test" not in body and "members" not in body
    assert sender.reply == "HTTP 200: ok"


def test_configured_headers_are_sent_but_ours_stay(server: HttpServer) -> None:
    """An Authorization of one's own, never a delivery id of one's own."""
    sender = plugin(server, headers={"Authorization": "Bearer x", "Webhook-Id": "forged"})
    sender.deliver(message())
    headers = server.wait(1)[0].headers
    assert headers["authorization"] == "Bearer x"
    assert headers["webhook-id"] == message().delivery


def test_the_signature_of_the_specification_is_ours() -> None:
    """Its published example."""
    body = b'{"test": 2432232314}'
    signature = sign(SECRET, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("secret", [SECRET, SECRET.removeprefix("whsec_")])
def test_the_standard_package_verifies_what_we_send(server: HttpServer, secret: str) -> None:
    """Over the exact bytes that arrive, with the time of the attempt."""
    plugin(server, secret=secret).deliver(message(note="Straße · 💥"))
    [request] = server.wait(1)
    verified = Webhook(secret).verify(request.body, dict(request.headers))
    assert verified["delivery"] == message().delivery
    assert abs(int(request.headers["webhook-timestamp"]) - time.time()) < 60
    other = base64.b64encode(b"another secret of some length").decode()
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(other).verify(request.body, dict(request.headers))


def test_a_resolution_and_a_test_say_so(server: HttpServer) -> None:
    """By state, and by a mark."""
    sender = plugin(server)
    sender.deliver(message("resolved", alert=row(state="firing")))
    sender.deliver(message("test"))
    resolved, test = (request.json() for request in server.wait(2))
    assert resolved["state"] == "resolved"
    assert (test["test"], test["state"]) == (True, "firing")


def test_what_else_is_known_is_added(server: HttpServer) -> None:
    """The remark, the repeat and the evidence, numbers that JSON lacks as null."""
    evidence = ((1_769_753_403_000_250_000, 1904.2), (1_769_753_403_000_000_000, float("nan")))
    plugin(server).deliver(message(note="was acknowledged by asha", repeat=3, evidence=evidence))
    body = server.wait(1)[0].json()
    assert (body["note"], body["repeat"]) == ("was acknowledged by asha", 3)
    assert body["evidence"][0] == ["2026-01-30T06:10:03.000250Z", 1904.2]
    assert body["evidence"][1][1] is None


def test_a_digest_has_exact_counts_and_a_bounded_body(server: HttpServer) -> None:
    """5,000 members are counted by rule and state; a few are shown; the body stays small."""
    members = tuple(
        row(rule=f"rule_{number % 150}", state="resolved" if number % 4 == 0 else "firing")
        for number in range(5000)
    )
    plugin(server).deliver(message("digest", alert=members[0], members=members))
    [request] = server.wait(1)
    body = request.json()
    assert len(request.body) < 20_000
    assert body["count"] == body["members"]["total"] == 5000
    assert body["members"]["firing"] + body["members"]["resolved"] == 5000
    assert sum(body["members"]["rules"].values()) + body["members"]["others"] == 5000
    assert (body["rule"], body["state"], len(body["top"])) == ("digest", "firing", 5)
    assert body["first"]["rule"] == "rule_0"


def test_a_failure_is_told_apart(server: HttpServer) -> None:
    """Permanent, or to be tried again after the time that was asked for."""
    server.answer(Reply(404, "no such hook"), Reply(429, headers={"Retry-After": "7"}))
    with pytest.raises(PermanentError, match=r"^HTTP 404: no such hook$"):
        plugin(server).deliver(message())
    with pytest.raises(RetryableError, match=r"^HTTP 429: ok$") as caught:
        plugin(server).deliver(message())
    assert caught.value.retry_after == 7.0


def test_an_attempt_ends_with_the_plugins_own_limit(server: HttpServer) -> None:
    """Also when the message would allow more."""
    server.answer(Reply(never=True))
    sender = WebhookPlugin("webhook", options={"url": server.url}, timeout_s=0.5)
    with pytest.raises(RetryableError, match=r"^no reply within 0\.\d s$"):
        sender.deliver(message(within_s=60))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"url": ""}, "url is empty"),
        ({"url": "example.com/hook"}, "url must begin with http:// or https://"),
        ({"url": "file:///etc/passwd"}, "url must begin with http:// or https://"),
        ({"url": "http:///x"}, "url names no host"),
        ({"url": "http://h:0/"}, "url has port 0"),
        ({"url": "http://h:99999/"}, "url is not a URL"),
        ({"url": "http://h/a b"}, "url holds a blank or a control character"),
        ({"headers": {"Bad name": "v4lue"}}, "headers has an invalid name"),
        ({"headers": {"X": "v4lue\r\nY: z"}}, "headers X has an invalid value"),
        ({"headers": {"X": "v4lue €"}}, "headers X has an invalid value"),
        ({"secret": "whsec_!v4lue"}, "secret must be whsec_ and base64"),
        ({"ca_file": "/nowhere.pem"}, "ca_file is not a file"),
    ],
)
def test_a_half_configuration_is_told(options: dict[str, Any], words: str) -> None:
    """Which setting, and what is allowed; its value is a secret."""
    problems = WebhookPlugin("webhook", options={"url": "http://h/", **options}).check()
    assert len(problems) == 1
    assert problems[0].startswith(f"webhook: {words}")
    assert "v4lue" not in problems[0] and "example" not in problems[0]


def test_a_message_that_is_no_json_is_permanent(server: HttpServer) -> None:
    """NaN is no JSON: refused here rather than by a parser far away."""
    with pytest.raises(PermanentError, match="can't be written as JSON"):
        plugin(server).deliver(message(alert=row(value=float("nan"), threshold=None)))
    assert server.requests == []


@given(messages())
def test_any_message_is_json(made: Message) -> None:
    """Strict JSON in ASCII, which every parser reads alike."""
    text = json.dumps(payload(made), ensure_ascii=True, allow_nan=False)
    fields = json.loads(text, parse_constant=pytest.fail)
    assert fields["delivery"] == made.delivery
    assert fields["state"] in ("firing", "resolved")
