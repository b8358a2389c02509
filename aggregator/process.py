"""The aggregator's process: steps until it is asked to stop or its service is gone."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from multiprocessing.queues import Queue
from pathlib import Path
from types import FrameType

from aggregator.configuration import Configuration
from aggregator.cycle import DRAIN_S, Aggregator
from aggregator.locks import hold
from aggregator.memory import keep_freed
from notifier import logs

# How long the loop sleeps when there is nothing to read: a thousandth of the silence so far, within
# these bounds.  A record waits half of that on average.
SHORTEST_S, LONGEST_S = 0.001, 0.02
SWITCH_S = 0.0005


def main(
    configuration: Configuration,
    doorbell: "Queue[tuple[int, list[bytes]]]",
    parent_pid: int,
    deaths: Sequence[tuple[str, int | None]] = (),
) -> None:
    """Run the aggregator as a child of the service until it is asked to stop or the service is
    gone.

    Args:
        deaths: ends of the service's children, (name, exit code), that nobody was told of yet.
    """
    settings = configuration.settings
    logs.setup("aggregator", settings.monitoring_log_format, settings.monitoring_log_level)
    doorbell.cancel_join_thread()  # the log has every transition: no hang at exit for a bell
    asked: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        asked.append(number)

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGHUP, note)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    keep_freed()
    # Formatting day files must not make the loop wait 5 ms, Python's default, for its turn.
    sys.setswitchinterval(SWITCH_S)
    lock = Path(settings.monitoring_data_dir) / "aggregator.lock"
    with hold(lock, wait_s=DRAIN_S * 2):
        aggregator = Aggregator(configuration, doorbell, deaths=deaths)
        beat_s = busy_s = 0.0
        while signal.SIGTERM not in asked and os.getppid() == parent_pid:
            if signal.SIGHUP in asked:
                asked.remove(signal.SIGHUP)
                aggregator.reload()
            done = aggregator.step(time.monotonic_ns())
            now_s = time.monotonic()
            if done:
                busy_s = now_s
            else:
                time.sleep(min(max((now_s - busy_s) / 1000, SHORTEST_S), LONGEST_S))
            if now_s - beat_s > 1.0:
                beat_s = now_s
                os.utime(lock)  # the service sees progress by it
        aggregator.close()
