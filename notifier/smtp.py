"""One SMTP transaction with a total deadline and a result per recipient.

smtplib's ``sendmail`` gives the refused recipients only when another was accepted, and hides which
reply ended the transaction; here each recipient's own reply decides.  Nothing is sent before TLS is
up where TLS is configured.
"""

import smtplib
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from notifier.attempt import Attempt, TimedSocket, connect
from notifier.plugin import DeliveryError, PartialError, PermanentError, RetryableError
from notifier.secret import hide

STARTTLS = "starttls"
SMTPS = "smtps"
PLAIN = "plain"
_QUIT_S = 2.0  # the mail is accepted; a server that is slow to say goodbye changes nothing


@dataclass(frozen=True)
class MailServer:
    """Where and how to hand mail over; ``password`` shows in no repr."""

    host: str
    port: int
    security: str = STARTTLS
    user: str = ""
    password: str = field(default="", repr=False)
    ca_file: str = ""

    def secrets(self) -> set[str]:
        """The password, and what a login sends in its place."""
        plain, login = f"\0{self.user}\0{self.password}", self.password
        return {
            login,
            *(b64encode(one.encode(errors="replace")).decode() for one in (plain, login)),
        }


def send(
    server: MailServer, sender: str, recipients: Sequence[str], content: bytes, deadline: float
) -> str:
    """Hand *content* over for *recipients*; the server's last words when all were accepted.

    Raises:
        PermanentError, RetryableError: nobody got it; permanent where the server said 5xx.
        PartialError: the recipients ended differently.
    """
    attempt = Attempt(deadline)
    connection = _Connection(attempt, server.secrets() if server.password else set())
    try:
        try:
            attempt.left_s()
            _open(connection, server)
            return _transact(connection, sender, recipients, content)
        except DeliveryError:
            raise
        except (smtplib.SMTPException, OSError, ValueError) as error:
            problem = _problem(error, connection)
    finally:
        connection.close()
    # outside the except clause, so that no context leads to an error that may quote what we sent
    raise problem


@lru_cache(maxsize=16)
def trust(ca_file: str) -> ssl.SSLContext:
    """A context that verifies certificate and host name by *ca_file*, or by the system's list for
    an empty name.

    Raises:
        OSError: the file can't be read or holds no certificate.
    """
    return ssl.create_default_context(cafile=ca_file or None)


class _Connection(smtplib.SMTP):
    """smtplib over sockets that keep to the attempt."""

    def __init__(self, attempt: Attempt, secrets: set[str]):
        # a name given keeps smtplib from asking the resolver for ours, which may take longer than
        # the attempt
        super().__init__(local_hostname="localhost")
        self.attempt = attempt
        self.secrets = secrets
        self.tls: ssl.SSLContext | None = None
        self.sent = (
            False  # is the mail's content on its way, so that a lost reply leaves its fate unknown?
        )

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        plain = connect(host, port, self.attempt)
        try:
            self.local_hostname = _own_name(plain)
            return self._timed(plain, host)
        except BaseException:
            plain.close()
            raise

    def _timed(self, plain: socket.socket, host: str) -> socket.socket:
        if self.tls is not None:
            plain = self.tls.wrap_socket(plain, server_hostname=host)
        return TimedSocket.around(plain, self.attempt)

    def words(self, code: int, said: bytes | str) -> str:
        """A reply in one printable line without secrets."""
        text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
        return hide(f"{code} {text}" if code > 0 else f"unreadable reply {text}", self.secrets)

    def upgrade(self, host: str, context: ssl.SSLContext) -> None:
        """STARTTLS.  What the server said before it is forgotten, bytes it sent too early included.

        Raises:
            PermanentError: the server doesn't offer it.
        """
        self.ehlo_or_helo_if_needed()
        if not self.has_extn("starttls"):
            raise PermanentError("the server offers no STARTTLS: set security to smtps or plain")
        code, said = self.docmd("STARTTLS")
        if code != 220:
            raise smtplib.SMTPResponseException(code, said)
        inner = self.sock.inner  # type: ignore[union-attr]  # a TimedSocket
        inner.settimeout(self.attempt.left_s())
        self.tls = context
        self.sock = self._timed(inner, host)
        self.file = None
        self.ehlo_resp = self.helo_resp = None
        self.esmtp_features = {}
        self.does_esmtp = False


def _open(connection: _Connection, server: MailServer) -> None:
    if server.security == SMTPS:
        connection.tls = trust(server.ca_file)
    code, said = connection.connect(server.host, server.port)
    if code != 220:
        raise smtplib.SMTPResponseException(code, said)
    if server.security == STARTTLS:
        connection.upgrade(server.host, trust(server.ca_file))
    connection.ehlo_or_helo_if_needed()
    if server.user:
        connection.login(server.user, server.password)


