"""The e-mail plugin against real SMTP servers."""

from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from notifier.plugin import (
    DeliveryError,
    Message,
    PartialError,
    PermanentError,
    RetryableError,
)
from notifier.plugins.email import EmailPlugin, compose
from tests.messages import message, messages, row
from tests.servers import Certificates, SmtpServer, free_port

TO = ["a@desk.test", "b@desk.test", "c@desk.test"]
PASSWORD = "correct horse battery"


def plugin(port: int, security: str = "plain", **options: Any) -> EmailPlugin:
    """The plugin for a server on this host."""
    given = {
        "host": "127.0.0.1",
        "port": port,
        "security": security,
        "from": "tickwatch <alerts@desk.test>",
        "to": TO,
        **options,
    }
    return EmailPlugin("email", options=given)


def parse(content: bytes) -> EmailMessage:
    """A received mail."""
    mail = message_from_bytes(content, policy=default)
    assert isinstance(mail, EmailMessage)
    return mail


def failure(sender: EmailPlugin, sent: Message | None = None) -> DeliveryError:
    """The error of one attempt."""
    with pytest.raises(DeliveryError) as caught:
        sender.deliver(sent or message())
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert PASSWORD not in str(caught.value)
    return caught.value


@pytest.fixture
def certificates(tmp_path: Path) -> Certificates:
    """An authority that only those trust who are told to."""
    return Certificates(tmp_path)


@pytest.fixture
def server() -> Iterator[SmtpServer]:
    """A plain server."""
    with SmtpServer() as server:
        yield server


@pytest.mark.parametrize("security", ["plain", "starttls", "smtps"])
@pytest.mark.parametrize("login", [False, True], ids=["anyone", "login"])
def test_a_mail_arrives_the_way_that_is_configured(
    security: str, login: bool, certificates: Certificates
) -> None:
    """Plain, STARTTLS and TLS from the start, with and without a login: one mail for everyone."""
    tls = None if security == "plain" else certificates.server
    users = {"desk": PASSWORD} if login else {}
    with SmtpServer(security, tls=tls, users=users) as server:
        options = {"ca_file": certificates.ca_file}
        if login:
            options |= {"user": "desk", "password": PASSWORD}
        sender = plugin(server.port, security, **options)
        assert sender.check() == []
        sender.prepare()
        assert sender.deliver(message()) is True
        [mail] = server.wait(1)
    assert mail.sender == "alerts@desk.test"
    assert list(mail.recipients) == TO
    assert mail.tls == (security != "plain")
    assert mail.user == ("desk" if login else None)
    assert sender.reply == "250 OK"


@pytest.mark.parametrize("security", ["starttls", "smtps"])
def test_a_wrong_certificate_is_refused(
    security: str, certificates: Certificates, tmp_path: Path
) -> None:
    """Unknown authority or another host's name: nothing is sent, least of all the password."""
    login = {"user": "desk", "password": PASSWORD}
    with SmtpServer(security, tls=certificates.server, users={"desk": PASSWORD}) as server:
        unknown = failure(plugin(server.port, security, **login))
        assert isinstance(unknown, RetryableError)
        assert str(unknown).startswith("certificate not trusted: ")
        assert server.mails == [] and server.logins == []
    elsewhere = Certificates(tmp_path, "elsewhere.test")
    with SmtpServer(security, tls=elsewhere.server) as server:
        other = failure(plugin(server.port, security, ca_file=elsewhere.ca_file, **login))
        assert "certificate not trusted" in str(other)
        assert server.mails == [] and server.logins == []


def test_starttls_is_never_given_up_silently() -> None:
    """A server that doesn't offer it, or somebody between who hides the offer, gets no mail."""
    with SmtpServer() as server:
        error = failure(plugin(server.port, "starttls", user="desk", password=PASSWORD))
        assert server.mails == []
    assert isinstance(error, PermanentError)
    assert str(error) == "the server offers no STARTTLS: set security to smtps or plain"


def test_a_refused_login_is_permanent(certificates: Certificates) -> None:
    """Trying again would only lock the account."""
    with SmtpServer("smtps", tls=certificates.server, users={"desk": "other"}) as server:
        options = {"user": "desk", "password": PASSWORD, "ca_file": certificates.ca_file}
        error = failure(plugin(server.port, "smtps", **options))
        assert server.mails == []
    assert isinstance(error, PermanentError)
    assert str(error).startswith("login refused: 535")


