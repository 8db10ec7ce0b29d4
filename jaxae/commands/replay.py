"""Repeat the step at which a run diverged, and name the first non-finite value."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from jaxae import run
from jaxae.commands._arguments import OneRun, module_of, parsed
from jaxae.run.replay import replay


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae replay`."""


def main(argv: Sequence[str]) -> NoReturn:
    """Print a line, and exit; with code 2 for a run that did not diverge."""
    run.program(lambda _: again(parsed(Options, argv)))


def again(options: Options) -> str:
    """The step, its seed and the first non-finite value, in one line. InputError as in `jaxae.replay`."""
    return str(replay(options.run, module_of(options)))
