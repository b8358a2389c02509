"""Read TOML tables that people wrote: where each begins, and every problem, not just the first."""

import difflib
import re
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

_HEADER = re.compile(r"\s*\[\[\s*(\w+)\s*\]\]")
_STRINGS = re.compile(r'"""|\'\'\'')
T = TypeVar("T")


class RuleFileError(ValueError):
    """The file can't be used; ``problems`` has a line for each reason."""

    def __init__(self, problems: Sequence[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = list(problems)


def read_tables(path: Path) -> tuple[dict[str, Any], str]:
    """A TOML file as tables and as text.

    Raises:
        RuleFileError: it can't be read, or isn't TOML.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return tomllib.loads(text), text
    except OSError as error:
        raise RuleFileError([f"{path}: can't be read: {error.strerror}"]) from None
    except UnicodeDecodeError:
        raise RuleFileError([f"{path}: not a text file in UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise RuleFileError([f"{path}: not TOML: {error}"]) from None


def header_lines(text: str, name: str) -> list[int]:
    """The line numbers of the ``[[name]]`` headers."""
    lines, quote = [], ""
    for number, line in enumerate(text.splitlines(), 1):
        if not quote and (found := _HEADER.match(line)) and found[1] == name:
            lines.append(number)
        for mark in _STRINGS.findall(line):  # a header inside a long string isn't one
            if not quote:
                quote = mark
            elif quote == mark:
                quote = ""
    return lines


def hint(word: str, known: Collection[str]) -> str:
    """A suggestion for a word that isn't known, or nothing."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean {near[0]}?" if near else ""


class Table:
    """One table being read; what is wrong with it is noted, not raised."""

    def __init__(self, fields: Mapping[str, Any], where: str, problems: list[str]) -> None:
        self.fields = fields
        self.where = where
        self._problems = problems
        self._at_first = len(problems)

    @property
    def sound(self) -> bool:
        """Whether nothing was wrong so far."""
        return len(self._problems) == self._at_first

    def wrong(self, text: str) -> None:
        """Note a problem."""
        self._problems.append(f"{self.where}: {text}")

    def check_keys(self, known: Collection[str]) -> None:
        """Note the keys that don't exist."""
        for key in self.fields:
            if key not in known:
                self.wrong(f"{key}: no such key{hint(key, known)}")

    def get(self, key: str, parse: Callable[[Any], T], default: T) -> T:
        """The parsed value of *key*, or *default* if it isn't there or is wrong."""
        if key not in self.fields:
            return default
        try:
            return parse(self.fields[key])
        except ValueError as error:
            self.wrong(f"{key}: {error}")
            return default


def text(given: Any) -> str:
    """A string.

    Raises:
        ValueError: it isn't one.
    """
    if not isinstance(given, str):
        raise ValueError(f"{given!r}: must be text in quotes")
    return given


def words(given: Any) -> tuple[str, ...]:
    """A string or a list of strings.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(given, str):
        return (given,)
    if isinstance(given, list) and given and all(isinstance(each, str) for each in given):
        return tuple(given)
    raise ValueError(f"{given!r}: must be text in quotes, or a list of such")


def boolean(given: Any) -> bool:
    """true or false.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(given, bool):
        raise ValueError(f"{given!r}: must be true or false")
    return given


def whole(given: Any) -> int:
    """A whole number.

    Raises:
        ValueError: it isn't one.
    """
    if isinstance(given, bool) or not isinstance(given, int):
        raise ValueError(f"{given!r}: must be a whole number")
    return given
