"""The Slack plugin."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier.plugin import Message, PermanentError, RetryableError
from notifier.plugins.limit import fit, units
from notifier.plugins.slack import SlackPlugin, payload
from notifier.printable import printable
from tests.messages import message, messages, nasty, row
from tests.servers import HttpServer, Reply


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """Slack's side: 200 and ok."""
    with HttpServer() as server:
        yield server


def deliver(server: HttpServer, made: Message | None = None) -> bool:
    """One attempt."""
    return SlackPlugin("slack", options={"url": server.url}).deliver(made or message())


def test_a_message_has_text_and_blocks(server: HttpServer) -> None:
    """Text for notifications, blocks to read, labels by name, the delivery to tell duplicates
    by.
    """
    assert deliver(server, message(attempt=2)) is True
    body = server.wait(1)[0].json()
    assert body["text"].startswith("CRITICAL order_latency 812 ms &gt; 250 ms\n")
    header, section, fields, context = body["blocks"]
    assert header["text"]["text"] == "CRITICAL order_latency 812 ms &gt; 250 ms"
    assert "intraday mean_reversion · since" in section["text"]["text"]
    assert fields["fields"][0]["text"] == "engine: intraday"
    assert context["elements"][0]["text"] == f"delivery {message().delivery} · attempt 2"


def test_a_label_can_neither_mention_nor_link(server: HttpServer) -> None:
    """``<!channel>`` out of a label pages nobody, and nothing becomes a link by itself."""
    deliver(server, message(alert=row(labels={"symbol": "<!channel> http://x.test @here"})))
    body = server.wait(1)[0].json()
    text = json.dumps(body)
    assert "<!channel>" not in text and "&lt;!channel&gt;" in text
    for block in body["blocks"]:
        for part in (block.get("text"), *block.get("fields", []), *block.get("elements", [])):
            assert part is None or part["type"] == "plain_text" or part["verbatim"] is True


def test_only_ok_is_success(server: HttpServer) -> None:
    """A captive portal answers 200 as well."""
    server.answer(Reply(200, "<html>welcome", {"Content-Type": "text/html"}))
    with pytest.raises(RetryableError, match=r"^unexpected reply, HTTP 200$"):
        deliver(server)


@pytest.mark.parametrize(
    ("status", "words", "kind"),
    [
        (400, "invalid_payload", PermanentError),
        (403, "action_prohibited", PermanentError),
        (404, "no_service", PermanentError),
        (410, "channel_is_archived", PermanentError),
        (429, "rate_limited", RetryableError),
        (500, "rollup_error", RetryableError),
    ],
)
def test_slacks_own_words_are_told(
    server: HttpServer, status: int, words: str, kind: type[Exception]
) -> None:
    """Errors are plain text."""
    server.answer(Reply(status, words, {"Retry-After": "3"}))
    with pytest.raises(kind, match=f"^HTTP {status}: {words}$") as caught:
        deliver(server)
    assert getattr(caught.value, "retry_after", 3.0) == 3.0


def test_a_digest_lists_no_labels(server: HttpServer) -> None:
    """Its members have their own."""
    deliver(server, message("digest", members=(row(), row())))
    kinds = [block["type"] for block in server.wait(1)[0].json()["blocks"]]
    assert kinds == ["header", "section", "context"]


@given(messages())
def test_any_message_is_within_slacks_limits(made: Message) -> None:
    """Over any of them the whole message would be refused."""
    body = json.loads(json.dumps(payload(made), allow_nan=False))
    assert 0 < units(body["text"]) <= 3000
    assert 0 < len(body["blocks"]) <= 50
    for block in body["blocks"]:
        limit = 150 if block["type"] == "header" else 3000
        if "text" in block:
            assert 0 < units(block["text"]["text"]) <= limit
        assert len(block.get("fields", [])) <= 10
        for part in [*block.get("fields", []), *block.get("elements", [])]:
            assert 0 < units(part["text"]) <= 2000
    text = json.dumps(body, ensure_ascii=False)
    assert "<" not in text and ">" not in text
    for line in body["text"].split("\n"):
        assert printable(line) == line


@given(nasty, st.integers(1, 60))
def test_cutting_never_splits_an_escape(text: str, limit: int) -> None:
    """What is left of an escaped text is the escape of a beginning of it."""
    escapes = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
    cut = fit(text, limit, escapes)
    assert units(cut) <= limit
    whole = "".join(escapes.get(character, character) for character in text)
    if units(whole) <= limit:
        assert cut == whole
    else:
        assert cut.endswith("…")
        starts = {""}
        for end in range(1, limit + 1):
            starts.add("".join(escapes.get(character, character) for character in text[:end]))
        assert cut[:-1] in starts
