"""Keep secrets out of texts: tokens, passwords and headers never reach an error, table or log.

What another side says may repeat what it was sent, so its words pass ``hide`` with the secrets of
the plugin.
"""

import base64
import re
from collections.abc import Iterable, Mapping
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from notifier.printable import printable

HIDDEN = "***"
SHORTEST = 4  # shorter texts are no secrets; hiding them would only make the rest unreadable
_SHORTEST_SEGMENT = 8  # in a URL's path, where "hooks" and "v1" are no secrets

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\xa0-\xff]*")


def hide(text: str, secrets: Iterable[str], limit: int = 200) -> str:
    """*text* as one printable line of at most *limit* characters, secrets replaced by ``***``."""
    forms = {
        form
        for secret in secrets
        for form in (secret, quote(secret, safe="", errors="replace"), unquote(secret))
    }
    for form in sorted(forms, key=len, reverse=True):
        if len(form) >= SHORTEST:
            text = text.replace(form, HIDDEN)
    line = printable(" ".join(text.split()))
    return line if len(line) <= limit else line[: limit - 1] + "…"


def url_secrets(url: str) -> set[str]:
    """All of *url* that may be secret: user, password, path and query, whole and in parts."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return {url}
    found = {url, parts.query, parts.fragment, parts.netloc.rpartition("@")[0]}
    if len(parts.path) > _SHORTEST_SEGMENT:
        found.add(parts.path.strip("/"))
    found |= {parts.username or "", parts.password or ""}
    found |= {segment for segment in parts.path.split("/") if len(segment) >= _SHORTEST_SEGMENT}
    found |= {value for _, value in parse_qsl(parts.query)}
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        found.add(base64.b64encode(pair.encode(errors="replace")).decode())
    return {one for one in found if len(one) >= SHORTEST}


def header_secrets(headers: Mapping[str, str]) -> set[str]:
    """The values of *headers*, also without a leading scheme such as ``Bearer``."""
    values = set(headers.values())
    return values | {value.split(None, 1)[1] for value in values if len(value.split(None, 1)) == 2}


def url_problem(url: str) -> str:
    """What is wrong with an http(s) URL, without repeating it; empty when nothing is."""
    if not url:
        return "is empty"
    if any(character.isspace() or not character.isprintable() for character in url):
        return "holds a blank or a control character"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL"
    if parts.scheme not in ("http", "https"):
        return "must begin with http:// or https://"
    if not parts.hostname or port == 0:
        return "names no host" if not parts.hostname else "has port 0"
    return ""


def header_problem(name: str, value: str) -> str:
    """What is wrong with a request header, without repeating its value; empty when nothing is.

    Source: RFC 9110 sections 5.1 and 5.5; values are what Latin-1 can carry.
    """
    if not _HEADER_NAME.fullmatch(name):
        return "has an invalid name"
    if value != value.strip() or not _HEADER_VALUE.fullmatch(value):
        return f"{name} has an invalid value"
    return ""
