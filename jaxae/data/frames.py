"""Data frames as tables: columns by name, strings as categories."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from jaxae.data import cells, tables
from jaxae.data.cells import Frame
from jaxae.data.options import Options
from jaxae.errors import InputError


class Frames(NamedTuple):
    """Examples, classes and covariates of data frames, by split."""

    x: dict[str, Any]
    y: dict[str, Any]
    context: dict[str, Any]
    features: tuple[str, ...]
    notes: tuple[str, ...]
    encoded: bool  # whether the columns are encoded like those of a file, instead of being numbers already


def read(given: Mapping[str, Any], ys: Mapping[str, Any], contexts: Mapping[str, Any], options: Options) -> Frames:
    """The splits, whose training examples are a data frame.

    ys, contexts: classes and covariates as the user gives them. A data frame of numbers alone is read as an array, with
    the columns in the order of the training examples. Otherwise, and with `target`, `drop` or covariates by name, the
    columns are read as those of a file. InputError as in `tables.read`.
    """
    found = Frames({}, {**ys}, {**contexts}, tuple(map(str, given["train"].columns)), (), True)
    named = _names(contexts["train"], found.features)
    if not (options.target or options.drop or named) and np.asarray(given["train"]).dtype.kind in "biuf":
        x = {
            name: cells.of_frame(part, found.features) if isinstance(part, Frame) else part
            for name, part in given.items()
        }
        return found._replace(x={**x, "train": given["train"]}, encoded=False)
    how, features = replace(options, context=named), tuple[str, ...]()
    for name, frame in given.items():
        argument = "x" if name == "train" else name
        if not isinstance(frame, Frame):
            raise InputError(f"{argument} is not a data frame, as x is; pass one with the same columns")
        table = tables.of_frame(frame, argument, how, features)
        if options.target and ys[name] is not None:
            raise InputError(f"target={options.target} and y both give classes; pass one of them")
        found.x[name], features = table.x, features or table.features
        found.y[name] = table.target if options.target else ys[name]
        found.context[name] = table.context if named else contexts[name]
        found = found._replace(features=features, notes=(*found.notes, *table.notes))
    return found


def _names(context: Any, columns: tuple[str, ...]) -> tuple[str, ...]:
    """Covariates that are passed as names of columns; empty for others."""
    names = (context,) if isinstance(context, str) else context
    strings = isinstance(names, list | tuple) and all(isinstance(name, str) for name in names)
    return tuple(names) if strings and (isinstance(context, str) or {*names} <= {*columns}) else ()
