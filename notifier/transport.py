"""requests over sockets that keep to the running attempt, and silent about URLs.

The attempt is a context variable, so that one set of connection classes serves every attempt of
every thread.
"""

import logging
import socket
import ssl
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

from requests.adapters import DEFAULT_CA_BUNDLE_PATH, HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from notifier.attempt import Attempt, TimedSocket, connect

running: ContextVar[Attempt | None] = ContextVar("running", default=None)
silent: ContextVar[bool] = ContextVar(
    "silent", default=False
)  # for others who post through urllib3


class _TimedConnection(HTTPConnection):
    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host, self.port or self.default_port, _current())

    def connect(self) -> None:
        super().connect()
        self.sock = TimedSocket.around(self.sock, _current())


class _TimedTlsConnection(HTTPSConnection):
    def _new_conn(self) -> socket.socket:
        return connect(self._dns_host, self.port or self.default_port, _current())

    def connect(self) -> None:
        # a context of our own: urllib3 would read the authorities' file again for each connection
        self.ssl_context = trust(_current().ca_file)
        self.ca_certs = None
        super().connect()
        self.sock = TimedSocket.around(self.sock, _current())


class _TimedPool(HTTPConnectionPool):
    ConnectionCls = _TimedConnection


class _TimedTlsPool(HTTPSConnectionPool):
    ConnectionCls = _TimedTlsConnection


class TimedAdapter(HTTPAdapter):
    """requests' way out, over connections that keep to the running attempt."""

    def init_poolmanager(self, *arguments: Any, **options: Any) -> None:
        super().init_poolmanager(*arguments, **options)
        self.poolmanager.pool_classes_by_scheme = {"http": _TimedPool, "https": _TimedTlsPool}


@lru_cache(maxsize=16)
def trust(ca_file: str) -> ssl.SSLContext:
    """A context that verifies certificate and host name by *ca_file*, or by the public authorities
    for an empty name.

    Raises:
        OSError: the file can't be read or holds no certificate.
    """
    return ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)


def _current() -> Attempt:
    attempt = running.get()
    assert attempt is not None, "a timed connection outside an attempt"
    return attempt


def _foreign(record: logging.LogRecord) -> bool:
    """urllib3 logs URLs, tokens included: nothing of it is logged while we post."""
    return running.get() is None and not silent.get()


for _name in ("connection", "connectionpool", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_foreign)
