"""One raw record as one line of a day file, and back.

Lines are plain JSON for anybody's tools: ``time`` (RFC 3339 in UTC, nanoseconds), ``metric``,
``labels``, ``value``, ``unit``, and, where records were left out, ``skipped``: how many of the same
series the line stands for besides itself.  They are ASCII, so no cut splits a character.  Encoding
works on arrays and joins constants made once per series; decoding knows the order of the keys and
falls back to a JSON parser for lines that other tools rewrote.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

from aggregator.interval import NS_PER_S

if TYPE_CHECKING:
    from aggregator.binning import FloatArray, IntArray

_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - UTC throughout; an aware one is slower to print
_SECOND_LONG = timedelta(seconds=1)
_START = '{"time":"'
_SECOND = slice(len(_START), len(_START) + 19)
_NANOSECOND = slice(_SECOND.stop + 1, _SECOND.stop + 10)
_REST = _NANOSECOND.stop
_VALUE = b',"value":'
# Records formatted in one go: each step of it holds the interpreter for well below a millisecond.
_PIECE = 1024
_KNOWN = 10_000  # constants that a decoder remembers of each kind
_TIME = re.compile(r"(\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d)(?:\.(\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)")


class Record(NamedTuple):
    """One raw record.

    ``time_ns`` is wall time since the epoch; ``labels`` is shared by the records of a series;
    ``skipped`` counts those of the same series, near it in time, that weren't written.
    """

    time_ns: int
    metric: str
    labels: Mapping[str, str]
    value: float
    unit: str
    skipped: int = 0


class Shape(NamedTuple):
    """What the lines of one series have in common: between time and value, and from there on."""

    middle: str
    end: str


def shape(metric: str, unit: str, labels: Mapping[str, str]) -> Shape:
    """The constant parts of a series' lines."""
    fields = json.dumps({"metric": metric, "labels": dict(labels)}, separators=(",", ":"))
    return Shape(f'Z",{fields[1:-1]}{_VALUE.decode()}', f',"unit":{json.dumps(unit)}}}\n')


def encode(
    times_ns: "IntArray", values: "FloatArray", shapes: Sequence[Shape], skipped: Sequence[int]
) -> bytes:
    """The lines of n records.

    Args:
        times_ns, values: shape (n,); values are finite.
        shapes: of each record's series.
        skipped: of each record; 0 is left out of its line.
    """
    pieces = [slice(start, start + _PIECE) for start in range(0, len(shapes), _PIECE)]
    return b"".join(
        _piece(times_ns[each], values[each], shapes[each], skipped[each]) for each in pieces
    )


def _piece(
    times_ns: "IntArray", values: "FloatArray", shapes: Sequence[Shape], skipped: Sequence[int]
) -> bytes:
    seconds = times_ns // NS_PER_S
    beginnings = {second: _beginning(second) for second in set(seconds.tolist())}
    parts = [""] * (5 * len(shapes))
    parts[0::5] = map(beginnings.__getitem__, seconds.tolist())
    parts[1::5] = _nine_digits(times_ns - seconds * NS_PER_S)
    parts[2::5] = [each.middle for each in shapes]
    parts[3::5] = map(repr, values.tolist())
    parts[4::5] = [
        each.end if not count else _end(each, count)
        for each, count in zip(shapes, skipped, strict=True)
    ]
    return "".join(parts).encode("ascii")


def _beginning(second: int) -> str:
    return f"{_START}{(_EPOCH + timedelta(seconds=second)).isoformat()}."


def _nine_digits(numbers: "IntArray") -> list[str]:
    """Numbers of 0..999,999,999 as texts of nine digits, several times faster than formatting."""
    import numpy as np  # only who writes needs it

    rest = numbers.astype(np.uint32)
    digits = np.empty((len(rest), 9), np.uint32)
    for place in range(8, -1, -1):
        tens = rest // 10
        digits[:, place] = rest - tens * 10
        rest = tens
    digits += ord("0")
    texts: list[str] = digits.view("<U9").ravel().tolist()
    return texts


def _end(series: Shape, skipped: int) -> str:
    return f'{series.end[:-2]},"skipped":{skipped}}}\n' if skipped else series.end


