"""List the experiments: name, idea, source and measured result."""

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import NoReturn

from jaxae.commands._docstrings import docstrings, fields

HEAD = ("experiment", "idea", "source", "test split of MNIST (sprites for factors)")
WIDTHS = (99, 64, 44, 64)  # of the columns, at most
FIGURE = re.compile(r".*?\d+\.\d+(?: \+- [\d.e-]+)?(?: nats)?(?: per \w+)?")
ASIDE = re.compile(r", who(?:se)? |, which |: |; |(?<=\w\w)\. (?=[A-Z])")  # end of the citation in a source


@dataclass(frozen=True)
class Options:
    """Arguments of `jaxae list`: none."""


def main(argv: Sequence[str]) -> NoReturn:
    """Print the table, and exit."""
    if argv:  # only for --help or an error, since parsing loads JAX
        from jaxae import run
        from jaxae.commands._arguments import parsed

        run.program(lambda _: table() if parsed(Options, argv) else "")
    print(table(), flush=True)
    sys.exit(0)


def table() -> str:
    """A row for each experiment, by name."""
    rows = [HEAD, *(row(name, text) for name, text in docstrings("jaxae.experiments").items())]
    cells = [[shorten(cell, width, placeholder=" ...") for cell, width in zip(r, WIDTHS, strict=True)] for r in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in cells)


def row(name: str, docstring: str) -> tuple[str, str, str, str]:
    """Name, first sentence, source and first measured result of an experiment, from its docstring."""
    said = fields(docstring)
    measured = said.get("Measured", "")
    figure = FIGURE.match(measured)
    return name, said["Idea"], ASIDE.split(said.get("Source", ""))[0].rstrip("."), figure[0] if figure else measured
