"""One step of the notifier's work: what came in, what follows from it, what leaves.

The order within a step is what durability rests on: what changed, and which attempts begin, is
saved in one transaction, and only then do the attempts begin.  The transaction outlives this
process from then on; it is brought to disk while the message is on its way (see ``flush``), except
where a power cut could have a message come again under another id.  When alerts.db can't be written
delivery goes on from memory, and the same is saved later.  Clocks, waiting and signals are outside,
so that tests drive ``step``.

The notifier writes no transitions.  Trouble of a plugin is reported in alerts.db, from where the
aggregator samples it into the rule ``delivery_failing``.
"""

import logging
import random
import sqlite3
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from notifier.alert import Alert
from notifier.book import Changes, Entry, Now
from notifier.decisions import Decision, Decisions, Journal, boot_id, decide
from notifier.dispatch import Dispatcher
from notifier.intake import Intake
from notifier.keeper import Keeper, is_damage, move_aside
from notifier.lifecycle import RESOLVED
from notifier.ping import Ping
from notifier.plugin import DIGEST, RESEND, AlertDeliveryPlugin
from notifier.reconcile import SECOND_NS, Reconciler
from notifier.report import Report
from notifier.resend import periods
from notifier.revive import revive
from notifier.settings import NotifierSettings
from notifier.worker import Inline, Job, Workers

_log = logging.getLogger("notifier")

# Lines taken in per step: few, so that the first of a storm leaves at once, then more and more.
LEAST_LINES, MOST_LINES = 8, 256
LOOKED_AT = 256  # alerts per step
_MINUTE_NS = 60 * SECOND_NS
_CALM_NS = 2 * SECOND_NS  # tidying up waits for disks, so it waits until nobody else does
_UPDATES_KEPT_NS = 24 * 60 * _MINUTE_NS
_HOLDING = frozenset({"ack", "clear", "silence", "unsilence"})


class Damaged(Exception):
    """alerts.db is gone or damaged while in use: the process must start again."""


