"""Telegram: the bot API's sendMessage.

The token is part of the URL, so no error, log or table may repeat a URL.  Where Telegram is
blocked, an attempt looks like a time-out.

Source: the Bot API's sections "Making requests" and "sendMessage".
"""

import json
import re
from collections.abc import Mapping
from typing import Any

from notifier.plugin import Message, RetryableError
from notifier.plugins.limit import fit
from notifier.plugins.posting import PostingPlugin, encode
from notifier.secret import hide, url_problem, url_secrets
from notifier.text import lines

API_URL = "https://api.telegram.org"
TEXT_CHARACTERS = 4096
_SUBJECT_CHARACTERS = 1000
_ESCAPES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_TOKEN = re.compile(r"[0-9A-Za-z:_-]+")


class TelegramPlugin(PostingPlugin):
    """Options: the bot's ``token``, ``chat_id``, ``ca_file``, ``api_url`` for another server."""

    kind = "telegram"
    known = ("token", "chat_id", "api_url", "ca_file")
    switch = "monitoring_enable_telegram_alerts"
    variables = {  # noqa: RUF012 - a constant of the class
        "token": "MONITORING_TELEGRAM_TOKEN",
        "chat_id": "MONITORING_TELEGRAM_CHAT_ID",
    }

    @property
    def url(self) -> str:
        base = self.text("api_url", API_URL).rstrip("/")
        return f"{base}/bot{self.text('token')}/sendMessage"

    def secrets(self) -> set[str]:
        return {self.text("token"), *url_secrets(self.url)}

    def check(self) -> list[str]:
        problems = super(PostingPlugin, self).check()
        token = self.text("token")
        if not token:
            problems.append(self.problem("token", "is empty"))
        elif not _TOKEN.fullmatch(token):
            problems.append(self.problem("token", "must be the bot's token, such as 123456:ABC"))
        if not self.text("chat_id"):
            problems.append(self.problem("chat_id", "is empty"))
        wrong = url_problem(self.text("api_url", API_URL))
        if wrong:
            problems.append(self.problem("api_url", wrong))
        return problems + self.check_ca_file()

    def deliver(self, message: Message) -> bool:
        from notifier.http import exchange, verdict

        secrets = self.secrets()
        reply = exchange(
            self.url,
            encode(payload(message, self.text("chat_id"))),
            {"Content-Type": "application/json"},
            deadline=self.deadline(message),
            secrets=secrets,
            ca_file=self.text("ca_file"),
        )
        answer = _answer(reply.text)
        said = hide(str(answer.get("description") or ""), secrets)
        self.reply = f"HTTP {reply.status}" + (f": {said}" if said else "")
        code = answer.get("error_code")
        status = code if reply.status < 300 and isinstance(code, int) else reply.status
        wait_s = _wait(answer)
        problem = verdict(status, self.reply, reply.wait_s if wait_s is None else wait_s)
        if problem is not None:
            raise problem
        if answer.get("ok") is not True:
            raise RetryableError(f"unexpected reply, {self.reply}")
        return True


def payload(message: Message, chat_id: str) -> dict[str, Any]:
    """The message in Telegram's HTML within its limit."""
    first, *rest = lines(message)
    subject = f"<b>{fit(first, _SUBJECT_CHARACTERS, _ESCAPES)}</b>"
    text = "\n".join(["", *rest]) if rest else ""
    return {
        "chat_id": chat_id,
        "text": subject + fit(text, TEXT_CHARACTERS - _SUBJECT_CHARACTERS - 8, _ESCAPES),
        "parse_mode": "HTML",
        "link_preview_options": {"is_disabled": True},
        "disable_web_page_preview": True,
    }


def _answer(text: str) -> Mapping[str, Any]:
    try:
        answer = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return answer if isinstance(answer, dict) else {}


def _wait(answer: Mapping[str, Any]) -> float | None:
    """Seconds that a 429's body asks for; Telegram sends no Retry-After header."""
    parameters = answer.get("parameters")
    seconds = parameters.get("retry_after") if isinstance(parameters, dict) else None
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return None
    return min(max(float(seconds), 0.0), 3600.0)
