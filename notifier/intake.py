"""Take transitions in: from the alert log, from copies of lines that the log doesn't have yet, and
from the whole log again when what was known is lost.

Each transition counts once, whichever way and however often it comes: its id decides.  The position
in the log is saved together with what followed from the lines before it.
"""

import logging
import sqlite3
from collections import deque
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from notifier import alertlog
from notifier.alert import Kind, Transition, decode
from notifier.book import Book, Entry
from notifier.hour import Hour
from notifier.keeper import Keeper
from notifier.lifecycle import apply
from notifier.routes import Step
from notifier.settings import NotifierSettings

_log = logging.getLogger("notifier")

SECOND_NS = 1_000_000_000
COPIES = 100_000  # lines that came ahead of the log and wait to be taken in
REBUILT_LINES = 1000  # in one step
MISSING = "missing"  # lines of the log
_LOST, _FIRST = "lost", "first"


class Intake:
    """Reads into the book.

    ``rebuilding`` is "lost" while the book is made anew because alerts.db was lost: then only what
    still fires is told; "first" while the log is read for the first time: then also what ended
    within the reopen window; else "".
    """

    def __init__(self, settings: NotifierSettings, keeper: Keeper, book: Book) -> None:
        self._directory = settings.alerts_dir
        self._keep_days = settings.log_keep_days
        self._reopen_ns = round(settings.reopen_s * SECOND_NS)
        self._keeper = keeper
        self._book = book
        self._copies: deque[tuple[int, bytes]] = deque(maxlen=COPIES)
        # Beside alerts.db, so that a missing one can be told from one that never was.
        self._mark = settings.data_dir / "alerts.mark"
        self.position = keeper.position()
        self.problem = ""
        self.hour = Hour()
        self.newest_gap = ""  # such as 5..7
        self.forgotten_ns = 0  # what is older is not in alerts.db any more, and no news
        self.rebuilding = keeper.meta("rebuild")
        if keeper.fresh:
            self.rebuilding = _LOST if self._mark.exists() else _FIRST
            book.changes.meta["rebuild"] = self.rebuilding

    def offer(self, number: int, lines: Iterable[bytes]) -> None:
        """Keep copies of lines in case that the log doesn't have them.

        Args:
            number: that of the last one; 0 if the log could not be written.
        """
        self._copies.extend((number, line) for line in lines)

    def read(self, limit: int, now_ns: int) -> int:
        """Take in up to *limit* lines of the log, else of the copies; how many there were."""
        done = self._read_log(limit, now_ns)
        while done < limit and self._copies:
            number, line = self._copies.popleft()
            if not 0 < number <= self.position.number:  # else the log had it
                done += 1
                self._take_copy(line)
        return done

    def rebuild(self, now_ns: int) -> int:
        """Take in the next part of the whole log without having anybody told; how many lines."""
        done = self._read_log(REBUILT_LINES, now_ns)
        ended = done < REBUILT_LINES
        told_after_ns = now_ns - self._reopen_ns if self.rebuilding == _FIRST else now_ns
        for entry in list(self._book.entries.values()):
            resolved_ns = entry.life.alert.resolved_ns
            if (
                resolved_ns is not None
                and resolved_ns < told_after_ns
                and (ended or resolved_ns + self._reopen_ns < now_ns)
            ):
                self._book.drop(entry)
        if ended:
            self.rebuilding = self._book.changes.meta["rebuild"] = ""
        return done

    def mark(self) -> None:
        """Note that there is an alerts.db."""
        try:
            self._mark.touch(0o600)
        except OSError:
            pass  # then a lost alerts.db looks like a first one: some ended alerts are told again

    def expire(self, now_ns: int) -> None:
        """Delete day files of the log that are older than the limit and were read."""
        if self._keep_days is not None:
            today = datetime.fromtimestamp(now_ns // SECOND_NS, UTC).date()
            before = (today - timedelta(days=self._keep_days)).isoformat()
            alertlog.expire(self._directory, before, self.position)

    def _read_log(self, limit: int, now_ns: int) -> int:
        try:
            transitions, position, bad = alertlog.read(self._directory, self.position, limit)
        except OSError as problem:
            self.problem = f"alert log: {problem.strerror or problem}"
            return 0
        self.problem = ""
        if position == self.position:
            return 0
        counts, meta = self._book.changes.counts, self._book.changes.meta
        self._note_gaps(alertlog.gaps(self.position, transitions), now_ns)
        self.position = position
        meta["position"] = position.encode()
        counts["lines"] += len(transitions) + bad
        counts["bad"] += bad
        for transition in transitions:
            if self._is_known(transition):
                counts["duplicates"] += 1
            else:
                self._take(transition)
        return len(transitions) + bad

    def _note_gaps(self, gaps: Sequence[tuple[int, int]], now_ns: int) -> None:
        """Count numbers that no line has; those of a log that is read again are old news."""
        if not gaps:
            return
        missing = sum(last - first + 1 for first, last in gaps)
        self._book.changes.counts["gaps"] += missing
        if not self.rebuilding:
            self.hour.add(now_ns, MISSING, missing)
            self.newest_gap = f"{gaps[-1][0]}..{gaps[-1][1]}"
        _log.error(
            "lines are missing in the alert log", extra={"component": "monitoring", "gaps": gaps}
        )

    def _take_copy(self, line: bytes) -> None:
        try:
            transition = decode(line)
        except ValueError:
            return  # the log's own line is what counts, and is counted
        if not self._is_known(transition):
            self._book.changes.counts["copies"] += 1
            self._take(transition)

    def _is_known(self, transition: Transition) -> bool:
        if transition.id in self._book.changes.transitions:
            return True
        if transition.at_ns < self.forgotten_ns:
            return True
        try:
            return self._keeper.knows(transition.id)
        except sqlite3.Error:
            return False  # in doubt it is told

    def _take(self, transition: Transition) -> None:
        """Fold a new transition into its alert."""
        fingerprint = transition.fingerprint
        entry = self._entry(transition, fingerprint)
        life = apply(entry.life if entry is not None else None, transition, self._reopen_ns)
        if life is None:  # the end of something whose beginning isn't known
            self._book.changes.transitions[transition.id] = ("", transition)
            return
        if entry is None or life is not entry.life:
            entry = Entry(life, fingerprint=fingerprint)
            self._book.add(entry)
        elif transition.kind == Kind.FIRED:
            entry.step = Step()  # whoever is told, the route begins again
        self._book.changes.transitions[transition.id] = (entry.id, transition)
        self._book.note_alert(entry)
        self._book.touch([entry.id])

    def _entry(self, transition: Transition, fingerprint: str) -> Entry | None:
        """The alert that *transition* may belong to; one that left the book comes back if so."""
        entry = self._book.find(fingerprint)
        if entry is not None:
            return entry
        try:
            newest = self._keeper.newest(fingerprint)
            if newest is None or transition.at_ns - newest[1] > self._reopen_ns:
                return None
            return self._keeper.recall(self._book, newest[0])
        except sqlite3.Error:
            return None  # then it is another alert; one message too many
