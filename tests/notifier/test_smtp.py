"""One SMTP transaction: what each reply means, and when it is over."""

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from notifier.plugin import DeliveryError, PermanentError, RetryableError
from notifier.smtp import MailServer, send
from tests.servers import Certificates, RawServer

TO = ["a@desk.test", "b@desk.test", "c@desk.test"]
MAIL = b"Subject: x\r\n\r\nx\r\n"


def attempt(port: int, security: str = "plain", within_s: float = 5.0, **options: str) -> str:
    """One transaction with a server on this host."""
    server = MailServer("127.0.0.1", port, security, **options)
    return send(server, "alerts@desk.test", TO, MAIL, time.monotonic() + within_s)


def failure(port: int, security: str = "plain", **options: str | float) -> DeliveryError:
    """The error of one transaction."""
    with pytest.raises(DeliveryError) as caught:
        attempt(port, security, **options)  # type: ignore[arg-type]
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority that only those trust who are told to."""
    return Certificates(tmp_path)


def script(
    ehlo: bytes = b"250 mail.test\r\n",
    answers: tuple[bytes, ...] = (),
    end: Callable[[socket.socket], None] = lambda connection: None,
    greeting: bytes = b"220 mail.test\r\n",
) -> RawServer:
    """A server that greets, answers EHLO and then one line after the other, and then does *end*."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(greeting)
        with connection.makefile("rb") as stream:
            for answer in (ehlo, *answers):
                stream.readline()
                connection.sendall(answer)
            end(connection)

    return RawServer(serve)


@pytest.mark.parametrize(
    ("greeting", "answers", "kind", "words"),
    [
        (b"554 no service\r\n", (), PermanentError, "554 no service"),
        (b"421 too busy\r\n", (), RetryableError, "421 too busy"),
        (b"220 x\r\n", (b"550 bad sender\r\n",), PermanentError, "550 bad sender"),
        (b"220 x\r\n", (b"451 greylisted\r\n",), RetryableError, "451 greylisted"),
        (b"220 x\r\n", (b"250 ok\r\n",) * 4 + (b"554 no data\r\n",), PermanentError, "554 no data"),
        (b"220 x\r\n", (b"250 ok\r\n",) * 4 + (b"421 bye\r\n",), RetryableError, "421 bye"),
        (b"nonsense\r\n", (), RetryableError, "unreadable reply"),
        (b"220 " + b"x" * 9000 + b"\r\n", (), PermanentError, "500 Line too long"),
    ],
)
def test_every_reply_has_its_meaning(
    greeting: bytes, answers: tuple[bytes, ...], kind: type[DeliveryError], words: str
) -> None:
    """Wherever in the transaction it comes."""
    with script(answers=answers, greeting=greeting) as server:
        error = failure(server.port)
    assert type(error) is kind
    assert words in str(error)


def test_a_refused_starttls_ends_the_attempt() -> None:
    """With the server's words."""
    with script(b"250-mail.test\r\n250 STARTTLS\r\n", (b"454 no TLS now\r\n",)) as server:
        error = failure(server.port, "starttls")
    assert type(error) is RetryableError
    assert "454 no TLS now" in str(error)


def test_what_came_before_tls_is_forgotten(certificates: Certificates) -> None:
    """Replies smuggled in before the handshake answer nothing."""

    def serve(connection: socket.socket) -> None:
        connection.sendall(b"220 mail.test\r\n")
        with connection.makefile("rb") as stream:
            stream.readline()
            connection.sendall(b"250-mail.test\r\n250 STARTTLS\r\n")
            stream.readline()
            connection.sendall(b"220 go\r\n250 smuggled\r\n")
        secured = certificates.server.wrap_socket(connection, server_side=True)
        with secured, secured.makefile("rb") as stream:
            stream.readline()
            secured.sendall(b"550 the real answer\r\n")
            stream.readline()
            secured.sendall(b"550 the real answer\r\n")
            stream.readline()

    with RawServer(serve) as server:
        error = failure(server.port, "starttls", ca_file=certificates.ca_file)
    assert "the real answer" in str(error)


