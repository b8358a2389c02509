"""Sentiment: measured in the background, handed over without waiting, failures counted."""

import threading
import time
from collections.abc import Callable, Iterator
from http.client import HTTPConnection

import pytest

from cli.loopback import HOST, MAX_BODY_BYTES, Loopback, Replier
from cli.sentiment import Ask, SentimentClient, provider
from tests.servers import HttpServer, Reply
from tests.waiting import wait_for


def gather(client: SentimentClient, enough: Callable[[list[Ask]], bool]) -> list[Ask]:
    """Take asks until there are *enough*."""
    taken: list[Ask] = []

    def look() -> bool:
        taken.extend(client.take())
        return enough(taken)

    wait_for(look, "the asks")
    return taken


@pytest.fixture
def client_of() -> Iterator[Callable[..., SentimentClient]]:
    made: list[SentimentClient] = []

    def make(port: int, every_s: float = 0.01, timeout_s: float = 2.0) -> SentimentClient:
        made.append(SentimentClient(port, every_s, timeout_s))
        return made[-1]

    yield make
    for client in made:
        client.close()


def test_the_latency_is_that_of_the_ask(client_of: Callable[..., SentimentClient]) -> None:
    """A provider that takes 60 ms is measured at 60 ms or a little more, in milliseconds."""
    with HttpServer() as server:
        server.default = Reply(body=b'{"score": 0.5}', delay_s=0.06)
        client = client_of(server.port)
        asks = gather(client, lambda found: len(found) >= 3)
    assert all(60 <= ask.latency_ms < 2000 for ask in asks[:3])
    assert [ask.score for ask in asks[:3]] == [0.5] * 3
    assert client.score == 0.5


def test_the_provider_refuses_the_asks_it_was_told_to(
    client_of: Callable[..., SentimentClient],
) -> None:
    """The second ask gets 503 and counts as a failure; the others are answered."""
    with provider({2}) as local:
        client = client_of(local.port)
        asks = gather(client, lambda found: len(found) >= 4)
        assert client.failed == 1
    assert [ask.score is None for ask in asks[:4]] == [False, True, False, False]
    assert all(abs(ask.score) <= 1 for ask in asks if ask.score is not None)


def test_the_provider_takes_a_while() -> None:
    """An answer comes after 5 ms at the earliest, and other paths don't exist."""
    with provider() as local:
        connection = HTTPConnection(HOST, local.port, timeout=5)
        began_s = time.perf_counter()
        connection.request("GET", "/sentiment")
        assert connection.getresponse().read().startswith(b'{"score"')
        assert time.perf_counter() - began_s >= 0.005
        connection.close()
        connection.request("GET", "/else")
        assert connection.getresponse().status == 404
        connection.close()


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(drop=True),
        Reply(never=True),
        Reply(body=b""),
        Reply(body=b"[]"),
        Reply(body=b'{"score": "high"}'),
        Reply(body=b'{"score": NaN}'),
        Reply(body=b'{"score": 2}'),
        Reply(body=b'{"score": ' + b"0" * 10_000 + b"}"),
        Reply(body=b"\xff"),
    ],
)
def test_whatever_is_no_answer_is_a_failure(
    client_of: Callable[..., SentimentClient], reply: Reply
) -> None:
    """No reply of a provider, and no lack of one, ends the client's thread."""
    with HttpServer() as server:
        server.answer(reply)
        server.default = Reply(body=b'{"score": 0}')
        client = client_of(server.port, timeout_s=0.3)
        asks = gather(client, lambda found: len(found) >= 2)
        assert client.failed == 1
    assert [ask.score for ask in asks[:2]] == [None, 0.0]


def test_a_provider_that_is_gone_is_a_failure(client_of: Callable[..., SentimentClient]) -> None:
    """A refused connection counts like any other failure."""
    with provider() as local:
        port = local.port
    client = client_of(port)
    assert gather(client, lambda found: len(found) >= 2)[0].score is None


def test_taking_never_waits(client_of: Callable[..., SentimentClient]) -> None:
    """While the provider holds an ask, the engine's side returns at once with nothing."""
    with HttpServer() as server:
        server.default = Reply(never=True)
        client = client_of(server.port, timeout_s=1.0)
        server.wait(1)
        began_s = time.perf_counter()
        assert client.take() == []
        assert time.perf_counter() - began_s < 0.5


def test_what_nobody_takes_stays_bounded(client_of: Callable[..., SentimentClient]) -> None:
    """An engine that never looks costs the newest results' memory and no more."""
    client = client_of(1, every_s=0.0)
    wait_for(lambda: client.asked > 1_100, "many asks")
    client.close()
    assert len(client.take()) == 1_024
    assert client.take() == []


def test_a_server_ends_without_its_clients() -> None:
    """A client that holds its connection open keeps neither the server nor a thread."""
    local = provider()
    idle = HTTPConnection(HOST, local.port, timeout=5)
    idle.connect()
    began_s = time.perf_counter()
    local.close()
    local.close()
    assert time.perf_counter() - began_s < 5
    idle.close()
    assert not [t for t in threading.enumerate() if t.name == "loopback"]


@pytest.mark.parametrize("length", ["", "x", "-1", str(MAX_BODY_BYTES + 1)])
def test_a_body_of_unknown_or_huge_length_is_not_read(length: str) -> None:
    """Neither a missing length nor a gigabyte makes the server read on."""
    seen: list[bytes | None] = []

    class Receiver(Replier):
        def do_POST(self) -> None:
            seen.append(self.body())
            self.reply(200)

    with Loopback(Receiver) as server:
        connection = HTTPConnection(HOST, server.port, timeout=5)
        connection.putrequest("POST", "/")
        if length:
            connection.putheader("Content-Length", length)
        connection.endheaders()
        assert connection.getresponse().status == 200
        connection.close()
    assert seen == [None]
