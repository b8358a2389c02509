"""POST an alert as JSON: the alert row with the delivery's id, signed where a secret is set.

The id stays the same over attempts and restarts, so that a receiver can drop what it has already
taken; the timestamp is that of the attempt, so that a receiver's limit of age holds for retries.
"""

import base64
import binascii
import hashlib
import hmac
import time
from collections.abc import Mapping
from typing import Any

from notifier.alert import finite, rfc3339
from notifier.plugin import DIGEST, TEST, Message
from notifier.plugins.posting import PostingPlugin, encode
from notifier.secret import header_problem, header_secrets
from notifier.text import lines, summarise

_PREFIX = "whsec_"
_RULES = 100  # rules that a digest counts one by one


class WebhookPlugin(PostingPlugin):
    """Options: ``url``, ``headers`` (name -> value), ``secret`` (whsec_...) and ``ca_file``."""

    kind = "webhook"
    known = ("url", "headers", "secret", "ca_file")
    switch = "monitoring_enable_webhook_alerts"
    variables = {  # noqa: RUF012 - a constant of the class, as the base declares it
        "url": "MONITORING_WEBHOOK_URL",
        "headers": "MONITORING_WEBHOOK_HEADERS",
        "secret": "MONITORING_WEBHOOK_SECRET",
    }

    @property
    def headers(self) -> dict[str, str]:
        """The configured headers."""
        given = self.options.get("headers")
        reveal = getattr(given, "get_secret_value", None)
        given = reveal() if reveal is not None else given
        return {str(k): str(v) for k, v in given.items()} if isinstance(given, Mapping) else {}

    def secrets(self) -> set[str]:
        secret = self.text("secret")
        return header_secrets(self.headers) | {secret, secret.removeprefix(_PREFIX)}

    def check(self) -> list[str]:
        problems = super().check()
        for name, value in self.headers.items():
            wrong = header_problem(name, value)
            if wrong:
                problems.append(self.problem("headers", wrong))
        secret = self.text("secret")
        if secret:
            try:
                _key(secret)
            except ValueError:
                problems.append(self.problem("secret", "must be whsec_ and base64"))
        return problems

    def deliver(self, message: Message) -> bool:
        body = encode(payload(message))
        headers = {**self.headers, "webhook-id": message.delivery}
        secret = self.text("secret")
        if secret:
            now = int(time.time())
            headers["webhook-timestamp"] = str(now)
            headers["webhook-signature"] = sign(secret, message.delivery, now, body)
        self.post(self.url, body, self.deadline(message), headers)
        return True


def payload(message: Message) -> dict[str, Any]:
    """The body of a message: the alert row, what identifies the delivery, and its text."""
    fields: dict[str, Any] = dict(message.alert)
    if message.kind == DIGEST:
        fields = _digest(message)
    fields["state"] = message.state
    fields["delivery"] = message.delivery
    fields["attempt"] = message.attempt
    fields["text"] = "\n".join(lines(message))
    if message.kind == TEST:
        fields["test"] = True
    if message.repeat:
        fields["repeat"] = message.repeat
    if message.note:
        fields["note"] = message.note
    if message.evidence:
        fields["evidence"] = [[rfc3339(at_ns), finite(value)] for at_ns, value in message.evidence]
    return fields


def _digest(message: Message) -> dict[str, Any]:
    """A row of the same shape that stands for many: exact counts, first, last and the worst few."""
    digest = summarise(message.members)
    rules = list(digest.rules.items())
    return {
        "id": message.delivery,
        "rule": "digest",
        "labels": {},
        "severity": digest.severity,
        "message": lines(message)[0],
        "value": None,
        "threshold": None,
        "unit": "",
        "started_at": digest.first.get("started_at"),
        "last_seen_at": digest.last.get("last_seen_at"),
        "resolved_at": None,
        "count": digest.total,
        "ack": None,
        "members": {
            "total": digest.total,
            "firing": digest.firing,
            "resolved": digest.resolved,
            "rules": dict(rules[:_RULES]),
            "others": sum(count for _, count in rules[_RULES:]),
        },
        "first": dict(digest.first),
        "last": dict(digest.last),
        "top": [dict(row) for row in digest.top],
    }


def sign(secret: str, delivery: str, timestamp: int, body: bytes) -> str:
    """The value of ``webhook-signature``.

    Source: the Standard Webhooks specification, symmetric signatures: HMAC-SHA256 over
    ``id.timestamp.body``.

    Raises:
        ValueError: the secret isn't base64.
    """
    signed = b".".join((delivery.encode(), str(timestamp).encode(), body))
    digest = hmac.new(_key(secret), signed, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def _key(secret: str) -> bytes:
    try:
        key = base64.b64decode(secret.removeprefix(_PREFIX), validate=True)
    except binascii.Error:
        key = b""
    if not key:
        raise ValueError("a webhook's secret must be whsec_ and base64")
    return key
