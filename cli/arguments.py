"""Take a command line apart: global options, the command's words, its own arguments.

docopt decides by the usage texts what is allowed, but its messages name its own classes and its
exit code is 1, so everything an operator can get wrong is looked for here first and said in one
line.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from docopt import DocoptExit, docopt

from cli.problems import UsageError, suggestion
from cli.usage import COMMANDS, GLOBAL, OVERVIEW, PROGRAM

_OPTION = re.compile(r"^ +(?:(-\w)(?: \w+)?, )?(--[\w-]+)(?: ([A-Z][A-Z=]*))?", re.MULTILINE)


@dataclass(frozen=True)
class Option:
    """One option of a usage text; ``value`` is what its value is called, "" for a switch."""

    name: str
    short: str
    value: str


def options_in(text: str) -> list[Option]:
    """The options that *text* describes."""
    return [Option(name, short, value) for short, name, value in _OPTION.findall(text)]


_EVERYWHERE = frozenset(option.name for option in options_in(GLOBAL))


def split(argv: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...], list[str]]:
    """Global options, the words of the command, and what is left for it.

    Raises:
        UsageError: an unknown command or option.
    """
    given: dict[str, Any] = {}
    words: tuple[str, ...] = ()
    rest = list(argv)
    while True:
        _check(OVERVIEW, rest, first=True)
        parsed = docopt(OVERVIEW, rest, default_help=False, options_first=True)
        given |= _given(parsed)
        if parsed["<command>"] is None:
            return given, words, []
        words += (parsed["<command>"],)
        rest = parsed["<args>"]
        if words in COMMANDS:
            return given, words, rest
        if not any(known[: len(words)] == words for known in COMMANDS):
            raise UsageError(_unknown(words))


def parse(words: tuple[str, ...], argv: Sequence[str]) -> dict[str, Any]:
    """The arguments of the command *words*, as docopt names them.

    Raises:
        UsageError: an unknown option, a missing value, too few or too many arguments.
    """
    text = help_for(words)
    positional = _check(text, argv)
    command = f"{PROGRAM} {' '.join(words)}"
    try:
        # Everybody knows that options end at "--"; nobody needs to read it in each usage.
        grammar = text.replace(f"{command} ", f"{command} [--] ")
        parsed = docopt(grammar, [*words, *argv], default_help=False)
    except DocoptExit:
        seen = " ".join(positional) or "nothing"
        usage = " or ".join(_usage_lines(text))
        raise UsageError(f"{' '.join(words)}: {seen} given, use {usage}") from None
    return {name: value for name, value in parsed.items() if name not in (*words, "--")}


def asks_for_help(argv: Sequence[str]) -> bool:
    """Whether -h or --help stands among the arguments, however wrong the rest is."""
    before = argv[: argv.index("--")] if "--" in argv else argv
    return "--help" in before or "-h" in before


def merged(before: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Global options given before the command count unless they were given behind it again."""
    return {**own, **{name: value for name, value in before.items() if not own.get(name)}}


def _given(parsed: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in parsed.items()
        if name.startswith("--") and value not in (None, False)
    }


def _usage_lines(text: str) -> list[str]:
    block = text.partition("Usage:")[2].partition("\n\n")[0]
    return [line.strip() for line in block.splitlines()]


def _unknown(words: tuple[str, ...]) -> str:
    """What to say about words that begin no command."""
    group = words[:-1]
    nexts = list(dict.fromkeys(k[len(group)] for k in COMMANDS if k[: len(group)] == group))
    word = words[-1]
    elsewhere = [" ".join(known) for known in COMMANDS if not group and word == known[-1]]
    hint = f"; did you mean {elsewhere[0]}?" if elsewhere else suggestion(word, nexts)
    if group:
        hint = hint.replace("mean ", f"mean {' '.join(group)} ")
    return f"no command {' '.join(words)!r}{hint} (commands: {', '.join(nexts)})"


def missing(words: tuple[str, ...]) -> str:
    """What to say when the command line ends within a group of commands."""
    nexts = [" ".join(known) for known in COMMANDS if known[: len(words)] == words]
    return f"{' '.join(words)}: say which: {', '.join(nexts)}"


def _check(text: str, argv: Sequence[str], *, first: bool = False) -> list[str]:
    """Look for wrong options in *argv* and return the positional arguments.

    Args:
        first: stop at the first positional argument.

    Raises:
        UsageError: naming the first wrong option.
    """
    known = options_in(text)
    positional: list[str] = []
    seen: set[str] = set()
    tokens = iter(argv)
    for token in tokens:
        if token == "--":
            return [*positional, *tokens]
        if not _is_option(token):
            if first:
                return [token]
            positional.append(token)
            continue
        option = _take(token, known, tokens)
        if option.name in seen and f"[{option.name} {option.value}]..." not in text:
            raise UsageError(f"{option.name} is given twice: once is enough")
        seen.add(option.name)
    return positional


def _is_option(token: str) -> bool:
    if not token.startswith("-") or token == "-":
        return False
    try:
        float(token)
    except ValueError:
        return True
    return False  # a negative number is an argument


def _take(token: str, known: Sequence[Option], tokens: Iterator[str]) -> Option:
    """The option that *token* is; its value is taken from *tokens* when it stands apart.

    Raises:
        UsageError: no such option, or its value is missing or too much.
    """
    if token.startswith("--"):
        name, equals, _ = token.partition("=")
        options = [o for o in known if o.name == name] or [
            o for o in known if o.name.startswith(name)
        ]
        attached = bool(equals)
    else:
        name = token[:2]
        options = [o for o in known if o.short == name]
        attached = len(token) > 2
    if len(options) != 1:
        raise UsageError(_no_option(name, options or known))
    option = options[0]
    if not option.value and attached:
        raise UsageError(f"{option.name} takes no value: {token}")
    if option.value and not attached and next(tokens, None) is None:
        raise UsageError(f"{option.name} needs a value: {option.name} {option.value}")
    return option


def _no_option(name: str, options: Sequence[Option]) -> str:
    names = [option.name for option in options]
    if all(known.startswith(name) for known in names):
        return f"{name} may be {' or '.join(names)}: write it out"
    own = [known for known in names if known not in _EVERYWHERE]
    hint = suggestion(name, names)
    if "--version" in own:
        return f"no option {name} before the command{hint}; a command's own options stand behind it"
    return f"no option {name}{hint} (options: {', '.join([*own, *sorted(_EVERYWHERE)])})"


def help_for(words: tuple[str, ...]) -> str:
    """The help text of a command, of a group, or of the program."""
    if words in COMMANDS:
        return f"{COMMANDS[words].text}\n{GLOBAL}"
    group = [known for known in COMMANDS if known[: len(words)] == words] if words else []
    if not group:
        return OVERVIEW
    lines = [f"  {PROGRAM} {' '.join(known)} --help" for known in group]
    return "\n".join([f"Commands of {' '.join(words)}:", *lines, ""])
