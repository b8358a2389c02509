"""The rollup store's tables and versions: all that its writer and its readers must agree on.

A file's version is the number of MIGRATIONS it has been through (``user_version``).  A landed
migration is never edited: a change is appended, and is applied to older files in one transaction; a
newer file is refused.
"""

import json
import os
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from aggregator.interval import DAY_S, HOUR_S

APPLICATION_ID = 0x74776B72
_READ_PATIENCE_S = 1.0
# Answered from the row itself; other quantiles come from the histogram.
QUANTILES = (0.5, 0.9, 0.99, 0.999)

_VALUES = """
    count INTEGER NOT NULL, total REAL NOT NULL, minimum REAL NOT NULL, maximum REAL NOT NULL,
    first REAL NOT NULL, first_ns INTEGER NOT NULL, last REAL NOT NULL, last_ns INTEGER NOT NULL,
    p50 REAL NOT NULL, p90 REAL NOT NULL, p99 REAL NOT NULL, p999 REAL NOT NULL,
    buckets BLOB NOT NULL"""

# base is time-first: a commit touches neighbouring pages, and "the last hour of everything" is one
# range.  hourly and daily are series-first: a year of one series is one range.  They lack the base
# rows listed in open, which still grow every second.
MIGRATIONS: tuple[str, ...] = (
    f"""
    CREATE TABLE settled (key TEXT PRIMARY KEY, value INTEGER NOT NULL) STRICT;
    CREATE TABLE series (
        id INTEGER PRIMARY KEY, metric TEXT NOT NULL, unit TEXT NOT NULL, labels TEXT NOT NULL,
        UNIQUE (metric, unit, labels)) STRICT;
    CREATE TABLE base (
        start INTEGER NOT NULL, series INTEGER NOT NULL, interval_s INTEGER NOT NULL, {_VALUES},
        PRIMARY KEY (start, series)) STRICT, WITHOUT ROWID;
    CREATE TABLE open (series INTEGER PRIMARY KEY, start INTEGER NOT NULL) STRICT;
    CREATE TABLE hourly (
        series INTEGER NOT NULL, start INTEGER NOT NULL, {_VALUES},
        PRIMARY KEY (series, start)) STRICT, WITHOUT ROWID;
    CREATE TABLE daily (
        series INTEGER NOT NULL, start INTEGER NOT NULL, {_VALUES},
        PRIMARY KEY (series, start)) STRICT, WITHOUT ROWID;
    CREATE TABLE lost (
        start INTEGER NOT NULL, engine TEXT NOT NULL,
        lost INTEGER NOT NULL, unknown INTEGER NOT NULL,
        PRIMARY KEY (start, engine)) STRICT, WITHOUT ROWID;
    CREATE TABLE checkpoint (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
    """,
)

COLUMNS = (
    "start, count, total, minimum, maximum, first, first_ns, last, last_ns, p50, p90, p99, p999"
)


class StoreError(OSError):
    """The store can't be read or written now.

    Nothing of the call that raised it was kept: the same call may be repeated.
    """


class StoreMissing(StoreError):
    """There is no store at that path."""


class StoreNewer(StoreError):
    """The store was written by a later version of the program."""


class StoreDamaged(StoreError):
    """The file was damaged.  The writer moved it aside and has begun a new one."""


@dataclass(frozen=True, slots=True)
class Tier:
    """One resolution that is kept: its table and the length of its intervals."""

    table: str
    interval_s: int


HOURLY = Tier("hourly", HOUR_S)
DAILY = Tier("daily", DAY_S)


def canonical(labels: Mapping[str, str]) -> str:
    """Labels as the text that identifies them: JSON, ASCII, sorted."""
    return json.dumps(dict(sorted(labels.items())), separators=(",", ":"))


def clean(text: str) -> str:
    """*text* as it can be stored: lone surrogates, which UTF-8 can't hold, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def is_damage(error: sqlite3.Error) -> bool:
    """Whether *error* says that the file's content is wrong, as opposed to out of reach or full."""
    code = getattr(error, "sqlite_errorcode", 0) or 0
    return code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def check(db: sqlite3.Connection, path: Path) -> int:
    """The version of the store behind *db*; 0 for an empty file.

    Raises:
        StoreNewer: it is newer than this program.
        StoreError: it is a database of something else.
        sqlite3.Error: it can't be read.
    """
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (application,) = db.execute("PRAGMA application_id").fetchone()
    (tables,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables and not version:
        return 0
    if application != APPLICATION_ID:
        raise StoreError(f"{path}: a database of another program: move it away")
    if version > len(MIGRATIONS):
        raise StoreNewer(
            f"{path}: rollup store of version {version}, this program knows {len(MIGRATIONS)}: "
            f"upgrade it, or use another data directory"
        )
    return int(version)


def uri(path: Path, mode: str) -> str:
    """The name under which SQLite opens *path* without making it: *mode* is ro or rw."""
    return f"file:{quote(str(path))}?mode={mode}"


def open_readonly(path: Path | str) -> sqlite3.Connection:
    """A read-only connection to the store at *path*, beside its writer or without one.

    Each statement on it is a read of its own: keep them short, a long one keeps the writer's log
    from shrinking.

    Raises:
        StoreMissing: no file, or nothing in it yet.
        StoreError: this user or this program can't read it; the text says what to do.
    """
    path = Path(path).absolute()
    if not path.exists():
        raise StoreMissing(f"{path}: no such file: check the data directory and the service")
    try:
        db = sqlite3.connect(
            uri(path, _mode(path)), uri=True, timeout=_READ_PATIENCE_S, isolation_level=None
        )
    except sqlite3.Error as error:
        raise _unreadable(path, error) from error
    try:
        version = check(db, path)
        if version == len(MIGRATIONS):
            return db
        if not version:
            raise StoreMissing(f"{path}: no rollups yet: check that the service runs")
        raise StoreError(
            f"{path}: rollup store of version {version}, older than this program's "
            f"{len(MIGRATIONS)}: start the service once to upgrade it"
        )
    except sqlite3.Error as error:
        db.close()
        raise _unreadable(path, error) from error
    except StoreError:
        db.close()
        raise


def _mode(path: Path) -> str:
    # Without a writer, SQLite needs to create its -shm file even to read.  Where it can't, a store
    # that was closed cleanly (nothing in its log) is a plain file that nobody changes.
    log = path.with_name(path.name + "-wal")
    if not os.access(path.parent, os.W_OK) and not (log.exists() and log.stat().st_size):
        return "ro&immutable=1"
    return "ro"


def _unreadable(path: Path, error: sqlite3.Error) -> StoreError:
    if is_damage(error):
        return StoreError(f"{path}: damaged ({error}): the service will move it aside")
    if not os.access(path, os.R_OK) or not os.access(path.parent, os.W_OK | os.X_OK):
        return StoreError(f"{path}: not readable by this user: use the user that runs the service")
    return StoreError(f"{path}: can't be read: {error}")
