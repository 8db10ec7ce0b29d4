"""Fill in the missing entries of new data with the model of a finished or saved variational run.

For a table (.csv, .tsv, .parquet) the output is the same table with its empty cells filled in; the order of columns,
units and all other cells are unchanged. A number is imputed by its expectation given the observed cells of its row, a
string by the most probable category. A second table, NAME-cells.csv, has a row for each filled cell. See
`Trained.impute`.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from jaxae import data, run
from jaxae.commands._apply import NewData, WithData, opened, read_examples
from jaxae.commands._arguments import parsed
from jaxae.commands._output import drawn, opened_file, write_grid
from jaxae.data import cells, spread
from jaxae.data.summary import missing_cells
from jaxae.data.tables import SUFFIXES
from jaxae.errors import InputError, input_errors
from jaxae.report.figures.base import marked, shown
from jaxae.run import command_line
from jaxae.training.examples import part_of
from jaxae.training.imputation import Imputed
from jaxae.training.trained import Trained

COLUMNS = 10
MAX_EXAMPLES = 100  # examples in a picture


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae impute`."""

    suffixes = (*SUFFIXES, ".npy", ".npz", ".png")

    out: Path
    """.csv, .tsv, .parquet: the table, in the format of DATA, and NAME-cells.csv with row (from 0), column, value,
    standard_error (Monte Carlo error of the expectation) and deviation (standard deviation given the observed
    cells). .npy: the completed array. .npz: arrays x, standard_error, deviation, ess, draws. .png: up to 100 images or
    series above the completed ones, missing entries in pink."""
    samples: int = 10_000
    """Importance samples per example."""
    draws: int = 0
    """Multiple imputations: tables NAME-1.csv, ... with missing cells sampled, or the array draws."""
    member: int = -1
    """Index of the seed whose model is used, from 0 (-1: the mixture of all seeds)."""
    seed: int = 0
    """Seed of the samples."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the completed data, and exit."""
    run.program(lambda _: impute(parsed(Options, argv)))


def impute(options: Options) -> str:
    """Write the completed data, and return the line to print. InputError as in `jaxae encode`."""
    path, is_table = data.path_of(options.data), options.out.suffix in SUFFIXES
    if is_table and (path is None or path.suffix.lower() != options.out.suffix):
        raise InputError(f"--out {options.out} differs in format from {options.data}; use the same suffix, or .npz")
    if is_table and path is not None and options.out.resolve() == path.resolve():
        raise InputError(f"--out {options.out} is DATA itself, which stays as it is; use another name")
    model = opened(options)
    found = read_examples(options, model)
    places = spread(len(found.x), MAX_EXAMPLES) if options.out.suffix == ".png" else np.arange(len(found.x))
    with command_line.flags_of(options), input_errors():
        filled = model.impute(
            np.asarray(found.x[places]),
            options.samples,
            draws=options.draws,
            mixture=True,
            seed=options.seed,
            **part_of(found.given, places),
        )
    missing = np.isnan(found.x[places])
    count = missing_cells(missing, found.columns)
    if is_table and path is not None:
        _tables(options, path, found, filled)
    elif options.out.suffix == ".png":
        _picture(options.out, model, np.asarray(found.x[places]), filled)
    else:
        with opened_file(options.out) as file:
            if options.out.suffix == ".npy":
                np.save(file, filled.x)
            else:
                np.savez(file, **filled._asdict())
    examples = int(missing.reshape(len(missing), -1).any(1).sum())
    errors = f"; standard errors: {_cells_file(options.out)}" if options.out.suffix in SUFFIXES else ""
    return f"{count:,} missing cells of {examples:,} of {found.description} filled in: {options.out}{errors}"


def _cells_file(out: Path) -> Path:
    return out.with_name(f"{out.stem}-cells.csv")


def _tables(options: Options, path: Path, found: NewData, filled: Imputed) -> None:
    """Write the completed table, its multiple imputations, and the table of filled cells."""
    if not found.columns:
        raise InputError(f"--out {options.out} needs column names, which the training array did not have; use .npz")
    missing, out = np.isnan(found.x), options.out
    content = path.read_bytes()
    names = [out, *(out.with_stem(f"{out.stem}-{i + 1}") for i in range(options.draws))]
    for name, x in zip(names, [filled.x, *filled.draws], strict=True):
        try:
            written = cells.filled_file(content, out.suffix, found.columns, missing, x)
        except ValueError as error:
            raise InputError(f"{path} differs from the rows that were read ({error}); check its lines") from None
        with opened_file(name) as file:
            file.write(written)
    with opened_file(_cells_file(out)) as file:
        text = io.TextIOWrapper(file, "utf-8", newline="")
        table = csv.writer(text, lineterminator="\n")
        table.writerow(["row", "column", "value", "standard_error", "deviation"])
        lines = [
            (row, fill.column, value, filled.standard_error[row, place], filled.deviation[row, place])
            for fill in cells.fills(cells.columns_of(content, out.suffix), found.columns, missing, filled.x)
            for row, value, place in zip(fill.rows.tolist(), fill.values.tolist(), fill.features.tolist(), strict=True)
        ]
        for row, column, value, standard_error, deviation in sorted(lines, key=lambda line: line[0]):
            table.writerow([row, column, cells.text_of(value), f"{standard_error:.3g}", f"{deviation:.3g}"])
        text.detach()


def _picture(path: Path, model: Trained, x: np.ndarray, filled: Imputed) -> None:
    """Write images or series above the completed ones."""
    originals, completed = (drawn(part) for part in shown(model, x, filled.x))
    if x.ndim == 4:
        originals = marked(originals, np.isnan(x))
        completed = np.broadcast_to(completed, originals.shape)
    write_grid(path, [originals, completed], min(len(x), COLUMNS))
