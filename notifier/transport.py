"""HTTP connections that keep to the attempt that they are made for, and a quiet urllib3.

``http.client`` alone is on the wire: a session of requests and its pool cost a message a
millisecond more, and nothing of theirs is wanted here, neither kept connections, redirects, cookies
and proxies nor retries.  What requests knows of URLs is used: see ``target``.
"""

import http.client
import logging
import ssl
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from urllib.parse import urlsplit

import requests
from requests.adapters import DEFAULT_CA_BUNDLE_PATH

from notifier.attempt import Attempt, TimedSocket, connect

silent: ContextVar[bool] = ContextVar("silent", default=False)  # for others who post by urllib3


@dataclass(frozen=True, slots=True)
class Target:
    """Where a URL leads; ``path`` is what the request line says, ``headers`` are its user and
    password.  All of it may be secret."""

    tls: bool
    host: str
    port: int
    path: str = field(repr=False)
    headers: dict[str, str] = field(repr=False)


@lru_cache(maxsize=64)
def target(url: str) -> Target:
    """Where *url* leads: quoted, its host name in ASCII, user and password as Authorization.

    Raises:
        ValueError: it is no http(s) URL.
    """
    prepared = requests.PreparedRequest()
    try:
        prepared.prepare("POST", url)
    except requests.RequestException:
        raise ValueError("not an http(s) URL") from None
    parts = urlsplit(prepared.url or "")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http(s) URL")
    tls = parts.scheme == "https"
    given = {name: str(value) for name, value in (prepared.headers or {}).items()}
    wanted = {name: value for name, value in given.items() if name == "Authorization"}
    return Target(
        tls, parts.hostname, parts.port or (443 if tls else 80), prepared.path_url, wanted
    )


class Connection(http.client.HTTPConnection):
    """A connection for one request, over TLS with a *context*."""

    def __init__(self, to: Target, attempt: Attempt) -> None:
        super().__init__(to.host, to.port)
        self.default_port = 443 if to.tls else 80  # one that the Host header leaves out
        self._tls = to.tls
        self._attempt = attempt

    def connect(self) -> None:
        """Connect, within the attempt's time.

        Raises:
            OSError: it failed.
        """
        attempt = self._attempt
        self.sock = connect(self.host, self.port, attempt)
        if self._tls:
            self.sock.settimeout(attempt.left_s())  # of the whole handshake
            self.sock = trust(attempt.ca_file).wrap_socket(self.sock, server_hostname=self.host)
        self.sock = TimedSocket.around(self.sock, attempt)


@lru_cache(maxsize=16)
def trust(ca_file: str) -> ssl.SSLContext:
    """A context that verifies certificate and host name by *ca_file*, or by the public authorities
    for an empty name.

    Raises:
        OSError: the file can't be read or holds no certificate.
    """
    return ssl.create_default_context(cafile=ca_file or DEFAULT_CA_BUNDLE_PATH)


def _foreign(record: logging.LogRecord) -> bool:
    """urllib3 logs URLs, tokens included: nothing of it is logged where that was asked for."""
    return not silent.get()


for _name in ("connection", "connectionpool", "response", "util.retry"):
    logging.getLogger(f"urllib3.{_name}").addFilter(_foreign)
