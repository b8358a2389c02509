"""Paper trading: the same trades and PnL at every speed, equal to an independent recomputation.

The reference below is written to be read, not to be fast: decimals instead of integers, whole lists
instead of running sums, and the fills' cash added up at the end.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal, localcontext
from pathlib import Path
from typing import Any

import pytest

from cli.engine import Engine
from cli.feed import UNITS, FeedFile, Quote, Trade
from cli.incidents import Incidents
from cli.paper import MONEY, Account, Bars, Intraday, Market, Position, Swing, Terms
from cli.replay import Options, Replay
from cli.sentiment import Ask
from cli.synthetic import synthetic
from ringbuf import Recorder

RECORDING = Path(__file__).parents[3] / "shared" / "data" / "btcusdt_20240808.gz"
S = 1_000_000_000


# The reference: what the two strategies are, told a second time.


@dataclass
class Book:
    """One strategy's book in the reference."""

    held: Decimal = Decimal(0)
    wanted: Decimal = Decimal(0)
    changed: int = -(10**18)
    fills: list[tuple[int, Decimal, Decimal]] = field(default_factory=list)


class Reference:
    """Decimals, lists, and the rules in words: see each method."""

    FEE = Decimal("0.0004")
    LIMIT = Decimal("0.025")

    def __init__(self, lines: Sequence[bytes], capital: Decimal = Decimal(10_000)) -> None:
        self.capital = capital
        self.books = {"swing": Book(), "intraday": Book()}
        self.order: list[tuple[int, str, Decimal, Decimal]] = []
        self.halted = False
        with localcontext() as context:
            context.prec = 60
            self._run([_decode(line) for line in lines])

    def _run(self, messages: list[tuple[int, dict[str, Any]]]) -> None:
        trades: list[Decimal] = []  # signed sizes
        bars: dict[int, Decimal] = {}  # second -> last price of a trade in it
        closed: list[Decimal] = []
        bid = ask = bid_size = ask_size = None
        second = marked = -1
        now = 0
        for clock, data in messages:
            now = max(now, clock)
            bar_closed = False
            if now // S != second:
                if second in bars and bid is not None:
                    closed.append(bars[second])
                    bar_closed = True
                second = now // S
            if data.get("e") == "bookTicker":
                bid, bid_size = Decimal(data["b"]), Decimal(data["B"])
                ask, ask_size = Decimal(data["a"]), Decimal(data["A"])
            if data.get("e") == "trade":
                trades.append(Decimal(data["q"]) * (-1 if data["m"] else 1))
                bars[second] = Decimal(data["p"])
            if bid is None or ask is None or bid_size is None or ask_size is None:
                continue
            if bar_closed:
                self._want("swing", self._swing(closed), now)
            flow = sum(trades[-32:])
            up = bid_size / 4 > ask_size and flow > 0
            down = ask_size / 4 > bid_size and flow < 0
            self._want("intraday", self._intraday(up, down, now), now)
            filled = [self._fill(n, now, bid, bid_size, ask, ask_size) for n in self.books]
            if any(filled) or second != marked:
                marked = second
                if self.pnl(bid, ask) <= -self.capital / 10:
                    self.halted = True
        self.end = (bid, ask)

    def _swing(self, closed: list[Decimal]) -> Decimal:
        """Long 0.02 while the mean of 5 closes leads that of 15 by over 0.1 bp, short below."""
        if len(closed) < 15:
            return self.books["swing"].wanted
        fast, slow = sum(closed[-5:]) / 5, sum(closed[-15:]) / 15
        # the lead compares with 0.1 bp of the slow mean; times 15 all means are exact decimals
        lead = sum(closed[-5:], Decimal(0)) * 3 - sum(closed[-15:])
        if abs(lead) * 100_000 <= sum(closed[-15:]):
            return self.books["swing"].wanted
        return Decimal("0.02") if fast > slow else Decimal("-0.02")

    def _intraday(self, up: bool, down: bool, now: int) -> Decimal:
        """0.01 with the pressure after 2 s of rest; out against it, or after 10 s."""
        book = self.books["intraday"]
        if now - book.changed < 2 * S:
            return book.wanted
        if book.held == 0:
            return Decimal("0.01") if up else Decimal("-0.01") if down else Decimal(0)
        against = down if book.held > 0 else up
        return Decimal(0) if against or now - book.changed >= 10 * S else book.wanted

    def _want(self, name: str, size: Decimal, now: int) -> None:
        """Never more than 0.025 in all, orders that still wait included."""
        book = self.books[name]
        size = Decimal(0) if self.halted else size
        if size == book.wanted:
            return
        [other] = [b for n, b in self.books.items() if n != name]
        room = max(Decimal(0), self.LIMIT - max(abs(other.held), abs(other.wanted)))
        allowed = min(room, abs(size)).copy_sign(size)
        if allowed != size and allowed == book.held:
            book.changed = now
        book.wanted = allowed

    def _fill(
        self, name: str, now: int, bid: Decimal, bid_size: Decimal, ask: Decimal, ask_size: Decimal
    ) -> bool:
        book = self.books[name]
        size = book.wanted - book.held
        price, shown = (ask, ask_size) if size > 0 else (bid, bid_size)
        if size == 0 or abs(size) > shown:
            return False
        book.held, book.changed = book.wanted, now
        book.fills.append((now, size, price))
        self.order.append((now, name, size, price))
        return True

    def pnl(self, bid: Decimal, ask: Decimal) -> Decimal:
        """All cash that moved, fees paid, and what closing would bring."""
        total = Decimal(0)
        for _, name, size, price in self.order:
            total -= size * price + abs(size) * price * self.FEE
            assert name in self.books
        for book in self.books.values():
            total += book.held * (bid if book.held > 0 else ask)
        return total


