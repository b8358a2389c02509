"""One POST: what it sends, how it ends, and when."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from notifier import http
from notifier.attempt import MAX_RECEIVED_BYTES, Attempt, connect
from notifier.plugin import DeliveryError, PermanentError, RetryableError
from notifier.transport import target
from tests.servers import Certificates, HttpServer, RawServer, Reply, free_port

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def server() -> Iterator[HttpServer]:
    """A receiver."""
    with HttpServer() as server:
        yield server


def post(url: str, within_s: float = 5.0, body: bytes = b"{}", **more: str) -> http.Reply:
    """One attempt."""
    return http.post(url, body, JSON, deadline=time.monotonic() + within_s, **more)


def failure(url: str, within_s: float = 5.0, body: bytes = b"{}", **more: str) -> DeliveryError:
    """The error of one attempt, which leads to no other error that might hold the URL."""
    with pytest.raises(DeliveryError) as caught:
        post(url, within_s, body, **more)
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    return caught.value


def test_a_2xx_is_accepted(server: HttpServer) -> None:
    """The body and headers arrive as given, and the reply comes back."""
    server.answer(Reply(202, "taken"))
    reply = post(server.url, body=b'{"a":1}')
    [request] = server.wait(1)
    assert (request.method, request.path, request.body) == ("POST", "/hook", b'{"a":1}')
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"] == "tickwatch"
    assert (reply.status, reply.body) == (202, b"taken")
    assert reply.line() == "HTTP 202: taken"


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 413, 301, 308])
def test_what_another_try_cannot_mend_is_permanent(server: HttpServer, status: int) -> None:
    """Such a delivery is dead at once, so that the next step of the route begins."""
    server.answer(Reply(status, "no"))
    error = failure(server.url)
    assert isinstance(error, PermanentError)
    assert str(error).startswith(f"HTTP {status}: ")


@pytest.mark.parametrize("status", [302, 307, 405, 408, 409, 422, 425, 429, 500, 502, 503, 504])
def test_everything_else_is_tried_again(server: HttpServer, status: int) -> None:
    """Better once too often than never."""
    server.answer(Reply(status, "later"))
    error = failure(server.url)
    assert isinstance(error, RetryableError)
    assert error.retry_after is None
    assert not error.unknown


def test_redirects_are_not_followed(server: HttpServer) -> None:
    """An alert goes nowhere but to the configured host."""
    with HttpServer() as other:
        server.answer(Reply(302, headers={"Location": other.url}))
        assert "redirects are not followed" in str(failure(server.url))
        assert other.requests == []


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("30", 30.0),
        ("1.5", 1.5),
        (" 0 ", 0.0),
        ("-5", 0.0),
        ("999999999", http.MAX_RETRY_AFTER_S),
        ("Fri, 30 Jan 2026 06:10:33 GMT", 30.0),
        ("Fri, 30 Jan 2026 06:00:00 GMT", 0.0),
        ("Fri, 30 Jan 2099 06:00:00 GMT", http.MAX_RETRY_AFTER_S),
        ("", None),
        ("soon", None),
        ("nan", None),
        ("inf", None),
        ("Fri, 99 Jan 2026 06:00:00 GMT", None),
        ("1e400", None),
    ],
)
def test_retry_after_is_read_in_every_form(value: str, seconds: float | None) -> None:
    """Seconds, fractions and dates count; garbage is as good as none; an hour is the most."""
    assert http.retry_after(value, now_s=1_769_753_403.0) == seconds


@given(st.text(max_size=60))
def test_any_retry_after_is_bounded_or_ignored(value: str) -> None:
    """A header can't raise, nor hold a plugin for longer than the cap."""
    seconds = http.retry_after(value)
    assert seconds is None or 0.0 <= seconds <= http.MAX_RETRY_AFTER_S


def test_retry_after_comes_with_the_error(server: HttpServer) -> None:
    """From the header, fraction and date alike."""
    server.answer(
        Reply(429, headers={"Retry-After": "1.5"}),
        Reply(503, headers={"Retry-After": formatdate(time.time() + 30, usegmt=True)}),
    )
    first, second = failure(server.url), failure(server.url)
    assert isinstance(first, RetryableError) and first.retry_after == 1.5
    assert isinstance(second, RetryableError) and second.retry_after is not None
    assert 20 < second.retry_after <= 30


@pytest.mark.parametrize(
    "reply",
    [
        Reply(never=True),
        Reply(delay_s=60),
        Reply(drip_headers_s=0.02),
        Reply(body="x" * 10_000, drip_body_s=0.02),
        Reply(headers={"Transfer-Encoding": "chunked"}, body="1\r\nx\r\n" * 999, drip_body_s=0.02),
    ],
    ids=["never", "late", "dripping headers", "dripping body", "dripping chunks"],
)
def test_the_deadline_is_total(server: HttpServer, reply: Reply) -> None:
    """A byte now and then keeps no attempt alive, and no thread is left of it."""
    threads = set(threading.enumerate())
    server.answer(reply)
    started = time.monotonic()
    error = failure(server.url, within_s=0.5)
    assert time.monotonic() - started < 5
    assert isinstance(error, RetryableError) and error.unknown
    assert str(error).startswith("no reply within 0.")
    assert {t for t in threading.enumerate() if not t.name.startswith("serve-")} <= threads


