"""Read an exchange feed: a message a line, the receiver's clock, a space, the exchange's JSON.

Whatever bytes come in, `parse` returns an event or raises ValueError, nothing else: a recorded feed
always has a torn line somewhere, and an engine that dies of it is of no use.  Prices and sizes
become integers in units of 1e-8, so that trades and PnL are exact and the same on every machine.
"""

import functools
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

from cli.problems import Failed

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

UNITS = 100_000_000  # units of a price or size of 1
# a snapshot of 1,000 levels has 42,000; a longer line is malformed
MAX_LINE_BYTES = 1 << 20
_READ_AHEAD_BYTES = 1 << 18
_NUMBER = re.compile(r"([0-9]{1,10})(?:\.([0-9]{1,8}))?")
_CLOCK_DIGITS = 19  # nanoseconds since the epoch, until the year 2286

Levels = tuple[tuple[int, int], ...]  # (price, size) in units


class Quote(NamedTuple):
    """The best bid and ask with the sizes shown there, in units."""

    clock_ns: int
    event_ms: int
    symbol: str
    bid: int
    bid_size: int
    ask: int
    ask_size: int


class Trade(NamedTuple):
    """A trade; ``sold`` when the aggressor sold (the exchange says "the buyer is the maker")."""

    clock_ns: int
    event_ms: int
    symbol: str
    price: int
    size: int
    sold: bool


class Depth(NamedTuple):
    """Changed levels of the order book, all of them in a ``snapshot``; a size of 0 removes one."""

    clock_ns: int
    event_ms: int
    symbol: str  # "" in a snapshot, which doesn't name it
    bids: Levels
    asks: Levels
    snapshot: bool


Event = Quote | Trade | Depth


def parse(line: bytes) -> Event:
    """The event in *line*.

    Raises:
        ValueError: the line is no message of this format: cut, binary, an unknown event, a wrong
            type, a number that isn't a plain decimal.
    """
    clock, _, body = line.partition(b" ")
    clock_ns = clock_of(clock)
    try:
        message = json.loads(body.decode())
        if "stream" in message:
            return _event(clock_ns, message["data"])
        return Depth(
            clock_ns,
            _integer(message["E"]),
            "",
            _levels(message["bids"]),
            _levels(message["asks"]),
            True,
        )
    except (KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"not a message of the feed: {problem!r}") from problem


def clock_of(line: bytes) -> int:
    """The receiver's clock at the start of *line*, in nanoseconds since the epoch.

    Raises:
        ValueError: the line doesn't begin with it.
    """
    clock = line[: _CLOCK_DIGITS + 1].partition(b" ")[0]
    if not clock.isdigit() or len(clock) > _CLOCK_DIGITS:
        raise ValueError("the line doesn't begin with the receiver's clock")
    return int(clock)


@functools.lru_cache(maxsize=16_384)  # prices and sizes repeat: a hit costs a tenth of the parse
def units(text: object) -> int:
    """The decimal *text*, such as "61800.20", as an exact number of units of 1e-8.

    Raises:
        ValueError: not a plain decimal ("NaN", "1e5", "-1", a number instead of a text).
    """
    if not isinstance(text, str):
        raise ValueError(f"{text!r} is not a decimal text")
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError(f"{text!r} is not a plain decimal")
    whole, fraction = match.groups("")
    return int(whole) * UNITS + int(fraction.ljust(8, "0"))


def _event(clock_ns: int, data: dict[str, object]) -> Event:
    kind = data["e"]
    symbol = data["s"]
    if not isinstance(symbol, str):
        raise ValueError("the symbol is not a text")
    event_ms = _integer(data["E"])
    _integer(data["T"])
    if kind == "bookTicker":
        bid, ask = _price(data["b"]), _price(data["a"])
        return Quote(clock_ns, event_ms, symbol, bid, units(data["B"]), ask, units(data["A"]))
    if kind == "trade":
        sold = data["m"]
        if not isinstance(sold, bool):
            raise ValueError("the maker's side is neither true nor false")
        return Trade(clock_ns, event_ms, symbol, _price(data["p"]), units(data["q"]), sold)
    if kind == "depthUpdate":
        return Depth(clock_ns, event_ms, symbol, _levels(data["b"]), _levels(data["a"]), False)
    raise ValueError(f"unknown event {kind!r}")


def _price(text: object) -> int:
    price = units(text)
    if price == 0:
        raise ValueError("a price of 0")
    return price


def _integer(value: object) -> int:
    if type(value) is not int or value < 0:  # a bool is an int, but no time
        raise ValueError(f"{value!r} is not a time")
    return value


def _levels(levels: object) -> Levels:
    if not isinstance(levels, list):
        raise ValueError("the levels are not a list")
    return tuple([(units(price), units(size)) for price, size in levels])


class FeedFile:
    """The message lines of a recorded feed, plain or gzip (seen by its content, not by its name).

    ``skipped`` counts the malformed lines before the first message.  ``damage`` says why reading
    ended before the end of the file ("" if it didn't): what was read until then is still a feed.
    """

    def __init__(self, path: str | Path) -> None:
        """Open *path* and find the first message.

        Raises:
            Failed: there is no such file, or no message in it.
        """
        self.skipped = 0
        self.damage = ""
        self.path = Path(path)
        try:
            self._file = _open(self.path)
        except OSError as problem:
            raise Failed(f"--feed={path}: {problem.strerror or problem}") from problem
        first = self._first()
        if first is None:
            self.close()
            raise Failed(f"--feed={path}: {self._nothing()}")
        self._pending = [first]

    def __iter__(self) -> Iterator[bytes]:
        """All lines from the first message on, without their newlines; blank ones are left out."""
        while self._pending:
            yield self._pending.pop()
        yield from self._lines()

    def close(self) -> None:
        """Close the file; harmless when repeated."""
        self._file.close()

    def _first(self) -> bytes | None:
        for line in self._lines():
            try:
                parse(line)
            except ValueError:
                self.skipped += 1
            else:
                return line
        return None

    def _nothing(self) -> str:
        if self.damage:
            return f"can't be read: {self.damage}"
        if self.skipped:
            return f"no message of the feed's format in its {self.skipped:,} lines"
        return "the file is empty"

    def _lines(self) -> Iterator[bytes]:
        readline = self._file.readline
        try:
            while line := readline(MAX_LINE_BYTES):
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    self._skip_rest()
                line = line.rstrip(b"\r\n")
                if line:
                    yield line
        except (
            EOFError,
            OSError,
            zlib.error,
        ) as problem:  # a recording that was cut, or a bad disk
            self.damage = str(problem)

    def _skip_rest(self) -> None:
        while (rest := self._file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass


def _open(path: Path) -> IO[bytes]:
    file = io.BufferedReader(io.FileIO(path), _READ_AHEAD_BYTES)
    try:
        if file.peek(2)[:2] != b"\x1f\x8b":  # RFC 1952, section 2.3.1
            return file
        # a buffered reader of its own, because GzipFile's readline is Python code on 3.11
        return io.BufferedReader(_Unzipped(file), _READ_AHEAD_BYTES)
    except BaseException:
        file.close()
        raise


class _Unzipped(io.RawIOBase):
    """The content of a gzip file, closing the file with itself."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._zip = gzip.GzipFile(fileobj=file, mode="rb")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        # read1, because readinto fills the buffer first and so drops what stands before a cut
        with memoryview(buffer).cast("B") as view:
            some = self._zip.read1(len(view))
            view[: len(some)] = some
        return len(some)

    def close(self) -> None:
        self._zip.close()
        self._file.close()
        super().close()
