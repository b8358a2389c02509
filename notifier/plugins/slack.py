"""Slack's incoming webhooks.

Slack escapes nothing itself and refuses a payload that is over any of its limits, so both are kept
here for whatever a label or message holds.  Source: Slack's reference of Block Kit and of incoming
webhooks.
"""

from typing import Any

from notifier.plugin import DIGEST, Message, RetryableError
from notifier.plugins.limit import fit
from notifier.plugins.posting import PostingPlugin, encode
from notifier.printable import printable
from notifier.text import lines

HEADER_CHARACTERS = 150
SECTION_CHARACTERS = 3000
FIELDS = 10
FIELD_CHARACTERS = 2000
TEXT_CHARACTERS = 3000  # the notification's text; Slack cuts at 40,000
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}


class SlackPlugin(PostingPlugin):
    """Options: ``url`` of the incoming webhook, which is a secret, and ``ca_file``."""

    kind = "slack"
    switch = "monitoring_enable_slack_alerts"
    variables = {"url": "MONITORING_SLACK_WEBHOOK_URL"}  # noqa: RUF012 - a constant of the class

    def deliver(self, message: Message) -> bool:
        reply = self.post(self.url, encode(payload(message)), self.deadline(message), {})
        if reply.text.strip() != "ok":
            raise RetryableError(f"unexpected reply, {self.reply}")
        return True


def payload(message: Message) -> dict[str, Any]:
    """The message as text and blocks within Slack's limits."""
    first, *rest = lines(message)
    blocks: list[dict[str, Any]] = [
        {
            "type": "header",
            "text": {
                "type": "plain_text",
                "text": fit(first, HEADER_CHARACTERS, _ESCAPES),
                "emoji": False,
            },
        }
    ]
    if rest:
        blocks.append({"type": "section", "text": _text("\n".join(rest), SECTION_CHARACTERS)})
    fields = [] if message.kind == DIGEST else _fields(message)
    if fields:
        blocks.append({"type": "section", "fields": fields})
    attempt = f" · attempt {message.attempt}" if message.attempt > 1 else ""
    footer = _text(f"delivery {printable(message.delivery)}{attempt}", FIELD_CHARACTERS)
    blocks.append({"type": "context", "elements": [footer]})
    return {
        "text": fit("\n".join((first, *rest)), TEXT_CHARACTERS, _ESCAPES),
        "blocks": blocks,
        "unfurl_links": False,
        "unfurl_media": False,
    }


def _fields(message: Message) -> list[dict[str, Any]]:
    labels = sorted((message.alert.get("labels") or {}).items())
    return [
        _text(f"{printable(str(name))}: {printable(str(value))}", FIELD_CHARACTERS)
        for name, value in labels[:FIELDS]
    ]


def _text(text: str, characters: int) -> dict[str, Any]:
    """Text in which Slack links nothing by itself: no URL, #channel or @name out of a label."""
    return {"type": "mrkdwn", "text": fit(text, characters, _ESCAPES), "verbatim": True}
