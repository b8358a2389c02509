"""Tells a dead-man service outside that all is well: the only alarm for the death of everything.

Silence is the message.  A ping leaves only while the aggregator, the notifier's loop and its
deliveries are well, so the service outside alarms when this machine is gone, but also when nobody
here could be told any more.  When that begins it is said once, with the reasons, so that nobody has
to wait for the silence to be noticed.  A thread of its own does it, which the loop never waits for.

Source: healthchecks.io, "Pinging API": a POST to the URL is a success, one to URL/fail a failure,
its body is kept with it.
"""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from notifier.alert import rfc3339
from notifier.plugin import DeliveryError, PermanentError

_log = logging.getLogger("notifier")

TIMEOUT_S = 10.0
STALE_S = 30.0  # both processes show progress each second
RETRY_S = 10.0
_TICK_S = 1.0


class Heartbeat:
    """Whether a file's time moves on.

    It is only compared with itself, so that nobody who sets the clock looks dead.
    """

    def __init__(self, path: Path, now_s: float) -> None:
        self._path = path
        self._at_ns = 0
        self._seen_s = now_s

    def stale(self, now_s: float) -> bool:
        """Whether it hasn't moved for too long; *now_s* by a monotonic clock."""
        try:
            at_ns = self._path.stat().st_mtime_ns
        except OSError:
            at_ns = self._at_ns
        if at_ns != self._at_ns:
            self._at_ns, self._seen_s = at_ns, now_s
        return now_s - self._seen_s > STALE_S


class Ping:
    """Pings *url* each *every_s* while all is well.

    Args:
        heartbeat: a file whose time the aggregator moves on while it works.
        started: False: no thread, ``step`` is called by a test.
    """

    def __init__(self, url: str, every_s: float, heartbeat: Path, *, started: bool = True) -> None:
        self._url = url
        self._every_s = every_s
        now_s = time.monotonic()
        self._heartbeat = Heartbeat(heartbeat, now_s)
        self._began_s = now_s
        # When the loop last spoke, and what it said of itself: one tuple, replaced as a whole.
        self._said: tuple[float, tuple[str, ...]] | None = None
        self._due_s = self._retry_s = now_s
        self._outside: bool | None = None  # what the service outside was last told
        self._sent = 0
        self._at: str | None = None
        self._problem = ""
        self._stop = threading.Event()
        if started:
            threading.Thread(target=self._run, name="ping", daemon=True).start()

    def beat(self, unwell: Sequence[str]) -> None:
        """The loop works; *unwell* is what is wrong with deliveries, a line each."""
        self._said = (time.monotonic(), tuple(unwell))

    def state(self) -> dict[str, Any]:
        """How pinging goes, as JSON values."""
        return {"last_at": self._at, "sent": self._sent, "problem": self._problem}

    def close(self) -> None:
        """Ping no more."""
        self._stop.set()

    def reasons(self, now_s: float) -> list[str] | None:
        """Why not all is well, a line each; None while that can't be told yet."""
        said_s, unwell = self._said or (self._began_s, ())
        reasons = list(unwell)
        if now_s - said_s > STALE_S:
            reasons.append("the notifier makes no progress")
        if self._heartbeat.stale(now_s):
            reasons.append("the aggregator makes no progress")
        return reasons if reasons or self._said is not None else None

    def step(self, now_s: float) -> None:
        """Send what is due at *now_s*."""
        reasons = self.reasons(now_s)
        if reasons is None or now_s < self._retry_s:
            return
        if not reasons and (self._outside is not True or now_s >= self._due_s):
            body = "tickwatch: aggregator, notifier and deliveries are well"
            self._tell(True, self._url, body, now_s)
        elif reasons and self._outside is not False:
            self._tell(False, fail_url(self._url), "\n".join(reasons), now_s)

    def _tell(self, well: bool, url: str, body: str, now_s: float) -> None:
        if self._send(url, body):
            self._outside, self._due_s = well, now_s + self._every_s
        else:
            self._retry_s = now_s + RETRY_S

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            try:
                self.step(time.monotonic())
            except Exception:  # noqa: BLE001 - the top of a loop: the next ping must be tried
                _log.exception("ping failed", extra={"component": "monitoring"})

    def _send(self, url: str, body: str) -> bool:
        from notifier.http import post

        try:
            post(
                url,
                body.encode("ascii", "backslashreplace"),
                {"Content-Type": "text/plain"},
                deadline=time.monotonic() + TIMEOUT_S,
            )
        except PermanentError as problem:
            if url != self._url:
                return True  # a service that knows no failures; our silence will tell it
            return self._failed(str(problem))
        except DeliveryError as problem:
            return self._failed(str(problem))
        self._sent += 1
        self._at, self._problem = rfc3339(time.time_ns()), ""
        return True

    def _failed(self, problem: str) -> bool:
        if not self._problem:
            _log.warning(
                "the dead-man service can't be pinged",
                extra={"component": "monitoring", "problem": problem},
            )
        self._problem = problem
        return False


def fail_url(url: str) -> str:
    """Where to say that not all is well."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path.rstrip('/')}/fail"))
