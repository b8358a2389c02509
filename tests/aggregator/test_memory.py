"""The allocator's manners, seen by the page faults of a process."""

import subprocess
import sys

BATCHES = """
import resource, sys
import numpy as np
from aggregator.memory import keep_freed

if sys.argv[1] == "keep":
    keep_freed()

def batch():
    return [np.ones(1 << 18) for _ in range(8)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    batch()
before = faults()
for _ in range(20):
    batch()
print(faults() - before)
"""


def test_arrays_of_the_next_batch_get_the_memory_of_the_last() -> None:
    """The pages of 20 batches are touched for the first time only without it."""

    def faults(word: str) -> int:
        done = subprocess.run(
            [sys.executable, "-c", BATCHES, word], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert 100 * faults("keep") < faults("leave")
