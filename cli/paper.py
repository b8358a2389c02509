"""Trade on paper: the market as a feed tells it, two small strategies, orders with fees, a limit.

Everything here is a function of the events alone: no clock, no chance, no measurement, no opinion
from outside.  Prices and sizes are integers in units of 1e-8 and money in units of 1e-20, so that
trades and PnL are exact and can't depend on a replay's speed, the machine or the order of a sum.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from cli.feed import UNITS, Event, Quote, Trade

FEE_BP = 4  # of an order's value, for taking the best price
MONEY = UNITS * UNITS * 10_000  # money units of 1: price x size x basis points
SECOND_NS = 1_000_000_000


@dataclass(frozen=True)
class Terms:
    """What the paper desk may do.  Sizes in units, times in nanoseconds of the feed's clock."""

    capital: int = 10_000 * MONEY
    breaker_pct: int = 10  # loss of the capital at which everything is closed and stays closed
    limit: int = UNITS * 25 // 1_000  # of all strategies' positions together, either direction
    intraday_size: int = UNITS // 100
    intraday_rest_ns: int = 2 * SECOND_NS
    intraday_hold_ns: int = 10 * SECOND_NS
    swing_size: int = UNITS // 50
    swing_fast: int = 5  # bars
    swing_slow: int = 15
    bar_ns: int = SECOND_NS


class Market:
    """The best bid and ask, and the flow of recent trades.

    Levels behind the best are parsed but not kept: neither strategy reads them.  The first symbol
    seen is the one that is traded.  ``clock_ns`` never goes back, whatever a feed says.  ``flow``
    is what the newest trades bought less what they sold.
    """

    RECENT = 32

    def __init__(self) -> None:
        self.symbol = ""
        self.clock_ns = 0
        self.bid = self.bid_size = self.ask = self.ask_size = 0
        self.flow = 0
        self.recent: deque[int] = deque([0] * self.RECENT, maxlen=self.RECENT)

    def apply(self, event: Event) -> bool:
        """Take *event* into the picture; whether it belongs there."""
        if event.symbol != self.symbol and event.symbol:  # a snapshot doesn't name its symbol
            if self.symbol:
                return False
            self.symbol = event.symbol
        if event.clock_ns > self.clock_ns:
            self.clock_ns = event.clock_ns
        if isinstance(event, Quote):
            self.bid, self.bid_size = event.bid, event.bid_size
            self.ask, self.ask_size = event.ask, event.ask_size
        elif isinstance(event, Trade):
            signed = -event.size if event.sold else event.size
            self.flow += signed - self.recent[0]
            self.recent.append(signed)
        return True


class Bars:
    """Cuts trade prices into bars of *length_ns* of the feed's clock; without a trade no bar."""

    def __init__(self, length_ns: int) -> None:
        self._length_ns = length_ns
        self._ends_ns = 0
        self._last = 0  # the open bar's newest price, 0 before its first trade

    def add(self, clock_ns: int, price: int) -> int:
        """The closing price of the bar that ends with this event, or 0; *price* 0 is no trade."""
        closed = 0
        if clock_ns >= self._ends_ns:
            closed, self._last = self._last, 0
            self._ends_ns = (clock_ns // self._length_ns + 1) * self._length_ns
        if price:
            self._last = price
        return closed


@dataclass(slots=True)
class Position:
    """One strategy's position; ``goal`` is what its order, filled or waiting, is to reach."""

    held: int = 0
    goal: int = 0
    changed_ns: int = 0
    cash: int = 0  # money units, fees taken off
    fees: int = 0
    fills: int = 0


class Fill(NamedTuple):
    """An order that was filled: ``size`` in units, below 0 for a sale; ``fee`` in money units."""

    clock_ns: int
    strategy: str
    size: int
    price: int
    fee: int


@dataclass(slots=True)
class Account:
    """Positions by strategy, orders and what they cost."""

    terms: Terms
    positions: dict[str, Position] = field(default_factory=dict)
    limited: int = 0  # orders that the limit cut or refused

    def aim(self, name: str, target: int, clock_ns: int) -> bool:
        """Order the position of *name* to become *target*; whether an order is waiting now.

        The limit is on all positions' sizes together and counts orders that still wait, so closing
        is always allowed.  A refused order counts as a change: the strategy rests before the next.
        """
        position = self.positions[name]
        if target != position.goal:
            others = sum(
                max(abs(other.held), abs(other.goal))
                for other in self.positions.values()
                if other is not position
            )
            room = self.terms.limit - others
            goal = max(-room, min(room, target)) if room > 0 else 0
            if goal != target:
                self.limited += 1
                if goal == position.held:
                    position.changed_ns = clock_ns
            position.goal = goal
        return position.goal != position.held

    def fill(self, name: str, market: Market) -> Fill | None:
        """Fill the waiting order of *name* at the best price, if enough is shown there."""
        position = self.positions[name]
        size = position.goal - position.held
        price, shown = (market.ask, market.ask_size) if size > 0 else (market.bid, market.bid_size)
        if abs(size) > shown:
            return None
        fee = abs(size) * price * FEE_BP
        position.cash -= size * price * 10_000 + fee
        position.fees += fee
        position.fills += 1
        position.held = position.goal
        position.changed_ns = market.clock_ns
        return Fill(market.clock_ns, name, size, price, fee)

    def pnl(self, market: Market) -> int:
        """Profit and loss in money units: cash, and what closing at the best prices would bring."""
        total = 0
        for position in self.positions.values():
            held = position.held
            total += position.cash + held * (market.bid if held > 0 else market.ask) * 10_000
        return total

    def broke(self, market: Market) -> bool:
        """Whether the loss has reached the breaker's share of the capital."""
        return self.pnl(market) * 100 <= -self.terms.capital * self.terms.breaker_pct


class Intraday:
    """Follows the pressure on the best prices, decides on every tick, holds for seconds."""

    def __init__(self, terms: Terms) -> None:
        self._size = terms.intraday_size
        self._rest_ns = terms.intraday_rest_ns
        self._hold_ns = terms.intraday_hold_ns

    def target(self, market: Market, position: Position) -> int:
        """The position to have now."""
        age_ns = market.clock_ns - position.changed_ns
        if age_ns < self._rest_ns:
            return position.goal
        pressure = self._pressure(market)
        if position.held:
            with_us = pressure * position.held >= 0
            return position.goal if with_us and age_ns < self._hold_ns else 0
        return pressure * self._size

    @staticmethod
    def _pressure(market: Market) -> int:
        """1 when four times as much is bid as offered and trades were buying, -1 the other way."""
        if market.bid_size > 4 * market.ask_size and market.flow > 0:
            return 1
        if market.ask_size > 4 * market.bid_size and market.flow < 0:
            return -1
        return 0


class Swing:
    """Compares a fast and a slow mean of the bars' closing prices, holds until they cross."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._closes: deque[int] = deque(maxlen=terms.swing_slow)

    def target(self, close: int, position: Position) -> int:
        """The position after a bar closed at *close*; a lead below 0.1 bp changes nothing."""
        fast, slow = self._terms.swing_fast, self._terms.swing_slow
        closes = self._closes
        closes.append(close)
        if len(closes) < slow:
            return position.goal
        total = sum(closes)
        # both means multiplied by fast x slow, so that the comparison stays exact
        lead = sum(list(closes)[-fast:]) * slow - total * fast
        if abs(lead) * 100_000 <= total * fast:
            return position.goal
        return self._terms.swing_size if lead > 0 else -self._terms.swing_size
