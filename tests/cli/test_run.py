"""`run`: what it hands to the service, and what it says when that can't work."""

import pytest

from aggregator import service
from aggregator.settings import SettingsError


@pytest.fixture
def handed(monkeypatch):
    """Settings that reached the service, which ends at once."""
    seen = []

    def run(settings):
        seen.append(settings)
        return 0

    monkeypatch.setattr(service, "run", run)
    return seen


def test_the_service_runs_on_the_directory_named(desk, handed):
    """The option is a setting like any other."""
    assert desk.run("run").code == 0
    assert handed[0].monitoring_data_dir == desk.data_dir


def test_wrong_settings_are_wrong_use_with_every_problem(desk, monkeypatch):
    """Exit code 2, a line for each."""
    monkeypatch.setenv("MONITORING_ACK_TTL_SECONDS", "60")
    monkeypatch.setenv("MONITORING_MAX_RAW_METRICS", "7")
    ended = desk.run("run")
    assert ended.code == 2
    assert ended.err.count("\n") == 2
    assert "MONITORING_ACK_TTL_SECONDS=60: must be 3600..604800" in ended.err


@pytest.mark.parametrize(
    ("error", "code"),
    [(service.ServiceBusy("pid 7 has it"), 1), (SettingsError(["bad rule"]), 2)],
)
def test_what_stops_the_service_is_one_line(desk, monkeypatch, error, code):
    """A second service, a bad rule."""

    def run(settings):
        raise error

    monkeypatch.setattr(service, "run", run)
    ended = desk.run("run")
    assert ended.code == code
    assert ended.err == f"tickwatch: {error}\n"
