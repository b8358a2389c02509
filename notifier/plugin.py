"""What a delivery plugin is: the class it extends, the message it gets, the errors it may raise.

A plugin makes one attempt and says how it ended; when to try again, how often and what to try next
is decided outside. An attempt ends before ``message.deadline`` whatever the other side does, and is
delivered only when the other side said so.  No secret (URL, token, password, header) may stand in
an error's text, a ``repr`` or a log line.

Adding a plugin: one file in ``notifier/plugins`` and one entry in ``PLUGINS``.  This module and its
import stay light: ``requests``, ``smtplib`` and the like are imported by the plugin's own module,
which only ``load`` imports.
"""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, ClassVar, cast

from notifier.printable import printable

# kind -> "module:Class"
PLUGINS: dict[str, str] = {
    "webhook": "notifier.plugins.webhook:WebhookPlugin",
    "slack": "notifier.plugins.slack:SlackPlugin",
    "email": "notifier.plugins.email:EmailPlugin",
    "telegram": "notifier.plugins.telegram:TelegramPlugin",
    "alertmanager": "notifier.plugins.alertmanager:AlertmanagerPlugin",
    "apprise": "notifier.plugins.apprise:ApprisePlugin",
}

FIRING = "firing"
RESOLVED = "resolved"
DIGEST = "digest"
TEST = "test"
RESEND = "resend"  # ``members`` are told again; a plugin never gets it as a message

DEFAULT_TIMEOUT_S = 10.0


class DeliveryError(Exception):
    """An attempt that failed; its text is one printable line without secrets."""


class PermanentError(DeliveryError):
    """No later attempt can succeed: the delivery is dead at once."""


class RetryableError(DeliveryError):
    """A later attempt may succeed.

    ``retry_after`` holds the whole plugin for that many seconds when the other side asked for it,
    else None. ``unknown`` is True when the other side may have accepted the message although no
    reply arrived.
    """

    def __init__(self, text: str, retry_after: float | None = None, *, unknown: bool = False):
        super().__init__(text)
        self.retry_after = retry_after
        self.unknown = unknown


class PartialError(DeliveryError):
    """Some recipients are settled, others are not.

    ``recipients`` are those to try again: the next attempt's ``Message.recipients``, with the same
    delivery id. ``delivered`` have the message.  ``refused`` maps recipients that can never get it
    to the reason. With nothing left in ``recipients`` the delivery has ended: delivered to some,
    refused for the others.
    """

    def __init__(
        self,
        text: str,
        recipients: Sequence[str],
        *,
        delivered: Sequence[str] = (),
        refused: Mapping[str, str] | None = None,
    ):
        super().__init__(text)
        self.recipients = tuple(recipients)
        self.delivered = tuple(delivered)
        self.refused = dict(refused or {})


@dataclass(frozen=True, slots=True)
class Message:
    """What one plugin shall tell people, and the attempt to do so.

    ``alert`` is an alert row (``Alert.row()``: the contract's field names, RFC 3339 times).  For a
    digest it is the row of its first member, and ``members`` are the rows of all, in the order in
    which they fired; ``kind`` is then ``"digest"`` and the counts are taken from the members.
    ``lines`` is the text, subject first, frozen with the delivery; empty means that the plugin
    composes it (see ``notifier.text.compose``).

    ``delivery`` is the id that stays the same over attempts and restarts.  ``deadline`` is in
    seconds of ``time.monotonic()`` and ends this attempt.  ``recipients`` is None for all of them,
    else those still to be served. ``repeat`` counts the messages that told the same thing before
    (0: the first).  ``note`` is a short remark, such as ``was acknowledged by asha``.  ``evidence``
    is the series' worst recent records, worst first, as (time_ns, value).
    """

    kind: str
    alert: Mapping[str, Any]
    delivery: str
    attempt: int = 1
    deadline: float = math.inf
    members: tuple[Mapping[str, Any], ...] = ()
    lines: tuple[str, ...] = ()
    note: str = ""
    repeat: int = 0
    evidence: tuple[tuple[int, float], ...] = ()
    recipients: tuple[str, ...] | None = None

    @property
    def state(self) -> str:
        """``firing`` or ``resolved``, which is all that a receiver has to know; a test fires."""
        rows = self.members if self.kind == DIGEST else (self.alert,)
        resolved = self.kind == RESOLVED or (
            self.kind == DIGEST and all(row.get("state") == RESOLVED for row in rows)
        )
        return RESOLVED if resolved else FIRING

    def payload(self) -> dict[str, Any]:
        """What is frozen with the delivery, as JSON: all but attempt, deadline, recipients."""
        return {
            "kind": self.kind,
            "alert": dict(self.alert),
            "delivery": self.delivery,
            "members": [dict(row) for row in self.members],
            "lines": list(self.lines),
            "note": self.note,
            "repeat": self.repeat,
            "evidence": [list(one) for one in self.evidence],
        }

    @classmethod
    def from_payload(
        cls,
        payload: Mapping[str, Any],
        *,
        attempt: int = 1,
        deadline: float = math.inf,
        recipients: Sequence[str] | None = None,
    ) -> "Message":
        """The message that ``payload`` froze, for one attempt; unknown fields are ignored."""
        return cls(
            kind=str(payload["kind"]),
            alert=payload["alert"],
            delivery=str(payload["delivery"]),
            attempt=attempt,
            deadline=deadline,
            members=tuple(payload.get("members", ())),
            lines=tuple(payload.get("lines", ())),
            note=str(payload.get("note", "")),
            repeat=int(payload.get("repeat", 0)),
            evidence=tuple((int(at), float(value)) for at, value in payload.get("evidence", ())),
            recipients=None if recipients is None else tuple(recipients),
        )


