"""Sessions from their TOML tables, and holidays from the files that these name."""

import re
from collections.abc import Mapping
from datetime import date, datetime, time
from functools import partial
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, available_timezones

from aggregator.rules.sessions import DAY_NAMES, Session
from aggregator.rules.tables import Table, hint, text, words

_KEYS = ("name", "tz", "days", "open", "close", "holidays", "engines")
_TIME = re.compile(r"(\d{1,2}):(\d{2})")
_LONGEST_FILE_BYTES = 1 << 20
_NO_DAYS: frozenset[date] = frozenset()
_NO_WORDS: tuple[str, ...] = ()


def parse_session(
    fields: Mapping[str, Any], where: str, folder: Path, problems: list[str]
) -> Session | None:
    """The session of one table, or None with its *problems* noted.

    Args:
        where: the file and line of the table.
        folder: that which the name of the holidays file is relative to.
    """
    name = fields.get("name")
    table = Table(fields, f"{where}, session {name!r}" if name else f"{where}, session", problems)
    table.check_keys(_KEYS)
    for key in ("name", "open", "close"):
        if key not in fields:
            table.wrong(f"{key} is missing")
    session = Session(
        name=table.get("name", _name, "?"),
        tz=table.get("tz", _zone, "UTC"),
        days=table.get("days", _days, frozenset(range(5))),
        open=table.get("open", _time, time()),
        close=table.get("close", _time, time()),
        holidays=table.get("holidays", partial(_holidays, folder=folder), _NO_DAYS),
        engines=table.get("engines", words, _NO_WORDS),
    )
    return session if table.sound else None


def _name(given: Any) -> str:
    if not text(given).strip():
        raise ValueError("must not be empty")
    return text(given)


def _zone(given: Any) -> str:
    try:
        ZoneInfo(text(given))
    except (KeyError, OSError, ValueError):
        raise ValueError(
            f"{given!r}: no such time zone{hint(str(given), available_timezones())}"
        ) from None
    return text(given)


def _days(given: Any) -> frozenset[int]:
    """Weekdays from "mon-fri", "mon, wed" or a list; a range may run over the week's end."""
    days: set[int] = set()
    for part in (piece.strip() for item in words(given) for piece in item.split(",")):
        first, dash, last = (word.strip().lower()[:3] for word in part.partition("-"))
        ends = (first, last if dash else first)
        if any(end not in DAY_NAMES for end in ends):
            raise ValueError(f"{part!r}: use days such as mon-fri or mon,wed,fri")
        start, stop = (DAY_NAMES.index(end) for end in ends)
        days.update((start + i) % 7 for i in range((stop - start) % 7 + 1))
    return frozenset(days)


def _time(given: Any) -> time:
    if isinstance(given, time):  # TOML has times of its own
        return given.replace(second=0, microsecond=0)
    found = _TIME.fullmatch(text(given).strip())
    if found is None:
        raise ValueError(f"{given!r}: use a time such as 09:15")
    hour, minute = int(found[1]), int(found[2])
    if (hour, minute) == (24, 0):
        hour = 0
    if hour > 23 or minute > 59:
        raise ValueError(f"{given!r}: must be 00:00..24:00")
    return time(hour, minute)


def _holidays(given: Any, folder: Path) -> frozenset[date]:
    """Dates from a list, or from a file with one ISO date a line; ``#`` begins a comment."""
    if isinstance(given, list):
        return frozenset(map(_date, given))
    path = folder / text(given)
    try:
        if path.stat().st_size > _LONGEST_FILE_BYTES:
            raise ValueError(f"{path}: too long for a list of holidays")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise ValueError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    found, bad = set(), []
    for number, line in enumerate(lines, 1):
        word = line.partition("#")[0].strip()
        try:
            if word:
                found.add(_date(word))
        except ValueError:
            bad.append(f"line {number} ({word!r})")
    if bad:
        raise ValueError(f"{path}: no date such as 2026-01-26 in {', '.join(bad[:5])}")
    return frozenset(found)


def _date(given: Any) -> date:
    if isinstance(given, date) and not isinstance(given, datetime):  # TOML has dates of its own
        return given
    try:
        return date.fromisoformat(given)
    except (TypeError, ValueError):
        raise ValueError(f"{given!r}: use a date such as 2026-01-26") from None