def _decode(line: bytes) -> tuple[int, dict[str, Any]]:
    clock, body = line.split(b" ", 1)
    message = json.loads(body)
    return int(clock), message.get("data", message)


# The engine


class Null:
    """A recorder that keeps nothing."""

    def metric(self, *name: str, **labels: str) -> "Null":
        return self

    def record(self, value: float) -> None:
        pass


def engine(terms: Terms | None = None) -> Engine:
    return Engine(Null(), terms)  # type: ignore[arg-type]


def traded(run: Engine) -> list[tuple[int, str, Decimal, Decimal]]:
    return [
        (fill.clock_ns, fill.strategy, Decimal(fill.size) / UNITS, Decimal(fill.price) / UNITS)
        for fill in run.fills
    ]


def assert_equal(run: Engine, reference: Reference) -> None:
    """The same fills one by one, and the PnL to the last digit."""
    by_time = {name: [f for f in reference.order if f[1] == name] for name in reference.books}
    for name in reference.books:
        assert [f for f in traded(run) if f[1] == name] == by_time[name]
    with localcontext() as context:
        context.prec = 60
        bid, ask = reference.end
        assert bid is not None
        assert ask is not None
        exact = reference.pnl(bid, ask)
        assert Decimal(run.account.pnl(run.market)) / MONEY == exact
        assert run.pnl == float(exact)


@pytest.fixture(scope="module")
def minute() -> list[bytes]:
    return list(synthetic(60, seed=11))


@pytest.fixture(scope="module")
def minute_reference(minute: list[bytes]) -> Reference:
    return Reference(minute)


def test_trades_and_pnl_equal_the_recomputation(
    minute: list[bytes], minute_reference: Reference
) -> None:
    """Integers and running sums come to what decimals and whole lists come to."""
    run = engine()
    for line in minute:
        run.tick(line)
    assert run.trades == len(minute_reference.order) > 20
    assert {fill.strategy for fill in run.fills} == {"intraday", "swing"}
    assert_equal(run, minute_reference)


@pytest.mark.skipif(not RECORDING.exists(), reason="the recording isn't beside this checkout")
def test_the_recording_trades_as_recomputed() -> None:
    """The same on 93,954 messages of a real exchange."""
    feed = FeedFile(RECORDING)
    lines = list(feed)
    feed.close()
    run = engine()
    for line in lines:
        run.tick(line)
    assert (run.messages, run.malformed) == (93_954, 0)
    assert run.trades > 100
    assert_equal(run, Reference(lines))