def test_a_connection_lost_after_the_mail_leaves_the_outcome_unknown() -> None:
    """It may have been accepted; before the mail it can't have been."""

    def hang_up(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.shutdown(socket.SHUT_RDWR)

    accepted = (b"250 ok\r\n",) * 4
    with script(answers=(*accepted, b"354 go\r\n"), end=hang_up) as server:
        after = failure(server.port)
    with script(answers=accepted[:2], end=hang_up) as server:
        before = failure(server.port)
    assert isinstance(after, RetryableError) and after.unknown
    assert isinstance(before, RetryableError) and not before.unknown


@pytest.mark.parametrize("part", ["silent", "dripping greeting", "dripping reply", "endless reply"])
def test_the_deadline_is_total(part: str) -> None:
    """Silence and a byte now and then alike; no thread is left of the attempt."""

    def serve(connection: socket.socket) -> None:
        if part == "dripping greeting":
            raw.drip(connection, b"220 " + b"x" * 500, 0.02)
        elif part == "dripping reply":
            connection.sendall(b"220 x\r\n")
            raw.drip(connection, b"250 " + b"x" * 500, 0.02)
        elif part == "endless reply":
            connection.sendall(b"220 x\r\n")
            while not raw.pause(0.01):
                connection.sendall(b"250-more\r\n")
        raw.pause(60)

    threads = set(threading.enumerate())
    with RawServer(serve) as raw:
        started = time.monotonic()
        error = failure(raw.port, within_s=0.5)
        assert time.monotonic() - started < 5
    assert isinstance(error, RetryableError)
    assert " within 0." in str(error)
    assert set(threading.enumerate()) <= threads


def test_the_deadline_is_total_in_the_handshake() -> None:
    """TLS from the start, and a server that says nothing."""
    with RawServer() as server:
        error = failure(server.port, "smtps", within_s=0.5)
    assert str(error).startswith("no connection within 0.")


def test_a_deadline_that_has_passed_connects_to_nothing() -> None:
    """An attempt that comes too late is none."""
    with RawServer() as server:
        assert "no connection within" in str(failure(server.port, within_s=-1))
        assert server.connections == 0


def test_a_slow_goodbye_changes_nothing() -> None:
    """Accepted is accepted."""
    answers = (b"250 ok\r\n",) * 4 + (b"354 go\r\n",)

    def accept(connection: socket.socket) -> None:
        seen = b""
        while not seen.endswith(b"\r\n.\r\n"):
            seen += connection.recv(65536)
        connection.sendall(b"250 queued as 1\r\n")

    # the script's own reader may hold the mail's first lines, so it must not read them
    def serve(connection: socket.socket) -> None:
        connection.sendall(b"220 x\r\n")
        for answer in (b"250 x\r\n", *answers):
            connection.recv(65536)
            connection.sendall(answer)
        accept(connection)
        raw.pause(60)

    with RawServer(serve) as raw:
        started = time.monotonic()
        assert attempt(raw.port, within_s=30) == "250 queued as 1"
        assert time.monotonic() - started < 20


def test_a_login_that_is_not_offered_is_permanent() -> None:
    """The configuration is wrong."""
    sender = script(b"250-mail.test\r\n250 SIZE 1000\r\n")
    with sender as server:
        error = failure(server.port, user="desk", password="secret")
    assert isinstance(error, PermanentError)
    assert "offers no login" in str(error)


def test_a_login_with_foreign_methods_only_is_permanent() -> None:
    """Neither of us can change that."""
    with script(b"250-mail.test\r\n250 AUTH NTLM GSSAPI\r\n") as server:
        error = failure(server.port, user="desk", password="secret")
    assert isinstance(error, PermanentError)
    assert str(error) == "login failed: no common method"
