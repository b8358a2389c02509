"""The one writer of alerts.db: opens it, loads the book from it, saves what changed in one go.

What ``save`` wrote outlives this process when it returns, and is on disk when ``flush`` is clean:
the same as synchronous FULL, but nobody has to wait for it.  A file that is no database is moved
aside, never deleted; what was told is then unknown, and the caller rebuilds the alerts from the log
without telling anybody what is over.
"""

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from notifier.alert import rfc3339
from notifier.alertlog import Position
from notifier.book import Book, Changes, Digest, Entry
from notifier.delivery import PENDING, Delivery, delivery_from
from notifier.expiry import expire
from notifier.flush import Flush
from notifier.ledger import (
    SCHEMA,
    VERSION,
    LedgerError,
    alert_from,
    conservation,
    counts,
    health,
    position,
)
from notifier.lifecycle import Life
from notifier.rows import statements, told_from

_log = logging.getLogger("notifier")

_WAL_BYTES = 16 << 20


class Keeper:
    """alerts.db, open to write."""

    def __init__(self, path: Path, wake: Callable[[], None] | None = None) -> None:
        """Open or create.

        Args:
            wake: bring commits to disk in a thread, and call this when they are; see ``Flush``.

        Raises:
            LedgerError: the file is newer than this program, or can't be opened.
            sqlite3.DatabaseError: it is no database.
        """
        self._path = path
        self.fresh = not path.exists()
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._db = _open(path)
        self._inode = path.stat().st_ino
        self.flush = Flush(path.with_name(f"{path.name}-wal"), wake)

    @classmethod
    def open(cls, path: Path, wake: Callable[[], None] | None = None) -> tuple["Keeper", Book]:
        """alerts.db at *path* and the book that it holds; a damaged one is moved aside.

        Raises:
            LedgerError: the file is newer than this program, or can't be opened.
        """
        for last in (False, True):
            try:
                return cls._opened(path, wake)
            except (OSError, sqlite3.Error) as problem:
                if last or not is_damage(problem):
                    raise LedgerError(f"{path}: can't be opened ({problem})") from None
                move_aside(path, str(problem))
        raise AssertionError("unreachable")

    @classmethod
    def _opened(cls, path: Path, wake: Callable[[], None] | None) -> tuple["Keeper", Book]:
        keeper, book = cls(path, wake), Book()
        try:
            keeper.load(book)
        except BaseException:
            # Now: closed later, it would take the -wal file of the new alerts.db for its own.
            keeper.close()
            raise
        return keeper, book

    def meta(self, key: str) -> str:
        """A value that was saved as meta, empty if there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return "" if row is None else str(row["value"])

    def position(self) -> Position:
        """How far the alert log was read, see ``ledger.position``."""
        return position(self._db)

    def health(self) -> dict[str, Any]:
        """What was last reported, see ``ledger.health``."""
        return health(self._db)

    def load(self, book: Book) -> None:
        """Fill *book* with the alerts that live, as they were when last saved."""
        for row in self._db.execute("SELECT * FROM alerts WHERE live"):
            book.add(Entry.recall(Life(alert_from(row)), row["life"]))
        for row in self._db.execute(
            "SELECT told.* FROM told JOIN alerts ON alerts.id = told.alert WHERE live"
        ):
            book.entries[row["alert"]].told[row["plugin"]] = told_from(row)
        pending = self._db.execute(  # digests first: they have no alert of their own
            "SELECT * FROM deliveries WHERE state = ? ORDER BY alert != '', created_ns, id",
            (PENDING,),
        )
        for delivery in map(delivery_from, pending.fetchall()):
            self._place(book, delivery)

    def recall(self, book: Book, alert: str) -> Entry | None:
        """Take an alert that had left *book* back in; None if it isn't known here."""
        row = self._db.execute("SELECT * FROM alerts WHERE id = ?", (alert,)).fetchone()
        if row is None:
            return None
        entry = Entry.recall(Life(alert_from(row)), row["life"])
        for told in self._db.execute("SELECT * FROM told WHERE alert = ?", (alert,)):
            entry.told[told["plugin"]] = told_from(told)
        book.add(entry)
        return entry

    def newest(self, fingerprint: str) -> tuple[str, int] | None:
        """Id and end (0 if there was none) of the newest alert of one rule on one series."""
        row = self._db.execute(
            "SELECT id, coalesce(resolved_ns, 0) FROM alerts WHERE fingerprint = ? "
            "ORDER BY started_ns DESC LIMIT 1",
            (fingerprint,),
        ).fetchone()
        return None if row is None else (str(row[0]), int(row[1]))

    def knows(self, transition: str) -> bool:
        """Whether a transition of that id was taken in."""
        found = self._db.execute("SELECT 1 FROM transitions WHERE id = ?", (transition,))
        return found.fetchone() is not None

    def delivery(self, id: str) -> Delivery | None:
        """One delivery, however it ended."""
        row = self._db.execute("SELECT * FROM deliveries WHERE id = ?", (id,)).fetchone()
        return None if row is None else delivery_from(row)

    def members(self, digest: str) -> list[Delivery]:
        """The deliveries that *digest* carried, however they ended."""
        rows = self._db.execute(
            "SELECT * FROM deliveries WHERE digest = ? ORDER BY created_ns, id", (digest,)
        )
        return [delivery_from(row) for row in rows.fetchall()]

    def save(self, changes: Changes, live: dict[str, Entry]) -> None:
        """Write *changes* in one transaction, and have them brought to disk.

        Raises:
            sqlite3.Error: nothing was written.
        """
        with self._transaction():
            for statement, rows in statements(changes, live):
                if rows:
                    self._db.executemany(statement, rows)

    def counts(self) -> dict[str, int]:
        """The counters, see ``ledger.counts``."""
        return counts(self._db)

    def conservation(self) -> dict[str, Any]:
        """Whether nothing was lost, see ``ledger.conservation``."""
        return conservation(self._db)

    def is_in_place(self) -> bool:
        """Whether alerts.db is still the file that is open here."""
        try:
            return self._path.stat().st_ino == self._inode
        except OSError:
            return False

    def tidy(self) -> None:
        """Bring the write-ahead log into the file; for moments in which nobody waits.

        The write after it begins the log anew, which waits for the disk: better now than when the
        next alert comes.
        """
        self._db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._db.execute("INSERT OR REPLACE INTO meta VALUES ('tidied', ?)", (time.time_ns(),))

    def overgrown(self) -> bool:
        """Whether the write-ahead log is so long that it can't wait for such a moment."""
        try:
            return Path(f"{self._path}-wal").stat().st_size > _WAL_BYTES
        except OSError:
            return False

    def expire(self, before_ns: int, updates_before_ns: int) -> int:
        """Remove a batch of what ended long ago, keeping its counts; how much it was.

        Raises:
            sqlite3.Error: nothing was removed.
        """
        with self._transaction():
            return expire(self._db, before_ns, updates_before_ns)

    def close(self) -> None:
        """Close the file, with everything on disk unless the disk hangs."""
        self.flush.close()
        self._db.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
            self.flush.ask()
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    def _place(self, book: Book, delivery: Delivery) -> None:
        """Put a pending delivery where it belongs; its alert comes back if it had left."""
        if not delivery.alert:
            book.digests[delivery.id] = Digest(delivery)
            return
        if delivery.digest in book.digests:
            book.digests[delivery.digest].members[delivery.id] = delivery
        entry = book.entries.get(delivery.alert) or self.recall(book, delivery.alert)
        if entry is not None:
            entry.pending[delivery.plugin] = delivery


