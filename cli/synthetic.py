"""Make up an exchange feed that looks like a recorded one, for a demo without a recording.

The same seed gives the same bytes: only `random.Random`'s own generator and integer prices are
used, no clock.  The kinds of message, their fields, their shares and the bursts they come in are
those of a recorded futures stream.
"""

import random
from collections.abc import Callable, Iterator

START_NS = 1_767_345_300_000_000_000  # 2 January 2026, 09:15 UTC
SYMBOL = "BTCUSDT"
_Kind = Callable[[int], str]
_EXCHANGE_AHEAD_MS = 1_300  # the two clocks of the recording differ by this much
_BURST_SHARE = 0.85  # of the messages follow the one before within microseconds
_BURST_GAP_NS = 20_000
_QUIET_GAP_NS = 24_000_000
_DEPTH_SHARE = 0.07
_TRADE_SHARE = 0.23
_PRESSURE_KEPT = 0.997  # per message: buyers or sellers stay in charge for about a second
_PRESSURE_NOISE = 0.06


def synthetic(seconds: float, seed: int = 7, start_ns: int = START_NS) -> Iterator[bytes]:
    """The lines of a feed that spans *seconds* of its own clock, about 270 a second."""
    market = _Market(random.Random(seed))
    chance = market.chance
    clock_ns = start_ns
    end_ns = start_ns + round(seconds * 1e9)
    yield market.line(clock_ns, market.quote)
    while True:
        gap_ns = _BURST_GAP_NS if chance.random() < _BURST_SHARE else _QUIET_GAP_NS
        clock_ns += 1 + round(chance.expovariate(1.0) * gap_ns)
        if clock_ns >= end_ns:
            return
        market.move()
        kind = chance.random()
        if kind < _DEPTH_SHARE:
            yield market.line(clock_ns, market.depth)
        elif kind < _DEPTH_SHARE + _TRADE_SHARE:
            yield market.line(clock_ns, market.trade)
        else:
            yield market.line(clock_ns, market.quote)


class _Market:
    """A best bid and ask that wander with the pressure of buyers (> 0) or sellers (< 0).

    Prices are counted in steps of 0.1, sizes in steps of 0.001, as the exchange does.
    """

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.pressure = 0.0
        self.bid = 618_002
        self.ask = self.bid + 1
        self.update = 5_123_107_839_020
        self.trade_number = 5_266_583_935

    def move(self) -> None:
        """Let the pressure drift and, now and then, a price step follow it."""
        chance = self.chance
        self.pressure = self.pressure * _PRESSURE_KEPT + chance.gauss(0.0, _PRESSURE_NOISE)
        self.update += chance.randrange(1, 1_500)
        if chance.random() < 0.06:
            up = chance.random() < 0.5 + 0.3 * max(-1.0, min(1.0, self.pressure))
            steps = 1 + int(chance.expovariate(0.25))
            self.bid = max(1_000, self.bid + (steps if up else -steps))
            self.ask = self.bid + (1 if chance.random() < 0.94 else chance.randrange(2, 10))

    def line(self, clock_ns: int, kind: _Kind) -> bytes:
        """A line: the receiver's clock, then the message *kind* makes for the exchange's time."""
        return f"{clock_ns} {kind(clock_ns // 1_000_000 + _EXCHANGE_AHEAD_MS)}".encode()

    def quote(self, at_ms: int) -> str:
        """The best bid and ask; the side under pressure shows less."""
        bids = self._shown(1.0 + 3.0 * max(0.0, self.pressure))
        asks = self._shown(1.0 + 3.0 * max(0.0, -self.pressure))
        return (
            f'{{"stream":"{SYMBOL.lower()}@bookTicker","data":{{"e":"bookTicker","u":{self.update},'
            f'"s":"{SYMBOL}","b":"{_price(self.bid)}","B":"{bids}","a":"{_price(self.ask)}","A":"{asks}",'
            f'"T":{at_ms},"E":{at_ms}}}}}'
        )

    def trade(self, at_ms: int) -> str:
        """A trade at the best price of the side that the pressure hits."""
        sold = self.chance.random() > 0.5 + 0.4 * max(-1.0, min(1.0, self.pressure))
        price = self.bid if sold else self.ask
        self.trade_number += 1
        return (
            f'{{"stream":"{SYMBOL.lower()}@trade","data":{{"e":"trade","E":{at_ms},"T":{at_ms},'
            f'"s":"{SYMBOL}","t":{self.trade_number},"p":"{_price(price)}","q":"{self._shown(0.1)}",'
            f'"X":"MARKET","m":{"true" if sold else "false"}}}}}'
        )

    def depth(self, at_ms: int) -> str:
        """Some changed levels on both sides, best bid last and best ask first."""
        bids = ",".join(self._level(self.bid - away) for away in reversed(self._aways()))
        asks = ",".join(self._level(self.ask + away) for away in self._aways())
        return (
            f'{{"stream":"{SYMBOL.lower()}@depth@0ms","data":{{"e":"depthUpdate","E":{at_ms},"T":{at_ms},'
            f'"s":"{SYMBOL}","U":{self.update - 900},"u":{self.update},"pu":{self.update - 901},'
            f'"b":[{bids}],"a":[{asks}]}}}}'
        )

    def _aways(self) -> list[int]:
        return sorted(self.chance.sample(range(500), self.chance.randrange(5, 60)))

    def _level(self, price: int) -> str:
        size = "0.000" if self.chance.random() < 0.3 else self._shown(0.3)
        return f'["{_price(price)}","{size}"]'

    def _shown(self, mean: float) -> str:
        size = 1 + int(self.chance.expovariate(1.0) * mean * 1_000)
        return f"{size // 1_000}.{size % 1_000:03d}"


def _price(steps: int) -> str:
    return f"{steps // 10}.{steps % 10}0"