def test_a_receiver_that_does_not_read_is_given_up() -> None:
    """Sending has the same deadline."""
    with RawServer(lambda connection: time.sleep(1.5)) as server:
        body = b"x" * 50_000_000
        error = failure(f"http://127.0.0.1:{server.port}/", within_s=0.5, body=body)
    assert str(error).startswith("no reply within 0.")


def test_a_silent_tls_handshake_is_given_up() -> None:
    """So has the handshake; nothing was sent then, so nothing can have been accepted."""
    with RawServer() as server:
        error = failure(f"https://127.0.0.1:{server.port}/", within_s=0.5)
    assert isinstance(error, RetryableError) and not error.unknown
    assert str(error).startswith("no connection within 0.")


def test_a_deadline_that_has_passed_sends_nothing(server: HttpServer) -> None:
    """An attempt that comes too late is none."""
    assert "no connection within" in str(failure(server.url, within_s=-1.0))
    assert server.requests == []


def test_a_lost_reply_leaves_the_outcome_unknown(server: HttpServer) -> None:
    """The receiver may have taken it: the next attempt carries the same id."""
    server.answer(Reply(drop=True))
    error = failure(server.url)
    assert isinstance(error, RetryableError) and error.unknown
    assert str(error) == "connection closed before a reply"


def test_a_refused_connection_is_certain(server: HttpServer) -> None:
    """Nobody can have taken it."""
    error = failure(f"http://127.0.0.1:{free_port()}/")
    assert isinstance(error, RetryableError) and not error.unknown
    assert str(error) == "connection refused"


def test_an_unknown_host_is_tried_again() -> None:
    """Name servers have bad minutes too."""
    error = failure("http://no-such-host.invalid/")
    assert isinstance(error, RetryableError)
    assert str(error) == "host name look-up failed"


@pytest.mark.parametrize(
    "url", ["http://exa\x00mple/", "http://[::1/", "ftp://127.0.0.1/", "http://" + "a" * 70]
)
def test_what_is_no_url_is_permanent(url: str) -> None:
    """And raises nothing foreign."""
    assert isinstance(failure(url), PermanentError)


def test_garbage_instead_of_http_is_tried_again() -> None:
    """Something else listens on the port, perhaps only until a restart is done."""
    with RawServer(lambda connection: connection.sendall(b"\x00\x01 whatever\r\n\r\n")) as server:
        error = failure(f"http://127.0.0.1:{server.port}/")
    assert isinstance(error, RetryableError)


def test_endless_headers_are_cut() -> None:
    """Memory is bounded as well as time."""

    def flood(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 1000 + b"\r\n\r\n")
        while True:
            connection.sendall((b"HTTP/1.1 100 Continue\r\nX: " + b"y" * 1000 + b"\r\n\r\n") * 100)

    with RawServer(flood) as server:
        started = time.monotonic()
        error = failure(f"http://127.0.0.1:{server.port}/", within_s=60)
        assert time.monotonic() - started < 30
    assert isinstance(error, RetryableError)


