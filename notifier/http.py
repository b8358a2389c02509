"""The one place that POSTs: one attempt, a total deadline, no redirects, nothing from the
environment, no secrets told.

State of retries is kept by the caller, never in here.  A fresh connection per attempt: a kept one
that the other side has closed in the meantime would fail after sending, and nobody could tell
whether the message had been taken.
"""

import http.client
import math
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any

from notifier.attempt import Attempt
from notifier.plugin import DeliveryError, PermanentError, RetryableError
from notifier.secret import header_problem, hide, url_secrets
from notifier.transport import Connection, target

MAX_REPLY_BYTES = 65_536
MAX_RETRY_AFTER_S = 3600.0
# Another try can't help: the request itself is wrong, or what it asks for is gone.
PERMANENT = frozenset({301, 308, 400, 401, 403, 404, 410, 413})
_OURS = {"User-Agent": "tickwatch", "Connection": "close"}  # a configured one counts instead
_FAILURES = (OSError, http.client.HTTPException)


@dataclass(frozen=True)
class Reply:
    """What the other side answered: header names in lower case, the body cut at 64 KiB."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        """The body as text, whatever its bytes; empty for HTML, which tells a person nothing."""
        if "html" in self.headers.get("content-type", ""):
            return ""
        return self.body.decode("utf-8", "replace")

    @property
    def wait_s(self) -> float | None:
        """Seconds that a Retry-After header asks for."""
        return retry_after(self.headers.get("retry-after", ""))

    def line(self, secrets: Iterable[str] = ()) -> str:
        """The reply in one printable line, such as ``HTTP 503: overloaded``."""
        said = hide(self.text, secrets)
        return f"HTTP {self.status}: {said}" if said else f"HTTP {self.status}"


def post(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    deadline: float,
    secrets: Iterable[str] = (),
    ca_file: str = "",
) -> Reply:
    """POST *body* once and return the reply, if it is a 2xx.

    Args:
        deadline: in seconds of ``time.monotonic()``; everything has ended by then.
        secrets: what must not be repeated beside the URL's own secrets.
        ca_file: certificates to trust instead of the public authorities'.

    Raises:
        PermanentError, RetryableError: how the attempt ended otherwise.
    """
    secrets = {*secrets, *url_secrets(url)}
    reply = exchange(url, body, headers, deadline=deadline, secrets=secrets, ca_file=ca_file)
    problem = verdict(reply.status, reply.line(secrets), reply.wait_s)
    if problem is not None:
        raise problem
    return reply


def exchange(
    url: str,
    body: bytes,
    headers: Mapping[str, str],
    *,
    deadline: float,
    secrets: Iterable[str] = (),
    ca_file: str = "",
) -> Reply:
    """POST *body* once and return the reply, whatever its status; otherwise as ``post``."""
    attempt = Attempt(deadline, ca_file)
    secrets = {*secrets, *url_secrets(url)}
    try:
        attempt.left_s()
        reply = _send(url, body, headers, attempt)
        problem = None
    except (OSError, ValueError, http.client.HTTPException) as error:
        problem = _problem(error, attempt, secrets)
    if problem is not None:
        # outside the except clause, so that no context leads to an error that holds the URL
        raise problem
    return reply


def verdict(status: int, line: str, wait_s: float | None = None) -> DeliveryError | None:
    """The error that a status means, or None for a 2xx.

    Args:
        line: what to say of it.
        wait_s: how long the other side asked to wait.
    """
    if 200 <= status < 300:
        return None
    if 300 <= status < 400:
        line = f"HTTP {status}: redirects are not followed, set the final URL"
    return PermanentError(line) if status in PERMANENT else RetryableError(line, wait_s)


def retry_after(value: str, now_s: float | None = None) -> float | None:
    """Seconds that a Retry-After header asks for, at most an hour; None for no or an unreadable
    one.

    Whole seconds and an HTTP date are the standard's forms, fractions are common.
    Source: RFC 9110 section 10.2.3.
    """
    value = value.strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            at = parsedate_to_datetime(value)
        except (ValueError, TypeError, IndexError, OverflowError):
            return None
        try:
            seconds = at.timestamp() - (time.time() if now_s is None else now_s)
        except (ValueError, OverflowError):
            return None
    if not math.isfinite(seconds):
        return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S)


def _send(url: str, body: bytes, headers: Mapping[str, str], attempt: Attempt) -> Reply:
    to = target(url)
    given: dict[str, tuple[str, str]] = {}
    for name, value in (*_OURS.items(), *headers.items(), *to.headers.items()):
        if header_problem(name, value):
            raise ValueError("a header is invalid")
        given[name.lower()] = (name, value)
    connection = Connection(to, attempt)
    try:
        connection.request("POST", to.path, body, dict(given.values()))
        with connection.getresponse() as response:
            got: dict[str, str] = {}
            for name, value in response.getheaders():
                got.setdefault(name.lower(), value)
            return Reply(response.status, got, _read(response, attempt))
    finally:
        connection.close()


def _read(response: http.client.HTTPResponse, attempt: Attempt) -> bytes:
    """The first 64 KiB of the body; what arrived counts when the other side hangs up early."""
    parts: list[bytes] = []
    wanted = MAX_REPLY_BYTES
    try:
        while wanted > 0 and (part := response.read1(wanted)):
            parts.append(part)
            wanted -= len(part)
    except _FAILURES:
        if attempt.over:
            raise
    return b"".join(parts)


def _problem(error: Exception, attempt: Attempt, secrets: Iterable[str]) -> DeliveryError:
    """What to tell of *error*: never its own text, which holds the URL."""
    causes = list(_causes(error))
    unknown = attempt.wrote
    if attempt.over or any(isinstance(one, TimeoutError) for one in causes):
        return RetryableError(attempt.problem, unknown=unknown)
    tls = isinstance(error, ssl.SSLError)  # which may be a ValueError, too
    if isinstance(error, ValueError) and not tls and not attempt.wrote:
        return PermanentError("the URL or a header is invalid")
    for one in causes:
        if isinstance(one, ssl.SSLCertVerificationError):
            return RetryableError(f"certificate not trusted: {hide(one.verify_message, secrets)}")
        if isinstance(one, ssl.SSLError):
            text = f"TLS failed: {hide(one.reason or 'unknown reason', secrets)}"
            return RetryableError(text, unknown=unknown)
        if isinstance(one, socket.gaierror):
            return RetryableError("host name look-up failed")
        if isinstance(one, ConnectionRefusedError):
            return RetryableError("connection refused")
    for one in causes:
        if isinstance(one, ConnectionError | http.client.RemoteDisconnected):
            return RetryableError("connection closed before a reply", unknown=unknown)
        if isinstance(one, OSError) and one.strerror:
            return RetryableError(hide(one.strerror, secrets), unknown=unknown)
    return RetryableError(f"request failed ({type(causes[-1]).__name__})", unknown=unknown)


def _causes(error: BaseException) -> Iterable[BaseException]:
    """*error* and what it wraps, in causes, contexts and arguments, without repetition."""
    todo: list[Any] = [error]
    seen: set[int] = set()
    while todo:
        one = todo.pop(0)
        if not isinstance(one, BaseException) or id(one) in seen:
            continue
        seen.add(id(one))
        yield one
        todo += [one.__cause__, one.__context__, getattr(one, "reason", None), *one.args]
