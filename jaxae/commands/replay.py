"""Repeat the step at which a run diverged, and name the first non-finite value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from jaxae import run
from jaxae.commands._arguments import OneRun, parsed
from jaxae.run import command_line
from jaxae.run.find import imported
from jaxae.run.replay import replay


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae replay`."""


def main(argv: Sequence[str]) -> NoReturn:
    """Print a line, and exit; with 2 for a run that did not diverge."""
    run.program(lambda _: again(parsed(Options, argv)))


def again(options: Options) -> str:
    """The step, its seed and the first non-finite value, in one line. InputError as `jaxae.replay`."""
    with command_line.flags_of(options):
        return str(replay(options.run, imported(options.module)))
