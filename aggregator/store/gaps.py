"""From when to when the store is known not to have all rollups.

It has all from its birth on, while rollups are switched on.  A gap says when it hasn't: before the
birth of a store that was started beside day files, because another one was damaged or lost; and
while rollups are switched off.  For intervals that touch a gap, readers look into the day files.
Gaps stand among what is settled, so that a store made before there were any counts as complete.
"""

import sqlite3
from collections.abc import Iterable, Mapping

Gap = tuple[int, int]
"""Seconds since the epoch, [start, end)."""

FOREVER = 1 << 62
_KEY = "rollups_missing_from/"
_PUT = "INSERT OR REPLACE INTO settled (key, value) VALUES (?, ?)"


def of(settled: Mapping[str, int]) -> tuple[Gap, ...]:
    """The gaps among what a store has settled, sorted."""
    return tuple(
        sorted(
            (int(key.removeprefix(_KEY)), end_s)
            for key, end_s in settled.items()
            if key.startswith(_KEY)
        )
    )


def born(db: sqlite3.Connection, at_s: int) -> None:
    """A new store begins at *at_s*, and there was history before; inside the caller's transaction,
    as are the others."""
    db.execute(_PUT, (f"{_KEY}0", at_s))


def begin(db: sqlite3.Connection) -> None:
    """Rollups are made no more: from the newest one on, since what came after it may be unread."""
    if any(end_s == FOREVER for _, end_s in of(_settled(db))):
        return
    (newest_s,) = db.execute("SELECT max(start) FROM base").fetchone()
    db.execute(_PUT, (f"{_KEY}{newest_s or 0}", FOREVER))


def end(db: sqlite3.Connection, at_s: int) -> None:
    """Rollups are made again, of all that is recorded from *at_s* on."""
    for start_s, end_s in of(_settled(db)):
        if end_s == FOREVER:
            db.execute(_PUT, (f"{_KEY}{start_s}", at_s))


def within(
    gaps: Iterable[Gap], longest_s: int, spans: Iterable[Gap], start_s: int, end_s: int
) -> list[Gap]:
    """Where in [start_s, end_s) intervals may touch a gap and lie in one of *spans*: sorted,
    disjoint.

    Args:
        longest_s: every interval is this long, or divides it.
    """
    spans = tuple(spans)
    found = [
        (max(low_s, gap_s - gap_s % longest_s, start_s), min(high_s, until_s, end_s))
        for gap_s, until_s in gaps
        for low_s, high_s in spans
    ]
    return joined((low_s, high_s) for low_s, high_s in found if low_s < high_s)


def joined(ranges: Iterable[Gap]) -> list[Gap]:
    """Ranges sorted, those that touch or overlap made one."""
    found: list[Gap] = []
    for low_s, high_s in sorted(ranges):
        if found and low_s <= found[-1][1]:
            found[-1] = (found[-1][0], max(high_s, found[-1][1]))
        else:
            found.append((low_s, high_s))
    return found


def split(start_s: int, end_s: int, step_s: int, ranges: Iterable[Gap]) -> list[tuple[Gap, bool]]:
    """[start_s, end_s) in pieces, and of each whether it is in one of *ranges*.

    Args:
        ranges: sorted; they grow to whole steps.
    """
    pieces: list[tuple[Gap, bool]] = []
    at_s = start_s
    for low_s, high_s in ranges:
        low_s = max(low_s - low_s % step_s, at_s)
        high_s = min(high_s + -high_s % step_s, end_s)
        if low_s < high_s:
            pieces += [((at_s, low_s), False), ((low_s, high_s), True)]
            at_s = high_s
    pieces.append(((at_s, end_s), False))
    return [(piece, inside) for piece, inside in pieces if piece[0] < piece[1]]


def _settled(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT key, value FROM settled").fetchall())
