"""Remove old rows from alerts.db, keeping the counts that conservation is checked with."""

import sqlite3
from collections import Counter

COUNT = """INSERT INTO counts VALUES (?, ?)
ON CONFLICT (name) DO UPDATE SET value = value + excluded.value"""
_BATCH = 500


def expire(db: sqlite3.Connection, before_ns: int, updates_before_ns: int) -> int:
    """Delete a batch of what ended before *before_ns*, inside the caller's transaction.

    An alert goes with all that belongs to it, once it has left the book and nothing of it is newer.
    Updates go earlier: a busy alert has thousands of them a day.

    Returns:
        how many rows went, not counting what went with an alert; 0 when nothing is left to do.
    """
    alerts = db.execute(
        """SELECT id FROM alerts WHERE live = 0 AND last_seen_ns < :before AND NOT EXISTS
        (SELECT 1 FROM deliveries
        WHERE alert = alerts.id AND coalesce(finished_ns, :before) >= :before)
        LIMIT :batch""",
        {"before": before_ns, "batch": _BATCH},
    ).fetchall()
    gone: Counter[str] = Counter()
    for (alert,) in alerts:
        _remove(db, alert, gone)
    gone["removed_alerts"] += len(alerts)
    rows = db.execute(
        """DELETE FROM transitions WHERE id IN
        (SELECT id FROM transitions WHERE kind = 'update' AND at_ns < ? LIMIT ?)""",
        (updates_before_ns, _BATCH),
    ).rowcount
    orphans = db.execute(
        "DELETE FROM transitions WHERE alert = '' AND at_ns < ?", (before_ns,)
    ).rowcount
    gone["removed_transitions"] += rows + orphans
    others = db.execute(
        """DELETE FROM deliveries WHERE id IN
        (SELECT id FROM deliveries WHERE finished_ns < ? AND NOT first LIMIT ?)""",
        (before_ns, _BATCH),
    ).rowcount
    db.executemany(
        COUNT,
        [(name, number) for name, number in gone.items() if number],
    )
    return len(alerts) + rows + orphans + others


def _remove(db: sqlite3.Connection, alert: str, gone: Counter[str]) -> None:
    db.execute("DELETE FROM alerts WHERE id = ?", (alert,))
    gone["removed_told"] += db.execute("DELETE FROM told WHERE alert = ?", (alert,)).rowcount
    for (state,) in db.execute(
        "DELETE FROM deliveries WHERE alert = ? RETURNING CASE first WHEN 1 THEN state END",
        (alert,),
    ).fetchall():
        gone[f"removed_{state}"] += state is not None
    gone["removed_transitions"] += db.execute(
        "DELETE FROM transitions WHERE alert = ?", (alert,)
    ).rowcount
