"""Which raw records go into one member of a day file, and what it says that it covers."""

from collections.abc import Callable, Sequence

import numpy as np

from aggregator.history.dayfile import MAX_MEMBER_BYTES, MAX_RINGS, Cover
from aggregator.history.dayfolder import DAY_NS
from aggregator.history.dayline import Shape
from aggregator.history.thinning import Rows

_RECORDS = 1 << 13  # formatting more in one go would make the loop wait for the interpreter
_LINE_BYTES = 80  # of a line, besides its series' constant parts


def next_rows(held: Rows, shape_of: Callable[[int], Shape]) -> int:
    """How many of the *held* rows the next member covers: of one day, bounded, at least one."""
    rows = held[:_RECORDS]
    days = rows["time_ns"] // DAY_NS
    others = np.flatnonzero(days != days[0])
    count = int(others[0]) if len(others) else len(rows)
    rings = np.sort(np.unique(rows["ring"], return_index=True)[1])
    if len(rings) > MAX_RINGS:
        count = min(count, int(rings[MAX_RINGS]))
    shapes = map(shape_of, np.unique(rows["series"]).tolist())
    longest = max(len(each.middle) + len(each.end) for each in shapes) + _LINE_BYTES
    return max(1, min(count, MAX_MEMBER_BYTES // longest))


def cover_of(piece: Rows, kept: Rows, rings: Sequence[str]) -> Cover:
    """What a member that holds the lines of *kept*, which thinning left of *piece*, covers.

    Args:
        rings: uuid by the rows' numbers; of each ring rows are in the order of seq.
    """
    return Cover(
        rings={rings[ring]: _span(piece, ring) for ring in np.unique(piece["ring"])},
        records=len(kept),
        skipped=int(kept["skipped"].sum()),
        first_ns=int(piece["time_ns"].min()),
        last_ns=int(piece["time_ns"].max()),
    )


def _span(rows: Rows, ring: int) -> tuple[int, int]:
    seqs = rows["seq"][rows["ring"] == ring]
    return int(seqs[0]), int(seqs[-1])
