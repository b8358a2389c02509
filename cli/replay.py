"""Replay a feed through the engine: at the feed's own pace, some times that, or without any pace.

The engine never waits for anything but the feed.  Between two ticks, and at most every 50 ms, the
replay looks after the rest: sentiment that was measured, incidents that are due, signs of life.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

from cli.engine import Engine
from cli.feed import FeedFile, clock_of
from cli.problems import UsageError
from cli.synthetic import synthetic

FEED_ENDED, TIME_IS_UP = "the feed ended", "the time is up"
DEFAULT_S = 30.0  # length of a made-up feed, by its own clock
DEFAULT_UNPACED_S = 300.0  # the same without pace: over in a second or two
_MAX_SECONDS = 7 * 86_400.0
_SPEEDS = (0.01, 10_000.0)
_CHORES_S = 0.05
_BEAT_S = 1.0
_LONGEST_GAP_S = 5.0  # of the feed's clock: a longer one, or one back, is not waited for
_GRACE_S = 1.0  # a made-up feed ends by itself, unless the machine can't keep up


@dataclass(frozen=True)
class Options:
    """What was asked for; ``seconds`` None: as long as the feed lasts, ``speed`` None: max."""

    feed: str | None
    seconds: float | None
    speed: float | None
    incidents: bool

    @property
    def about(self) -> str:
        """The feed and its pace, in words."""
        feed = self.feed or f"a made-up one of {self.spans_s:g} s"
        pace = "without pause" if self.speed is None else f"{self.speed:g} times its own pace"
        return f"{feed}, {pace if self.speed != 1 else 'at its own pace'}"

    @property
    def limit_s(self) -> float:
        """Seconds after which the replay ends, however much of the feed is left."""
        if self.seconds is None:
            return math.inf if self.feed or self.speed is None else DEFAULT_S + _GRACE_S
        return self.seconds if self.feed else self.seconds + _GRACE_S

    @property
    def spans_s(self) -> float:
        """Seconds of its own clock that a made-up feed spans."""
        if self.speed is None:
            return self.seconds or DEFAULT_UNPACED_S
        return (self.seconds or DEFAULT_S) * self.speed


def options(args: Mapping[str, Any]) -> Options:
    """The demo's options from docopt's arguments.

    Raises:
        UsageError: a value that isn't allowed.
    """
    seconds = args["--seconds"]
    speed = args["--speed"] or "1"
    low, high = _SPEEDS
    return Options(
        feed=args["--feed"],
        seconds=None
        if seconds is None
        else _number(seconds, "--seconds", 0.1, _MAX_SECONDS, "a number of seconds, such as 30"),
        speed=None
        if speed == "max"
        else _number(speed, "--speed", low, high, f"max, or a number from {low:g} to {high:g}"),
        incidents=not args["--no-incidents"],
    )


def _number(text: str, option: str, low: float, high: float, allowed: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not low <= value <= high:
        raise UsageError(f"{option}={text}: use {allowed}")
    return value


class Pace:
    """When each message is due: the feed's clock, *speed* times as fast."""

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._last_ns = 0
        self._due_s = 0.0

    def due_s(self, clock_ns: int, now_s: float) -> float:
        """When the message with *clock_ns* is due, on the clock of *now_s*."""
        gap_s = (clock_ns - self._last_ns) / 1e9
        if self._last_ns == 0 or not 0 <= gap_s <= _LONGEST_GAP_S:
            self._due_s = now_s
        else:
            self._due_s += gap_s / self._speed
        self._last_ns = clock_ns
        return self._due_s


class Replay:
    """One replay.  ``ended`` says why it is over, "" while it runs; ``stopped``: by somebody.

    *chore* is called about every 50 ms with the seconds since the start, *beat* every second.
    """

    def __init__(
        self,
        engine: Engine,
        choices: Options,
        chore: Callable[[float], None],
        beat: Callable[[], None],
    ) -> None:
        self.ended = ""
        self.stopped = False
        self._engine = engine
        self._limit_s = choices.limit_s
        self._pace = None if choices.speed is None else Pace(choices.speed)
        self._chore = chore
        self._beat = beat
        self._started_s = self._next_chore_s = self._next_beat_s = perf_counter()

    @property
    def elapsed_s(self) -> float:
        """Seconds since the start."""
        return perf_counter() - self._started_s

    def stop(self, why: str) -> None:
        """End the replay with the next tick, and what lingers; safe in a signal handler."""
        self.stopped = True
        self._end(why)

    def run(self, lines: Iterable[bytes]) -> None:
        """Replay *lines* until they end, the time is up, or `stop`."""
        tick = self._engine.tick
        for line in lines:
            if self._pace is not None:
                self._wait(line)
            if self.ended:
                return
            tick(line)
            self._look()
        self._end(FEED_ENDED)

    def linger(self, enough: Callable[[], bool], until_s: float) -> None:
        """Go on without a feed until *enough* or until *until_s* seconds after the start."""
        while not enough() and self.elapsed_s < until_s and not self.stopped:
            time.sleep(_CHORES_S)
            self._chores()

    def _end(self, why: str) -> None:
        self.ended = self.ended or why

    def _wait(self, line: bytes) -> None:
        assert self._pace is not None
        try:
            clock_ns = clock_of(line)
        except ValueError:
            return  # the engine counts it
        due_s = self._pace.due_s(clock_ns, perf_counter())
        while (left_s := due_s - perf_counter()) > 0 and not self.ended:
            time.sleep(min(left_s, _CHORES_S))
            self._look()

    def _look(self) -> None:
        if perf_counter() >= self._next_chore_s:
            self._chores()
            if self.elapsed_s >= self._limit_s:
                self._end(TIME_IS_UP)

    def _chores(self) -> None:
        now_s = perf_counter()
        self._next_chore_s = now_s + _CHORES_S
        self._chore(now_s - self._started_s)
        if now_s >= self._next_beat_s:
            self._next_beat_s = now_s + _BEAT_S
            self._beat()


def open_feed(choices: Options) -> FeedFile | Iterator[bytes]:
    """The lines to replay: the recording, or a made-up feed.

    Raises:
        Failed: there is no such file, or no message in it.
    """
    return FeedFile(choices.feed) if choices.feed else synthetic(choices.spans_s)
