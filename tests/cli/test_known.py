"""How alerts stand while their notifier is behind, starting or damaged."""

import sqlite3

import pytest

from notifier import standing
from notifier.alert import Kind
from notifier.ledger import LedgerError


def test_a_line_that_stands_twice_counts_once(desk):
    """After trouble with the disk a transition may be logged again, under another number."""
    fired = desk.tell("a", count=1)
    again = desk.log.append([fired], fired.at_ns)[0]
    desk.tell("a", Kind.RESOLVED)
    assert again.id == fired.id
    known = standing.read(desk.data_dir / "alerts.db", desk.alerts_dir)
    assert [(alert.state, alert.count) for alert in known.alerts] == [("resolved", 1)]
    assert len(known.fresh) == 3


def test_the_end_of_something_unknown_is_nothing(desk):
    """Its beginning expired long ago."""
    desk.tell("a", Kind.RESOLVED)
    assert standing.read(desk.data_dir / "alerts.db", desk.alerts_dir).alerts == []


def test_a_ledger_that_is_being_created_is_waited_for(desk):
    """For a moment it looks like one of another version."""
    path = desk.data_dir / "alerts.db"
    path.touch()
    waited = []

    def wait(seconds):
        waited.append(seconds)
        path.unlink(missing_ok=True)
        desk.notify()

    standing.open_ledger(path, wait).close()
    assert len(waited) == 1


def test_a_ledger_of_another_version_is_not_waited_for(desk):
    """It would stay so."""
    import os

    path = desk.data_dir / "alerts.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    os.utime(path, (0, 0))
    with pytest.raises(LedgerError, match="schema version 99"):
        standing.open_ledger(path)
    with pytest.raises(LedgerError, match="no such file"):
        standing.open_ledger(desk.data_dir / "none.db")


def test_a_damaged_position_means_the_whole_log(desk):
    """As its owner reads it then."""
    desk.tell("a")
    desk.notify()
    with sqlite3.connect(desk.data_dir / "alerts.db") as db:
        db.execute("UPDATE meta SET value = 'x/y/z' WHERE key = 'position'")
    db.close()
    known = standing.read(desk.data_dir / "alerts.db", desk.alerts_dir)
    assert (len(known.fresh), len(known.alerts)) == (1, 1)
