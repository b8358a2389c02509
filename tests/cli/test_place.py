"""Which directories a command works on."""

import json

import pytest

from cli import place
from cli.problems import Failed, UsageError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working directory and an environment without settings."""
    import os

    for name in [name for name in os.environ if name.lower().startswith("monitoring_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def find(**options):
    return place.find({f"--{name.replace('_', '-')}": value for name, value in options.items()})


def test_the_default_is_below_the_working_directory(here):
    """As the engine's and the service's own default is."""
    found = find()
    assert found.data_dir == here / "data" / "monitoring"
    assert found.alert_log == here / "logs" / "alerts"
    assert found.decisions == here / "logs" / "alerts" / "acknowledgements.jsonl"
    assert found.origin == "the default"


def test_the_strongest_source_wins(here, monkeypatch):
    """Option, environment, .env, TOML file, default."""
    (here / "tickwatch.toml").write_text('monitoring_data_dir = "toml"\nmonitoring_log_dir = "l"\n')
    assert find().data_dir == here / "toml"
    assert find().log_dir == here / "l"
    (here / ".env").write_text("OTHER=1\nexport MONITORING_DATA_DIR='dotenv' # ours\n")
    assert find().data_dir == here / "dotenv"
    monkeypatch.setenv("MONITORING_DATA_DIR", "environment")
    assert find().data_dir == here / "environment"
    assert find().origin == "$MONITORING_DATA_DIR"
    assert find(data_dir="option").data_dir == here / "option"


def test_names_have_no_case(here, monkeypatch):
    """As in the service's own settings."""
    monkeypatch.setenv("monitoring_data_dir", "lower")
    assert find().data_dir == here / "lower"


def test_another_toml_file_can_be_named(here, monkeypatch):
    """By option or by environment; one that can't be read is an error, not a default."""
    (here / "desk.toml").write_text('monitoring_data_dir = "desk"\n')
    assert find(config="desk.toml").data_dir == here / "desk"
    monkeypatch.setenv("MONITORING_CONFIG", "desk.toml")
    assert find().data_dir == here / "desk"
    with pytest.raises(UsageError, match=r"--config=none\.toml: no such file"):
        find(config="none.toml")
    (here / "bad.toml").write_text("= 1")
    with pytest.raises(UsageError, match=r"--config=bad.toml: not TOML"):
        find(config="bad.toml")


def test_files_that_say_nothing_are_passed_over(here):
    """An .env that isn't text, a TOML value that is no text."""
    (here / ".env").write_bytes(b"\xff\xfe\x00")
    (here / "tickwatch.toml").write_text("monitoring_data_dir = 7\n")
    assert find().origin == "the default"


def service(here, data="data", **fields):
    folder = here / data
    folder.mkdir(exist_ok=True)
    content = {"data_dir": str(folder), "log_dir": str(here / "its" / "logs"), "pid": 7} | fields
    (folder / "service.json").write_text(json.dumps(content))
    return str(folder)


def test_the_service_says_where_its_log_is(here, monkeypatch):
    """From any directory, whatever a relative setting would mean there."""
    data = service(here)
    monkeypatch.setenv("MONITORING_LOG_DIR", "somewhere/relative")
    monkeypatch.chdir("/")
    assert find(data_dir=data).log_dir == here / "its" / "logs"


def test_a_contradiction_with_a_running_service_is_refused(here, monkeypatch):
    """Two places can't both be right; without a service the setting is."""
    from ringbuf.ownership import WriterLock

    data = service(here)
    monkeypatch.setenv("MONITORING_LOG_DIR", str(here / "mine"))
    assert find(data_dir=data).log_dir == here / "mine"
    lock = WriterLock.acquire("service", here / "data" / "service.lock")
    try:
        with pytest.raises(Failed, match=r"\$MONITORING_LOG_DIR says .*mine, but the service on"):
            find(data_dir=data)
    finally:
        lock.release()


def test_a_copy_of_the_directories_is_read_where_it_is(here):
    """The paths in service.json mean another place; the two directories moved together."""
    service(here)
    (here / "copy").mkdir()
    (here / "data").rename(here / "copy" / "data")
    assert find(data_dir=str(here / "copy" / "data")).log_dir == here / "copy" / "its" / "logs"
    (here / ".env").write_text(f"MONITORING_LOG_DIR={here}/named\n")
    assert find(data_dir=str(here / "copy" / "data")).log_dir == here / "named"


@pytest.mark.parametrize("content", ["", "[]", "{", '{"log_dir": 7}'])
def test_a_damaged_service_file_says_nothing(here, content):
    """Settings and defaults count then."""
    (here / "data").mkdir()
    (here / "data" / "service.json").write_text(content)
    found = find(data_dir=str(here / "data"))
    assert found.log_dir == here / "logs"
    assert found.setting("monitoring_ack_ttl_seconds", 5) == 5
    assert found.service_pid() is None


def test_settings_of_the_service_are_numbers_or_defaults(here):
    """What isn't a number isn't used."""
    data = service(here, settings={"a": 7, "b": "seven"})
    found = find(data_dir=data)
    assert (found.setting("a", 1), found.setting("b", 1), found.setting("c", 1)) == (7, 1, 1)


def test_a_configuration_that_is_not_there_is_refused_even_where_it_is_not_needed(here):
    """A slip in --config must not look like a command that used it."""
    with pytest.raises(UsageError, match=r"--config=none\.toml: no such file"):
        find(config="none.toml", data_dir=str(here))
