"""Real servers on 127.0.0.1 for tests: scriptable HTTP, SMTP with TLS and auth, raw TCP.

Every server takes a free port, is a context manager, and leaves no thread or socket behind::

    with HttpServer() as server:
        server.answer(Reply(503), Reply(503))       # for two requests; then server.default
        ...                                         # something that posts to server.url
        [first, second, third] = server.wait(3)     # Request(method, path, headers, body, at)
"""

import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import trustme

from tests.mailserver import Mail, SmtpServer

__all__ = [
    "LOCALHOST",
    "Certificates",
    "HttpServer",
    "Mail",
    "RawServer",
    "Reply",
    "Request",
    "SmtpServer",
    "free_port",
]
LOCALHOST = "127.0.0.1"


class Certificates:
    """A private authority and a certificate for 127.0.0.1 and localhost; ``ca_file`` is what a
    client must trust.
    """

    def __init__(self, directory: Path, *names: str):
        authority = trustme.CA()
        self.ca_file = str(directory / "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        self.server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*(names or (LOCALHOST, "localhost"))).configure_cert(self.server)


class RawServer:
    """Accept connections and run ``serve(connection)`` for each in a thread; close() ends them all.

    ``serve`` may block in a socket operation or in ``pause``: both end at close().
    """

    def __init__(
        self,
        serve: Callable[[socket.socket], None] | None = None,
        *,
        tls: ssl.SSLContext | None = None,
        port: int = 0,
    ):
        if serve is not None:
            self.serve = serve  # type: ignore[method-assign, assignment]
        self._tls = tls
        self._stop = threading.Event()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self._listener = socket.create_server((LOCALHOST, port), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, name=f"accept-{self.port}")
        self._acceptor.start()

    def serve(self, connection: socket.socket) -> None:
        """Without a function: say nothing until the other side or close() ends it."""
        while connection.recv(65536):
            pass

    def pause(self, seconds: float) -> bool:
        """Wait; True when the server is being closed."""
        return self._stop.wait(seconds)

    def drip(self, connection: socket.socket, data: bytes, each_s: float) -> None:
        """Send *data* a byte at a time."""
        for position in range(len(data)):
            connection.sendall(data[position : position + 1])
            if self.pause(each_s):
                return

    def _accept(self) -> None:
        while not self._stop.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self.connections += 1
            self._open.add(connection)
            thread = threading.Thread(
                target=self._run, args=(connection,), name=f"serve-{self.port}"
            )
            self._threads = [one for one in self._threads if one.is_alive()] + [thread]
            thread.start()

    def _run(self, plain: socket.socket) -> None:
        connection = plain
        try:
            if self._tls is not None:
                plain.settimeout(5)
                connection = self._tls.wrap_socket(plain, server_side=True)
                self._open.add(connection)
                connection.settimeout(None)
            self.serve(connection)
        except (OSError, ValueError):
            pass  # the other side hung up, refused our certificate, or the server is being closed
        finally:
            for one in (connection, plain):
                self._open.discard(one)
                one.close()

    def close(self) -> None:
        """Stop listening, end every connection, join every thread."""
        self._stop.set()
        try:
            self._listener.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass  # some kernels refuse that for a listener; closing it is enough there
        self._listener.close()
        for connection in list(self._open):
            try:
                socket.socket.shutdown(connection, socket.SHUT_RDWR)
            except OSError:
                pass  # closed in the meantime
        self._acceptor.join(5)
        for thread in self._threads:
            thread.join(5)
            assert not thread.is_alive(), f"{thread.name} did not end"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Reply:
    """How to answer one request.

    ``delay_s`` waits before the first byte, ``drip_headers_s`` and ``drip_body_s`` pause after
    every byte of that part, ``drop`` reads the request and hangs up without a reply, ``never``
    reads it and says nothing until the end.
    """

    status: int = 200
    body: bytes | str = b"ok"
    headers: Mapping[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    drip_headers_s: float = 0.0
    drip_body_s: float = 0.0
    drop: bool = False
    never: bool = False


@dataclass(frozen=True)
class Request:
    """One request as it arrived; header names are in lower case, ``at`` is time.monotonic() after
    its last byte.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    at: float

    def json(self) -> Any:
        return json.loads(self.body)


class HttpServer(RawServer):
    """Records every request and answers as told: queued replies first, then ``default``.

    ``default`` may also be a function from the request to its reply.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, port: int = 0):
        self.requests: list[Request] = []
        self.default: Reply | Callable[[Request], Reply] = Reply()
        self._replies: deque[Reply] = deque()
        self._arrived = threading.Condition()
        super().__init__(tls=tls, port=port)
        self.url = f"{'https' if tls else 'http'}://{LOCALHOST}:{self.port}/hook"

    def answer(self, *replies: Reply) -> None:
        """Queue replies for the next requests."""
        with self._arrived:
            self._replies.extend(replies)

    def wait(self, count: int, timeout_s: float = 10.0) -> list[Request]:
        """The requests so far, once there are *count*; fails when they don't come in time."""
        with self._arrived:
            done = self._arrived.wait_for(lambda: len(self.requests) >= count, timeout_s)
            assert done, f"{len(self.requests)} of {count} requests after {timeout_s} s"
            return list(self.requests)

    def serve(self, connection: socket.socket) -> None:
        request = _read_request(connection)
        if request is None:
            return
        with self._arrived:
            self.requests.append(request)
            reply = self._replies.popleft() if self._replies else self.default
            self._arrived.notify_all()
        if callable(reply):
            reply = reply(request)
        if reply.drop or self.pause(reply.delay_s) or (reply.never and self.pause(3600)):
            return
        self._send(connection, reply)

    def _send(self, connection: socket.socket, reply: Reply) -> None:
        body = reply.body.encode() if isinstance(reply.body, str) else reply.body
        given = {name.lower() for name in reply.headers}
        lines = [f"HTTP/1.1 {reply.status} Scripted", "Connection: close"]
        if not given & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        for part, each_s in ((head, reply.drip_headers_s), (body, reply.drip_body_s)):
            if each_s:
                self.drip(connection, part, each_s)
            else:
                connection.sendall(part)


def _read_request(connection: socket.socket) -> Request | None:
    """The whole request; None if whoever sends it ends in the middle."""
    with connection.makefile("rb") as stream:
        start = stream.readline(65536).decode("latin-1").split()
        if len(start) != 3:
            return None
        headers: dict[str, str] = {}
        while (line := stream.readline(65536).decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        length = int(headers.get("content-length", "0"))
        body = stream.read(length)
    if len(body) < length:
        return None
    return Request(start[0], start[1], headers, body, time.monotonic())


def free_port() -> int:
    """A port that was free a moment ago, for programs that can't take port 0."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])
