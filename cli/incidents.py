"""What the demo does to its own engine so that a newcomer sees alerts fire and resolve.

Each is announced on the screen as injected.  The stall is real: a tick is held up.  The drawdown is
a number that is recorded beside the account: trades and PnL never know of it.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cli.engine import Engine
from cli.render import number

STALL_S = 0.5  # at least
_END_OF_SECOND = 0.9
STALL_RULE, LOSS_RULE = "performance_degradation", "daily_loss_high"
LATENCY_LIMIT_MS = 200.0  # far above what a loaded machine adds to a tick, far below the stall
LOSS_LIMIT_PCT = 4.0
LATENCY_WINDOW_S = 5
FULL_S = 30.0  # a run of this length or more has the times below; a shorter one is squeezed
_STALL_AT_S, _WARNING_AT_S, _CRITICAL_AT_S, _RECOVERY_AT_S = 4.0, 10.0, 13.0, 17.0
# a replay without pace is over in a second or two, and the stall must come before its end
_UNPACED_S = (0.0, 2.5, 4.5, 6.5)


class Step(NamedTuple):
    """Something to do *at_s* seconds after the start."""

    at_s: float
    act: Callable[[], None]


class Incidents:
    """The injected incidents of one run, done by `step` as their time comes."""

    def __init__(
        self,
        engine: Engine,
        say: Callable[[str], None],
        times_s: Sequence[float],
        least_stall_s: float = STALL_S,
    ) -> None:
        """Plan; *times_s*: of stall, warning, critical level and recovery, or () for none."""
        self._engine = engine
        self._say = say
        self._least_stall_s = least_stall_s
        actions = (
            self._stall,
            lambda: self._lose(-1.125 * LOSS_LIMIT_PCT),
            lambda: self._lose(-1.625 * LOSS_LIMIT_PCT),
            self._recover,
        )
        self._steps = sorted(map(Step, times_s, actions), key=lambda step: step.at_s)

    @property
    def done(self) -> bool:
        """Whether nothing is left to inject."""
        return not self._steps

    def step(self, elapsed_s: float) -> None:
        """Do what is due."""
        while self._steps and elapsed_s >= self._steps[0].at_s:
            self._steps.pop(0).act()

    def _stall(self) -> None:
        seconds = stall_s(time.time(), self._least_stall_s)
        self._say(f"INJECTED  a latency stall: the next tick is held up for {seconds:.2f} s")
        self._engine.stall(seconds)

    def _lose(self, pct: float) -> None:
        said = f"a drawdown: the daily loss is recorded as {number(pct)} %, whatever the PnL is"
        self._say(f"INJECTED  {said}")
        self._engine.show_loss(pct)

    def _recover(self) -> None:
        self._say("INJECTED  the drawdown is over: the real daily loss is recorded again")
        self._engine.show_real_loss()


def stall_s(now_s: float, least_s: float = STALL_S) -> float:
    """How long to stall from *now_s* on: *least_s*, and on until just before a full second.

    A window is made of whole seconds, and missing data resolves nothing: so a replay that is over a
    moment after the stall still has ticks in a second without it.
    """
    return least_s + (_END_OF_SECOND - now_s - least_s) % 1.0


def times_s(run_s: float | None, paced: bool) -> tuple[float, ...]:
    """When to inject what in a run of *run_s* seconds (None: as long as the feed lasts)."""
    if not paced:
        return _UNPACED_S
    share = min(1.0, (run_s or FULL_S) / FULL_S)
    return tuple(share * s for s in (_STALL_AT_S, _WARNING_AT_S, _CRITICAL_AT_S, _RECOVERY_AT_S))


def rules_toml() -> str:
    """The demo's rules: the built-in one on latency, with a window that a short run outlasts."""
    return f"""\
# The demo's rules.  A minute's window would hold the injected stall longer than the demo runs.
[[rule]]
name = "{STALL_RULE}"
window = "{LATENCY_WINDOW_S}s"
"""
