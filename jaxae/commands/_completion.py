"""Shell completion of all commands and experiments, as tyro writes it."""

import contextlib
import importlib
import io
import re
from collections.abc import Sequence
from typing import Annotated, Any, Union

import tyro

from jaxae.errors import InputError

FLAG = "--tyro-print-completion"
SHELLS = ("bash", "zsh", "fish")


def script(argv: Sequence[str], commands: Sequence[str], experiments: Sequence[str]) -> str:
    """A completion script for the shell that `--tyro-print-completion SHELL` names. InputError for another shell.

    Imports every command and experiment.
    """
    shell = argv[1] if len(argv) == 2 else " ".join(argv[1:])
    if shell not in SHELLS:
        raise InputError(f"{FLAG} {shell}; give one of {', '.join(SHELLS)}")
    kinds: dict[str, Any] = {name: importlib.import_module(f"jaxae.commands.{name}").Options for name in commands}
    kinds |= {name: importlib.import_module(f"jaxae.experiments.{name}").Config for name in experiments}
    every: Any = Union[*(Annotated[kind, tyro.conf.subcommand(name)] for name, kind in kinds.items())]
    written = io.StringIO()
    with contextlib.redirect_stdout(written), contextlib.suppress(SystemExit):
        tyro.cli(every, prog="jaxae", args=argv, config=(tyro.conf.FlagCreatePairsOff,))
    # The specification exceeds 128 KiB, the limit of a program's argument, as which the script for fish passes it.
    text = written.getvalue().replace('$python_cmd -c "$pycode"', 'printf "%s" "$pycode" | $python_cmd -')
    # Each line that the specification prints is one completion, so descriptions must not have line breaks.
    return re.sub(r"(?m)^COMPLETION_SPEC = .*$", lambda line: re.sub(r"\\+n", " ", line[0]), text)
