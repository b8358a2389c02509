"""Run one of tickwatch's benchmarks.

Usage:
  benchmarks <name> [<argument>...]
  benchmarks -h | --help

Start it as ``python -m benchmarks``; a name and --help shows what that benchmark asks and takes.
"""

import importlib
import pkgutil
import sys

from docopt import DocoptExit, docopt

import benchmarks

# What benchmarks share, and none itself.
_SHARED = {"machine"}


def names() -> list[str]:
    """The benchmarks there are: every module here with a name of its own, found and not listed."""
    found = (module.name for module in pkgutil.iter_modules(benchmarks.__path__))
    return sorted(name for name in found if not name.startswith("_") and name not in _SHARED)


def main(argv: list[str]) -> int:
    """Run the benchmark that *argv* names.

    Its docstring is its usage, and what docopt makes of it goes to its ``main(arguments) -> int``.
    """
    try:
        text = f"{__doc__}\nBenchmarks: {', '.join(names())}\n"
        given = docopt(text, argv, options_first=True)
        name = given["<name>"]
        if name not in names():
            raise DocoptExit
    except DocoptExit:
        print(f"python -m benchmarks: use one of {', '.join(names())}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{name}")
    usage: str = module.__doc__ or ""
    try:
        arguments = docopt(usage, given["<argument>"])
    except DocoptExit:
        _, _, rest = usage.partition("Usage:")
        print(f"python -m benchmarks {rest.split(chr(10))[1].strip()}", file=sys.stderr)
        return 2
    code: int = module.main(arguments)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