def _transact(
    connection: _Connection, sender: str, recipients: Sequence[str], content: bytes
) -> str:
    code, said = connection.mail(sender)
    if code != 250:
        raise smtplib.SMTPResponseException(code, said)
    accepted: list[str] = []
    later: dict[str, str] = {}
    refused: dict[str, str] = {}
    for recipient in recipients:
        code, said = connection.rcpt(recipient)
        if code in (250, 251):
            accepted.append(recipient)
        else:
            (refused if 500 <= code < 600 else later)[recipient] = connection.words(code, said)
    last = ""
    if accepted:
        connection.sent = True
        try:
            code, said = connection.data(content)
        except smtplib.SMTPDataError as error:  # refused before the content
            code, said = error.smtp_code, _bytes(error.smtp_error)
        last = connection.words(code, said)
        if code != 250:
            (refused if 500 <= code < 600 else later).update(dict.fromkeys(accepted, last))
            accepted = []
    _leave(connection)
    problem = _result(accepted, later, refused)
    if problem is not None:
        raise problem
    return last


def _leave(connection: _Connection) -> None:
    """Say goodbye; whatever comes back, the outcome is known."""
    connection.attempt.ends = min(connection.attempt.ends, time.monotonic() + _QUIT_S)
    try:
        connection.docmd("QUIT")
    except (smtplib.SMTPException, OSError):
        pass  # it hung up first, or takes its time


def _result(
    accepted: Sequence[str], later: Mapping[str, str], refused: Mapping[str, str]
) -> DeliveryError | None:
    if not later and not refused:
        return None
    words = ", ".join(_told({**later, **refused}))
    if accepted or (later and refused):
        many = len(accepted) + len(later) + len(refused)
        text = f"{len(later) + len(refused)} of {many} recipients refused: {words}"
        return PartialError(text, tuple(later), delivered=accepted, refused=refused)
    return RetryableError(words) if later else PermanentError(words)


def _told(reasons: Mapping[str, str]) -> Iterable[str]:
    """What to say of refused recipients: the first few."""
    shown = list(reasons.items())[:3]
    yield from (f"{hide(recipient, ())}: {reason}" for recipient, reason in shown)
    if len(reasons) > len(shown):
        yield f"and {len(reasons) - len(shown)} more"


def _problem(error: Exception, connection: _Connection) -> DeliveryError:
    """What to tell of an attempt in which nobody's fate was settled one by one."""
    attempt = connection.attempt
    secrets = connection.secrets
    if attempt.over or isinstance(error, TimeoutError):
        return RetryableError(attempt.problem, unknown=connection.sent)
    if isinstance(error, smtplib.SMTPResponseException):
        text = connection.words(error.smtp_code, error.smtp_error)
        if isinstance(error, smtplib.SMTPAuthenticationError):
            text = f"login refused: {text}"
        permanent = 500 <= error.smtp_code < 600
        return PermanentError(text) if permanent else RetryableError(text)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        return PermanentError(
            "the server offers no login that is understood: unset user or check security"
        )
    if isinstance(error, smtplib.SMTPServerDisconnected):
        return RetryableError("connection closed before a reply", unknown=connection.sent)
    if isinstance(error, smtplib.SMTPException):
        return PermanentError("login failed: no common method")
    if isinstance(error, ssl.SSLCertVerificationError):
        return RetryableError(f"certificate not trusted: {hide(error.verify_message, secrets)}")
    if isinstance(error, ssl.SSLError):
        return RetryableError(f"TLS failed: {hide(error.reason or 'unknown reason', secrets)}")
    if isinstance(error, socket.gaierror):
        return RetryableError("host name look-up failed")
    if isinstance(error, ConnectionRefusedError):
        return RetryableError("connection refused")
    if isinstance(error, ValueError):
        return PermanentError("host, login, an address or the mail can't be written in ASCII")
    text = hide(getattr(error, "strerror", None) or "connection failed", secrets)
    return RetryableError(text, unknown=connection.sent)


def _bytes(said: bytes | str) -> bytes:
    return said if isinstance(said, bytes) else said.encode()


def _own_name(connection: socket.socket) -> str:
    """What to call ourselves in EHLO: a full host name, else our address.

    Source: RFC 5321 sections 4.1.1.1 and 4.1.3.
    """
    name = socket.gethostname()
    if "." in name and name.isascii():
        return name
    address = str(connection.getsockname()[0]).partition("%")[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"
