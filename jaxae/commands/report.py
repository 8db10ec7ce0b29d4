"""Rewrite the HTML report of a finished run. Its data must still be available."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from jaxae import run
from jaxae.commands._arguments import OneRun, module_of, parsed
from jaxae.run import results


@dataclass(frozen=True, kw_only=True)
class Options(OneRun):
    """Arguments of `jaxae report`."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the report, and exit."""
    run.program(lambda _: report(parsed(Options, argv)))


def report(options: Options) -> str:
    """Write report.html, and return the line to print. InputError for a run that is not finished."""
    model, data, result, title = run.load_finished(options.run, module_of(options))
    results.write_report(options.run, title, model[0], data, result)
    return f"report: {options.run / 'report.html'}"
