"""Small HTTP servers on 127.0.0.1 for the demo: its sentiment provider and its webhook sink.

They serve this machine alone, each on one thread plus one per request, and end with the demo.
"""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

HOST = "127.0.0.1"
MAX_BODY_BYTES = 1 << 20
_STOP_S = 2.0


class Replier(BaseHTTPRequestHandler):
    """Answers requests, and is silent about them."""

    timeout = 10.0  # seconds that a request may keep its thread waiting

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the demo's screen belongs to the demo."""

    def reply(self, status: int, body: bytes = b"") -> None:
        """Answer with *status* and a JSON *body*; a client that has gone is no problem of ours."""
        with contextlib.suppress(ConnectionError):
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def body(self) -> bytes | None:
        """The request's body; None when its length is missing, wrong or too large."""
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > MAX_BODY_BYTES:
            return None
        return self.rfile.read(int(length))


class Loopback:
    """A server on 127.0.0.1 from construction to ``close``."""

    def __init__(self, replier: type[Replier], port: int = 0) -> None:
        """Listen on *port*, or on any free one.

        Raises:
            OSError: the port is taken.
        """
        self._server = _Server((HOST, port), replier)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="loopback", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Stop listening; harmless when repeated."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(_STOP_S)

    def __enter__(self) -> "Loopback":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # a client that keeps its connection must not keep the demo

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: a request that broke off is the client's affair, and the screen the demo's."""
