"""How many records a second may go into the day files.

A bucket of credit: it fills at the budget, or at four fifths of what the disk was just seen to
take if that is less, and holds a few seconds' worth for bursts.  What waits behind a batch has a
claim on the same credit, so that thinning begins before memory is full.
"""

import logging
import math
from collections.abc import Callable

_log = logging.getLogger("aggregator")

_CREDIT_S = 5.0
_DEBT_S = 1.0
_SHARE = 0.8
_MEASURED_RECORDS = 4096  # a smaller write says nothing about the disk
_QUIET_S = 60.0


class Budget:
    """Decides of how many records one is written.

    Args:
        per_second: records, at most.
        clock: monotonic seconds.
    """

    def __init__(self, per_second: float, clock: Callable[[], float]) -> None:
        self._per_second = per_second
        self._clock = clock
        self._speed = math.inf
        self._credit = per_second * _CREDIT_S
        self._credited_s = clock()
        self._thinned_s = -math.inf
        self._thinning = False

    @property
    def rate(self) -> float:
        """Records a second that may be written now."""
        return min(self._per_second, self._speed * _SHARE)

    def nth(self, count: int, waiting: int, kept: Callable[[], int]) -> int:
        """Of how many records one is to be written; 1 when all are.

        Args:
            count: records at hand, at least 1.
            waiting: records that wait behind them.
            kept: counts those at hand that are written anyway.
        """
        now_s = self._clock()
        rate = self.rate
        self._credit = min(self._credit + (now_s - self._credited_s) * rate, rate * _CREDIT_S)
        self._credited_s = now_s
        room = self._credit * count / (count + waiting)
        if count <= room:
            if self._thinning and now_s - self._thinned_s > _QUIET_S:
                self._thinning = False
                _log.info("all records are written again", extra={"component": "monitoring"})
            return 1
        self._thinned_s = now_s
        if not self._thinning:
            self._thinning = True
            _log.warning(
                "records come too fast for the day files, some are left out and counted",
                extra={"component": "monitoring", "records_per_second": round(rate)},
            )
        anyway = kept()
        return max(2, math.ceil((count - anyway) / max(1.0, room - anyway)))

    def spent(self, records: int, took_s: float) -> None:
        """Say that *records* were written, and how long that took."""
        self._credit = max(self._credit - records, -self._per_second * _DEBT_S)
        if records >= _MEASURED_RECORDS and took_s > 0:
            speed = records / took_s
            self._speed = speed if math.isinf(self._speed) else (self._speed + speed) / 2
