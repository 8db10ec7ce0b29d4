"""The user's arrays as a data set."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from jaxae.data import binary, kinds, scaling
from jaxae.data.classes import labels
from jaxae.data.dataset import Dataset, Split, Take, divided
from jaxae.data.options import Options
from jaxae.errors import InputError

ARRAY = "array"  # name of data passed as an array, in config.json
WHERE = "the array"
DEFAULT = Options()


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    test: Any = None,
    test_y: Any = None,
    options: Options = DEFAULT,
    **fields: Any,
) -> Dataset:
    """Arrays as a data set in model units.

    x: images [N, H, W] or [N, H, W, C], uint8 or float in [0, 1] (rounded to 256 levels) or of any range, a table
    [N, D], or series [N, T] or [N, T, D]; NaN marks a missing entry. y: classes: words, numbers or one-hot rows.
    test: the test examples; a fraction that is held out, stratified by class (default: a tenth); or 0: the training
    examples themselves. fields: those of `Options`, such as kind and scale. InputError for other arrays.
    """
    xs, ys = [array(x, "x")], [y]
    fraction = 0.1
    if test is not None and np.ndim(test):
        xs, ys = [*xs, array(test, "test")], [*ys, test_y]
    elif test is not None:
        fraction = float(test)
        if not 0 <= fraction < 1:
            raise InputError(f"test={test} must be a fraction below 1, 0 for the training examples, or an array")
    features = tuple(map(str, x.columns)) if hasattr(x, "columns") else ()  # of a data frame
    options = replace(options, data=ARRAY, **fields)
    found = assembled(xs, ys, options.kind, options.series, WHERE, fraction)
    return prepared(found._replace(features=features), options)


def prepared(dataset: Dataset, options: Options) -> Dataset:
    """A data set in the user's units, scaled and binarized. InputError for real numbers that are to be binarized."""
    found = scaling.scaled(dataset, options.scale)
    if found.real and options.binarize != "none":
        raise InputError(f"binarize={options.binarize} is for pixels in [0, 1], not for real numbers; use none")
    return binary.binarize(found, options.binarize)


def assembled(
    xs: Sequence[np.ndarray],
    ys: Sequence[Any],
    kind: kinds.Wanted,
    series: bool,
    where: str,
    fraction: float = 0.1,
    take: Take | None = None,
) -> Dataset:
    """One array of examples, or those of the training and the test split, as a data set in the user's units.

    fraction: of a single array, that is held out as the test split; 0: the test split is the training split. take: see
    `divided`.
    """
    examples, what, notes = kinds.examples(xs, kind, series, where)
    if len(ys) > 1 and ys[1] is None and ys[0] is not None:  # only the training split has classes
        (classes,), names = labels(ys[:1], [len(examples[0])], where)
        every = [classes, np.full(len(examples[1]), -1, np.int32)]
    else:
        every, names = labels(ys, [len(x) for x in examples], where)
    splits = [Split(x, y) for x, y in zip(examples, every, strict=True)]
    if len(splits) > 1:
        train, test = splits
    else:
        train, test = divided(splits[0], fraction, take=take) if fraction else splits * 2
    return Dataset(train, test, names, what, notes=notes)


def array(x: Any, name: str) -> np.ndarray:
    """Convert to an array. InputError for a ragged list."""
    try:
        return np.asarray(x)
    except ValueError:
        raise InputError(f"{name} is a list of arrays of different shapes; pass one array, [N, H, W, C]") from None
