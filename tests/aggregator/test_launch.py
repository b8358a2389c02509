"""Starting the service for an engine: what is told when it doesn't, and its log."""

import os
from pathlib import Path

import pytest

from aggregator import launch
from aggregator.settings import Settings
from ringbuf.ownership import WriterLock


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of directories of their own."""
    return Settings(
        monitoring_data_dir=tmp_path / "data", monitoring_log_dir=tmp_path / "data" / "logs"
    )


def test_a_service_that_never_gets_ready_is_given_up(settings: Settings, tmp_path: Path) -> None:
    """A service without an aggregator isn't waited for without end."""
    (tmp_path / "data").mkdir()
    lock = WriterLock.acquire("service", tmp_path / "data" / "service.lock")
    with pytest.raises(launch.LaunchError, match=r"isn't ready after 0\.05 s: see .*service\.log"):
        launch.wait_until_ready(settings, os.getpid(), 0.05)
    lock.release()


def test_a_service_that_ends_is_told_with_its_last_line(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another service holds the directory: the newcomer's words reach whoever started it."""
    Path(settings.monitoring_data_dir).mkdir()
    lock = WriterLock.acquire("service", Path(settings.monitoring_data_dir) / "service.lock")
    pid = launch.launch(settings)
    with pytest.raises(launch.LaunchError, match=r"a service runs on .* already"):
        launch.wait_until_ready(settings, pid)
    lock.release()


def test_a_large_log_is_set_aside(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service's log has a bound: what is beyond it becomes the one older file."""
    monkeypatch.setattr(launch, "_LOG_LIMIT_BYTES", 10)
    folder = Path(settings.monitoring_log_dir)
    folder.mkdir(parents=True)
    log = folder / launch.LOG_FILE
    log.write_text("x" * 11)
    with launch._open_log(log) as file:
        file.write(b"new")
    assert log.read_text() == "new"
    assert log.with_suffix(".log.1").read_text() == "x" * 11
    assert log.stat().st_mode & 0o777 == 0o600
