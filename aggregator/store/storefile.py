"""The rollup store's file: making, checking, upgrading and, when it is damaged, replacing it.

A file that isn't ours or is newer than this program is left alone.  A damaged one is never deleted:
it is moved aside, and what its small tables still hold goes into the new one.
"""

import logging
import os
import sqlite3
import time
from collections.abc import Mapping
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from aggregator.history import dayfolder
from aggregator.store import gaps, schema
from aggregator.store.schema import StoreDamaged, StoreError

_log = logging.getLogger("aggregator")

_WRITE_PATIENCE_S = 5.0
_CHECKPOINT_PATIENCE_S = 0.2
# The log is kept short from outside a commit (see checkpoint); a commit does it itself only beyond
# this many pages of 4 KiB.
_LOG_PAGES = 8192
_LOG_LIMIT_BYTES = 16 << 20
# Read at start: small, and a restart depends on them.  Damage elsewhere shows when it is met.
_CHECKED = ("settled", "series", "open", "lost", "checkpoint")
_RESCUED = {"series": "id, metric, unit, labels", "checkpoint": "key, value"}

Rescued = Mapping[str, list[tuple[Any, ...]]]


def make_ready(
    path: Path, base_s: int, rescued: Rescued, *, rolling: bool = True
) -> sqlite3.Connection:
    """A connection to an up-to-date store at *path*; made with mode 0600 if there is none.

    Args:
        rescued: rows of a damaged predecessor, by table; they go into a new file.
        rolling: whether rollups are made from now on; see aggregator.store.gaps.

    Raises:
        StoreDamaged: the file is damaged; it is still there.
        StoreNewer, StoreError: it can't be used.
    """
    _touch(path)
    try:
        db = _connect(path, "rw", _WRITE_PATIENCE_S)
    except sqlite3.Error as error:
        raise StoreError(f"{path}: {error}") from error
    try:
        _configure(db, path)
        _upgrade(db, path, rescued)
        _settle(db, base_s, rolling)
    except sqlite3.Error as error:
        db.close()
        raise explained(path, error) from error
    except BaseException:
        db.close()
        raise
    return db


def explained(path: Path, error: sqlite3.Error) -> StoreError:
    """*error* in words, and in a type that says whether the file is damaged."""
    if schema.is_damage(error):
        return StoreDamaged(f"{path}: damaged ({error})")
    return StoreError(f"{path}: {error}")


def rescue(db: sqlite3.Connection) -> Rescued:
    """What can still be read of a store's series and checkpoint: of each table all or nothing."""
    rescued: dict[str, list[tuple[Any, ...]]] = {}
    for table, columns in _RESCUED.items():
        try:
            rescued[table] = db.execute(f"SELECT {columns} FROM {table}").fetchall()
        except sqlite3.Error:
            rescued[table] = []
    return rescued


def rescue_file(path: Path) -> Rescued:
    """The same of a file that nobody has open."""
    with closing(_connect(path, "ro", _WRITE_PATIENCE_S)) as db:
        return rescue(db)


def move_aside(path: Path, problem: object) -> None:
    """Rename a damaged store, with its log, and say so."""
    aside = f"{path.name}.damaged-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    for ending in ("", "-wal", "-shm"):
        try:
            path.with_name(path.name + ending).rename(path.with_name(aside + ending))
        except FileNotFoundError:
            pass
    _log.critical(
        "rollup store is damaged: moved aside, a new one is started",
        extra={
            "component": "monitoring",
            "path": str(path),
            "aside": str(path.with_name(aside)),
            "problem": str(problem),
        },
    )


def checkpoint(path: Path) -> int:
    """Move the write-ahead log into the file; returns the log's bytes afterwards.

    A passive checkpoint never holds up a commit, but can't shrink the log while readers overlap
    for ever; beyond the limit commits wait for it for a moment.
    """
    log = path.with_name(path.name + "-wal")
    mode = "PASSIVE" if _size(log) <= _LOG_LIMIT_BYTES else "TRUNCATE"
    with closing(_connect(path, "rw", _CHECKPOINT_PATIENCE_S)) as db:
        db.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
    return _size(log)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of the file; None without one."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _connect(path: Path, mode: str, patience_s: float) -> sqlite3.Connection:
    # The store's own lock serialises calls, whichever thread makes them.
    return sqlite3.connect(
        schema.uri(path, mode),
        uri=True,
        timeout=patience_s,
        isolation_level=None,
        check_same_thread=False,
    )


def _touch(path: Path) -> None:
    try:
        # Whatever the umask; SQLite gives its -wal and -shm files the same mode.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600))
    except FileExistsError:
        # By name: closing a descriptor would drop the locks of this process's other connections.
        path.chmod(0o600)
    except OSError as error:
        raise StoreError(f"{path}: can't be made: {error.strerror}") from error


def _configure(db: sqlite3.Connection, path: Path) -> None:
    schema.check(db, path)  # before anything is changed in a file that may not be ours
    (mode,) = db.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise StoreError(f"{path}: no write-ahead log possible ({mode}): use a local disk")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute(f"PRAGMA journal_size_limit = {_LOG_LIMIT_BYTES}")
    db.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")


def _upgrade(db: sqlite3.Connection, path: Path, rescued: Rescued) -> None:
    version = schema.check(db, path)
    if version == len(schema.MIGRATIONS):
        for table in _CHECKED:
            (answer,) = db.execute(f"PRAGMA quick_check({table})").fetchone()
            if answer != "ok":
                raise StoreDamaged(f"{path}: damaged ({answer})")
        return
    db.execute("BEGIN IMMEDIATE")
    for migration in schema.MIGRATIONS[version:]:
        for statement in migration.split(";"):
            db.execute(statement)
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    db.execute(f"PRAGMA user_version = {len(schema.MIGRATIONS)}")
    for table, rows in rescued.items():
        marks = ", ".join("?" * len(_RESCUED[table].split(",")))
        db.executemany(f"INSERT INTO {table} ({_RESCUED[table]}) VALUES ({marks})", rows)
    if not version and _has_day_files(path.parent / dayfolder.FOLDER):
        gaps.born(db, _soon_s())
    db.execute("COMMIT")


def _settle(db: sqlite3.Connection, base_s: int, rolling: bool) -> None:
    settled = dict(db.execute("SELECT key, value FROM settled"))
    lacking = any(end_s == gaps.FOREVER for _, end_s in gaps.of(settled))
    if settled.get("base_s") == base_s and lacking != rolling:
        return
    settle = "INSERT OR REPLACE INTO settled (key, value) VALUES (?, ?)"
    db.execute("BEGIN IMMEDIATE")
    db.execute(settle, ("base_s", base_s))
    if settled.get("base_s", base_s) != base_s:
        db.execute(settle, ("base_mixed", 1))
    if rolling:
        gaps.end(db, _soon_s())
    else:
        gaps.begin(db)
    db.execute("COMMIT")


def _has_day_files(directory: Path) -> bool:
    try:
        return bool(dayfolder.entries(directory)[0])
    except OSError:
        return True  # unreadable now: readers will see


def _soon_s() -> int:
    """From when on everything is surely recorded later than now; records' times may be half a
    second off the wall clock (see aggregator.anchor)."""
    return int(time.time()) + 2


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