@pytest.mark.parametrize("speed", [None, 400.0, 50.0])
def test_trades_are_the_same_at_every_speed(
    minute: list[bytes],
    minute_reference: Reference,
    tmp_path: Path,
    speed: float | None,
) -> None:
    """Pace, incidents, sentiment and a real recorder change nothing about trades and PnL."""
    with Recorder("demo", tmp_path) as recorder:
        run = Engine(recorder)
        plan = (0.01, 0.1, 0.2, 0.3)
        planned = Incidents(run, lambda text: None, plan, least_stall_s=0.02)

        def chore(elapsed_s: float) -> None:
            run.hear([Ask(elapsed_s, None), Ask(elapsed_s, 1.0 if elapsed_s > 0.5 else -1.0)])
            planned.step(elapsed_s)

        options = Options(feed=None, seconds=60.0, speed=speed, incidents=True)
        replay = Replay(run, options, chore, recorder.heartbeat)
        began_s = time.perf_counter()
        replay.run(minute)
        assert speed is None or time.perf_counter() - began_s >= 59 / speed
        assert recorder.published > 2 * len(minute)
    assert replay.ended == "the feed ended"
    assert_equal(run, minute_reference)


@pytest.mark.parametrize("seed", range(4))
def test_malformed_lines_change_no_trade(seed: int) -> None:
    """What can't be read is counted and passed over, as if it weren't there."""
    lines = list(synthetic(20, seed=seed))
    noise = [b"", b"\x00\xff", lines[0][:-1], lines[1].replace(b'"s"', b'"z"'), b"7 {}"]
    run = engine()
    for number, line in enumerate(lines):
        run.tick(noise[number % len(noise)])
        run.tick(line)
    assert (run.messages, run.malformed) == (len(lines), len(lines))
    assert_equal(run, Reference(lines))


def test_a_feed_whose_clock_jumps_is_traded_the_same_way() -> None:
    """A clock that goes back counts as standing still; bars and rests go on."""
    lines = list(synthetic(30, seed=5))
    jumped = [
        str(int(line.split(b" ", 1)[0]) - (3 * S if number % 7 == 0 else 0)).encode()
        + b" "
        + line.split(b" ", 1)[1]
        for number, line in enumerate(lines)
    ]
    run = engine()
    for line in jumped:
        run.tick(line)
    assert_equal(run, Reference(jumped))


# The parts


def quote(bid: str = "100", ask: str = "101", size: str = "1", at_ns: int = 0) -> Quote:
    def exact(text: str) -> int:
        return int(Decimal(text) * UNITS)

    return Quote(at_ns, 0, "X", exact(bid), exact(size), exact(ask), exact(size))


def market(*quotes: Quote) -> Market:
    made = Market()
    for each in quotes:
        made.apply(each)
    return made


def account(**positions: Position) -> Account:
    return Account(Terms(), positions)