def test_one_bad_recipient_leaves_the_others_their_mail(server: SmtpServer) -> None:
    """Two get exactly one mail each, the third is told of."""
    server.refuse["b@desk.test"] = "550 no such user"
    error = failure(plugin(server.port))
    assert isinstance(error, PartialError)
    assert error.recipients == ()
    assert error.delivered == ("a@desk.test", "c@desk.test")
    assert error.refused == {"b@desk.test": "550 no such user"}
    assert str(error) == "1 of 3 recipients refused: b@desk.test: 550 no such user"
    [mail] = server.mails
    assert list(mail.recipients) == ["a@desk.test", "c@desk.test"]


def test_only_those_without_the_mail_are_tried_again(server: SmtpServer) -> None:
    """A recipient that was busy gets it later, with the same Message-ID; the others get no second
    one.
    """
    server.refuse["c@desk.test"] = "451 try later"
    sender = plugin(server.port)
    error = failure(sender)
    assert isinstance(error, PartialError)
    assert error.recipients == ("c@desk.test",)
    server.refuse.clear()
    assert sender.deliver(message(attempt=2, recipients=error.recipients))
    first, second = server.mails
    assert list(second.recipients) == ["c@desk.test"]
    assert parse(first.content)["Message-ID"] == parse(second.content)["Message-ID"]
    assert parse(second.content)["To"] == ", ".join(TO)


def test_recipients_that_end_differently_are_told_apart(server: SmtpServer) -> None:
    """Nobody accepted, but one may later."""
    server.refuse.update(
        {"a@desk.test": "550 gone", "b@desk.test": "450 busy", "c@desk.test": "550 gone"}
    )
    error = failure(plugin(server.port))
    assert isinstance(error, PartialError)
    assert error.recipients == ("b@desk.test",)
    assert error.delivered == ()
    assert set(error.refused) == {"a@desk.test", "c@desk.test"}


@pytest.mark.parametrize(("code", "kind"), [("550", PermanentError), ("450", RetryableError)])
def test_recipients_that_end_alike_end_the_attempt(
    server: SmtpServer, code: str, kind: type[DeliveryError]
) -> None:
    """5xx for everyone is permanent, 4xx is not."""
    many = [f"r{number}@desk.test" for number in range(5)]
    server.refuse.update(dict.fromkeys(many, f"{code} no"))
    error = failure(plugin(server.port, to=many))
    assert type(error) is kind
    assert str(error).endswith("and 2 more")


@pytest.mark.parametrize(
    ("answer", "kind"), [("554 spam", PermanentError), ("451 disk full", RetryableError)]
)
def test_a_refused_content_counts_for_everyone(
    server: SmtpServer, answer: str, kind: type[DeliveryError]
) -> None:
    """The reply after the mail itself is the one that counts."""
    server.on_data = answer
    error = failure(plugin(server.port))
    assert type(error) is kind
    assert answer in str(error)


def test_a_refused_connection_and_an_unknown_host_are_tried_again() -> None:
    """Mail servers restart."""
    refused = failure(plugin(free_port()))
    unknown = failure(plugin(25, host="no-such-host.invalid"))
    assert (str(refused), str(unknown)) == ("connection refused", "host name look-up failed")
    assert isinstance(refused, RetryableError) and isinstance(unknown, RetryableError)


def test_plain_text_where_tls_is_expected_is_an_error(server: SmtpServer) -> None:
    """Never a fall back."""
    assert str(failure(plugin(server.port, "smtps"))).startswith("TLS failed")


