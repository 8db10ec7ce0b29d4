"""`jaxae NAME ...`: run an experiment, or one of the commands."""

import difflib
import importlib
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import NoReturn

from jaxae.commands._docstrings import docstrings, names
from jaxae.errors import InputError, discard_output

COMMANDS, EXPERIMENTS = "jaxae.commands", "jaxae.experiments"
HELP = """usage: jaxae NAME ...

`jaxae NAME --help` shows the flags of a command or an experiment. `jaxae --version` prints the version.
`jaxae --tyro-print-completion bash` (or zsh, fish) prints a script that completes names and flags."""


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run the experiment or command named by the first argument, and exit. No other is imported."""
    try:
        _main([*(sys.argv[1:] if argv is None else argv)] or ["--help"])
    except BrokenPipeError:
        discard_output()
    sys.exit(0)


def _main(arguments: list[str]) -> None:
    first, *rest = arguments
    commands, experiments = names(COMMANDS), names(EXPERIMENTS)
    if first == "--version":
        print(f"jaxae {version('jaxae')}")
    elif first in ("--help", "-h"):
        print(f"{HELP}\n\ncommands:\n{_lines(COMMANDS)}\n\nexperiments:\n{_lines(EXPERIMENTS)}")
    elif first == "--tyro-print-completion":
        from jaxae.commands._completion import script

        try:
            print(script(arguments, commands, experiments), end="")
        except InputError as error:
            _refuse(str(error))
    elif first in commands:
        importlib.import_module(f"jaxae.commands.{first}").main(rest)
    elif first in experiments:
        from jaxae.run.find import find
        from jaxae.run.program import main as run

        module = find(first)
        run(module.Config, module.build, rest)
    else:
        near = difflib.get_close_matches(first, [*commands, *experiments], 1)
        hint = f"did you mean {near[0]}?" if near else "`jaxae --help` lists both"
        _refuse(f"{first} is neither a command nor an experiment: {hint}")
    sys.stdout.flush()


def _lines(package: str) -> str:
    modules = docstrings(package)
    width = max(map(len, modules))
    return "\n".join(f"  {name:<{width}}  {text.splitlines()[0]}" for name, text in modules.items())


def _refuse(line: str) -> NoReturn:
    print(f"error: {line}", file=sys.stderr)
    sys.exit(2)
