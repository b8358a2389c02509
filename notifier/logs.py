"""How the processes log: to standard error, as text for people or as JSON lines for machines.

Every line says component="monitoring", whichever library logged it, and holds no control character,
so that text from an engine or an exchange can't forge a second line.
"""

import json
import logging
import math
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

from notifier.alert import rfc3339
from notifier.printable import printable

Format = Literal["text", "json"]
_COMPONENT = "monitoring"
_OURS = ("ringbuf", "aggregator", "notifier", "cli")
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


def setup(process: str, format: Format = "text", level: int | str = logging.INFO) -> None:
    """Send what this process logs to standard error; a second call replaces the first.

    Args:
        process: its name in every line, such as aggregator.
        level: of our own loggers; those of libraries say warnings and worse.

    Raises:
        ValueError: no such format or level.
    """
    if format not in ("text", "json"):
        raise ValueError(f"log format {format!r}: use text or json")
    root = logging.getLogger()
    for earlier in [h for h in root.handlers if isinstance(h, _StandardError)]:
        root.removeHandler(earlier)
        earlier.close()
    handler = _StandardError()
    handler.setFormatter(TextLine(process) if format == "text" else JsonLine(process))
    root.addHandler(handler)
    root.setLevel(logging.WARNING)
    for name in _OURS:
        logging.getLogger(name).setLevel(level.upper() if isinstance(level, str) else level)


class TextLine(logging.Formatter):
    """Time, level, process, component, message, then the extra fields as name=value."""

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line; those of a traceback follow, each with the same beginning."""
        process = f"{self._process}[{record.process}]"
        start = f'{_time(record)} {record.levelname} {process} component="{_COMPONENT}" '
        fields = [f"{printable(name)}={_shown(value)}" for name, value in _extra(record).items()]
        line = " ".join([printable(record.getMessage()), *fields])
        trace = [f"| {printable(part)}" for part in self._trace(record).splitlines()]
        return "\n".join(start + part for part in [line, *trace])

    def _trace(self, record: logging.LogRecord) -> str:
        parts = []
        if record.exc_info:
            parts.append(self.formatException(record.exc_info))
        if record.stack_info:
            parts.append(self.formatStack(record.stack_info))
        return "\n".join(parts)


class JsonLine(TextLine):
    """One JSON object a line; extra fields are members of it, under their own names."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line of ASCII JSON; a traceback is its member "exception"."""
        fields: dict[str, Any] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "process": self._process,
            "pid": record.process,
            "logger": record.name,
            "component": _COMPONENT,
            "message": printable(record.getMessage()),
        }
        for name, value in _extra(record).items():
            fields[f"{name}_" if name in fields else name] = _plain(value)
        trace = self._trace(record)
        if trace:
            fields["exception"] = [printable(part) for part in trace.splitlines()]
        return json.dumps(fields, ensure_ascii=True, allow_nan=False)


class _StandardError(logging.StreamHandler[TextIO]):
    """Writes to what sys.stderr is at that moment, which a daemon or a test may replace."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        return sys.stderr


def _time(record: logging.LogRecord) -> str:
    return f"{str(rfc3339(int(record.created * 1e9)))[:-4]}Z"


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    """Fields that the call gave beside the message; the component is in every line anyway."""
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _STANDARD and name != "component"
    }


def _shown(value: object) -> str:
    """*value* for a text line: quoted where a space or quote would blur where it ends."""
    plain = _plain(value)
    if not isinstance(plain, str):
        return json.dumps(plain)
    if plain and not any(c in ' "=' for c in plain):
        return plain
    return '"' + plain.replace('"', "'") + '"'


def _plain(value: object) -> Any:
    """*value* as what JSON can hold; anything else, and numbers JSON has none for, as its text."""
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, Mapping):
        return {printable(str(name)): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return printable(value if isinstance(value, str) else str(value))
