"""The command line: ``python -m cli``, installed as ``tickwatch``.

Only here is an exit code made and a problem put on stderr, so that no command can end in a
traceback over an operator's mistake: 0 done, 1 failed, 2 wrong use; `status` exits like a
monitoring plugin, where everything unclear is 3. Commands are imported when they run: start-up
time is theirs alone.
"""

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from cli import arguments
from cli.problems import Failed, UsageError
from cli.usage import COMMANDS, PROGRAM
from notifier.printable import printable

FAILED, USAGE, UNKNOWN = 1, 2, 3
_INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    given = list(sys.argv[1:] if argv is None else argv)
    if given[:1] == ["help"]:
        given = [*given[1:], "--help"]
    _open_missing_streams()
    code = 0
    try:
        code = _guarded(given)
        sys.stdout.flush()
    except BrokenPipeError:
        _silence_stdout()
    except OSError as error:  # stdout can't take what is still buffered
        _silence_stdout()
        _say(f"can't write the output: {error.strerror or error}")
        code = max(code, FAILED)
    return code


def _guarded(argv: list[str]) -> int:
    """Run the command; every problem becomes one line and an exit code."""
    monitoring = any(each.monitoring and words[-1] in argv for words, each in COMMANDS.items())
    try:
        given, words, rest = arguments.split(argv)
        monitoring = words in COMMANDS and COMMANDS[words].monitoring
        return _run(given, words, rest)
    except UsageError as error:
        _say(str(error))
        return UNKNOWN if monitoring else USAGE
    except Failed as error:
        _say(str(error))
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        raise
    except OSError as error:
        _say(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except Exception as error:  # noqa: BLE001 - the outermost place: it makes the exit code
        if type(error).__module__ != "sqlite3":
            import traceback  # 7 ms that only a bug needs

            traceback.print_exc()
        else:
            _say(f"a store can't be read: {error}")
    return UNKNOWN if monitoring else FAILED


def _run(given: Mapping[str, Any], words: tuple[str, ...], rest: list[str]) -> int:
    """Run what a command line asks for, taken apart: options before it, its words, the rest."""
    if given.get("--version"):
        print(f"{PROGRAM} {_version()}")
        return 0
    if given.get("--help") or arguments.asks_for_help(rest):
        print(arguments.help_for(words), end="")
        return 0
    if not words:
        print(arguments.help_for(words), end="", file=sys.stderr)
        return USAGE
    if words not in COMMANDS:
        raise UsageError(arguments.missing(words))
    command = COMMANDS[words]
    args = arguments.merged(given, arguments.parse(words, rest))
    if args.get("--config"):
        os.environ["MONITORING_CONFIG"] = args["--config"]  # for whoever parses all the settings
    code: int = getattr(importlib.import_module(command.module), command.function)(args)
    return code


def _version() -> str:
    from importlib import metadata  # 20 ms that only --version needs

    try:
        return metadata.version("tickwatch")
    except metadata.PackageNotFoundError:
        return "(not installed)"


def _say(text: str) -> None:
    for line in text.splitlines():
        print(f"{PROGRAM}: {printable(line)}", file=sys.stderr)


def _open_missing_streams() -> None:
    """A stream closed by the caller (``>&-``) becomes the null device: printing can't fail."""
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - kept
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, PTH123 - kept


def _silence_stdout() -> None:
    """Let the interpreter's own flush at exit go nowhere: the reader has gone or can't take it."""
    try:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
    except (OSError, ValueError):
        pass  # stdout is no file, as in tests: nothing will be flushed


if __name__ == "__main__":
    sys.exit(main())