def test_a_mail_has_the_headers_of_an_automatic_message(server: SmtpServer) -> None:
    """No out-of-office replies, one thread per alert, a Message-ID that stays, text first."""
    plugin(server.port).deliver(message(alert=row(labels={"symbol": "M&M"})))
    mail = parse(server.mails[0].content)
    root = f"<alert-{row()['id']}@desk.test>"
    assert mail["Subject"].startswith("CRITICAL performance_degradation 812 ms > 250 ms")
    assert mail["From"] == "tickwatch <alerts@desk.test>"
    assert mail["To"] == ", ".join(TO)
    assert mail["Message-ID"] == "<7c9e6679-7425-50de-944b-e07fc1f90ae7@desk.test>"
    assert mail["In-Reply-To"] == mail["References"] == root
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail["List-Id"].endswith("<alerts.tickwatch.desk.test>")
    assert mail["Date"].datetime.tzinfo is not None
    text, html = mail.iter_parts()
    assert (text.get_content_type(), html.get_content_type()) == ("text/plain", "text/html")
    assert "symbol: M&M" in text.get_content()
    assert "symbol: M&amp;M" in html.get_content()


def test_messages_of_one_alert_are_one_thread() -> None:
    """Each has its own id, all refer to the same root; a digest belongs to no alert."""
    sender, to = "alerts@desk.test", TO
    fired = compose(message(delivery="d1"), sender, to)
    ended = compose(message("resolved", delivery="d2"), sender, to)
    digest = compose(message("digest", members=(row(),)), sender, to)
    assert fired["Message-ID"] != ended["Message-ID"]
    assert fired["References"] == ended["References"]
    assert digest["References"] is None


@given(messages())
def test_no_text_reaches_a_header_or_leaves_ascii(made: Message) -> None:
    """Whatever labels and messages hold: headers stay themselves, and every server can carry it."""
    content = compose(made, "Desk <alerts@desk.test>", ["a@desk.test"]).as_bytes(
        policy=default.clone(cte_type="7bit", linesep="\r\n")
    )
    assert content.isascii()
    head = content.partition(b"\r\n\r\n")[0]
    assert not any(byte < 0x20 and byte not in b"\r\n" for byte in head)
    names = [
        line.partition(b":")[0].lower()
        for line in head.split(b"\r\n")
        if not line.startswith((b" ", b"\t"))
    ]
    assert len(names) == len(set(names))
    allowed = b"from to subject date message-id in-reply-to references auto-submitted list-id"
    allowed += b" x-auto-response-suppress mime-version content-type"
    assert set(names) <= set(allowed.split())
    mail = message_from_bytes(content, policy=default)
    assert isinstance(mail, EmailMessage)
    assert mail["To"] == "a@desk.test"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("host", "", "host is empty: set MONITORING_EMAIL_SMTP_HOST"),
        ("host", "mail server", "host must be a host name"),
        ("port", "0", "port must be 1..65535"),
        ("port", "x", "port must be 1..65535"),
        ("security", "ssl", "security must be starttls, smtps or plain"),
        ("from", "", "from is empty"),
        ("from", "me", "from must be an address"),
        ("from", "a@b.test\r\nBcc: x@y.test", "from must be an address"),
        ("to", [], "to is empty"),
        ("to", "a@b.test, b", "to holds b, which is no address"),
        ("user", "desk", "password is empty although user is set"),
        ("password", PASSWORD, "user is empty although password is set"),
        ("password", "pässword", "password must be ASCII"),
        ("ca_file", "/nowhere.pem", "ca_file is not a file"),
        ("tp", "x", "no option 'tp': use host, port"),
    ],
)
def test_a_half_configuration_is_told(option: str, value: object, words: str) -> None:
    """Setting, what is allowed, what to do; never a secret."""
    problems = EmailPlugin("email", options={**plugin(25).options, option: value}).check()
    assert any(words in problem for problem in problems), problems
    assert all("monitoring_enable_email_alerts=false" in p for p in problems if "set " in p)
    assert PASSWORD not in " ".join(problems)


def test_port_and_security_belong_together() -> None:
    """Either of them tells the other."""
    options = {"host": "h", "from": "a@b.test", "to": "c@d.test"}
    assert EmailPlugin("email", options=options).port == 587
    assert EmailPlugin("email", options={**options, "port": 465}).security == "smtps"
    assert EmailPlugin("email", options={**options, "security": "smtps"}).port == 465
    assert EmailPlugin("email", options={**options, "security": "plain"}).port == 25


def test_nobody_left_to_serve_is_permanent() -> None:
    """A delivery without a recipient can't succeed."""
    assert isinstance(failure(plugin(1), message(recipients=())), PermanentError)