class Notifier:
    """The state of the process, and one step of its work.

    Args:
        plugins: by name, those of the settings that are enabled.
        workers: who makes attempts; None: the caller itself, within ``step``.
        noise: random numbers in [0, 1) for the jitter of retries.
        in_session: whether the session of an alert's rule is open at a wall time.
        write_down: appends decisions of our own (expiries) to the journal; may do so later.
        ping: tells a service outside that all is well.
        wake: called from a thread when alerts.db is on disk; None: it is whenever it was saved.

    Raises:
        LedgerError: alerts.db can't be used.
    """

    def __init__(
        self,
        settings: NotifierSettings,
        plugins: Mapping[str, AlertDeliveryPlugin],
        *,
        workers: Workers | None = None,
        noise: Callable[[], float] = random.random,
        in_session: Callable[[Alert, int], bool] | None = None,
        write_down: Callable[[Sequence[Decision]], None] | None = None,
        ping: Ping | None = None,
        wake: Callable[[], None] | None = None,
    ) -> None:
        self._settings = settings
        self._reopen_ns = round(settings.reopen_s * SECOND_NS)
        self._keep_ns = round(settings.keep_s * SECOND_NS)
        self.journal = Journal(settings.alerts_dir / "acknowledgements.jsonl")
        self._decisions = Decisions()
        self._write_down = write_down or self._append
        self._written_down: set[str] = set()
        self._ping = ping
        self._wake = wake
        self._put_off: list[tuple[int, Job]] = []  # attempts that wait for the disk
        on_disk = None if wake is None else self._on_disk
        self._keeper, self.book = Keeper.open(settings.ledger_path, on_disk)
        self.intake = Intake(settings, self._keeper, self.book)
        self._workers = workers or Inline(plugins)
        resend_s = periods((name, plugin.resend_s) for name, plugin in plugins.items())
        self.dispatcher = Dispatcher(settings, self.book, self._workers, noise, resend_s)
        self.report = Report(self._keeper, self.book, self.dispatcher, self.intake)
        self._reconciler = Reconciler(settings, settings.plugins, self._decisions, in_session)
        self._boot_id = boot_id()
        self._drift_ns: int | None = None
        self._problems: dict[str, str] = {}
        self._second = self._minute = self._saved_ns = self._save_again_ns = 0
        self._tidy_due = False
        self._lines = LEAST_LINES

    def step(self, now_ns: int, *, wall_ns: int | None = None, mono_ns: int | None = None) -> int:
        """Do what is due at *now_ns* and return how much that was.

        Args:
            wall_ns, mono_ns: what those clocks say, by which decisions are judged; without them
                *now_ns* is taken for both, and decisions for those of another boot.

        Raises:
            Damaged: start again.
        """
        boot = "" if mono_ns is None else self._boot_id
        wall_ns = now_ns if wall_ns is None else wall_ns
        now = Now(now_ns, wall_ns, now_ns if mono_ns is None else mono_ns, boot)
        if self._drift_ns is None:
            self._start(now)
        done = self._read_decisions(now)
        if self.intake.rebuilding:
            done += self.intake.rebuild(now.ns)
            self._save(now)
            return max(1, done)
        results = self._workers.collect()
        for result in results:
            self.dispatcher.settle(result, now.ns)
        taken = self.intake.read(self._lines, now.ns)
        self._lines = min(2 * self._lines, MOST_LINES) if taken == self._lines else LEAST_LINES
        done += len(results) + taken
        self.book.ring(now.ns)
        done += self._look(now)
        jobs = self.dispatcher.next_jobs(now.ns)
        saved = self._save(now)
        done += self._submit(jobs)
        if saved:
            self._maintain(now, quiet=not done)
        return done

    def next_due_ns(self, now_ns: int) -> int | None:
        """When there is something to do if nothing happens before."""
        dues = (self.book.next_due_ns(), self.dispatcher.next_due_ns(now_ns))
        return min((due for due in dues if due is not None), default=None)

    def idle(self, now_ns: int, until_ns: int) -> bool:
        """Whether nothing is left to do that could well be done before *until_ns*."""
        return not self.book.dirty and self.dispatcher.idle(now_ns, until_ns)

    def close(self) -> None:
        """Close alerts.db."""
        self._keeper.close()

    def _start(self, now: Now) -> None:
        """Take up where the last process was when it ended, in whatever way."""
        self._drift_ns = now.wall_ns - now.ns
        self.intake.forgotten_ns = now.ns - self._keep_ns
        self.report.recall(now.ns)
        for entry in self.book.entries.values():
            for told in entry.told.values():  # a clock that was set back must delay no repeat
                told.at_ns, told.since_ns = min(told.at_ns, now.ns), min(told.since_ns, now.ns)
        self.dispatcher.resume(now.ns)

    def _read_decisions(self, now: Now) -> int:
        """Take in what operators decided; what changes with it is looked at in this step."""
        try:
            fresh = self._decisions.refresh(self.journal)
            self._problems.pop("journal", None)
        except OSError as problem:
            self._problems["journal"] = f"decisions journal: {problem.strerror or problem}"
            fresh = []
        drift_ns = now.wall_ns - now.ns
        stepped = abs(drift_ns - (self._drift_ns or 0)) > SECOND_NS
        if stepped or any(one.kind in _HOLDING for one in fresh):
            self._drift_ns = drift_ns
            self.book.touch(self.book.entries)
        for one in fresh:
            if one.kind == "retry":
                revive(one, self.book, self._keeper, self.dispatcher, now)
        return len(fresh)

    def _look(self, now: Now) -> int:
        """Look at alerts that changed or are due."""
        count = min(LOOKED_AT, len(self.book.dirty))
        for _ in range(count):
            entry = self.book.entries[next(iter(self.book.dirty))]
            del self.book.dirty[entry.id]
            try:
                self._reconciler.run(entry, self.book, self.dispatcher, now)
            except Exception:  # noqa: BLE001 - the boundary of one alert's work
                # One alert that can't be handled must not keep the others from being told.
                self._problems["alert"] = f"alert {entry.id} can't be handled"
                _log.exception(
                    "alert can't be handled", extra={"component": "monitoring", "alert": entry.id}
                )
            self._let_go(entry, now)
        return count

    def _let_go(self, entry: Entry, now: Now) -> None:
        """Let an alert leave the book when it is over, else see to it that this is asked again."""
        if entry.life.alert.state != RESOLVED or entry.pending or entry.due_ns is not None:
            return
        over_ns = (entry.life.alert.resolved_ns or 0) + self._reopen_ns
        if over_ns > now.ns:
            self.book.set_due(entry, over_ns)
        elif "alerts.db" not in self._problems:  # else nobody could recall it
            self.book.drop(entry)
        else:
            self.book.set_due(entry, now.ns + _MINUTE_NS)

    def _submit(self, jobs: Sequence[Job]) -> int:
        """Begin attempts; those that must not begin before the ledger is on disk wait for it.

        How many began.
        """
        flush = self._keeper.flush
        ready: list[Job] = []
        waiting, self._put_off = self._put_off, []
        for ticket, job in (*waiting, *((flush.ticket(), job) for job in jobs)):
            if not _must_be_on_disk(job) or flush.reached(ticket):
                ready.append(job)
            else:
                self._put_off.append((ticket, job))
        for job in ready:
            self._workers.submit(job)
        return len(ready)

    def _on_disk(self) -> None:
        """Called by the thread that brings alerts.db to disk."""
        if self._put_off and self._wake is not None:
            self._wake()

    def _save(self, now: Now) -> bool:
        """Save what changed; False if it could not be."""
        changes = self.book.changes
        if not changes:
            return True
        if now.ns < self._save_again_ns:
            return False
        try:
            self._keeper.save(changes, self.book.entries)
        except sqlite3.Error as problem:
            self._save_again_ns = (
                now.ns + SECOND_NS
            )  # a busy file would cost its time limit each step
            self._trouble(problem)
            return False
        self.book.changes = Changes()
        self._saved_ns = now.ns
        if self._problems.pop("alerts.db", None):
            _log.warning("alerts.db is written again", extra={"component": "monitoring"})
        if not self._tidy_due:
            self._tidy_due = True
            self.intake.mark()
        return True

    def _trouble(self, problem: sqlite3.Error) -> None:
        if is_damage(problem):
            move_aside(self._settings.ledger_path, str(problem))
            raise Damaged(str(problem)) from problem
        if "alerts.db" not in self._problems:
            _log.critical(
                "alerts.db can't be used, delivery goes on from memory",
                extra={"component": "monitoring", "problem": str(problem)},
            )
        self._problems["alerts.db"] = f"alerts.db: {problem}"

    def _maintain(self, now: Now, *, quiet: bool) -> None:
        """What is done each second and each minute, when everything else is on disk."""
        try:
            if now.ns // SECOND_NS != self._second:
                self._second = now.ns // SECOND_NS
                self._each_second(now)
            if quiet and now.ns // _MINUTE_NS != self._minute:
                self._minute = now.ns // _MINUTE_NS
                self._each_minute(now)
            calm = quiet and now.ns - self._saved_ns > _CALM_NS
            if self._tidy_due and (calm or self._keeper.overgrown()):
                self._tidy_due = False
                self._keeper.tidy()
        except sqlite3.Error as problem:
            self._trouble(problem)

    def _each_second(self, now: Now) -> None:
        if not self._keeper.is_in_place():
            raise Damaged("alerts.db was taken away")
        self._write_expiries(now)
        problems = (*self._problems.values(), self.intake.problem, self._keeper.flush.problem)
        facts: dict[str, Any] = {
            "bad_decisions": self._decisions.bad,
            "live": len(self.book.entries),
            "ping": None if self._ping is None else self._ping.state(),
        }
        self.report.write(now, [text for text in problems if text], facts)
        if self._ping is not None:
            self._ping.beat(self.report.unwell(now.ns))

    def _each_minute(self, now: Now) -> None:
        self.dispatcher.overdue(now.ns)
        if self._keeper.flush.clean:  # else a power cut could have the position point to nowhere
            self.intake.expire(now.wall_ns)
        self.intake.forgotten_ns = now.ns - self._keep_ns
        self._keeper.expire(now.ns - self._keep_ns, now.ns - _UPDATES_KEPT_NS)

    def _write_expiries(self, now: Now) -> None:
        """Write down that acks ended, once what follows from it is on disk."""
        if self.book.dirty or self.book.changes:
            return
        ended = [
            one
            for one in self._decisions.expired_acks(now.wall_ns, now.mono_ns, now.boot_id)
            if one.id not in self._written_down
        ]
        if ended:
            self._written_down.update(one.id for one in ended)
            self._write_down([decide("expired", "tickwatch", rule=e.rule, of=e.id) for e in ended])

    def _append(self, decisions: Iterable[Decision]) -> None:
        for one in decisions:
            try:
                self.journal.append(one)
            except OSError as problem:
                self._problems["journal"] = f"decisions journal: {problem.strerror or problem}"


def _must_be_on_disk(job: Job) -> bool:
    """Whether the attempt must not begin before what is known of it is on disk.

    A first attempt may: after a power cut the alert log, which is on disk, leads to the same
    message under the same id.  Not so the members of a digest, and the number of another attempt.
    """
    return job.message.kind == DIGEST or (job.message.kind != RESEND and job.message.attempt > 1)