def test_a_long_reply_is_cut(server: HttpServer) -> None:
    """64 KiB of it are read, whatever it announces."""
    server.answer(Reply(body=b"x" * (MAX_RECEIVED_BYTES // 2)))
    assert len(post(server.url).body) == http.MAX_REPLY_BYTES


def test_a_reply_that_breaks_off_counts_by_its_status(server: HttpServer) -> None:
    """The status line said it; the words are not needed."""
    server.answer(Reply(200, "ok", {"Content-Length": "50"}))
    assert post(server.url).body == b"ok"


def test_a_page_of_html_is_not_repeated(server: HttpServer) -> None:
    """A proxy's error page tells a person nothing."""
    server.answer(Reply(502, "<html>" + "x" * 999, {"Content-Type": "text/html"}))
    assert str(failure(server.url)) == "HTTP 502"


def test_words_of_the_other_side_are_one_short_printable_line(server: HttpServer) -> None:
    """Whatever it sends."""
    server.answer(Reply(500, b"\x1b[2J\xff\xfe\r\nline " + b"x" * 1000))
    text = str(failure(server.url))
    assert text.isprintable() and len(text) < 250


def test_nothing_comes_from_the_environment(
    server: HttpServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy variable or a netrc entry must not redirect an alert or replace its Authorization."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login eve password other\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    http.post(server.url, b"{}", {"Authorization": "Bearer mine"}, deadline=time.monotonic() + 5)
    assert server.wait(1)[0].headers["authorization"] == "Bearer mine"


def test_no_connection_is_kept(server: HttpServer) -> None:
    """A kept connection that was closed meanwhile would fail after sending: taken or not?"""
    for _ in range(3):
        post(server.url)
    assert server.connections == 3


def test_certificates_are_verified(tmp_path: Path) -> None:
    """A private authority counts only where it is configured, and only for the host's own name."""
    known = Certificates(tmp_path)
    with HttpServer(tls=known.server) as server:
        assert post(server.url, ca_file=known.ca_file).status == 200
        error = failure(server.url)
        assert isinstance(error, RetryableError)
        assert str(error).startswith("certificate not trusted: ")
    wrong = Certificates(tmp_path, "elsewhere.test")
    with HttpServer(tls=wrong.server) as server:
        assert "certificate not trusted" in str(failure(server.url, ca_file=wrong.ca_file))
        assert server.requests == []


def test_plain_text_where_tls_is_expected_is_an_error(server: HttpServer) -> None:
    """Never a fall back; a server that waits for the end of a line may not even answer."""
    text = str(failure(server.url.replace("http:", "https:"), 1))
    assert text.startswith(("TLS failed", "connection closed", "no connection within 1 s"))
    # A greeting in TLS may hold the end of a line, and then looks like a request of no known kind.
    assert not [each for each in server.requests if each.method == "POST" or each.body]


def test_the_deadline_is_total_over_tls(tmp_path: Path) -> None:
    """As without."""
    certificates = Certificates(tmp_path)
    with HttpServer(tls=certificates.server) as server:
        server.answer(Reply(drip_headers_s=0.02))
        error = failure(server.url, within_s=0.7, ca_file=certificates.ca_file)
    assert str(error).startswith("no reply within 0.")


def test_an_address_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with several addresses is reached over any of them."""
    with HttpServer() as server:
        entries = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))
            for port in (free_port(), server.port)
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: entries)
        with connect("both.test", 80, Attempt(time.monotonic() + 5)) as connection:
            assert connection.getpeername()[1] == server.port


def test_urls_are_not_logged_by_the_libraries(
    server: HttpServer, caplog: pytest.LogCaptureFixture
) -> None:
    """urllib3 logs every request's path at debug level: a token may be part of it."""
    caplog.set_level(logging.DEBUG)
    server.answer(Reply(200, headers={"Bad header": "x"}))
    post(server.url + "/TOKEN-123456789")
    assert "TOKEN" not in caplog.text
    logging.getLogger("urllib3.connectionpool").debug("of another user")
    assert "of another user" in caplog.text


def test_user_and_password_of_a_url_are_its_authorization(server: HttpServer) -> None:
    """They win over a configured header, and stand in no request line."""
    url = server.url.replace("http://", "http://asha:pass%20word@")
    http.post(url, b"{}", {"authorization": "Bearer other"}, deadline=time.monotonic() + 5)
    [request] = server.wait(1)
    assert request.headers["authorization"] == "Basic YXNoYTpwYXNzIHdvcmQ="
    assert request.path == "/hook"


def test_a_configured_header_replaces_ours_whatever_its_case(server: HttpServer) -> None:
    """There is one of each name."""
    http.post(server.url, b"{}", {"user-agent": "desk"}, deadline=time.monotonic() + 5)
    [request] = server.wait(1)
    assert request.headers["user-agent"] == "desk"
    assert request.headers["connection"] == "close"
    assert request.headers["host"] == f"127.0.0.1:{server.port}"
    assert request.headers["content-length"] == "2"


@pytest.mark.parametrize("value", ["a\r\nX: y", "a\r\n folded", " a", "\u20ac"])
def test_a_header_that_is_none_is_permanent(server: HttpServer, value: str) -> None:
    """And nothing is sent."""
    with pytest.raises(PermanentError, match="the URL or a header is invalid"):
        http.post(server.url, b"{}", {"X-Desk": value}, deadline=time.monotonic() + 5)
    assert server.requests == []


def test_a_path_is_quoted_and_its_query_kept(server: HttpServer) -> None:
    """As a browser would."""
    http.post(f"{server.url}/a b\u00e9?x=1 2", b"{}", {}, deadline=time.monotonic() + 5)
    assert server.wait(1)[0].path == "/hook/a%20b%C3%A9?x=1%202"


def test_where_a_url_leads_is_looked_up_once() -> None:
    """A host name in any script becomes ASCII; ports have their defaults."""
    found = target("https://b\u00fccher.example/x")
    assert (found.tls, found.host, found.port, found.path) == (
        True, "xn--bcher-kva.example", 443, "/x",
    )  # fmt: skip
    assert target("http://[::1]:8080/").host == "::1"
    assert "secret" not in repr(target("http://a:secret@host/secret"))
