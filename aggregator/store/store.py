"""The rollups on disk: one SQLite file, one writer.

Everything that must be true together is written in one transaction: rollups of all tiers, what was
lost, and the checkpoint that says how far the rings were read.  Rows only grow by deltas since the
last commit, so that a restart neither wipes nor doubles an open interval.  Only plain Python
numbers reach SQLite: it would store numpy's integers as bytes.
"""

import json
import logging
import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from aggregator.interval import HOUR_S, Rollup
from aggregator.store import storefile, tiers
from aggregator.store.schema import StoreDamaged, StoreError, canonical, clean

_log = logging.getLogger("aggregator")

SeriesKey = tuple[str, str, str]  # metric, unit, canonical labels


class Store:
    """The one writer of a rollup store.  Several threads may call it; they take turns.

    Whatever reaches the disk may raise StoreError: then nothing of that call was kept, and the same
    call may be repeated.  That holds for a file found damaged as well: it has been moved aside, and
    the repeated call goes into a new one, in which all series keep their ids.
    """

    def __init__(self, path: Path, base_s: int, *, rolling: bool = True) -> None:
        """Use Store.open instead."""
        self.path = path
        self.base_s = base_s
        self._rolling = rolling
        self._lock = threading.RLock()  # for the connection
        self._db: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None
        self._rescued: storefile.Rescued = {}
        self._closed = False
        self._naming = threading.Lock()  # for what follows; never held while the disk is used
        self._series: dict[SeriesKey, int] = {}
        self._unsaved: dict[SeriesKey, int] = {}
        self._last_id = 0

    @classmethod
    def open(cls, path: Path | str, base_s: int = 300, *, rolling: bool = True) -> Self:
        """Open the store at *path*: made with mode 0600 if there is none, upgraded if it is older.

        A damaged file is moved aside, with a message in the log, and a new one is started.

        Args:
            base_s: length of the base intervals from now on, in seconds; divides an hour.  Rows
                carry their own interval: those stored with another one stay as they are and are
                still read.
            rolling: whether rollups are committed from now on; while they aren't, readers look
                into the day files instead.

        Raises:
            StoreNewer: written by a later version; it is left alone.
            StoreError: it can't be opened, or isn't ours.
        """
        if base_s < 1 or HOUR_S % base_s:
            raise ValueError(f"base interval of {base_s} s: must divide an hour")
        store = cls(Path(path).absolute(), base_s, rolling=rolling)
        with store._lock:
            try:
                store._connection()
            except StoreDamaged as error:
                store._replace(error)
                store._connection()
        return store

    def series_id(self, metric: str, unit: str, labels: Mapping[str, str]) -> int:
        """The id of a series, the same for ever; a new one is stored with the next commit.

        Never waits for the disk.
        """
        key = clean(metric), clean(unit), canonical(labels)
        with self._naming:
            known = self._series.get(key)
            if known is None:
                self._last_id += 1
                known = self._series[key] = self._unsaved[key] = self._last_id
            return known

    def series(self) -> list[tuple[int, str, str, dict[str, str]]]:
        """Every series that ever got an id: id, metric, unit, labels."""
        with self._naming:
            known = list(self._series.items())
        return [(number, *key[:2], json.loads(key[2])) for key, number in known]

    def commit(
        self,
        rollups: Sequence[Rollup],
        lost: Mapping[tuple[str, int], int | None],
        values: Mapping[str, bytes | None],
    ) -> None:
        """Add deltas to all tiers and replace checkpoint values, all or nothing.

        Args:
            rollups: what came in since the last commit, in base intervals and in order of
                arrival; late ones merge into their stored rows.
            lost: (engine, start of a base interval) -> records lost there, added to what is
                booked; None: some were, nobody knows how many.
            values: key -> new value; None deletes it.
        """
        with self._naming:
            idle = not (rollups or lost or values or self._unsaved)
        if idle:
            return
        with self._transaction() as db:
            with self._naming:  # after the connection is there: a new file needs all of them
                named = dict(self._unsaved)
            db.executemany(
                "INSERT INTO series (id, metric, unit, labels) VALUES (?, ?, ?, ?)",
                [(number, *key) for key, number in named.items()],
            )
            tiers.add(db, rollups, self.base_s)
            tiers.add_lost(db, lost)
            db.executemany(
                "INSERT OR REPLACE INTO checkpoint (key, value) VALUES (?, ?)",
                [(key, bytes(value)) for key, value in values.items() if value is not None],
            )
            db.executemany(
                "DELETE FROM checkpoint WHERE key = ?",
                [(key,) for key, value in values.items() if value is None],
            )
        with self._naming:
            for key in named:
                del self._unsaved[key]

    def value(self, key: str) -> bytes | None:
        """The checkpoint value stored under *key*."""
        with self._reading() as db:
            found = db.execute("SELECT value FROM checkpoint WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def values(self, prefix: str = "") -> dict[str, bytes]:
        """All checkpoint values whose keys begin with *prefix*, by key."""
        with self._reading() as db:
            return dict(
                db.execute(
                    "SELECT key, value FROM checkpoint WHERE substr(key, 1, ?) = ? ORDER BY key",
                    (len(prefix), prefix),
                ).fetchall()
            )

    def checkpoint_wal(self) -> int:
        """Move the write-ahead log into the file; returns the bytes it still takes up.

        Call it every few seconds, from a thread that may stall: commits go on meanwhile.  It also
        notices a file that was removed under us: a new one is started then, like for a damaged one.

        Raises:
            StoreError: not possible now, or the file was replaced by another.
        """
        found = storefile.identity(self.path)
        with self._lock:
            if self._db is not None and found != self._file:
                if found is not None:
                    raise StoreError(f"{self.path}: was replaced while in use: restart the service")
                self._rescued = storefile.rescue(self._db)
                self._disconnect()
                _log.critical(
                    "rollup store was removed while in use: a new one is started",
                    extra={"component": "monitoring", "path": str(self.path)},
                )
            if found is None:
                self._connection()
        try:
            return storefile.checkpoint(self.path)
        except sqlite3.Error as error:
            raise StoreError(f"{self.path}: log not moved into the file: {error}") from error

    def expire(self, base_before_s: int, hourly_before_s: int) -> int:
        """Delete base and hourly rollups that ended before the given times; daily ones stay.

        In slices, so that a commit never waits for all of it.  What was lost in that time stays
        known, per hour and day.

        Returns:
            rows deleted.
        """
        deleted = 0
        with self._transaction() as db:
            base_before_s, hourly_before_s = tiers.begin_expiry(db, base_before_s, hourly_before_s)
        for expire_slice, before_s in (
            (tiers.expire_base, base_before_s),
            (tiers.expire_hourly, hourly_before_s),
        ):
            gone = 1
            while gone:
                with self._transaction() as db:
                    gone = expire_slice(db, before_s)
                deleted += gone
        return deleted

    def close(self) -> None:
        """Close the file; what was committed is in it.  Safe to repeat."""
        with self._lock:
            self._closed = True
            self._disconnect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
                db.execute("COMMIT")
            except BaseException:
                _undo(db)
                raise

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection()
            except sqlite3.Error as error:
                explained = storefile.explained(self.path, error)
                if isinstance(explained, StoreDamaged):
                    self._replace(explained)
                raise explained from error

    def _connection(self) -> sqlite3.Connection:
        if self._closed:
            raise StoreError(f"{self.path}: closed")
        if self._db is None:
            self._db = storefile.make_ready(
                self.path, self.base_s, self._rescued, rolling=self._rolling
            )
            self._file = storefile.identity(self.path)
            self._rescued = {}
            self._learn(self._db)
        return self._db

    def _learn(self, db: sqlite3.Connection) -> None:
        stored: dict[SeriesKey, int] = {
            (metric, unit, labels): number
            for number, metric, unit, labels in db.execute(
                "SELECT id, metric, unit, labels FROM series"
            )
        }
        with self._naming:
            self._unsaved = {k: v for k, v in self._series.items() if k not in stored}
            self._series.update(stored)
            self._last_id = max(self._series.values(), default=0)

    def _replace(self, error: StoreDamaged) -> None:
        if self._db is not None:
            self._rescued = storefile.rescue(self._db)
            self._disconnect()
        else:
            self._rescued = storefile.rescue_file(self.path)
        try:
            storefile.move_aside(self.path, error)
        except OSError as problem:
            raise StoreError(f"{error}; can't be moved aside: {problem.strerror}") from error

    def _disconnect(self) -> None:
        db, self._db = self._db, None
        if db is not None:
            db.close()


def _undo(db: sqlite3.Connection) -> None:
    try:
        if db.in_transaction:
            db.execute("ROLLBACK")
    except sqlite3.Error:
        pass  # SQLite has rolled back already
