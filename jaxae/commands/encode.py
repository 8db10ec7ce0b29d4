"""Write the codes of new data under the model of a finished or saved run.

Variational models give the posterior mean. Float images are quantized to 256 levels first, as in training. With several
seeds, the array has a leading axis of seeds, and the table repeats its columns for each seed (`z0_seed3`, `z1_seed3`,
`z0_seed4`, ...).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from jaxae import run
from jaxae.commands._apply import WithData, opened, read_examples, write
from jaxae.commands._arguments import parsed


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae encode`."""

    suffixes = (".npy", ".csv")

    out: Path
    """.npy: codes, float32 [N, *code]; .csv: a row for each example, with its name."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the codes, and exit."""
    run.program(lambda _: encode(parsed(Options, argv)))


def encode(options: Options) -> str:
    """Write the codes, and return the line to print. InputError as in `opened`, `examples` and `write`."""
    model = opened(options)
    return write(options, model, read_examples(options, model), model.encode, "codes", "z")
