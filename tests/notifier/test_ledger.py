"""alerts.db: what is written comes back, what is damaged is set aside, and what commands read."""

import json
import sqlite3
import subprocess
import sys

import pytest

from notifier import ledger
from notifier.alert import Severity
from notifier.book import Entry
from notifier.delivery import Delivery
from notifier.keeper import Keeper
from notifier.ledger import LedgerError
from notifier.lifecycle import Life
from notifier.plugin import RetryableError
from notifier.routes import Step

SECOND = 1_000_000_000


def test_a_book_is_the_same_after_saving_and_loading(world):
    """Alerts, what was told, what is on its way, how far the log was read."""
    desk = world.plugins["desk"]
    desk.script = [True, RetryableError("HTTP 503")]
    world.fire("one", value=5.5, threshold=4.0, unit="ms", message="slow", evidence=((1000, 9.0),))
    world.work()
    world.fire("two", severity="warning", free_text=True)
    world.work()
    book = world.notifier.book
    before = {
        entry.id: (entry.life, entry.step, dict(entry.told), dict(entry.pending))
        for entry in book.entries.values()
    }
    position = world.notifier.intake.position
    world.crash()
    keeper, loaded = Keeper.open(world.settings.ledger_path)
    after = {
        entry.id: (entry.life, entry.step, entry.told, entry.pending)
        for entry in loaded.entries.values()
    }
    assert after == before
    assert keeper.position() == position
    keeper.close()


def test_unknown_fields_of_an_alert_are_ignored():
    """A newer program may have written more, an older one less."""
    entry = Entry.recall(Life(None), json.dumps({"fires": 3, "colour": "red"}))  # type: ignore[arg-type]
    assert (entry.life.fires, entry.life.again, entry.step) == (3, 0, Step())


@pytest.fixture(autouse=True)
def _bare_lives(monkeypatch):
    """An entry computes its alert's fingerprint; a life without an alert has none."""
    original = Entry.__post_init__
    monkeypatch.setattr(
        Entry, "__post_init__", lambda self: self.life.alert is None or original(self)
    )