def test_an_order_waits_until_the_best_price_shows_enough() -> None:
    """There is no fill beyond what is displayed."""
    one = account(a=Position())
    assert one.aim("a", UNITS // 100, 0)
    assert one.fill("a", market(quote(size="0.009"))) is None
    fill = one.fill("a", market(quote(size="0.01")))
    assert fill is not None
    assert (fill.size, fill.price) == (UNITS // 100, 101 * UNITS)
    assert not one.aim("a", UNITS // 100, 0)


def test_a_round_trip_costs_the_spread_and_two_fees() -> None:
    """Bought at 101, sold at 100, 4 basis points each time, on 0.01."""
    one = account(a=Position())
    view = market(quote())
    for target in (UNITS // 100, 0):
        one.aim("a", target, 0)
        one.fill("a", view)
    expected = Decimal("-0.01") - Decimal("0.01") * 201 * Decimal("0.0004")
    assert Decimal(one.pnl(view)) / MONEY == expected
    assert Decimal(one.positions["a"].fees) / MONEY == Decimal("0.000804")


def test_positions_are_marked_at_the_price_that_closes_them() -> None:
    """A long is worth the bid, a short costs the ask."""
    view = market(quote())
    long, short = account(a=Position(held=UNITS)), account(a=Position(held=-UNITS))
    assert long.pnl(view) == 100 * MONEY
    assert short.pnl(view) == -101 * MONEY


def test_the_limit_cuts_and_refuses_orders() -> None:
    """Positions and waiting orders together stay within it; closing is always allowed."""
    limit = Terms().limit
    both = account(a=Position(), b=Position())
    both.aim("a", limit - 5, 0)
    both.aim("b", 20, 0)
    assert both.positions["b"].goal == 5
    both.aim("b", -20, 0)
    assert both.positions["b"].goal == -5
    both.positions["a"].goal = limit + 7
    assert not both.aim("b", 20, 77)
    assert both.positions["b"].goal == 0
    assert both.positions["b"].changed_ns == 77
    assert both.limited == 3
    both.positions["a"].held = limit
    assert both.aim("a", 0, 0)


def test_a_bar_closes_with_the_first_message_after_it() -> None:
    """A bar without a trade is no bar, however long it was."""
    bars = Bars(S)
    assert bars.add(5 * S, 7) == 0
    assert bars.add(5 * S + 1, 8) == 0
    assert bars.add(5 * S + 2, 0) == 0
    assert bars.add(6 * S, 9) == 8
    assert bars.add(8 * S, 0) == 9
    assert bars.add(99 * S, 0) == 0


def test_the_flow_is_that_of_the_newest_trades() -> None:
    """Older trades than the last 32 no longer count."""
    view = Market()
    for number in range(40):
        view.apply(Trade(0, 0, "X", UNITS, 1 << number, number % 2 == 0))
    assert view.flow == sum((-1 if n % 2 == 0 else 1) << n for n in range(8, 40))


def test_one_symbol_is_traded() -> None:
    """The first symbol is the feed's; another one's messages are passed over."""
    view = market(quote())
    assert not view.apply(replace_symbol(quote(bid="7"), "Y"))
    assert view.bid == 100 * UNITS
    run = engine()
    lines = list(synthetic(5))
    for line in lines:
        run.tick(line)
        run.tick(line.replace(b"BTCUSDT", b"ETHUSDT").replace(b'"6', b'"1'))
    assert run.messages == 2 * len(lines)
    assert_equal(run, Reference(lines))


def replace_symbol(event: Quote, symbol: str) -> Quote:
    return event._replace(symbol=symbol)


def test_the_breaker_closes_everything_for_good() -> None:
    """At 10 % loss positions are closed and nothing is opened any more; recomputed the same way."""
    lines = list(synthetic(60, seed=11))
    terms = replace(Terms(), capital=Terms().capital // 1000)
    run = engine(terms)
    for line in lines:
        run.tick(line)
    assert run.halted == 1
    assert all(position.held == 0 for position in run.account.positions.values())
    assert_equal(run, Reference(lines, capital=Decimal(10)))


@pytest.mark.parametrize(
    ("sizes", "flow", "expected"),
    [((5, 1), 1, 1), ((4, 1), 1, 0), ((5, 1), -1, 0), ((1, 5), -1, -1), ((1, 4), -1, 0)],
)
def test_the_intraday_strategy_follows_pressure(
    sizes: tuple[int, int], flow: int, expected: int
) -> None:
    """More than four times as much on one side, and trades that agree."""
    view = Market()
    view.clock_ns, view.flow = 100 * S, flow
    view.bid_size, view.ask_size = sizes
    strategy = Intraday(Terms())
    assert strategy.target(view, Position()) == expected * Terms().intraday_size
    rested = Position(changed_ns=99 * S)
    assert strategy.target(view, rested) == 0


def test_the_swing_strategy_needs_its_slow_mean_first() -> None:
    """Long above it, short below it, unchanged within 0.1 basis points."""
    strategy = Swing(Terms())
    prices: Iterator[int] = iter([1_000_000] * 14)
    targets: Callable[[int], int] = lambda price: strategy.target(price, Position(goal=3))  # noqa: E731
    assert {targets(price) for price in prices} == {3}
    assert targets(1_000_000) == 3
    assert targets(1_001_000) == Terms().swing_size
    for _ in range(4):
        targets(990_000)
    assert targets(990_000) == -Terms().swing_size
