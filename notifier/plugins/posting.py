"""What the plugins that POST over HTTP share: their URL, its check, and one attempt.

``notifier.http`` brings requests along, so it is imported when an attempt is near, not with the
plugin.
"""

import json
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from notifier.plugin import AlertDeliveryPlugin, PermanentError
from notifier.secret import url_problem

if TYPE_CHECKING:
    from notifier.http import Reply


class PostingPlugin(AlertDeliveryPlugin):
    """A plugin whose attempt is one POST of JSON; ``url`` and ``ca_file`` are its options."""

    known: ClassVar[tuple[str, ...]] = ("url", "ca_file")

    @property
    def url(self) -> str:
        """Where to post."""
        return self.text("url")

    @property
    def urls(self) -> list[str]:
        """Everything that it may post to."""
        return [self.url]

    def secrets(self) -> set[str]:
        """What must not be repeated, beside the URL's own secrets."""
        return set()

    def check(self) -> list[str]:
        problems = super().check()
        wrong = url_problem(self.url)
        if wrong:
            problems.append(self.problem("url", wrong))
        return problems + self.check_ca_file()

    def check_ca_file(self) -> list[str]:
        """The problem of a file of authorities that isn't there."""
        ca_file = self.text("ca_file")
        if ca_file and not Path(ca_file).is_file():
            return [self.problem("ca_file", "is not a file")]
        return []

    def prepare(self) -> None:
        import_module("notifier.http")
        from notifier.transport import trust

        if any(url.startswith("https:") for url in self.urls):
            trust(self.text("ca_file"))

    def post(self, url: str, body: bytes, deadline: float, headers: Mapping[str, str]) -> "Reply":
        """POST *body* once; the reply, a 2xx, is kept in ``reply`` as well.

        Raises:
            PermanentError, RetryableError: how it ended otherwise.
        """
        from notifier.http import post

        secrets = self.secrets()
        reply = post(
            url,
            body,
            {"Content-Type": "application/json", **headers},
            deadline=deadline,
            secrets=secrets,
            ca_file=self.text("ca_file"),
        )
        self.reply = reply.line(secrets)
        return reply


def encode(value: Any) -> bytes:
    """*value* as compact ASCII JSON.

    Raises:
        PermanentError: it holds what JSON can't, such as NaN.
    """
    try:
        text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError):
        raise PermanentError("the message can't be written as JSON") from None
    return text.encode()
