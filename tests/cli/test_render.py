"""What reaches a screen or a pipe."""

import json
import re

import pytest

from cli import render
from cli.render import Column, Look, Styled
from tests.cli.conftest import Terminal


def test_piped_tables_are_aligned_plain_text(capsys):
    """No colour, no boxes, no truncation, columns by two spaces, an empty cell countable."""
    rows = [[Styled("CRITICAL", "critical"), "1"], ["warn", "12,000"], ["x" * 200, ""]]
    render.table(Look(), [Column("severity"), Column("count", right=True)], rows)
    lines = capsys.readouterr().out.splitlines()
    assert "\x1b" not in "".join(lines)
    assert [line.split() for line in lines[:3]] == [
        ["severity", "count"],
        ["CRITICAL", "1"],
        ["warn", "12,000"],
    ]
    assert lines[3].split() == ["x" * 200, "-"]
    assert len({len(line) for line in lines}) == 1


def test_wide_characters_keep_columns_aligned():
    """A character that takes two columns on a screen counts as two, a combining one as none."""
    lines = list(
        render.aligned(
            [Column("a"), Column("b")], [["日本", "x"], ["e\u0301f", "y"], ["abcd", "z"]]
        )
    )
    assert lines == ["日本  x", "e\u0301f    y", "abcd  z"]


def test_text_from_outside_cannot_act_on_a_terminal(capsys):
    """Escape sequences, line breaks and direction overrides in labels are shown, not obeyed."""
    evil = "a\x1b[2J\n\u202e]8;;x\x07"
    render.table(Look(), [Column("labels")], [[evil]])
    render.line(Look(), evil)
    render.note(evil)
    render.json_rows([{"labels": evil}])
    captured = capsys.readouterr()
    for character in "\x1b\u202e\x07":
        assert character not in captured.out + captured.err
    assert json.loads(captured.out.splitlines()[-2])["labels"] == evil


@pytest.mark.parametrize("rows", [[], [{"a": 1}], [{"a": 1}, {"b": None}]])
def test_json_rows_are_one_array(capsys, rows):
    """Also when there is nothing."""
    render.json_rows(iter(rows))
    assert json.loads(capsys.readouterr().out) == rows


def test_json_has_no_number_that_json_lacks():
    """NaN must have been turned into null long before."""
    with pytest.raises(ValueError, match="JSON"):
        render.json_text({"value": float("nan")})


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (float("nan"), "-"),
        (0.0, "0"),
        (3.0, "3"),
        (-1250.0, "-1,250"),
        (0.412, "0.412"),
        (0.00025, "0.00025"),
        (12.3456, "12.35"),
        (812.44, "812.4"),
        (1904.333, "1,904.33"),
        (99.9999, "100"),
        (1e-9, "1.000e-09"),
        (3.2e17, "3.200e+17"),
    ],
)
def test_numbers_have_about_four_digits(value, text):
    """Readable at a glance, money to the cent."""
    assert render.number(value) == text


def test_quantities_carry_their_unit():
    """A unit is written once, percent as its sign, and nothing has none."""
    assert render.quantity(812.0, "ms") == "812 ms"
    assert render.quantity(-4.5, "pct") == "-4.5 %"
    assert render.quantity(3.0, "") == "3"
    assert render.quantity(None, "ms") == "-"
    assert render.share(1, 4) == "25.0 %"
    assert render.share(0, 0) == "-"


def test_labels_begin_with_the_engine():
    """The rest is in the order of the names."""
    assert render.labels({"a": "1", "engine": "swing", "b": "2"}) == "engine=swing a=1 b=2"


def test_sparklines_show_the_course_and_the_gaps():
    """Lowest and highest block, a space where nothing was recorded, ASCII where need be."""
    assert render.sparkline([0.0, None, 7.0], Look()) == "▁ █"
    assert render.sparkline([0.0, None, 7.0], Look(unicode=False)) == "_ #"
    assert render.sparkline([5.0, 5.0], Look()) == "▄▄"
    assert render.sparkline([None], Look()) == ""
    assert render.sparkline([-1e308, 1e308], Look()) == "▁█"
    long = render.sparkline([float(i) for i in range(1000)] + [None] * 1000, Look())
    assert len(long) == render.SPARK_WIDTH // 2
    assert list(long) == sorted(long)


