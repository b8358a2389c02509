"""Where do alerts get lost, doubled or late: here and in a real Alertmanager?

Usage:
  alerting [--alerts N] [--storm N] [--outage SECONDS] [--json FILE]

Options:
  --alerts N        alerts that are timed one by one [default: 200]
  --storm N         alerts that fire at once [default: 5000]
  --outage SECONDS  how long a receiver answers 503 [default: 45]
  --json FILE       store the answers, with the machine's facts

Each row does the same to a notifier of ours, a real process behind a real alert log and doorbell,
and to Debian's prometheus-alertmanager where it is installed: same receiver, same moments, same
signals.  Every answer is counted from what arrived at the receiver; where that doesn't add up the
row is void.  Exit code 1 when tickwatch misses a row's demand.

Demands: nothing accepted is lost, no copy has another id, delivery goes on within 5 s of a
receiver's return, p50 <= 5 ms and p99 <= 20 ms from the log to the receiver, of 5,000 alerts the
first is out within 20 ms and the digests add up, memory grows by less than 50 MB and threads by
none, a receiver that never answers leaves the others' worst within twice theirs.

Source: the behaviour of Alertmanager 0.25 as this very run shows it; its notification pipeline
(dispatch, dedup, retry, nflog) is described in the Prometheus documentation, "Alertmanager".
"""

import signal
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import _alerting_rows as rows
from benchmarks._alerting_rows import Answer, Row, Stage
from benchmarks._peers import ALERTMANAGER, Alertmanager, Peer, Tickwatch
from benchmarks.machine import describe, store


def main(arguments: Mapping[str, Any]) -> int:
    """Do every row to both, print both columns; 0 if tickwatch meets every demand."""
    alerts, crowd = int(arguments["--alerts"]), int(arguments["--storm"])
    alone: dict[str, Row] = {  # one after the other: they measure time
        "hand-over to bytes at the receiver": rows.timed(alerts),
        "one of two receivers never answers": rows.stuck(alerts),
        f"{crowd:,} alerts at once": rows.storm(crowd),
    }
    together: dict[str, Row] = {  # most of their time is waiting
        "429; fires, ends; receiver recovers": rows.refused(429),
        "404; fires, ends; receiver recovers": rows.refused(404),
        "receiver down, kill -9, restart": rows.killed(signal.SIGKILL),
        "receiver down, SIGTERM, restart": rows.killed(signal.SIGTERM),
        "silence accepted, kill -9 after 5 s": rows.silenced,
        "reply lost after processing": rows.unanswered,
        "told, kill -9, source says it again": rows.resent,
        f"503 for {arguments['--outage']} s, then healthy": rows.recovered(
            float(arguments["--outage"])
        ),
    }
    print(describe(), flush=True)
    found: dict[str, dict[str, Answer]] = {row: {} for row in (*together, *alone)}
    with tempfile.TemporaryDirectory() as folder:
        kinds: list[type[Peer]] = [Tickwatch] + ([Alertmanager] if ALERTMANAGER else [])
        stages = [Stage(kind, Path(folder)) for kind in kinds]
        for title, row in alone.items():
            for stage in stages:
                found[title][stage.kind.__name__] = _answer(row, stage)
        _at_once(together, stages, found)
    if arguments["--json"]:
        store(arguments["--json"], {row: _plain(answers) for row, answers in found.items()})
    return _print(found)


def _at_once(
    together: Mapping[str, Row], stages: list[Stage], found: dict[str, dict[str, Answer]]
) -> None:
    def do(title: str, row: Row, stage: Stage) -> None:
        found[title][stage.kind.__name__] = _answer(row, stage)

    threads = [
        threading.Thread(target=do, args=(title, row, stage))
        for title, row in together.items()
        for stage in stages
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _answer(row: Row, stage: Stage) -> Answer:
    try:
        return row(stage)
    except Exception as problem:  # noqa: BLE001 - the boundary of one row: the others go on
        why = str(problem) or "a peer ended or did not start"
        return Answer("", False, f"{type(problem).__name__}: {why}")


def _plain(answers: Mapping[str, Answer]) -> dict[str, Any]:
    return {name: asdict(one) for name, one in answers.items()}


def _print(found: Mapping[str, Mapping[str, Answer]]) -> int:
    missed = 0
    for title, answers in found.items():
        print(f"\n{title}")
        for name, answer in sorted(answers.items(), reverse=True):  # tickwatch first
            verdict = f"VOID: {answer.void}" if answer.void else ""
            if name == Tickwatch.__name__:
                missed += not answer.good or bool(answer.void)
                verdict = verdict or ("met" if answer.good else "MISSED")
            print(f"  {name.lower():<13} {answer.text:<78} {verdict}".rstrip())
    if ALERTMANAGER is None:
        print("\nprometheus-alertmanager isn't installed: no second column", file=sys.stderr)
    print(f"\ntickwatch: {len(found) - missed} of {len(found)} rows met")
    return 1 if missed else 0
