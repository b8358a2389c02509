"""A webhook receiver whose answers a benchmark changes while it runs; it keeps what arrived."""

import contextlib
import http.server
import json
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

LOCALHOST = "127.0.0.1"
# Instead of a status: hang up after reading, or say nothing at all.
DROP, NEVER = -1, -2


@dataclass(frozen=True)
class Arrival:
    """One message, and when its last byte came, in ns of ``time.perf_counter_ns()``."""

    at_ns: int
    delivery: str
    body: bytes

    @property
    def fields(self) -> dict[str, Any]:
        """The body as JSON."""
        fields: dict[str, Any] = json.loads(self.body)
        return fields


class Receiver:
    """Answers with ``status``; ``arrivals`` is everything that came, answered or not."""

    def __init__(self, port: int = 0, status: int = 200) -> None:
        self.status = status
        self.arrivals: list[Arrival] = []
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._open: set[socket.socket] = set()
        self._server = _Server((LOCALHOST, port), _handler(self))
        self.port: int = self._server.server_address[1]
        self.url = f"http://{LOCALHOST}:{self.port}/"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def wait(self, until: Callable[[list[Arrival]], object], timeout_s: float) -> bool:
        """Wait until ``until(arrivals)`` is true; whether it became so in time."""
        with self._changed:
            return bool(self._changed.wait_for(lambda: until(self.arrivals), timeout_s))

    def take(self, connection: socket.socket, arrival: Arrival) -> int:
        """Note what arrived; what to answer."""
        with self._changed:
            self._open.add(connection)
            self.arrivals.append(arrival)
            self._changed.notify_all()
        if self.status == NEVER:
            self._closing.wait()
        return self.status

    def close(self) -> None:
        """Stop listening and hang up; the port is free at once."""
        self._closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
        for connection in self._open:
            with contextlib.suppress(OSError):  # most are closed already
                connection.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(http.server.ThreadingHTTPServer):
    request_queue_size = 1024
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A sender that hangs up is no news: some are killed on purpose."""


def _handler(receiver: Receiver) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            at_ns = time.perf_counter_ns()
            arrival = Arrival(at_ns, self.headers.get("webhook-id", ""), body)
            status = receiver.take(self.connection, arrival)
            if status in (DROP, NEVER):
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


def free_port() -> int:
    """A port that was free a moment ago, for a receiver that isn't there yet."""
    with socket.socket() as probe:
        probe.bind((LOCALHOST, 0))
        return int(probe.getsockname()[1])
