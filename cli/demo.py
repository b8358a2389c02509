"""`demo`: a paper-trading engine on an exchange feed, monitored, with alerts that arrive.

The engine's thread only replays and records; whatever else the demo does has a thread or a process
of its own, or happens between two ticks and never waits.
"""

import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from types import FrameType
from typing import Any

from cli import demo_report, demo_service, place, render, replay
from cli.demo_report import Results, Ring
from cli.demo_service import ENGINE, Claim
from cli.engine import Engine
from cli.feed import FeedFile
from cli.incidents import LOSS_RULE, STALL_RULE, Incidents, times_s
from cli.replay import Options, Replay
from cli.screen import Screen
from cli.sentiment import SentimentClient, provider
from cli.sink import Sink
from ringbuf import Recorder

_REFUSED_ASK = 5  # of the sentiment provider, so that there is a failure to see
_SETTLE_S = 20.0  # after the feed, for the injected alerts to resolve
_READ_S = 5.0  # for the service to take in the last records


def main(args: Mapping[str, Any]) -> int:
    """Run the demo.

    Raises:
        UsageError: a value that isn't allowed, or settings that are wrong.
        Failed: no feed, a data directory that somebody else's service watches, or no service.
    """
    choices = replay.options(args)
    where = demo_service.where(args)
    how = render.look(args)
    with ExitStack() as stack:
        feed = replay.open_feed(choices)
        if isinstance(feed, FeedFile):
            stack.enter_context(closing(feed))
        claim = demo_service.claim(where, choices.incidents)
        screen = Screen(live=how.terminal and sys.stderr.isatty())
        stack.callback(screen.close)
        results = _Demo(choices, where, claim, screen).run(feed)
    demo_report.report(how, place.find(args), results)  # again: the service's own word is there now
    return 0


class _Demo:
    """One run of the demo: what it starts, and what comes of it."""

    def __init__(self, choices: Options, where: place.Place, claim: Claim, screen: Screen) -> None:
        self._choices = choices
        self._where = where
        self._claim = claim
        self._screen = screen
        self._interrupted = False

    def run(self, feed: Iterable[bytes]) -> Results:
        """Start the sink and the service, replay, and end them again, the sink last."""
        choices, say = self._choices, self._screen.say
        say(f"feed: {choices.about}; data: {self._where.data_dir}")
        with ExitStack() as stack:
            stack.enter_context(_signals(self._interrupt))
            self._sink = Sink(say, self._claim.port)
            stack.callback(self._sink.close)
            stack.enter_context(demo_service.own_rules(self._where))
            settings = demo_service.configure(self._where, self._sink.url)
            service = demo_service.start_service(settings, self._where, self._claim)
            self._introduce(stack.enter_context(service))
            refused = {_REFUSED_ASK} if choices.incidents else ()
            asked = stack.enter_context(provider(refused))
            recorder = stack.enter_context(Recorder(ENGINE, self._where.data_dir))
            self._client = SentimentClient(asked.port)
            stack.callback(self._client.close)
            return self._replay(feed, recorder)

    def _introduce(self, pid: int) -> None:
        if self._claim.own:
            demo_service.remember(self._where, self._sink.port, pid)
            self._screen.say(f"service: pid {pid}; alerts are posted to {self._sink.url}")
        else:
            self._screen.say(f"service: pid {pid}, joined; its own plugins deliver the alerts")

    def _replay(self, feed: Iterable[bytes], recorder: Recorder) -> Results:
        choices = self._choices
        began_ns = time.time_ns()
        published, rejected = recorder.published, recorder.rejected
        problem = recorder.problem
        before = self._reading(published, problem)
        engine = self._engine = Engine(recorder)
        engine.malformed = getattr(feed, "skipped", 0)
        plan = times_s(choices.seconds, paced=choices.speed is not None)
        self._incidents = Incidents(engine, self._screen.say, plan if choices.incidents else ())
        self._run = Replay(engine, choices, self._chores, recorder.heartbeat)
        self._screen.progress = self._progress
        self._run.run(feed)
        replayed_s = self._run.elapsed_s
        self._settle()
        self._client.close()
        engine.hear(self._client.take())
        engine.mark()
        written = recorder.published
        rejected = recorder.rejected - rejected
        recorder.close()
        return Results(
            name=ENGINE,
            engine=engine,
            client=self._client,
            ended=self._run.ended,
            replayed_s=replayed_s,
            began_ns=began_ns,
            damage=getattr(feed, "damage", ""),
            received=self._sink.received,
            written=written - published,
            rejected=rejected,
            problem=problem,
            before=before,
            after=self._reading(written, problem),
        )

    def _reading(self, published: int, problem: str | None) -> Ring:
        """What the service says of the ring once it has taken in all that was published."""
        if problem:
            return Ring()  # a ring of that name is somebody else's
        return demo_report.wait_for(self._where, ENGINE, published, _READ_S)

    def _interrupt(self) -> None:
        """End early, but in order: the report still comes."""
        self._interrupted = True

    def _settle(self) -> None:
        """Let the injected alerts resolve, when the feed was shorter than they are."""
        run, choices = self._run, self._choices
        if run.ended != replay.FEED_ENDED or not (choices.incidents and self._claim.own):
            return

        def settled() -> bool:
            return self._incidents.done and self._sink.settled(ENGINE, STALL_RULE, LOSS_RULE)

        if not settled():
            self._screen.say("the feed ended; waiting for the injected alerts to resolve")
            run.linger(settled, choices.seconds or run.elapsed_s + _SETTLE_S)

    def _chores(self, elapsed_s: float) -> None:
        self._engine.hear(self._client.take())
        self._incidents.step(elapsed_s)
        if self._interrupted:
            self._run.stop("interrupted")
        elif self._screen.broken:
            self._run.stop("nobody reads the output")

    def _progress(self) -> str:
        engine, run = self._engine, self._run
        rate = engine.messages / max(run.elapsed_s, 1e-3)
        score = "-" if self._client.score is None else f"{self._client.score:+.2f}"
        return (
            f"{run.elapsed_s:6.1f} s  {engine.messages:,} messages ({rate:,.0f}/s)  "
            f"{engine.trades:,} trades  PnL {engine.pnl:+,.2f}  sentiment {score}"
        )


@contextmanager
def _signals(stop: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM call *stop*; a second one ends the program."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}

    def take(number: int, frame: FrameType | None) -> None:
        for each, handler in before.items():
            signal.signal(each, handler)
        stop()

    try:
        for each in before:
            signal.signal(each, take)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
