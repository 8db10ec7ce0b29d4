"""Print or write an anomaly score for each example of new data: a term of the loss of a finished or saved run's model.

The term, by default the loss itself, is averaged over ten samples of its noise, as in `Trained.score`; larger scores
are more anomalous. Float images are quantized to 256 levels first, as in training. With several seeds, the array has
a leading axis of seeds, and the table a column for each seed.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from jaxae import run
from jaxae.commands._apply import WithData, opened, read_examples, write
from jaxae.commands._arguments import parsed
from jaxae.commands._output import STDOUT
from jaxae.errors import input_errors
from jaxae.run import command_line


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae score`."""

    suffixes = (".npy", ".csv")

    out: Path = STDOUT
    """.csv: a row for each example, with its name: the path of a file in a folder, otherwise its number, from 0; .npy:
    scores, float32 [N]; -: the rows of .csv, on standard output."""
    by: str = "loss"
    """Term of the loss, as metrics.jsonl names it."""

    def __post_init__(self) -> None:
        """Raise ValueError for an unsupported file suffix."""
        if self.out != STDOUT:
            super().__post_init__()


def main(argv: Sequence[str]) -> NoReturn:
    """Write the scores, and exit."""
    run.program(lambda _: score(parsed(Options, argv)))


def score(options: Options) -> str:
    """Write the scores, and return the line to print. InputError as in `jaxae encode`, and for an unknown term."""
    model = opened(options)

    def apply(x: np.ndarray, lengths: np.ndarray | None, **given: Any) -> np.ndarray:
        with command_line.flags_of(options), input_errors():
            return model.score(x, options.by, lengths, **given)

    return write(options, model, read_examples(options, model), apply, f"scores by {options.by}", options.by)
