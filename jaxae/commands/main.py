"""`jaxae NAME ...`: run an experiment, or one of the commands."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pkgutil import iter_modules
from typing import NoReturn

from jaxae import commands
from jaxae.run.find import find, names

HELP = "usage: jaxae NAME ...; `jaxae NAME --help` shows the flags"


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the experiment or the command that the first argument names, and exit. It alone is imported."""
    first, *rest = [*(sys.argv[1:] if argv is None else argv)] or ["--help"]
    if first == "--version":
        print(f"jaxae {version('jaxae')}")
    elif first == "--help":
        print(f"{HELP}\n\ncommands: {', '.join(available())}\nexperiments: {', '.join(names())}")
    elif first in available():
        importlib.import_module(f"jaxae.commands.{first}").main(rest)
    elif first in names():
        from jaxae.run.program import main as run

        module = find(first)
        run(module.Config, module.build, rest)
    else:
        near = difflib.get_close_matches(first, [*available(), *names()], 1)
        hint = f"did you mean {near[0]}?" if near else "`jaxae --help` shows what there is"
        print(f"error: {first} is no command and no experiment: {hint}", file=sys.stderr)
        sys.exit(2)
    sys.exit(0)


def available() -> list[str]:
    """The names of the commands."""
    return sorted(module.name for module in iter_modules(commands.__path__) if module.name != "main")
