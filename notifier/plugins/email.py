"""E-mail over SMTP: a mail per message, threaded by alert, tried again only for those who haven't
got it.

The Message-ID is made of the delivery's id, so that a mail that goes twice because a reply was lost
is seen to be the same one; every mail of an alert refers to the same root, so that readers show
them as one thread.
"""

import html
import re
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from notifier.plugin import DIGEST, AlertDeliveryPlugin, Message, PermanentError
from notifier.printable import printable
from notifier.text import lines

if TYPE_CHECKING:
    from email.message import EmailMessage

    from notifier.smtp import MailServer

_PORTS = {"starttls": 587, "smtps": 465, "plain": 25}
_ADDRESS = re.compile(r"[!#-'*+/-9=?A-Z^-~.-]+@[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?")
_NAMED = re.compile(r"[^<>]*<([^<>]+)>")
_OUTSIDE_ID = re.compile(r"[^A-Za-z0-9.-]+")


class EmailPlugin(AlertDeliveryPlugin):
    """Options: host, port, security, user, password, from, to, ca_file.

    ``security`` is starttls, smtps or plain, ``to`` a list; ``ca_file`` holds authorities to trust
    instead of the system's.
    """

    kind = "email"
    known = ("host", "port", "security", "user", "password", "from", "to", "ca_file")
    switch = "monitoring_enable_email_alerts"
    variables = {  # noqa: RUF012 - a constant of the class
        "host": "MONITORING_EMAIL_SMTP_HOST",
        "port": "MONITORING_EMAIL_SMTP_PORT",
        "security": "MONITORING_EMAIL_SECURITY",
        "user": "MONITORING_EMAIL_SMTP_USER",
        "password": "MONITORING_EMAIL_SMTP_PASSWORD",
        "from": "MONITORING_EMAIL_FROM",
        "to": "MONITORING_EMAIL_TO",
        "ca_file": "MONITORING_EMAIL_CA_FILE",
    }

    @property
    def security(self) -> str:
        """starttls, smtps or plain; without a word the port tells."""
        return self.text("security", "smtps" if self.text("port") == "465" else "starttls").lower()

    @property
    def port(self) -> int:
        """The server's port; 0 when it isn't a number."""
        text = self.text("port") or str(_PORTS.get(self.security, 0))
        return int(text) if text.isascii() and text.isdigit() else 0

    def check(self) -> list[str]:
        problems = super().check()
        if not re.fullmatch(r"[A-Za-z0-9.:_-]+", self.text("host")):
            wrong = "must be a host name" if self.text("host") else "is empty"
            problems.append(self.problem("host", wrong))
        if not 1 <= self.port <= 65_535:
            problems.append(self.problem("port", "must be 1..65535"))
        if self.security not in _PORTS:
            problems.append(self.problem("security", "must be starttls, smtps or plain"))
        if not _ADDRESS.fullmatch(address(self.text("from"))):
            wrong = "must be an address such as alerts@example.com"
            problems.append(self.problem("from", wrong if self.text("from") else "is empty"))
        to = self.texts("to")
        if not to:
            problems.append(self.problem("to", "is empty"))
        bad = [printable(one) for one in to if not _ADDRESS.fullmatch(address(one))]
        if bad:
            problems.append(self.problem("to", f"holds {', '.join(bad)}, which is no address"))
        if self.text("user") and not self.text("password"):
            problems.append(self.problem("password", "is empty although user is set"))
        if self.text("password") and not self.text("user"):
            problems.append(self.problem("user", "is empty although password is set"))
        for option in ("user", "password"):
            if not self.text(option).isascii():
                problems.append(self.problem(option, "must be ASCII"))
        if self.text("ca_file") and not Path(self.text("ca_file")).is_file():
            problems.append(self.problem("ca_file", "is not a file"))
        return problems

    def prepare(self) -> None:
        for name in ("email.message", "email.headerregistry", "email.policy", "encodings.idna"):
            import_module(name)
        from notifier.smtp import trust

        if self.security != "plain":
            trust(self.text("ca_file"))

    def server(self) -> "MailServer":
        """Where to hand mail over."""
        from notifier.smtp import MailServer

        return MailServer(
            self.text("host"),
            self.port,
            self.security,
            self.text("user"),
            self.text("password"),
            self.text("ca_file"),
        )

    def deliver(self, message: Message) -> bool:
        from email.policy import SMTP

        from notifier.smtp import send

        to = [address(one) for one in self.texts("to")]
        wanted = to if message.recipients is None else list(message.recipients)
        if not wanted:
            raise PermanentError("no recipient is left")
        mail = compose(message, self.text("from"), self.texts("to"))
        # 7-bit throughout: not every server takes 8-bit content or header values
        content = mail.as_bytes(policy=SMTP.clone(cte_type="7bit"))
        sender = address(self.text("from"))
        self.reply = send(self.server(), sender, wanted, content, self.deadline(message))
        return True


def compose(message: Message, sender: str, to: list[str]) -> "EmailMessage":
    """The mail: text first, then the same as HTML."""
    from email.message import EmailMessage
    from email.utils import format_datetime, localtime

    first, *rest = lines(message)
    domain = address(sender).rpartition("@")[2] or "localhost"
    mail = EmailMessage()
    mail["From"] = printable(sender)
    mail["To"] = ", ".join(printable(one) for one in to)
    mail["Subject"] = first
    mail["Date"] = format_datetime(localtime())
    mail["Message-ID"] = f"<{_identifier(message.delivery)}@{domain}>"
    if message.kind != DIGEST and message.alert.get("id"):
        root = f"<alert-{_identifier(str(message.alert['id']))}@{domain}>"
        mail["In-Reply-To"] = root
        mail["References"] = root
    mail["Auto-Submitted"] = "auto-generated"
    mail["X-Auto-Response-Suppress"] = "All"
    mail["List-Id"] = f"tickwatch alerts <alerts.tickwatch.{domain}>"
    mail.set_content("\n".join([first, *rest, "", *_footer(message)]) + "\n")
    mail.add_alternative(_html(first, rest, message), subtype="html")
    return mail


def address(text: str) -> str:
    """The bare address in ``Name <address>`` or ``address``."""
    named = _NAMED.fullmatch(text.strip())
    return (named.group(1) if named else text).strip()


def _html(first: str, rest: list[str], message: Message) -> str:
    shown = "<br>\n".join(html.escape(line) for line in rest)
    footer = "<br>\n".join(html.escape(line) for line in _footer(message))
    return (
        '<html><head><meta charset="utf-8"></head><body>\n'
        f"<p><b>{html.escape(first)}</b></p>\n<p>{shown}</p>\n"
        f'<p style="color:#666">{footer}</p>\n</body></html>\n'
    )


def _footer(message: Message) -> list[str]:
    """The labels by name, and which alert and delivery this is."""
    labels: dict[str, Any] = {} if message.kind == DIGEST else message.alert.get("labels") or {}
    found = [f"{name}: {value}" for name, value in sorted(labels.items())]
    if message.kind != DIGEST and message.alert.get("id"):
        found.append(f"alert: {message.alert['id']}")
    return [printable(line) for line in (*found, f"delivery: {message.delivery}")]


def _identifier(text: str) -> str:
    """*text* as the left part of a Message-ID."""
    return _OUTSIDE_ID.sub("-", text)[:200] or "none"
