"""The shared-memory ring: the engine's recorder and everybody else's readers.

Importing this package loads nothing but the standard library and msgpack: an engine whose broker
SDK pins other versions can embed the recorder alone.  numpy comes with the first reader.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ringbuf.errors import RingInvalid, RingMissing, WriterBusy
    from ringbuf.reader import RingReader
    from ringbuf.recorder import Metric, Recorder
    from ringbuf.series import Series
    from ringbuf.textreader import TextReader

__all__ = [
    "Metric",
    "Recorder",
    "RingInvalid",
    "RingMissing",
    "RingReader",
    "Series",
    "TextReader",
    "WriterBusy",
]

_HOMES = {
    "Metric": "ringbuf.recorder",
    "Recorder": "ringbuf.recorder",
    "RingInvalid": "ringbuf.errors",
    "RingMissing": "ringbuf.errors",
    "RingReader": "ringbuf.reader",
    "Series": "ringbuf.series",
    "TextReader": "ringbuf.textreader",
    "WriterBusy": "ringbuf.errors",
}


def __getattr__(name: str) -> Any:
    try:
        home = _HOMES[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
