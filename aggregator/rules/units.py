"""Quantities as people write them: "250us", "5m", "90 %", and numbers as people read them.

Conversion is exact rational arithmetic rounded once, so that "250us" and 0.25 ms are the same
level.
"""

import re
from dataclasses import dataclass
from fractions import Fraction

NS_PER_S = 1_000_000_000

_TIME_S: dict[str, Fraction] = {
    "ns": Fraction(1, 10**9),
    "us": Fraction(1, 10**6),
    "µs": Fraction(1, 10**6),  # U+00B5, the micro sign
    "μs": Fraction(1, 10**6),  # U+03BC, the Greek letter
    "ms": Fraction(1, 1000),
    "s": Fraction(1),
    "sec": Fraction(1),
    "seconds": Fraction(1),
    "m": Fraction(60),
    "min": Fraction(60),
    "h": Fraction(3600),
    "hours": Fraction(3600),
    "d": Fraction(86_400),
    "days": Fraction(86_400),
}
_SIZE_BYTES: dict[str, Fraction] = {
    "B": Fraction(1),
    "bytes": Fraction(1),
    "kB": Fraction(10**3),
    "KB": Fraction(10**3),
    "MB": Fraction(10**6),
    "GB": Fraction(10**9),
    "TB": Fraction(10**12),
    "KiB": Fraction(2**10),
    "MiB": Fraction(2**20),
    "GiB": Fraction(2**30),
    "TiB": Fraction(2**40),
}
PLAIN = "1"  # the unit of a ratio: 2 % is 0.02
_SHARE: dict[str, Fraction] = {
    PLAIN: Fraction(100),
    "%": Fraction(1),
    "pct": Fraction(1),
    "percent": Fraction(1),
}
_KINDS = (_TIME_S, _SIZE_BYTES, _SHARE)

_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(\S*)\s*")


@dataclass(frozen=True, slots=True)
class Level:
    """A number with the unit it was written in; "" means that of what it is compared with."""

    value: float
    unit: str = ""

    def to(self, unit: str) -> float:
        """The number in *unit*; a series without a unit is taken to be in the level's own.

        Raises:
            ValueError: the two units measure different things.
        """
        if not self.unit or not unit or self.unit == unit:
            return self.value
        for kind in _KINDS:
            if self.unit in kind and unit in kind:
                return float(Fraction(self.value) * kind[self.unit] / kind[unit])
        raise ValueError(f"{self} can't be compared with a series in {unit!r}")

    def __str__(self) -> str:
        return f"{self.value:g}{self.unit}"


def parse_level(given: object) -> Level:
    """A level from a number, or from text such as "250us" or "-4 %".

    Raises:
        ValueError: saying what is allowed.
    """
    if isinstance(given, bool) or not isinstance(given, int | float | str):
        raise ValueError(f'{given!r}: use a number, or text with a unit such as "250us"')
    if isinstance(given, str):
        found = _QUANTITY.fullmatch(given)
        if found is None:
            raise ValueError(f'{given!r}: use a number and a unit, such as "250us"')
        return _known(Level(_decimal(found[1], found[2]), found[2]), given)
    return _known(Level(_finite(float(given), given)), given)


def parse_duration_s(given: object) -> float:
    """Seconds from a number of them, or from text such as "30s", "5m" or "1h".

    Raises:
        ValueError: saying what is allowed.
    """
    level = parse_level(given)
    if not level.unit:
        return level.value
    if level.unit not in _TIME_S:
        raise ValueError(f"{given!r}: use a number and s, m, h or d, such as 30s or 5m")
    return level.to("s")


def human(value: float) -> str:
    """*value* in as many digits as a glance takes in: 812, 0.412, 1,904."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    text = f"{value + 0.0:.3g}"  # no minus zero
    # .3g rounds 999.7 up into an exponent
    return f"{float(text):,.0f}" if "e+" in text else text


def duration(seconds: float) -> str:
    """Seconds in the largest unit that leaves a whole number: 90 -> "90s", 300 -> "5m"."""
    for unit in ("d", "h", "m"):
        size = int(_TIME_S[unit])
        if seconds >= size and seconds % size == 0:
            return f"{int(seconds // size)}{unit}"
    return f"{seconds:g}s"


def _decimal(number: str, unit: str) -> float:
    return _finite(float(number), number + unit)


def _finite(value: float, given: object) -> float:
    if value != value or value in (float("inf"), float("-inf")):
        raise ValueError(f"{given!r}: must be a finite number")
    return value


def _known(level: Level, given: object) -> Level:
    if level.unit and not any(level.unit in kind for kind in _KINDS):
        units = "ns us ms s m h d, B kB MB GB KiB MiB GiB, %"
        raise ValueError(f"{given!r}: unit {level.unit!r} is not known; known are {units}")
    return level