@dataclass(repr=False)
class AlertDeliveryPlugin(ABC):
    """One way to tell people, such as a mail server or a Slack webhook.

    ``name`` is unique among the configured plugins, ``options`` are the plain values of its
    settings, and ``timeout_s`` bounds one attempt when the message's deadline is later.  ``reply``
    is what the other side last said, in one printable line.
    """

    name: str
    enabled: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)
    timeout_s: float = DEFAULT_TIMEOUT_S
    reply: str = field(default="", init=False)

    kind: ClassVar[str] = ""
    known: ClassVar[tuple[str, ...]] = ()  # the options there are
    # option -> the environment variable that sets it for the plugin with the kind's own name
    variables: ClassVar[Mapping[str, str]] = {}
    switch: ClassVar[str] = ""  # the setting that turns that plugin off

    @abstractmethod
    def deliver(self, message: Message) -> bool:
        """Make one attempt; True: the other side has accepted it, False: try again.

        Raises:
            PermanentError, RetryableError, PartialError: where more is known.
        """

    def check(self) -> list[str]:
        """The problems of a half configuration, one line each, never with a value.

        A problem names the setting and what is allowed.  Opens no connection and imports nothing
        heavy, since an engine checks its settings before trading starts.
        """
        return [
            f"{self.name}: no option {printable(str(option))!r}: use {', '.join(self.known)}"
            for option in self.options
            if option not in self.known
        ]

    def prepare(self) -> None:  # noqa: B027 - most plugins have nothing to prepare
        """Import what an attempt needs, so that the first alert doesn't wait for it."""

    @property
    def resend_s(self) -> float | None:
        """How often ``resend`` is wanted; None where the other side keeps what it was told."""
        return None

    def resend(self, rows: Sequence[Mapping[str, Any]], deadline: float) -> bool:
        """Tell again what is so: alert rows that fire or were resolved in the last 5 minutes.

        For receivers that forget, such as an Alertmanager, which keeps alerts in memory alone.
        Ends and fails like ``deliver``; nobody is told anything new by it.
        """
        return True

    def deadline(self, message: Message) -> float:
        """When an attempt that starts now must have ended, in seconds of ``time.monotonic()``."""
        return min(message.deadline, time.monotonic() + self.timeout_s)

    def text(self, option: str, default: str = "") -> str:
        """The option as text without blanks around it; pydantic's secrets are unwrapped."""
        value = self.options.get(option)
        if value is None:
            return default
        reveal = getattr(value, "get_secret_value", None)
        return str(reveal() if reveal is not None else value).strip() or default

    def texts(self, option: str) -> list[str]:
        """The option as a list of texts; a single text is split at commas."""
        value = self.options.get(option)
        parts = value if isinstance(value, list | tuple) else self.text(option).split(",")
        return [str(part).strip() for part in parts if str(part).strip()]

    def problem(self, option: str, what: str) -> str:
        """One line of ``check``: plugin, option, what is wrong with it, and what to do."""
        variable = self.variables.get(option) if self.name == self.kind else None
        remedy = f"set {variable}" if variable else f"set {option} in its [[plugin]] table"
        off = f"{self.switch}=false" if variable and self.switch else "enabled = false"
        return f"{self.name}: {option} {what}: {remedy} or {off}"

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, enabled={self.enabled})"


def load(kind: str) -> type[AlertDeliveryPlugin]:
    """The class of the plugin *kind*; imports its module.

    Raises:
        ValueError: no such kind; names what there is.
    """
    try:
        module, _, name = PLUGINS[kind].partition(":")
    except KeyError:
        raise ValueError(f"plugin kind {kind!r}: use {', '.join(sorted(PLUGINS))}") from None
    return cast(type[AlertDeliveryPlugin], getattr(import_module(module), name))
