"""Everything else, through the optional package Apprise and its URLs for a hundred services.

Apprise's URLs hold the secrets of their services, so a target is only ever called by its number
here.  Apprise sends with time limits of its own, per connection and read, which are set to what the
attempt has left.
"""

import logging
import time
from importlib.util import find_spec
from typing import Any

from notifier.plugin import (
    RESOLVED,
    AlertDeliveryPlugin,
    Message,
    PartialError,
    PermanentError,
    RetryableError,
)
from notifier.text import lines

MISSING = "needs the package apprise: pip install 'tickwatch[apprise]'"


class ApprisePlugin(AlertDeliveryPlugin):
    """Options: ``urls``, a list of Apprise URLs such as ``ntfy://host/topic``."""

    kind = "apprise"
    known = ("urls",)
    switch = "monitoring_enable_apprise_alerts"
    variables = {"urls": "MONITORING_APPRISE_URLS"}  # noqa: RUF012 - a constant of the class

    def check(self) -> list[str]:
        problems = super().check()
        urls = self.texts("urls")
        if not urls:
            problems.append(self.problem("urls", "is empty"))
        elif find_spec("apprise") is None:
            problems.append(f"{self.name}: {MISSING}")
        for number, url in enumerate(urls, 1):
            if "://" not in url:
                problems.append(self.problem("urls", f"entry {number} is no URL"))
        return problems

    def prepare(self) -> None:
        _library().Apprise.instantiate("json://localhost")  # it loads its services with the first

    def deliver(self, message: Message) -> bool:
        library = _library()
        urls = self.texts("urls")
        numbers = [str(number) for number in range(1, len(urls) + 1)]
        wanted = numbers if message.recipients is None else list(message.recipients)
        deadline = self.deadline(message)
        delivered: list[str] = []
        later: list[str] = []
        refused: dict[str, str] = {}
        for number in wanted:
            known = number in numbers
            target = library.Apprise.instantiate(urls[int(number) - 1]) if known else None
            left_s = deadline - time.monotonic()
            if target is None:
                refused[number] = f"target {number} is nothing that Apprise knows"
            elif left_s > 0 and _notify(library, target, message, left_s):
                delivered.append(number)
            else:
                later.append(number)
        return self._result(delivered, later, refused)

    def _result(self, delivered: list[str], later: list[str], refused: dict[str, str]) -> bool:
        self.reply = f"{len(delivered)} of {len(delivered) + len(later) + len(refused)} accepted"
        failed = [f"target {number} failed" for number in later] + list(refused.values())
        if not failed:
            return True
        text = ", ".join(failed[:3]) + (f" and {len(failed) - 3} more" if len(failed) > 3 else "")
        if delivered or (later and refused):
            raise PartialError(text, later, delivered=delivered, refused=refused)
        raise RetryableError(text) if later else PermanentError(text)


def _notify(library: Any, target: Any, message: Message, left_s: float) -> bool:
    """One target, True when it says it was accepted."""
    from notifier.transport import silent

    first, *rest = lines(message)
    target.socket_connect_timeout = target.socket_read_timeout = left_s
    quiet = silent.set(True)
    kind = library.NotifyType.SUCCESS if message.state == RESOLVED else library.NotifyType.FAILURE
    try:
        done = target.notify(
            title=first,
            body="\n".join(rest) or first,
            notify_type=kind,
            body_format=library.NotifyFormat.TEXT,
        )
    except Exception:  # noqa: BLE001 - a hundred foreign services, and their errors hold URLs
        return False
    finally:
        silent.reset(quiet)
    return bool(done)


def _library() -> Any:
    """The package, silenced: it logs URLs.

    Raises:
        PermanentError: it isn't installed.
    """
    try:
        import apprise
    except ImportError:
        raise PermanentError(MISSING) from None
    silence = logging.getLogger("apprise")
    if _silent not in silence.filters:
        silence.addFilter(_silent)
    return apprise


def _silent(record: logging.LogRecord) -> bool:
    return False
