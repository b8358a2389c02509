"""What the aggregator notices about engines, disks, artifacts and its own processes."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from aggregator import crashes, health
from aggregator.anchor import Anchor
from aggregator.engines import Engines
from aggregator.health import ALIVE, DEAD, SILENT, STOPPED, engine_state
from ringbuf import Recorder
from ringbuf.survey import RingInfo, survey

SECOND_NS = 1_000_000_000
LAPSE_NS = 300 * SECOND_NS
NOW_NS = 10_000 * SECOND_NS


def info(**fields: object) -> RingInfo:
    """A well engine's ring, but for *fields*."""
    base: dict[str, object] = {
        "name": "intraday",
        "pid": 7,
        "alive": True,
        "heartbeat_ns": NOW_NS,
        "last_record_ns": NOW_NS,
        "capacity": 1024,
    }
    return RingInfo(**{**base, **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({}, ALIVE),
        ({"last_record_ns": None, "heartbeat_ns": NOW_NS - LAPSE_NS}, ALIVE),
        ({"last_record_ns": None, "heartbeat_ns": NOW_NS - LAPSE_NS - 1}, SILENT),
        ({"heartbeat_ns": 0, "last_record_ns": NOW_NS - LAPSE_NS - 1}, SILENT),
        ({"heartbeat_ns": 0}, ALIVE),
        ({"alive": False}, DEAD),
        ({"alive": False, "clean_end": True}, STOPPED),
        ({"problem": "no magic", "heartbeat_ns": 0, "last_record_ns": None, "pid": 0}, ALIVE),
    ],
)
def test_an_engines_state_is_its_lock_its_close_and_its_silence(
    fields: dict[str, object], state: str
) -> None:
    """Dead is a lock without close; silence counts from the newest of record and heartbeat."""
    found, note = engine_state(info(**fields), NOW_NS, LAPSE_NS)
    assert found == state
    assert bool(note) == (state in (DEAD, SILENT))


@pytest.fixture
def anchor() -> Anchor:
    """Clocks as they stand."""
    return Anchor.measure()


def test_a_ring_that_stays_unreadable_is_an_alert_after_five_seconds(anchor: Anchor) -> None:
    """Being opened takes a moment; memory that is gone under a living engine does not heal."""
    engines = Engines(Path("nowhere"), LAPSE_NS)
    broken = info(problem="segment is gone", heartbeat_ns=0, last_record_ns=None)
    for at_s, down in ((0, 0.0), (5, 0.0), (6, 1.0)):
        _, samples, _ = engines.look(broken, None, NOW_NS + at_s * SECOND_NS, anchor)
        assert [sample.value for sample in samples] == [down]
    assert "segment is gone" in samples[0].note
    _, [sample], _ = engines.look(info(), None, NOW_NS + 7 * SECOND_NS, anchor)
    assert sample.value == 0.0


def test_series_that_found_no_room_are_told_once_for_each_rise(anchor: Anchor) -> None:
    """Ten thousand label sets by mistake are one alert, not ten thousand."""
    engines = Engines(Path("nowhere"), LAPSE_NS)
    found = []
    for at_s, overflowed in enumerate((0, 8976, 8976)):
        _, samples, _ = engines.look(
            info(overflowed=overflowed), None, NOW_NS + at_s * SECOND_NS, anchor
        )
        found.append([(s.metric, s.value) for s in samples if s.metric == "records_lost"])
    assert found == [[], [("records_lost", 8976)], []]


def test_the_rate_is_what_was_written_since_the_last_look(anchor: Anchor) -> None:
    """A replaced ring starts from zero and isn't a negative rate."""
    engines = Engines(Path("nowhere"), LAPSE_NS)
    rates = []
    for at_s, published in ((0, 100), (2, 300), (4, 10)):
        row, _, _ = engines.look(info(published=published), None, NOW_NS + at_s * SECOND_NS, anchor)
        rates.append(row["rate"])
    assert rates == [0.0, 100.0, 0.0]


def test_an_engine_without_a_ring_is_told_while_it_runs(tmp_path: Path) -> None:
    """The mark that it left becomes a critical alert, and ends with the engine."""
    first = Recorder("intraday", tmp_path, capacity=1024)
    second = Recorder("intraday", tmp_path, capacity=1024)
    assert second.problem is not None
    [sample] = Engines(tmp_path, LAPSE_NS).unwatched()
    assert (sample.metric, sample.value) == ("engine_down", 1.0)
    assert sample.labels == {"engine": "intraday", "pid": str(os.getpid())}
    assert "is not watched" in sample.note
    first.close()


def test_disk_use_is_sampled_once_a_file_system(tmp_path: Path) -> None:
    """Two folders on one disk are one alert; a folder that vanished stops nothing."""
    samples = list(health.disk_samples([tmp_path, tmp_path.parent, tmp_path / "gone"]))
    assert len(samples) == 1
    assert 0.0 < samples[0].value < 100.0


def test_an_artifact_is_as_old_as_its_last_change_and_a_missing_one_is_stale(
    tmp_path: Path,
) -> None:
    """Models that nobody trained any more, or that are gone, are told."""
    model = tmp_path / "model.bin"
    model.write_bytes(b"x")
    os.utime(model, (1000.0, 1000.0))
    paths = [str(model), str(tmp_path / "gone")]
    old, gone = health.artifact_samples(paths, 1000.0 + 36 * 3600)
    assert old.value == 36.0 and "36.0 h old" in old.note
    assert gone.value > 168 and "No such file" in gone.note


def test_the_death_of_a_process_of_ours_is_a_sample_with_how_it_died() -> None:
    """Signals and exit codes are told apart."""
    killed, failed = health.death_samples([("notifier", -9), ("aggregator", 1)])
    assert (killed.labels["process"], killed.note) == ("notifier", "(signal 9)")
    assert failed.note == "(exit code 1)"


def test_without_a_ledger_no_delivery_is_failing(tmp_path: Path) -> None:
    """A notifier that is just starting isn't trouble."""
    assert list(health.delivery_samples(tmp_path / "alerts.db")) == []


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[RingInfo]:
    """A ring with three records."""
    recorder = Recorder("intraday", tmp_path, capacity=1024)
    for value in (1.0, 2.0, 3.0):
        recorder.metric("tick_latency", unit="ms").record(value)
    yield survey(tmp_path)[0]
    recorder.close()


def test_the_newest_crashes_are_kept(
    ring: RingInfo, tmp_path: Path, anchor: Anchor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that dies in a loop doesn't fill the disk."""
    monkeypatch.setattr(crashes, "KEPT", 2)
    saved = []
    for number in range(4):
        anchor.wall_ns += SECOND_NS
        path = crashes.save_crash(tmp_path, ring, anchor)
        assert path is not None
        os.utime(path, (number, number))
        saved.append(path)
    assert sorted((tmp_path / "crashes").iterdir()) == sorted(saved[-2:])
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in saved[-2:])


def test_a_crash_that_cannot_be_saved_is_logged_and_stops_nothing(
    ring: RingInfo, tmp_path: Path, anchor: Anchor, caplog: pytest.LogCaptureFixture
) -> None:
    """A file in the place of the folder: one log line, no exception."""
    (tmp_path / "crashes").write_text("")
    assert crashes.save_crash(tmp_path, ring, anchor) is None
    assert "not saved" in caplog.text
