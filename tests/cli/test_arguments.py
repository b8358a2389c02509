"""Taking a command line apart."""

import pytest

from cli import arguments
from cli.problems import UsageError
from cli.usage import COMMANDS


def take(*argv):
    given, words, rest = arguments.split(argv)
    return words, arguments.merged(given, arguments.parse(words, rest))


@pytest.mark.parametrize(
    "argv",
    [
        ("--json", "--data-dir", "/x", "alerts", "list"),
        ("alerts", "--json", "--data-dir=/x", "list"),
        ("alerts", "list", "--json", "--data-dir", "/x"),
        ("--data-dir", "/x", "alerts", "list", "--json"),
    ],
)
def test_global_options_stand_anywhere(argv):
    """Before the command, inside it, behind it."""
    words, args = take(*argv)
    assert words == ("alerts", "list")
    assert args["--json"] is True
    assert args["--data-dir"] == "/x"


def test_the_option_behind_the_command_wins():
    """It is the one that was written last."""
    assert take("--data-dir", "/x", "status", "--data-dir", "/y")[1]["--data-dir"] == "/y"


def test_repeatable_options_are_lists():
    """--match may be given for each label; other options once."""
    _, args = take("metrics", "show", "--match", "a=b", "--match=c=d*")
    assert args["--match"] == ["a=b", "c=d*"]
    assert take("metrics", "show")[1]["--match"] == []


def test_options_may_be_cut_while_they_are_unique():
    """--sev is --severity."""
    assert take("alerts", "list", "--sev", "critical")[1]["--severity"] == "critical"


def test_negative_numbers_and_everything_behind_two_dashes_are_arguments():
    """They aren't options."""
    assert take("alerts", "show", "-5")[1]["<id>"] == "-5"
    assert take("alerts", "ack", "--", "--odd")[1]["<rule-or-id>"] == "--odd"


@pytest.mark.parametrize(
    ("argv", "texts"),
    [
        (("alrts",), ["'alrts'", "did you mean alerts?"]),
        (("alerts", "lst"), ["'alerts lst'", "did you mean alerts list?"]),
        (("ack", "x"), ["did you mean alerts ack?"]),
        (("zzzzzz",), ["commands: run, demo, status"]),
        (("metrics", "show", "--intervl", "5m"), ["--intervl", "did you mean --interval?"]),
        (("metrics", "show", "--hours"), ["--hours needs a value"]),
        (("metrics", "show", "--m", "x"), ["--metric or --match"]),
        (("metrics", "show", "--hours", "1", "--hours", "2"), ["--hours is given twice"]),
        (("alerts", "list", "--all=yes"), ["--all takes no value"]),
        (("alerts", "list", "-x"), ["no option -x"]),
        (("--severity", "x", "alerts", "list"), ["--severity", "behind"]),
        (("alerts", "ack"), ["nothing given", "tickwatch alerts ack <rule-or-id>"]),
        (("alerts", "list", "extra"), ["extra given", "tickwatch alerts list [options]"]),
    ],
)
def test_wrong_use_says_what_was_wrong_and_what_is_allowed(argv, texts):
    """One line, with a suggestion where one is near."""
    with pytest.raises(UsageError) as caught:
        take(*argv)
    message = str(caught.value)
    assert "\n" not in message
    for text in texts:
        assert text in message


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_has_examples_that_parse(words):
    """What the help shows can be typed."""
    import shlex

    text = arguments.help_for(words)
    assert "Usage:" in text
    examples = text.partition("Examples:")[2].partition("\n\n")[0].strip().splitlines()
    assert examples
    for example in examples:
        program, *argv = shlex.split(example)
        assert program == "tickwatch"
        assert take(*argv)[0] == words


def test_the_overview_names_every_command():
    """And shows examples that parse."""
    overview = arguments.help_for(())
    for words in COMMANDS:
        assert f"  {' '.join(words)} " in overview


def test_help_lines_fit_a_terminal_of_80_columns():
    """Nobody widens a window to read help."""
    for words in [(), *COMMANDS]:
        assert max(map(len, arguments.help_for(words).splitlines())) <= 82


def test_the_help_of_a_group_lists_its_commands():
    """`help metrics` leads on."""
    assert "tickwatch metrics show --help" in arguments.help_for(("metrics",))
    assert "metrics show, metrics summary" in arguments.missing(("metrics",))


def test_help_is_asked_for_among_arguments_only():
    """Behind two dashes --help is an argument."""
    assert arguments.asks_for_help(["x", "-h"])
    assert not arguments.asks_for_help(["--", "--help"])
