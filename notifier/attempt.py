"""The clock of one delivery attempt, and sockets that keep to it.

A socket's own timeout is per operation: a server that sends a byte now and then holds a reader for
ever.  Here every read and write gets what is left of the attempt, so the whole of it, from
connecting to the last byte, ends in time. Only the look-up of a host name can't be bounded: it
blocks in the system's resolver.
"""

import io
import socket
import time
from typing import Any, cast

MAX_RECEIVED_BYTES = 1 << 20  # per attempt, headers and TLS-free protocol chatter included
_SEND_BYTES = 65_536


class Attempt:
    """How long one attempt may take, and whether it got as far as sending anything."""

    def __init__(self, ends: float, ca_file: str = ""):
        """*ends*: in seconds of ``time.monotonic()``; *ca_file*: authorities to trust."""
        self.ends = ends
        self.ca_file = ca_file
        self.allowed_s = max(0.0, ends - time.monotonic())
        self.wrote = False
        self.received = 0

    @property
    def over(self) -> bool:
        """Is the time used up?"""
        return time.monotonic() >= self.ends

    def left_s(self) -> float:
        """Seconds left, more than 0.

        Raises:
            TimeoutError: the time is used up.
        """
        left = self.ends - time.monotonic()
        if left <= 0:
            raise TimeoutError(self.problem)
        return left

    @property
    def problem(self) -> str:
        """What to say when the time was used up, such as ``no reply within 10 s``."""
        said = "no reply" if self.wrote else "no connection"
        return f"{said} within {round(max(self.allowed_s, 0.1), 1):g} s"

    def count(self, received: int) -> None:
        """Book received bytes.

        Raises:
            OSError: more than a sane server sends.
        """
        self.received += received
        if self.received > MAX_RECEIVED_BYTES:
            raise OSError(f"more than {MAX_RECEIVED_BYTES} bytes received")


def connect(host: str, port: int, attempt: Attempt) -> socket.socket:
    """A TCP connection to *host*, its timeout set to what is left.

    The addresses of a host share the time, so that one that swallows packets leaves some for the
    next.

    Raises:
        OSError: no address could be reached (the last one's error), or the name isn't known
        (``socket.gaierror``). UnicodeError: *host* can't be a host name.
    """
    addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    problem: OSError = OSError("host has no address")
    for position, (family, kind, protocol, _, address) in enumerate(addresses):
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(attempt.left_s() / (len(addresses) - position))
            connection.connect(address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.settimeout(attempt.left_s())
            return connection
        except OSError as error:
            connection.close()
            problem = error
    raise problem


class TimedSocket:
    """A connected socket whose reads and writes end with the attempt; the rest is the socket's."""

    def __init__(self, inner: socket.socket, attempt: Attempt):
        self.inner = inner
        self._attempt = attempt

    @classmethod
    def around(cls, inner: socket.socket, attempt: Attempt) -> socket.socket:
        """*inner* timed, for code that expects a socket."""
        return cast(socket.socket, cls(inner, attempt))

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send *data*; each piece may take what is left."""
        view = memoryview(data).cast("B")
        self._attempt.wrote = True
        sent = 0
        while sent < len(view):
            self.inner.settimeout(self._attempt.left_s())
            sent += self.inner.send(view[sent : sent + _SEND_BYTES], flags)

    def makefile(self, mode: str = "rb", *arguments: Any, **options: Any) -> io.BufferedReader:
        """A buffered reader whose reads end with the attempt."""
        raw = self.inner.makefile("rb", buffering=0)
        return io.BufferedReader(_TimedReads(raw, self.inner, self._attempt))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)


class _TimedReads(io.RawIOBase):
    def __init__(self, raw: io.RawIOBase, connection: socket.socket, attempt: Attempt):
        self._raw = raw  # keeps a connection open that its owner has closed, like any socket's file
        self._connection = connection
        self._attempt = attempt

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._connection.settimeout(self._attempt.left_s())
        count = self._raw.readinto(buffer)
        self._attempt.count(count or 0)
        return cast("int | None", count)

    def close(self) -> None:
        self._raw.close()
        super().close()
