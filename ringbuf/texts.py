"""Free-text alerts on their way from the engine: one msgpack map per wide slot.

Rule and labels come first, because they are an alert's identity; the message takes the room that
is left and is cut on a character's boundary.  The same input is always cut to the same identity,
so that a resolution finds its alert.  No numpy here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgpack

from ringbuf import layout

EMIT = "emit"
RESOLVE = "resolve"
SEVERITIES = ("info", "warning", "critical")

MAX_BODY_BYTES = layout.TEXT_BYTES - layout.TEXT_SLOT.size
MAX_RULE_BYTES = 256
MAX_KEY_BYTES = 64
MAX_VALUE_BYTES = 256
MAX_LABELS_BYTES = 2048
# Map header, five keys, severity, kind, the flag and every string's own header.
_OVERHEAD_BYTES = 96


@dataclass(frozen=True, slots=True)
class Text:
    """One free-text alert, or its resolution; ``labels`` include ``engine``."""

    seq: int
    time_ns: int
    kind: str
    rule: str
    severity: str
    message: str
    labels: Mapping[str, str]
    truncated: bool = False


@dataclass(slots=True)
class TextBatch:
    """What one poll brought."""

    texts: list[Text] = field(default_factory=list)
    lost: int = 0
    watermark_ns: int | None = None


def pack_text(
    kind: str, rule: str, severity: str, message: str, labels: Mapping[str, object]
) -> bytes:
    """One text as the bytes of a slot, cut to fit.

    An unknown severity becomes critical: an alert with a typing error must not be a quiet one.
    """
    rule, truncated = cut(str(rule), MAX_RULE_BYTES)
    kept: dict[str, str] = {}
    room = MAX_LABELS_BYTES
    for key, value in sorted((str(key), str(value)) for key, value in labels.items()):
        if key == "engine":
            continue
        key, cut_key = cut(key, MAX_KEY_BYTES)
        value, cut_value = cut(value, MAX_VALUE_BYTES)
        size = len(key.encode()) + len(value.encode()) + 6
        fits = size <= room
        truncated = truncated or cut_key or cut_value or not fits
        if fits:
            room -= size
            kept[key] = value
    word = str(severity).strip().lower()
    if kind == EMIT and word not in SEVERITIES:
        message = f"{message} (severity {severity!r} is unknown)"
        word = "critical"
    used = len(rule.encode()) + (MAX_LABELS_BYTES - room) + _OVERHEAD_BYTES
    message, cut_message = cut(str(message), MAX_BODY_BYTES - used)
    fields = {
        "rule": rule,
        "labels": kept,
        "kind": kind,
        "severity": word,
        "truncated": truncated or cut_message,
        "message": message,
    }
    return bytes(msgpack.packb(fields))


def unpack_text(body: bytes, seq: int, time_ns: int, engine: str) -> Text | None:
    """The text in *body*; None when it is none."""
    try:
        fields = msgpack.unpackb(body)
        labels = {str(key): str(value) for key, value in fields["labels"].items()}
        return Text(
            seq=seq,
            time_ns=time_ns,
            kind=RESOLVE if fields["kind"] == RESOLVE else EMIT,
            rule=str(fields["rule"]),
            severity=str(fields["severity"]),
            message=str(fields["message"]),
            labels=labels | {"engine": engine},
            truncated=bool(fields["truncated"]),
        )
    except Exception:  # noqa: BLE001 - any bytes may stand here, msgpack raises many types
        return None


def cut(text: str, limit: int) -> tuple[str, bool]:
    """*text* in at most *limit* bytes of UTF-8, cut between characters; and whether it was cut.

    What UTF-8 can't hold (lone surrogates) is replaced by question marks.
    """
    encoded = text.encode("utf-8", "replace")
    if len(encoded) <= limit:
        return encoded.decode(), False
    return encoded[:limit].decode("utf-8", "ignore"), True
