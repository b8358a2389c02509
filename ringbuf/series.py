"""Series and their ids: the append-only symbol table beside the lossy slots.

Ids are dense and never reused; 0 stands for everything that got none.  An entry is written before
the table's cursor moves over it, and the cursor before any record with the new id.
"""

import threading
import zlib
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import msgpack

from ringbuf import layout
from ringbuf.errors import RingInvalid

OVERFLOW = 0

Key = tuple[str, str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Series:
    """What one metric measures: name, unit and labels (``engine`` is the ring's name)."""

    name: str
    unit: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def overflow(engine: str) -> Series:
    """The series of id 0: records whose own series had no room in the table."""
    return Series("overflow", "", {"engine": engine})


def pack_entry(number: int, name: str, unit: str, labels: Mapping[str, str]) -> bytes:
    """One entry of the table.

    Raises:
        ValueError: too long, or not to be encoded as UTF-8.
        TypeError: not text.
    """
    body = msgpack.packb({"id": number, "name": name, "unit": unit, "labels": dict(labels)})
    if len(body) > layout.MAX_ENTRY_BYTES:
        raise ValueError(f"series of {len(body)} bytes: at most {layout.MAX_ENTRY_BYTES} fit")
    return layout.SYMBOL_ENTRY.pack(len(body), zlib.crc32(body)) + bytes(body)


def unpack_entries(data: bytes, first: int, engine: str) -> tuple[list[Series], int]:
    """The series in *data*, whose first entry has the id *first*, and the bytes they fill.

    Reading stops at the first entry that is damaged; what follows can't be found without it.
    """
    found: list[Series] = []
    offset = 0
    while offset + layout.SYMBOL_ENTRY.size <= len(data):
        length, checksum = layout.SYMBOL_ENTRY.unpack_from(data, offset)
        start = offset + layout.SYMBOL_ENTRY.size
        body = data[start : start + length]
        if not 0 < length <= layout.MAX_ENTRY_BYTES or len(body) != length:
            break
        if zlib.crc32(body) != checksum:
            break
        series = _series(body, first + len(found), engine)
        if series is None:
            break
        found.append(series)
        offset = start + length
    return found, offset


def _series(body: bytes, number: int, engine: str) -> Series | None:
    try:
        fields = msgpack.unpackb(body)
        if fields["id"] != number:
            return None
        labels = {str(key): str(value) for key, value in fields["labels"].items()}
        return Series(str(fields["name"]), str(fields["unit"]), labels | {"engine": engine})
    except Exception:  # noqa: BLE001 - any bytes may stand here, msgpack raises many types
        return None


def series_key(name: object, unit: object, labels: Mapping[str, object]) -> Key | None:
    """What makes two calls mean the same series; None for what can't name one.

    The label ``engine`` is left out: it is always the ring's name.
    """
    try:
        texts = {label: str(value) for label, value in labels.items() if label != "engine"}
    except Exception:  # noqa: BLE001 - a label's own __str__ may raise anything
        return None
    if not isinstance(name, str) or not isinstance(unit, str):
        return None
    return name, unit, tuple(sorted(texts.items()))


class SymbolTable:
    """The writer's side: gives out ids, one per different series."""

    def __init__(
        self,
        words: memoryview,
        area: memoryview,
        engine: str,
        labels: Mapping[str, str],
        fence: Callable[[], object],
    ) -> None:
        """Continue the table that *area* holds.

        Args:
            words: the header, cast to "q".
            area: the symbol table's bytes.
            engine: the ring's name, left out of the entries because the header has it.
            labels: the recorder's labels, part of each of its series.
            fence: orders an entry before the cursor that publishes it.

        Raises:
            RingInvalid: the table is damaged.
        """
        self._words = words
        self._area = area
        self._labels = dict(labels)
        self._fence = fence
        self._mutex = threading.RLock()
        self._ids: dict[Key, int] = {}
        self._sets: Counter[str] = Counter()
        used = words[layout.SYMBOLS_PUBLISHED]
        if not 0 <= used <= len(area):
            raise RingInvalid(f"symbol table's cursor {used} is out of range")
        entries, read = unpack_entries(bytes(area[:used]), 1, engine)
        if read != used:
            raise RingInvalid(f"symbol table is damaged at byte {read} of {used}")
        for series in entries:
            labels = {key: text for key, text in series.labels.items() if key != "engine"}
            self._remember((series.name, series.unit, tuple(sorted(labels.items()))))

    def intern(self, key: Key | None) -> int:
        """The id of a series, new or known; 0, counted in the header, when it can't get one.

        Raises:
            ValueError: the ring's memory is released.
        """
        with self._mutex:
            try:
                if key is not None:
                    return self._intern(*key)
            except (ValueError, TypeError):
                pass  # too many, too long, no room, not to be encoded: the counter says so
            self._words[layout.OVERFLOWED] += 1
            return OVERFLOW

    def _intern(self, name: str, unit: str, labels: tuple[tuple[str, str], ...]) -> int:
        merged = self._labels | dict(labels)
        key = (name, unit, tuple(sorted(merged.items())))
        known = self._ids.get(key)
        if known is not None:
            return known
        if self._sets[name] >= layout.MAX_LABEL_SETS:
            raise ValueError(f"metric {name!r} has {layout.MAX_LABEL_SETS} label sets already")
        entry = pack_entry(len(self._ids) + 1, name, unit, merged)
        used = self._words[layout.SYMBOLS_PUBLISHED]
        if used + len(entry) > len(self._area):
            raise ValueError("symbol table is full")
        self._area[used : used + len(entry)] = entry
        self._fence()
        self._words[layout.SYMBOLS_PUBLISHED] = used + len(entry)
        return self._remember(key)

    def _remember(self, key: Key) -> int:
        number = len(self._ids) + 1
        self._ids[key] = number
        self._sets[key[0]] += 1
        return number
