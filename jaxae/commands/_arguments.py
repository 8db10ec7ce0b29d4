"""Arguments shared by several commands, and the parser of all commands."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, TypeVar

import tyro
from tyro.conf import Positional

from jaxae.run import command_line
from jaxae.run.find import import_experiment

C = TypeVar("C")  # a dataclass


def parsed(kind: type[C], argv: Sequence[str]) -> C:
    """The arguments of a command as its dataclass. InputError as in `command_line.parse`."""
    name = kind.__module__.split(".")[-1]
    return command_line.parse(kind, sys.modules[kind.__module__].__doc__ or "", argv, f"jaxae {name}")


def module_of(options: "OneRun | Runs") -> ModuleType | None:
    """The experiment that --module names; None without it. InputError for a module that is not an experiment."""
    with command_line.flags_of(options):
        return import_experiment(options.module)


@dataclass(frozen=True, kw_only=True)
class OneRun:
    """A run."""

    run: Positional[Annotated[Path, tyro.conf.arg(metavar="RUN")]]
    """Run directory."""
    module: str = ""
    """Module of an experiment outside jaxae.experiments. (default: the experiment recorded in the run)"""


@dataclass(frozen=True, kw_only=True)
class Runs:
    """One or more runs."""

    runs: Positional[Annotated[tuple[Path, ...], tyro.conf.arg(metavar="RUN [RUN ...]")]]
    """Run directories."""
    module: str = ""
    """Module of an experiment outside jaxae.experiments, for all runs. (default: the experiments recorded in them)"""

    def __post_init__(self) -> None:
        """Raise ValueError without a run."""
        if not self.runs:
            raise ValueError("RUN is missing; give at least one run directory")