def test_a_newer_ledger_is_refused(tmp_path):
    """Overwriting what a newer program wrote would lose it; the message says what to do."""
    path = tmp_path / "alerts.db"
    Keeper(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(LedgerError, match=r"schema version 99.*install the newer program"):
        Keeper.open(path)
    with pytest.raises(LedgerError, match=r"schema version 99.*use the service's version"):
        ledger.open_readonly(path)


def test_a_missing_or_unreadable_ledger_says_what_to_do(tmp_path):
    """One line, no traceback of SQLite."""
    with pytest.raises(LedgerError, match="no service has run with this data directory"):
        ledger.open_readonly(tmp_path / "alerts.db")
    path = tmp_path / "alerts.db"
    path.write_bytes(b"no database" * 1000)
    with pytest.raises(LedgerError, match="run the command as the service's user"):
        ledger.open_readonly(path)
    assert ledger.pending(tmp_path / "none.db") == 0
    path.write_bytes(b"")
    with pytest.raises(LedgerError, match="the service is starting"):
        ledger.open_readonly(path)


def test_a_ledger_that_cannot_be_opened_is_no_damage(tmp_path):
    """Nothing is moved aside because of a wrong permission or a folder in the way."""
    path = tmp_path / "alerts.db"
    path.mkdir()
    with pytest.raises(LedgerError, match="can't be opened"):
        Keeper.open(path)
    assert list(tmp_path.iterdir()) == [path]


def test_a_damaged_page_is_found_while_loading(world):
    """Not only a file that is no database at all."""
    for number in range(200):
        world.fire(f"rule-{number}", message="x" * 200)
    world.go(5)
    world.crash()
    path = world.settings.ledger_path
    db = sqlite3.connect(path)
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    db.close()
    data = bytearray(path.read_bytes())
    data[4096:-4096] = b"\xff" * (len(data) - 8192)
    path.write_bytes(data)
    world.work()
    assert list(path.parent.glob("alerts.db.damaged-*"))
    assert len(world.alerts()) == 200


def test_a_position_that_is_none_starts_at_the_beginning(tmp_path):
    """Lines that are known are dropped by their ids."""
    keeper, book = Keeper.open(tmp_path / "alerts.db")
    book.changes.meta["position"] = "nonsense"
    keeper.save(book.changes, {})
    assert keeper.position().number == 0
    keeper.close()


def test_a_save_that_fails_writes_nothing(world):
    """All or nothing, and the next one writes all."""
    world.fire()
    world.work()
    keeper, book = world.notifier._keeper, world.notifier.book
    entry = next(iter(book.entries.values()))
    book.note_alert(entry)
    book.changes.counts["lines"] = 5
    book.changes.meta["position"] = None  # type: ignore[assignment]
    with pytest.raises(sqlite3.Error):
        keeper.save(book.changes, book.entries)
    assert keeper.counts()["lines"] == 1
    del book.changes.meta["position"]
    keeper.save(book.changes, book.entries)
    assert keeper.counts()["lines"] == 6
    book.changes.counts.clear()


def test_the_ledger_is_private(world):
    """Messages name positions and losses."""
    world.fire()
    world.work()
    assert world.settings.ledger_path.stat().st_mode & 0o777 == 0o600
    assert world.settings.data_dir.stat().st_mode & 0o777 == 0o700


def test_commands_read_alerts_by_state_severity_age_and_rule(world):
    """The latest started first."""
    world.fire("old", severity="warning")
    world.work()
    world.resolve("old", severity="warning")
    world.go(30)
    middle_ns = world.now_ns
    world.fire("new")
    world.go(1)
    world.fire("newest")
    world.work()

    def rules(**query):
        return [alert.rule for alert in world.alerts(**query)]

    assert rules() == ["newest", "new"]
    assert rules(active=False) == ["newest", "new", "old"]
    assert rules(active=False, severity=Severity.WARNING) == ["old"]
    assert rules(active=False, since_ns=middle_ns) == ["newest", "new"]
    assert rules(active=False, rule="old") == ["old"]
    with world.read() as db:
        [alert] = ledger.alerts(db, rule="new")
        assert ledger.find_alerts(db, alert.id[:8].upper()) == [alert]
        assert ledger.find_alerts(db, "zz") == []
    db.close()


def test_a_timeline_tells_what_happened_and_who_was_told(world):
    """Transitions and deliveries of one alert, oldest first."""
    world.plugins["desk"].script = [RetryableError("HTTP 503")]
    fired = world.fire(value=5.0, message="slow")
    world.go(5)
    world.now_ns += SECOND
    world.resolve()
    world.go(2)
    db = world.read()
    events = ledger.timeline(db, fired.id)
    told = list(ledger.told(db, fired.id))
    rows = [one.row() for one in ledger.deliveries(db, alert=fired.id)]
    db.close()
    assert [event.get("transition") or event["delivery"]["why"] for event in events] == [
        "fired", "fired", "resolved", "resolved",
    ]  # fmt: skip
    assert events[0]["value"] == 5.0
    assert events[1]["delivery"]["attempt"] == 2
    assert told[0]["plugin"] == "desk"
    assert (told[0]["state"], told[0]["severity"]) == ("resolved", "critical")
    assert [row["state"] for row in rows] == ["delivered", "delivered"]
    assert json.dumps(rows)


def test_deliveries_are_found_by_state_plugin_and_prefix(world):
    """Newest first, at most as many as asked for."""
    world.plugins["desk"].otherwise = RetryableError("HTTP 503")
    for number in range(3):
        world.fire(f"rule-{number}")
        world.go(1)
    assert len(world.deliveries(state="pending")) == 3
    assert len(world.deliveries(limit=2)) == 2
    [newest, *_] = world.deliveries()
    assert [one.id for one in world.deliveries(prefix=newest.id[:10])] == [newest.id]
    assert world.deliveries(plugin="other") == []
    assert ledger.pending(world.settings.ledger_path) == 3
    assert newest.row()["next_at"] is not None


def test_health_is_reported_for_whoever_watches(world):
    """Per plugin, with the oldest that waits; the aggregator samples it."""
    db_path = world.settings.ledger_path
    world.go(1)
    db = ledger.open_readonly(db_path)
    assert ledger.health(db)["problems"] == []
    world.plugins["desk"].otherwise = RetryableError("HTTP 503")
    world.fire()
    world.go(60)
    report = ledger.health(db)
    db.close()
    [desk] = report["plugins"]
    assert desk["failing"] is True
    assert (desk["plugin"], desk["pending"], desk["last_error"]) == ("desk", 1, "HTTP 503")
    assert desk["oldest_pending_at"] is not None
    assert report["conservation"]["holds"] is True


def test_conservation_fails_when_a_row_is_missing(world):
    """The check can find a loss; else it would be worth nothing."""
    world.fire()
    world.work()
    db = sqlite3.connect(world.settings.ledger_path)
    db.execute("DELETE FROM deliveries")
    db.commit()
    db.close()
    with pytest.raises(AssertionError):
        world.balance()
    world.go(61)
    [report] = [json.loads(world.notifier._keeper.meta("health"))]
    assert report["conservation"]["holds"] is False


def test_reading_loads_nothing_heavy():
    """Commands start fast: no numpy, requests or smtplib."""
    script = (
        "import sys, notifier.ledger, notifier.routes, notifier.settings, notifier.decisions;"
        "print([m for m in ('numpy', 'requests', 'smtplib', 'watchdog', "
        "'pydantic', 'ssl', 'hypothesis') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_delivery_row_shows_no_message():
    """Its text may be long, and is in the alert anyway."""
    one = Delivery(
        "id", "alert", "desk", "firing", "fired", Severity.INFO, 1, True, 1000, 1000, 1000, "{}"
    )
    assert "payload" not in one.row()
    assert one.row()["digest"] is None