def is_damage(problem: Exception) -> bool:
    """Whether the file itself is bad; the subclasses stand for a full or busy disk and the like."""
    return type(problem) is sqlite3.DatabaseError


def move_aside(path: Path, problem: str) -> None:
    """Give up the alerts.db at *path*; it stays beside the new one until someone deletes it."""
    stamp = (rfc3339(time.time_ns()) or "").replace(":", "").replace(".", "")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for suffix in ("", "-wal", "-shm"):
        try:
            Path(f"{path}{suffix}").replace(f"{aside}{suffix}")
        except FileNotFoundError:
            pass  # a database that was closed has neither
    _log.critical(
        "alerts.db is damaged and was moved aside; alerts are read from their log again",
        extra={"component": "monitoring", "moved_to": str(aside), "problem": problem},
    )


def _open(path: Path) -> sqlite3.Connection:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    os.close(descriptor)
    db = sqlite3.connect(path, isolation_level=None, timeout=0.2, check_same_thread=False)
    try:
        db.row_factory = sqlite3.Row
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        db.execute("PRAGMA wal_autocheckpoint = 0")  # it would come between an alert and its reader
        db.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            db.executescript(f"BEGIN; {SCHEMA} PRAGMA user_version = {VERSION}; COMMIT;")
        elif version != VERSION:
            raise LedgerError(
                f"{path} has schema version {version}, this program writes {VERSION}: "
                "install the newer program again, or move the file away"
            )
        db.execute("PRAGMA synchronous = NORMAL")  # from now on Flush does the rest, see above
    except BaseException:
        db.close()
        raise
    return db