class Decoder:
    """Turns lines into records, of the wanted series alone.

    Args:
        metric: pattern of the metric's name, with * ? [].
        match: label -> pattern; a series without the label isn't wanted.
    """

    def __init__(self, metric: str = "*", match: Mapping[str, str] | None = None) -> None:
        self._metric = metric
        self._match = dict(match or {})
        self._seconds = _Seconds()
        self._ends: dict[bytes, tuple[str, int]] = {}
        self._series: dict[bytes, tuple[str, Mapping[str, str]] | None] = {}

    def decode(self, line: bytes) -> Record | None:
        """The record in *line* (without its newline); None if its series isn't wanted.

        Raises:
            ValueError: the line is no record.
        """
        try:
            head, _, tail = line.rpartition(_VALUE)
            value, _, end = tail.partition(b",")
            middle = head[_REST:]
            series = self._series[middle]
            if series is None:
                return None
            unit, skipped = self._ends[end]
            time_ns = self._seconds[head[_SECOND]] + int(head[_NANOSECOND])
            number = float(value)
        except (KeyError, ValueError):
            return self._learn(line)
        if not math.isfinite(number):
            raise ValueError("not a record: its value is not finite")
        return Record(time_ns, *series, number, unit, skipped)

    def _learn(self, line: bytes) -> Record | None:
        """Decode a line the long way; remember its constants if it is one of ours."""
        record = _parse(line)
        wanted = self._wants(record)
        head, separator, tail = line.rpartition(_VALUE)
        if separator and _is_ours(line, record):
            for known in (self._ends, self._series):
                if len(known) >= _KNOWN:
                    known.clear()
            self._ends[tail.partition(b",")[2]] = (record.unit, record.skipped)
            self._series[head[_REST:]] = (record.metric, record.labels) if wanted else None
        return record if wanted else None

    def _wants(self, record: Record) -> bool:
        return fnmatchcase(record.metric, self._metric) and all(
            label in record.labels and fnmatchcase(record.labels[label], pattern)
            for label, pattern in self._match.items()
        )


class _Seconds(dict[bytes, int]):
    """Nanoseconds of each second as our lines say it; nearly every line of a quiet engine has
    another one.

    Raises:
        KeyError: it isn't said so.
    """

    def __missing__(self, text: bytes) -> int:
        try:
            second = datetime.fromisoformat(text.decode("ascii"))
        except ValueError:
            raise KeyError(text) from None
        if second.isoformat().encode() != text:
            raise KeyError(text)
        if len(self) >= _KNOWN:
            self.clear()
        at_ns = self[text] = (second - _EPOCH) // _SECOND_LONG * NS_PER_S
        return at_ns


def _is_ours(line: bytes, record: Record) -> bool:
    """Whether *line* is, byte for byte, what would be written for *record*."""
    around = shape(record.metric, record.unit, record.labels)
    second, nanosecond = divmod(record.time_ns, NS_PER_S)
    end = _end(around, record.skipped)
    ours = f"{_beginning(second)}{nanosecond:09d}{around.middle}{record.value!r}{end}"
    return line == ours.encode("ascii").rstrip(b"\n")


def _parse(line: bytes) -> Record:
    try:
        fields = json.loads(line)
        labels = fields["labels"]
        if not all(isinstance(text, str) for text in (fields["metric"], *labels.values())):
            raise TypeError("a name is not a text")
        return Record(
            time_ns=parse_time(fields["time"]),
            metric=fields["metric"],
            labels=labels,
            value=_number(fields["value"]),
            unit=str(fields.get("unit", "")),
            skipped=int(fields.get("skipped", 0)),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as problem:
        raise ValueError(f"not a record: {problem}") from problem


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("its value is not a finite number")
    return float(value)


def parse_time(text: str) -> int:
    """Nanoseconds since the epoch of an RFC 3339 time with an offset, exact.

    Raises:
        ValueError: not such a time.
    """
    found = _TIME.fullmatch(text)
    if found is None:
        raise ValueError(f"time {text!r}: use a form such as 2026-01-31T09:15:00.25Z")
    second = datetime.fromisoformat(f"{found[1]}{found[3].upper()}").astimezone(UTC)
    return round(second.timestamp()) * NS_PER_S + int((found[2] or "").ljust(9, "0"))
