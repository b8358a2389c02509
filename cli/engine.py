"""The demo's engine, a model of how to embed the recorder: make metrics once, then only record.

Every latency is measured around the work it names.  Nothing that is measured, and no opinion from
outside, may reach a trading decision: trades and PnL follow from the feed alone.  One thread owns
the engine and its recorder; other threads hand over through queues.
"""

import time
from collections import deque
from collections.abc import Iterable
from time import perf_counter_ns
from typing import TYPE_CHECKING

from cli.feed import Event, Trade, parse
from cli.paper import (
    MONEY,
    SECOND_NS,
    Account,
    Bars,
    Fill,
    Intraday,
    Market,
    Position,
    Swing,
    Terms,
)
from cli.sentiment import PROVIDER, Ask

if TYPE_CHECKING:
    from ringbuf import Recorder

INTRADAY, SWING = "intraday", "swing"
_COST_EVERY = 32  # ticks between two measurements of what a record costs
_COST_SAMPLES = 8_192
_FILLS_KEPT = 4_096


class Engine:
    """Parse, keep the market, decide, order, mark, and record how long it took.

    ``messages`` and ``malformed`` count lines; ``fills`` keeps the newest orders that were filled.
    ``loss_adjustment`` is added to the recorded daily loss, in percent, and to nothing else;
    ``stalled_s`` is how long ticks were held up on purpose.
    """

    def __init__(self, recorder: "Recorder", terms: Terms | None = None) -> None:
        self.terms = terms or Terms()
        self.market = Market()
        self.account = Account(self.terms, {INTRADAY: Position(), SWING: Position()})
        self.messages = self.malformed = self.halted = 0
        self.fills: deque[Fill] = deque(maxlen=_FILLS_KEPT)
        self.loss_adjustment = 0.0
        self.stalled_s = 0.0
        self._intraday, self._swing = Intraday(self.terms), Swing(self.terms)
        self._bars = Bars(self.terms.bar_ns)
        self._marks_ns = 0  # the feed's clock from which the next mark is due
        self._stall_s = 0.0
        self._costs_ns: deque[int] = deque(maxlen=_COST_SAMPLES)
        metric = recorder.metric
        self._tick = metric("tick_latency", unit="ms", strategy=INTRADAY)
        self._bar_tick = metric("tick_latency", unit="ms", strategy=SWING)
        self._decision = metric("strategy_latency", unit="ms", strategy=INTRADAY)
        self._bar_decision = metric("strategy_latency", unit="ms", strategy=SWING)
        self._order = {
            name: metric("order_latency", unit="ms", strategy=name)
            for name in self.account.positions
        }
        self._pnl = metric("pnl", unit="USDT")
        self._positions = metric("position_count")
        self._daily_loss = metric("daily_loss_pct", unit="%")
        self._breaker = metric("circuit_breaker_active")
        self._connected = metric("connected")
        self._sentiment = metric("sentiment_latency", unit="ms", provider=PROVIDER)
        self._sentiment_failure = metric("sentiment_failure", provider=PROVIDER)

    def tick(self, line: bytes) -> None:
        """One message of the feed, from its bytes to the orders it causes; a bad one is counted."""
        started = perf_counter_ns()
        try:
            event = parse(line)
        except ValueError:
            self.malformed += 1
            return
        self.messages += 1
        if self._stall_s:
            time.sleep(self._stall_s)
            self.stalled_s += self._stall_s
            self._stall_s = 0.0
        close = self._trade(event)
        elapsed_ms = (perf_counter_ns() - started) / 1e6
        if self.messages % _COST_EVERY:
            self._tick.record(elapsed_ms)
        else:
            before = perf_counter_ns()
            self._tick.record(elapsed_ms)
            self._costs_ns.append(perf_counter_ns() - before)
        if close:
            self._bar_tick.record(elapsed_ms)

    def mark(self) -> None:
        """Mark the PnL at the best prices and record the state of the account; decides nothing."""
        pnl = self.account.pnl(self.market)
        self._pnl.record(pnl / MONEY)
        self._positions.record(sum(p.held != 0 for p in self.account.positions.values()))
        self._daily_loss.record(100 * pnl / self.terms.capital + self.loss_adjustment)
        self._breaker.record(self.halted)
        self._connected.record(1)

    def hear(self, asks: Iterable[Ask]) -> None:
        """Record how asking for sentiment went; the answers themselves play no part in trading."""
        for ask in asks:
            if ask.score is None:
                self._sentiment_failure.record(1)
            else:
                self._sentiment.record(ask.latency_ms)

    def stall(self, seconds: float) -> None:
        """Hold up the next tick for *seconds*, for real."""
        self._stall_s = seconds

    def show_loss(self, pct: float) -> None:
        """Record the daily loss as *pct* percent now, and as far from the real one from now on."""
        self.loss_adjustment = pct - 100 * self.account.pnl(self.market) / self.terms.capital
        self.mark()

    def show_real_loss(self) -> None:
        """Record the real daily loss again."""
        self.loss_adjustment = 0.0
        self.mark()

    @property
    def trades(self) -> int:
        """Orders that were filled."""
        return sum(position.fills for position in self.account.positions.values())

    @property
    def pnl(self) -> float:
        """Profit and loss at the best prices now."""
        return self.account.pnl(self.market) / MONEY

    def record_costs_ns(self) -> list[int]:
        """What single records cost, sorted, less the cost of looking at the clock."""
        pairs = sorted(-perf_counter_ns() + perf_counter_ns() for _ in range(1_001))
        clock_ns = pairs[len(pairs) // 2]
        return sorted(max(0, cost - clock_ns) for cost in self._costs_ns)

    def _trade(self, event: Event) -> int:
        """Let market, strategies and account see *event*; the close of the bar it ended, or 0."""
        market = self.market
        if not market.apply(event):
            return 0
        close = self._bars.add(market.clock_ns, event.price if isinstance(event, Trade) else 0)
        if market.bid:
            filled = self._decide(close)
            if filled or market.clock_ns >= self._marks_ns:
                self._marks_ns = (market.clock_ns // SECOND_NS + 1) * SECOND_NS
                if self.account.broke(market):
                    self.halted = 1
                self.mark()
        return close

    def _decide(self, close: int) -> bool:
        account, market = self.account, self.market
        if close:
            before = perf_counter_ns()
            target = self._swing.target(close, account.positions[SWING])
            self._bar_decision.record((perf_counter_ns() - before) / 1e6)
            account.aim(SWING, 0 if self.halted else target, market.clock_ns)
        before = perf_counter_ns()
        target = self._intraday.target(market, account.positions[INTRADAY])
        self._decision.record((perf_counter_ns() - before) / 1e6)
        account.aim(INTRADAY, 0 if self.halted else target, market.clock_ns)
        filled = False
        for name, position in account.positions.items():
            if position.goal != position.held and self._send(name):
                filled = True
        return filled

    def _send(self, name: str) -> bool:
        before = perf_counter_ns()
        fill = self.account.fill(name, self.market)
        if fill is None:
            return False
        self._order[name].record((perf_counter_ns() - before) / 1e6)
        self.fills.append(fill)
        return True
