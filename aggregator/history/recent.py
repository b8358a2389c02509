"""The newest raw records of each series, in memory: bounded whatever the number of series."""

from aggregator.history import thinning
from aggregator.history.thinning import Rows

MAX_RECENT = 1 << 17  # of all series together


class Recent:
    """Written by one thread, read by any.

    Args:
        max_raw: records kept of each series; fewer with thousands of series.
    """

    def __init__(self, max_raw: int) -> None:
        self._max_raw = max_raw
        self._rows = thinning.joined([])

    def __len__(self) -> int:
        return len(self._rows)

    def put(self, rows: Rows, series: int) -> None:
        """Take in newer rows; *series* is how many series there are."""
        each = max(1, min(self._max_raw, MAX_RECENT // max(1, series)))
        rows = thinning.joined([self._rows, thinning.newest(rows, each)])
        self._rows = thinning.newest(rows, each)[-MAX_RECENT:]

    def of(self, series: int) -> list[tuple[int, float]]:
        """Those of one series as (wall time in ns, value), oldest first."""
        rows = self._rows
        mine = rows[rows["series"] == series]
        return list(zip(mine["time_ns"].tolist(), mine["value"].tolist(), strict=True))
