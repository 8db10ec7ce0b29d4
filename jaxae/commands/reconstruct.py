"""Write the reconstructions of new data by the model of a finished or saved run.

Float images are quantized to 256 levels first, as in training. With several seeds the array has a leading axis of
seeds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxae import run
from jaxae.commands._apply import NewData, WithData, opened, read_examples, write
from jaxae.commands._arguments import parsed
from jaxae.commands._output import drawn, write_grid
from jaxae.data import spread
from jaxae.report.figures.base import marked, shown, unit
from jaxae.training.examples import part_of
from jaxae.training.trained import Trained

COLUMNS = 10
MAX_EXAMPLES = 100  # examples in a picture


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae reconstruct`."""

    suffixes = (".npy", ".csv", ".png")

    out: Path
    """.npy: reconstructions, float32 [N, *D], in the units of the data, pixels in [0, 1]; .csv: a row for each example,
    with the columns of a table; .png: images or curves of series above their reconstructions, of up to 100 examples,
    missing entries in pink."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the reconstructions, and exit."""
    run.program(lambda _: reconstruct(parsed(Options, argv)))


def reconstruct(options: Options) -> str:
    """Write the reconstructions, and return the line to print. InputError as in `jaxae encode`."""
    model = opened(options)
    found = read_examples(options, model)
    if options.out.suffix == ".png":
        return _picture(options.out, model, found)
    return write(options, model, found, model.reconstruct, "reconstructions")


def _picture(path: Path, model: Trained, found: NewData) -> str:
    places = spread(len(found.x), MAX_EXAMPLES)
    x, lengths = np.asarray(found.x[places]), None if found.lengths is None else found.lengths[places]
    y = np.asarray(model.reconstruct(x, lengths, **part_of(found.given, places)))
    originals, decoded = (drawn(examples, lengths) for examples in shown(model, unit(x), y))
    if x.ndim == 4 and np.isnan(x).any():
        originals = marked(originals, np.isnan(x))
        decoded = np.broadcast_to(decoded, originals.shape)
    rows = [originals, decoded]
    width, height = write_grid(path, rows, min(len(x), COLUMNS))
    some = f"{len(x)} of " if len(x) < len(found.x) else ""
    return f"reconstructions of {some}{found.description}, below their originals, {width}x{height} pixels: {path}"