@pytest.mark.parametrize(
    ("environment", "args", "terminal", "colour"),
    [
        ({"TERM": "xterm-256color"}, {}, True, True),
        ({"TERM": "xterm-256color", "NO_COLOR": "1"}, {}, True, False),
        ({"TERM": "xterm-256color", "NO_COLOR": ""}, {}, True, True),
        ({"TERM": "xterm-256color"}, {"--no-color": True}, True, False),
        ({"TERM": "dumb"}, {}, False, False),
    ],
)
def test_colour_only_where_it_is_wanted(monkeypatch, environment, args, terminal, colour):
    """NO_COLOR, TERM=dumb and --no-color are obeyed."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", Terminal())
    how = render.look(args)
    assert (how.terminal, how.colour) == (terminal, colour)


def test_blocks_only_where_they_can_be_shown(monkeypatch):
    """A terminal with another encoding gets ASCII."""
    monkeypatch.setattr("sys.stdout", Terminal("latin-1"))
    assert not render.look({}).unicode


def test_terminal_output_takes_markup_in_data_as_text(monkeypatch):
    """Square brackets in a label are no markup, and severities are coloured."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("NO_COLOR", raising=False)
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    how = render.look({})
    cells = [Styled("critical", "critical"), "[red]x[/red]", ""]
    render.table(how, [Column("severity"), Column("labels"), Column("n", right=True)], [cells])
    render.line(how, *cells)
    written = stream.text
    assert written.count("[red]x[/red]") == 2
    assert "\x1b[1;31mcritical" in written


def on_narrow_terminal(monkeypatch, *shown):
    """What a terminal of 40 columns without colour shows of a table, or of one line."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    for name, value in {"TERM": "xterm", "COLUMNS": "40", "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    (render.table if isinstance(shown[0], list) else render.line)(render.look({}), *shown)
    monkeypatch.undo()
    return [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in stream.text.splitlines()]


def test_texts_fold_where_a_table_still_fits(monkeypatch):
    """Numbers and whole columns keep their line."""
    columns = [Column("id", whole=True), Column("labels"), Column("n", right=True)]
    row = ["abcdefgh", "engine=intraday strategy=swing", "1,000"]
    lines = on_narrow_terminal(monkeypatch, columns, [row])
    assert len(lines) == 3
    assert "abcdefgh" in lines[1] and "1,000" in lines[1]
    assert max(map(len, lines)) <= 40


def test_rows_become_cards_where_no_table_fits(monkeypatch):
    """Titles beside values, pairs never broken, empty cells left out."""
    columns = [Column(name, whole=True) for name in ("id", "severity", "since", "last", "ack")]
    row = ["abcdefgh", Styled("critical", "critical"), "2026-01-31 09:15", "2026-01-31 09:16", ""]
    lines = on_narrow_terminal(monkeypatch, columns, [row, row])
    assert lines[:2] == ["abcdefgh  critical", "  since 2026-01-31 09:15"]
    assert len(lines) == 6
    assert "ack" not in "".join(lines)


def test_the_rest_of_a_long_line_is_indented(monkeypatch):
    """So that one sees where the next one begins; words stay whole where they fit."""
    lines = on_narrow_terminal(monkeypatch, "2026-01-31 09:15", "fired", "connection_lost engine=x")
    assert lines == ["2026-01-31 09:15 fired connection_lost", "  engine=x"]
    assert on_narrow_terminal(monkeypatch, "x" * 60) == ["x" * 38, "  " + "x" * 22]


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0008301, "ms", "830.1 ns"),
        (0.0172, "ms", "17.2 us"),
        (30.31, "ms", "30.31 ms"),
        (0.5, "s", "500 ms"),
        (0.0, "ms", "0 ms"),
        (0.25, "pct", "0.25 %"),
        (None, "ms", "-"),
    ],
)
def test_short_times_are_shown_in_a_readable_unit(value, unit, text):
    """Nobody counts zeros; other units are left alone."""
    assert render.duration(value, unit) == text


def test_a_cards_values_are_not_dim(monkeypatch):
    """Only their titles are; a critical alert is as bright on a small screen as on a large one."""
    stream = Terminal()
    monkeypatch.setattr("sys.stdout", stream)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.delenv("NO_COLOR", raising=False)
    columns = [Column(name, whole=True) for name in ("severity", "since", "message")]
    row = [Styled("critical", "critical"), "2026-01-31 09:15", "x" * 30]
    render.table(render.look({}), columns, [row])
    assert "\x1b[1;31mcritical\x1b[0m" in stream.text
    assert "\x1b[2msince \x1b[0m2026-01-31 09:15" in stream.text
