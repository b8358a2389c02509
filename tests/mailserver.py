"""A real SMTP server on 127.0.0.1 for tests: TLS, logins, and recipients that it refuses."""

import asyncio
import ssl
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session


@dataclass(frozen=True)
class Mail:
    """One accepted mail: the envelope and the bytes after DATA; ``tls`` and ``user`` tell how it
    came.
    """

    sender: str
    recipients: tuple[str, ...]
    content: bytes
    tls: bool
    user: str | None


class SmtpServer:
    """aiosmtpd in a thread: ``security`` is plain, starttls or smtps.

    ``refuse`` maps a recipient to the reply that refuses it, such as ``550 no such user``;
    ``on_data`` may name the reply to a mail instead of ``250``; with ``users`` (name -> password) a
    login is required. All of them may be changed while it runs.
    """

    def __init__(
        self,
        security: str = "plain",
        *,
        tls: ssl.SSLContext | None = None,
        users: Mapping[str, str] | None = None,
        refuse: Mapping[str, str] | None = None,
    ):
        assert security in ("plain", "starttls", "smtps")
        assert (tls is not None) == (security != "plain"), "starttls and smtps need a certificate"
        self.security = security
        self.users = dict(users or {})
        self.refuse = dict(refuse or {})
        self.on_data: str | None = None
        self.mails: list[Mail] = []
        self.logins: list[tuple[str, bool]] = []
        self._tls = tls
        self._arrived = threading.Condition()
        self._loop = asyncio.new_event_loop()
        started: threading.Event = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(started,), name="smtp")
        self._thread.start()
        assert started.wait(10), "SMTP server did not start"

    host = "127.0.0.1"
    port = 0

    def wait(self, count: int, timeout_s: float = 10.0) -> list[Mail]:
        """The mails so far, once there are *count*."""
        with self._arrived:
            done = self._arrived.wait_for(lambda: len(self.mails) >= count, timeout_s)
            assert done, f"{len(self.mails)} of {count} mails after {timeout_s} s"
            return list(self.mails)

    def _protocol(self) -> SMTP:
        return SMTP(
            self,
            hostname="mail.test",
            tls_context=self._tls if self.security == "starttls" else None,
            require_starttls=self.security == "starttls",
            auth_require_tls=self.security == "starttls",
            authenticator=self._authenticate,
            enable_SMTPUTF8=False,
        )

    def _authenticate(
        self, server: SMTP, session: Session, envelope: Envelope, mechanism: str, data: Any
    ) -> AuthResult:
        if not isinstance(data, LoginPassword):
            return AuthResult(success=False, handled=False)
        name, password = data.login.decode(), data.password.decode()
        good = self.users.get(name) == password
        self.logins.append((name, good))
        return AuthResult(success=good, handled=False, auth_data=name)

    async def handle_RCPT(
        self,
        server: SMTP,
        session: Session,
        envelope: Envelope,
        address: str,
        options: Sequence[str],
    ) -> str:
        if self.users and not session.authenticated:
            return "530 5.7.0 Authentication required"
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Session, envelope: Envelope) -> str:
        if self.on_data is not None:
            return self.on_data
        content = envelope.content
        mail = Mail(
            sender=envelope.mail_from or "",
            recipients=tuple(envelope.rcpt_tos),
            content=content if isinstance(content, bytes) else (content or "").encode(),
            tls=session.ssl is not None or self.security == "smtps",
            user=str(session.auth_data) if session.authenticated else None,
        )
        with self._arrived:
            self.mails.append(mail)
            self._arrived.notify_all()
        return "250 OK"

    def _run(self, started: threading.Event) -> None:
        asyncio.set_event_loop(self._loop)
        # a client that hangs up in the handshake, which tests make happen, is no fault of the
        # server
        self._loop.set_exception_handler(lambda loop, context: None)
        server = self._loop.run_until_complete(
            self._loop.create_server(
                self._protocol, "127.0.0.1", 0, ssl=self._tls if self.security == "smtps" else None
            )
        )
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()
        server.close()
        _drain(self._loop)
        self._loop.close()

    def close(self) -> None:
        """End the server and its thread."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive(), "SMTP server did not end"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _drain(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel what still runs on *loop*, so that nothing is destroyed while pending."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
    loop.run_until_complete(loop.shutdown_asyncgens())
