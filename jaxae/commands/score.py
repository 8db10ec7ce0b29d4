"""Print or write an anomaly score for each example of new data: larger scores are more anomalous.

The score is a term of the loss, by default the loss itself, averaged over ten samples of its noise, or another score of
`Trained.score`. Float images are quantized to 256 levels first, as in training. With several seeds, the array has a
leading axis of seeds, and the table a column for each seed, or one column for all with --ensemble.
A p-value is (1 + number of examples of a split of the run's data with at least this score) / (1 + number of examples of
the split) (conformal p-values; Vovk, Gammerman & Shafer 2005). Those of new data against the training split are too
small, since the model has fitted it; those against a held-out split are valid. An example of the split counts itself as
well. The scores of the split are computed once, and kept in the run directory (scores/).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from jaxae import run
from jaxae.commands import _output
from jaxae.commands._apply import NewData, WithData, chunks, opened, read_examples, write
from jaxae.commands._arguments import parsed
from jaxae.commands._output import STDOUT
from jaxae.commands._reference import Reference
from jaxae.errors import InputError, input_errors
from jaxae.measure import anomalies
from jaxae.run import command_line
from jaxae.training.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Options(WithData):
    """Arguments of `jaxae score`."""

    suffixes = (".npy", ".csv")

    out: Path = STDOUT
    """.csv: a row for each example, with its name: the path of a file in a folder, otherwise its number, from 0; .npy:
    scores, float32 [N]; -: the rows of .csv, on standard output."""
    by: str = "loss"
    """Score: a term of the loss, as metrics.jsonl names it; reconstruction_error; for variational models negative_elbo,
    and negative_log_likelihood by importance sampling; latent_distance, the squared Mahalanobis distance of the code to
    those of the training split."""
    p_value: Literal["none", "train", "valid", "test"] = "none"
    """Split of the run's data whose scores give each score a p-value, in a further column. none: no p-value."""
    ensemble: Literal["none", "mean", "median"] = "none"
    """One score for all seeds: mean or median of the scores standardized by those of the training split."""
    columns: int = 0
    """Number of columns of a table to name for each row, before its scores: those with the largest squared errors of
    reconstruction, in the units of training (standardized values, or counts), mean over seeds. Missing values have no
    error."""

    def __post_init__(self) -> None:
        """Raise ValueError for an unsupported file suffix, for p-values or names in an array, and for columns < 0."""
        if self.out != STDOUT:
            super().__post_init__()
        if self.p_value != "none" and self.out.suffix == ".npy":
            raise ValueError(f"p_value={self.p_value} is a column of a table; use out=scores.csv")
        if self.columns < 0:
            raise ValueError(f"columns={self.columns} must be at least 0")
        if self.columns and self.out.suffix == ".npy":
            raise ValueError(f"columns={self.columns} adds names, which no .npy holds; use out=scores.csv")


def main(argv: Sequence[str]) -> NoReturn:
    """Write the scores, and exit."""
    run.program(lambda _: score(parsed(Options, argv)))


def score(options: Options) -> str:
    """Write the scores, and return the line to print.

    InputError as in `jaxae encode`, for an unknown score, for columns that the examples do not have, and where a split
    of the run's data is needed but missing.
    """
    model = opened(options)
    _require_columns(options, model)
    known = Reference(options.run, model, options.by)
    with command_line.flags_of(options), input_errors():
        known.require(options.ensemble, options.p_value)

    standard: Any = None if options.ensemble == "none" else known.scores("train")

    def combined(found: np.ndarray) -> np.ndarray:
        """The score of the ensemble, if there is one."""
        if options.ensemble == "none":
            return found
        return anomalies.ensemble(found, standard, options.ensemble).astype(np.float32)

    def apply(x: np.ndarray, lengths: np.ndarray | None, **given: Any) -> np.ndarray:
        with command_line.flags_of(options), input_errors():
            return combined(known.of(x, lengths, **given))

    found, what = read_examples(options, model), f"scores by {options.by}"
    shown, causes = model, _causes(options, model, found)
    if options.ensemble != "none":
        shown, what = model[0], f"{what}, {options.ensemble} of {len(model)} seeds,"
    if options.p_value == "none":
        return write(options, shown, found, apply, what, options.by, causes)
    reference = combined(known.scores(options.p_value))

    def with_p_values(part: np.ndarray) -> np.ndarray:
        return np.stack([part, anomalies.p_values(part, reference).astype(np.float32)], axis=-1)

    pairs = (with_p_values(part) for part in chunks(found, apply))
    columns = (options.by, "p_value")
    shape = _output.write_table(options.out, pairs, found.names, options.by, shown.seeds, columns, causes)
    against = f"{what} with p-values against {reference.shape[-1]:,} scores of the {options.p_value} split"
    return "" if options.out == STDOUT else f"{against}, of {found.description}, {[*shape]} float32: {options.out}"


def _require_columns(options: Options, model: Trained) -> None:
    """Raise InputError for --columns where examples are not rows of a table, or have fewer columns."""
    shape = [*model.shape]
    if options.columns and len(shape) > 1:
        raise InputError(
            f"--columns {options.columns} names columns of a table, but an example of {options.run} has "
            f"shape {shape}; omit it"
        )
    if options.columns > shape[0]:
        raise InputError(f"--columns {options.columns}: the table has {shape[0]} columns; give at most {shape[0]}")


def _causes(options: Options, model: Trained, found: NewData) -> dict[str, np.ndarray]:
    """Names of the columns with the largest errors of every example, the largest as `column1`; empty for no column."""
    names = np.array(found.columns or range(model.shape[0]), object)
    factor = 1 if model.scale is None else np.asarray(model.scale.factor)

    def largest(x: np.ndarray, lengths: np.ndarray | None, **given: Any) -> np.ndarray:
        square = np.nan_to_num((np.asarray(model.reconstruct(x, lengths, **given)) - x) / factor) ** 2
        square = square.reshape(-1, *x.shape).mean(0)
        places = np.argsort(-square, axis=1, kind="stable")[:, : options.columns]
        return np.where(np.take_along_axis(square, places, axis=1) > 0, names[places], "")

    if not options.columns:
        return {}
    each = np.concatenate([*chunks(found, largest)])
    return {f"column{i + 1}": column for i, column in enumerate(each.T)}
