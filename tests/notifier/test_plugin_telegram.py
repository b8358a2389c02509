"""The Telegram plugin against a server that answers as the Bot API does."""

import html
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given

from notifier.plugin import DeliveryError, Message, PermanentError, RetryableError
from notifier.plugins.limit import units
from notifier.plugins.telegram import TEXT_CHARACTERS, TelegramPlugin, payload
from tests.messages import message, messages, row
from tests.servers import HttpServer, Reply

TOKEN = "123456:AAE-s3cr3t_token"
OK = json.dumps({"ok": True, "result": {"message_id": 1}})


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """The Bot API: everything is fine."""
    with HttpServer() as server:
        server.default = Reply(200, OK)
        yield server


def plugin(server: HttpServer, **options: Any) -> TelegramPlugin:
    """The plugin for that server."""
    given = {"token": TOKEN, "chat_id": "-100200", "api_url": f"http://127.0.0.1:{server.port}/"}
    return TelegramPlugin("telegram", options={**given, **options})


def failure(server: HttpServer, status: int, answer: Any, **headers: str) -> DeliveryError:
    """The error that an answer makes."""
    text = answer if isinstance(answer, str) else json.dumps(answer)
    server.answer(Reply(status, text, headers))
    with pytest.raises(DeliveryError) as caught:
        plugin(server).deliver(message())
    assert "s3cr3t" not in str(caught.value)
    return caught.value


def test_a_message_is_sent_as_html(server: HttpServer) -> None:
    """To the chat, subject in bold, everything from outside escaped, no preview of links."""
    sender = plugin(server)
    assert sender.deliver(message(alert=row(labels={"symbol": "M&M <b>"}))) is True
    [request] = server.wait(1)
    body = request.json()
    assert request.path == f"/bot{TOKEN}/sendMessage"
    assert (body["chat_id"], body["parse_mode"]) == ("-100200", "HTML")
    first, second = body["text"].splitlines()[:2]
    assert first == "<b>CRITICAL performance_degradation 812 ms &gt; 250 ms</b>"
    assert second.startswith("M&amp;M &lt;b&gt; · since")
    assert body["link_preview_options"] == {"is_disabled": True}


def test_too_many_requests_says_how_long_in_its_body(server: HttpServer) -> None:
    """Telegram sends no Retry-After header."""
    answer = {"ok": False, "error_code": 429, "description": "Too Many Requests: retry after 7"}
    error = failure(server, 429, {**answer, "parameters": {"retry_after": 7}})
    assert isinstance(error, RetryableError)
    assert error.retry_after == 7.0
    assert str(error) == "HTTP 429: Too Many Requests: retry after 7"


@pytest.mark.parametrize(
    ("parameters", "seconds"),
    [
        ({"retry_after": 1e9}, 3600.0),
        ({"retry_after": "x"}, 5.0),
        ([], 5.0),
        ({"retry_after": True}, 5.0),
    ],
)
def test_a_wait_out_of_bounds_is_bounded(
    server: HttpServer, parameters: Any, seconds: float
) -> None:
    """Garbage falls back to the header."""
    answer = {"ok": False, "error_code": 429, "parameters": parameters}
    error = failure(server, 429, answer, **{"Retry-After": "5"})
    assert isinstance(error, RetryableError)
    assert error.retry_after == seconds


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "Bad Request: chat not found", PermanentError),
        (401, "Unauthorized", PermanentError),
        (403, "Forbidden: bot was blocked by the user", PermanentError),
        (404, "Not Found", PermanentError),
        (500, "Internal Server Error", RetryableError),
        (502, "Bad Gateway", RetryableError),
    ],
)
def test_telegrams_own_words_are_told(
    server: HttpServer, status: int, words: str, kind: type[Exception]
) -> None:
    """From the description of its answer."""
    error = failure(server, status, {"ok": False, "error_code": status, "description": words})
    assert type(error) is kind
    assert str(error) == f"HTTP {status}: {words}"


def test_an_answer_that_repeats_the_token_is_cleaned(server: HttpServer) -> None:
    """Servers of one's own may be chatty."""
    error = failure(server, 404, {"ok": False, "description": f"no method /bot{TOKEN}/x"})
    assert str(error) == "HTTP 404: no method /***/x"


@pytest.mark.parametrize("answer", ["", "<html>", "[]", "{}", '{"ok": false}', "[" * 100_000])
def test_only_ok_is_success(server: HttpServer, answer: str) -> None:
    """A 200 of somebody else delivers nothing."""
    error = failure(server, 200, answer)
    assert isinstance(error, RetryableError)
    assert "unexpected reply" in str(error)


def test_a_200_that_says_it_is_none_is_believed(server: HttpServer) -> None:
    """The code in the answer counts."""
    error = failure(server, 200, {"ok": False, "error_code": 403, "description": "Forbidden"})
    assert isinstance(error, PermanentError)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": ""}, "token is empty: set MONITORING_TELEGRAM_TOKEN"),
        ({"token": "s3cr3t/../x"}, "token must be the bot's token"),
        ({"chat_id": ""}, "chat_id is empty: set MONITORING_TELEGRAM_CHAT_ID"),
        ({"api_url": "ftp://x"}, "api_url must begin with http"),
        ({"ca_file": "/nowhere.pem"}, "ca_file is not a file"),
    ],
)
def test_a_half_configuration_is_told(
    server: HttpServer, options: dict[str, Any], words: str
) -> None:
    """Which setting, and what is allowed."""
    [problem] = plugin(server, **options).check()
    assert problem.startswith(f"telegram: {words}")
    assert "s3cr3t" not in problem


def test_telegram_itself_is_the_default() -> None:
    """Over TLS."""
    sender = TelegramPlugin("telegram", options={"token": "1:a", "chat_id": "1"})
    assert sender.url == "https://api.telegram.org/bot1:a/sendMessage"
    assert sender.check() == []


@given(messages())
def test_any_message_is_within_telegrams_limit(made: Message) -> None:
    """And is well-formed: one bold part, and no tag or entity of a label's."""
    text = json.loads(json.dumps(payload(made, "1"), allow_nan=False))["text"]
    assert units(text) <= TEXT_CHARACTERS
    assert re.findall(r"<[^>]*>", text) == ["<b>", "</b>"]
    assert re.findall(r"&(?!amp;|lt;|gt;)", text) == []
    assert html.unescape(text)
