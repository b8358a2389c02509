"""Two processes at full speed on a small ring: every accepted record must be what it claims.

Each value is computed from its seq, so a reader can check it without asking the writer.  The canary
is a reader broken on purpose; if it isn't caught, this test can't see what it is there to see.
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ringbuf import RingReader

# Longer on demand: the whole point of a stress is that it can run all night.
SECONDS = float(os.environ.get("TICKWATCH_STRESS_SECONDS", "5"))
CAPACITY = 1024
ROOT = Path(__file__).parents[2]

WRITER = """
import sys
from ringbuf import Recorder
recorder = Recorder("stress", sys.argv[1], capacity=int(sys.argv[2]), strict=True)
record = recorder.metric("checked").record
seq = recorder.published
print("ready", flush=True)
while True:
    record(float(seq * 2654435761 % 4294967296))
    seq += 1
"""


def expected(seqs: NDArray[Any]) -> NDArray[np.float64]:
    """The value that belongs to each seq (exact: below 2**63 before the remainder)."""
    return (seqs * 2654435761 % 4294967296).astype(np.float64)


class Canary(RingReader):
    """A reader that copies but doesn't look at the cursor again, nor at the records' own seq."""

    def _confirm(self, first: int, count: int) -> int:
        self.position = first + count
        return 0

    def _checked(self, records: NDArray[Any], first: int) -> NDArray[Any]:
        return records


@pytest.fixture
def writer(data_dir: Path) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(data_dir), str(CAPACITY)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.wait(10)
    process.stdout.close()


def test_no_accepted_record_is_torn_or_in_the_wrong_place(
    writer: "subprocess.Popen[str]", data_dir: Path
) -> None:
    """Five seconds of lapping and being lapped: values right, times in order, account exact."""
    reader = RingReader.attach("stress", data_dir)
    deadline = time.monotonic() + SECONDS
    next_seq, last_ns, accepted, lost, turn = 0, 0, 0, 0, 0
    while time.monotonic() < deadline:
        batch = reader.poll()
        records, seqs = batch.records, batch.records["seq"]
        lost += batch.lost
        accepted += len(records)
        if len(records):
            assert np.array_equal(records["value"], expected(seqs))
            assert seqs[0] >= next_seq
            assert (np.diff(seqs) == 1).all()
            assert records["time_ns"][0] >= last_ns
            assert (np.diff(records["time_ns"]) >= 0).all()
            next_seq, last_ns = int(seqs[-1]) + 1, int(records["time_ns"][-1])
        turn += 1
        if turn % 2:  # sometimes at the writer's heels, sometimes on the point of being lapped
            while reader.unread < CAPACITY and time.monotonic() < deadline:
                pass
    assert reader.integrity_errors == 0
    assert (accepted, lost) == (reader.accepted, reader.lost)
    assert accepted + lost == next_seq
    assert accepted > 10_000
    assert lost > 0, "the writer never lapped: nothing was tested"
    reader.close()


def test_a_reader_that_is_broken_on_purpose_is_caught(
    writer: "subprocess.Popen[str]", data_dir: Path
) -> None:
    """Without the second look at the cursor wrong records get through, and the check sees them."""
    reader = Canary.attach("stress", data_dir)
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        while reader.unread < CAPACITY:
            pass  # on the point of being lapped
        records = reader.poll().records
        seqs = np.arange(reader.position - len(records), reader.position)
        if not np.array_equal(records["value"], expected(seqs)):
            break
    else:
        pytest.fail("the canary lives: this stress can't see a torn record")
    reader.close()


def test_a_reader_that_was_stopped_gets_an_exact_count_of_what_it_missed(
    writer: "subprocess.Popen[str]", data_dir: Path
) -> None:
    """Lapped many times over, it loses exactly what was overwritten and goes on."""
    with RingReader.attach("stress", data_dir) as reader:
        first = reader.poll()
        while reader.published < 50 * CAPACITY:
            time.sleep(0.01)
        writer.kill()
        writer.wait(10)
        second = reader.poll()
        assert reader.unread == 0
        assert len(second.records) == CAPACITY - 1, "the newest are kept, but the guarded slot"
        accepted = len(first.records) + len(second.records)
        assert first.lost + second.lost == reader.published - accepted
        assert np.array_equal(second.records["value"], expected(second.records["seq"]))
