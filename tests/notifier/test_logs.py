"""What the processes log: every line is ours to recognise and nobody's to forge."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest

from notifier.alert import parse_rfc3339
from notifier.logs import Format, setup


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    """Leave logging as it was found."""
    names = ["ringbuf", "aggregator", "notifier", "cli"]
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name in names:
        logging.getLogger(name).setLevel(logging.NOTSET)


def _fail() -> None:
    raise KeyError("in\x1bner")


def _logged(capsys: pytest.CaptureFixture[str], form: Format, **extra: Any) -> str:
    setup("notifier", form)
    logging.getLogger("notifier").warning("told %s", "asha\nroot", extra=extra)
    return capsys.readouterr().err


def test_every_line_says_component_monitoring(capsys: pytest.CaptureFixture[str]) -> None:
    """Ours and those of libraries, with and without the field given, tracebacks included."""
    setup("aggregator")
    ours = logging.getLogger("aggregator")
    ours.info("plain")
    ours.info("given", extra={"component": "monitoring"})
    logging.getLogger("urllib3.connectionpool").warning("foreign")
    try:
        _fail()
    except KeyError:
        ours.exception("failed", stack_info=True)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) > 8
    assert all(line.count('component="monitoring"') == 1 for line in lines)
    assert all(" aggregator[" in line for line in lines)
    assert any("KeyError: 'in\\x1bner'" in line for line in lines)
    assert any("| Stack (most recent call last)" in line for line in lines)


def test_a_text_line_shows_time_level_message_and_extra_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Fields are name=value, quoted where their end would be unclear."""
    line = _logged(
        capsys, "text", engine="intraday", note='a "b"', n=3, share=float("nan"), none=""
    )
    when, rest = line.split(" ", 1)
    assert abs(parse_rfc3339(when)) > 0
    assert rest.startswith("WARNING notifier[")
    assert 'engine=intraday note="a \'b\'" n=3 share=nan none=""' in rest


@pytest.mark.parametrize("form", ["text", "json"])
def test_text_from_outside_cannot_make_a_line(
    capsys: pytest.CaptureFixture[str], form: Format
) -> None:
    """Line breaks and escape sequences in messages, names and values are shown as escapes."""
    evil = "x\r\n2026 ERROR \x1b[2J\u202e"
    shown = _logged(capsys, form, label=evil, deep={evil: [evil]}, other=Exception(evil))
    assert len(shown.splitlines()) == 1
    assert shown.rstrip("\n").isprintable()
    assert "\\x0aroot" in shown


def test_a_json_line_is_an_object_with_the_extra_fields(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Machines find each field by its name; one that is taken gets an underscore."""
    line = _logged(
        capsys, "json", n=3, level="x", flag=True, items={"a"}, nested={"k": (1, float("inf"))}
    )
    fields = json.loads(line)
    assert parse_rfc3339(fields["time"]) > 0
    assert fields["component"] == "monitoring"
    assert (fields["level"], fields["process"], fields["logger"]) == (
        "warning",
        "notifier",
        "notifier",
    )
    assert (fields["n"], fields["level_"], fields["flag"], fields["items"]) == (3, "x", True, ["a"])
    assert fields["nested"] == {"k": [1, "inf"]}
    assert fields["pid"] > 0
    assert "exception" not in fields


def test_a_traceback_in_json_is_part_of_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    """One record stays one line."""
    setup("notifier", "json")
    try:
        _fail()
    except KeyError:
        logging.getLogger("notifier").exception("failed")
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["exception"][0] == "Traceback (most recent call last):"


def test_setting_up_again_replaces_what_was_set_up(capsys: pytest.CaptureFixture[str]) -> None:
    """One record is one line, however often it was set up; handlers of others stay."""
    foreign = logging.NullHandler()
    logging.getLogger().addHandler(foreign)
    for form in ("text", "json", "text"):
        setup("cli", form, "DEBUG")
    logging.getLogger("cli").debug("once")
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert foreign in logging.getLogger().handlers


def test_levels_hold_for_our_loggers_and_libraries_only_warn(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A library's chatter isn't ours."""
    setup("notifier", level="WARNING")
    logging.getLogger("notifier").info("quiet")
    logging.getLogger("requests").info("quiet")
    assert capsys.readouterr().err == ""
    with pytest.raises(ValueError, match="use text or json"):
        setup("notifier", "xml")  # type: ignore[arg-type]
