"""Covariates of examples, for conditional models: numbers are standardized, strings become one-hot columns."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped

from jaxae.core.types import Conditions, Scale
from jaxae.data.classes import labels_of
from jaxae.data.dataset import Dataset, Split
from jaxae.errors import InputError

CATEGORIES = 50  # maximum number of categories of a string column
IDENTITY = Scale(np.zeros(1), np.ones(1))

Columns = dict[str, Shaped[np.ndarray, " N"]]  # name -> float64, or strings, "" where one is missing


def columns(context: Any, count: int, where: str, names: Sequence[str] = ()) -> Columns:
    """The user's covariates as named columns of numbers or strings, one value for each of `count` examples.

    context: a data frame, a mapping of names to columns, or an array [N] or [N, C]; the columns of an array are called
    `context`, or `context0`, `context1`, ..., or `names`, the columns to return if there are any. InputError for other
    arrays.
    """
    if hasattr(context, "columns"):
        context = {str(name): context[name] for name in context.columns}
    if not isinstance(context, Mapping):
        array = np.asarray(context)
        array = array[:, None] if array.ndim == 1 else array
        if array.ndim != 2 or (names and array.shape[1] != len(names)):
            wanted = f"{len(names)} columns ({', '.join(names)})" if names else "shape [N] or [N, C]"
            raise InputError(f"{where}: context has shape {array.shape}; pass {wanted}")
        width = array.shape[1]
        names = names or (["context"] if width == 1 else [f"context{place}" for place in range(width)])
        context = dict(zip(names, array.T, strict=True))
    if not len(context):
        raise InputError(f"{where}: context has no columns; omit it")
    if lacking := [name for name in names if name not in context]:
        raise InputError(f"{where}: context has no {lacking[0]}; it has {', '.join(map(str, context))}")
    found = {str(name): _plain(context[name], f"{where}: covariate {name}") for name in names or context}
    for name, values in found.items():
        if values.shape != (count,):
            raise InputError(f"{where}: covariate {name} has shape {values.shape}, not ({count},): one per example")
    return found


def repeated(context: Any, count: int, names: Sequence[str]) -> Any:
    """Covariates of `count` examples, in which a row, or a single value of a mapping, is repeated."""
    if hasattr(context, "columns"):
        return context
    if isinstance(context, Mapping):
        return {
            name: np.broadcast_to(value, count) if np.ndim(value) == 0 else value for name, value in context.items()
        }
    row = np.asarray(context)
    if row.ndim == 0 or (row.ndim == 1 and len(names) > 1):
        return np.broadcast_to(row.reshape(1, -1), (count, row.size))
    return row


def stacked(found: Columns) -> Shaped[np.ndarray, "N C"]:
    """Columns side by side, before they are encoded."""
    kind = np.float64 if all(values.dtype.kind == "f" for values in found.values()) else object
    return np.stack([values.astype(kind) for values in found.values()], axis=1)


def encoded(dataset: Dataset) -> Dataset:
    """The data set with its covariates, from `stacked`, in model units, by statistics of the training split.

    A column of numbers is standardized; a constant one becomes 0. A string column becomes a column of 0 and 1 for each
    category of the training split. InputError for a missing covariate, for a category that the training split lacks,
    and for more than `CATEGORIES`.
    """
    if dataset.train.context is None:
        return dataset
    names: list[str] = []
    scales: list[tuple[float, float]] = []  # offset and factor
    for name, values in zip(dataset.covariates, dataset.train.context.T, strict=True):
        if "=" in name:
            raise InputError(f"covariate {name}: its name has an equals sign, as categories do; rename it")
        if all(isinstance(value, str) for value in values.tolist()):
            words = sorted({*values.tolist()} - {""})
            if not words:
                raise _missing(name, len(values))
            if len(words) > CATEGORIES:
                raise InputError(
                    f"covariate {name} has {len(words):,} different strings, more than {CATEGORIES}; leave it out"
                )
            names += [f"{name}={word}" for word in words]
            scales += [(0.0, 1.0)] * len(words)
        else:
            numbers = _numbers(name, values)
            with np.errstate(over="ignore", invalid="ignore"):
                mean, deviation = numbers.mean(), numbers.std()
            if not np.isfinite([mean, deviation]).all():
                raise InputError(f"covariate {name} has values too large to be scaled; divide them")
            names.append(name)
            scales.append((mean, deviation if deviation > 1e-12 * abs(mean) else 1.0))
    known = Conditions(covariates=tuple(names), scale=Scale(*np.array(scales, np.float64).T))

    def in_order(split: Split) -> Split:
        named = dict(zip(dataset.covariates, np.asarray(split.context).T, strict=True))
        return split._replace(context=in_model_units(named, known))

    return dataset.each(in_order)._replace(covariates=known.covariates, context_scale=known.scale)


def in_model_units(found: Mapping[str, np.ndarray], known: Conditions) -> Float[np.ndarray, "N K"]:
    """Columns as the covariates of the training data, float32. InputError as in `encoded`."""
    parts: list[np.ndarray] = []
    for name, words in categories(known.covariates).items():
        values = found[name]
        if words is None:
            parts.append(_numbers(name, values)[:, None])
            continue
        given = np.array([*map(_word, values.tolist())], np.str_)
        if (given == "").any():
            raise _missing(name, int((given == "").sum()))
        if new := sorted({*given.tolist()} - {*words}):
            raise InputError(f"{name}={new[0]} is not a category of the training data; use {', '.join(words)}")
        parts.append((given[:, None] == np.array(words)).astype(np.float64))
    offset, factor = known.scale or IDENTITY
    return ((np.concatenate(parts, axis=1) - offset) / factor).astype(np.float32)


def in_users_units(context: Float[np.ndarray, "N K"], known: Conditions) -> Columns:
    """The inverse of `in_model_units`."""
    offset, factor = known.scale or IDENTITY
    values = offset + factor * context.astype(np.float64)
    found: Columns = {}
    at = 0
    for name, words in categories(known.covariates).items():
        found[name] = values[:, at] if words is None else np.array(words)[values[:, at : at + len(words)].argmax(1)]
        at += len(words or [name])
    return found


def given(dataset: Dataset, split: Split, places: Any = slice(None)) -> dict[str, Any]:
    """`y` and `context`, in the user's units, of these examples of a split; None for what it lacks."""
    y = labels_of(split.y[places], dataset.classes) if dataset.classes else None
    context = None if split.context is None else in_users_units(split.context[places], dataset.conditions)
    return {"y": y, "context": context}


def categories(names: Sequence[str]) -> dict[str, list[str] | None]:
    """The covariates by name, with their categories; None for numbers."""
    found: dict[str, list[str] | None] = {}
    for name in names:
        column, *word = name.split("=", 1)
        found[column] = [*(found.get(column) or []), *word] if word else None
    return found


def _plain(values: Any, where: str) -> np.ndarray:
    """Numbers, even if written as strings, as float64; other values as strings. InputError for both in one column."""
    values = np.ma.filled(values, np.nan) if isinstance(values, np.ma.MaskedArray) else np.asarray(values)
    if values.dtype.kind == "O" and any(isinstance(value, str) for value in values.ravel().tolist()):
        missing = [value is None or value != value for value in values.ravel().tolist()]  # NaN differs from itself
        given = np.where(np.reshape(missing, values.shape), "", values)
        values = given.astype(np.str_) if all(isinstance(value, str) for value in given.ravel().tolist()) else given
    if values.dtype.kind not in "biufUSO":
        raise InputError(f"{where} holds {values.dtype}, not numbers or strings; convert it, dates to numbers")
    words = values.dtype.kind in "US"
    try:
        return np.where(values == "", "nan", values).astype(np.float64) if words else values.astype(np.float64)
    except (TypeError, ValueError):
        if not words:
            raise InputError(f"{where} is neither all numbers nor all strings; convert it") from None
    values = np.char.decode(values, errors="replace") if values.dtype.kind == "S" else values
    return np.array([*map(_word, values.ravel().tolist())], np.str_).reshape(values.shape)


def _word(value: str | float) -> str:
    """A category: without surplus spaces, an integer without its decimal point."""
    return " ".join(value.split()) if isinstance(value, str) else f"{value:g}"


def _numbers(name: str, values: np.ndarray) -> Float[np.ndarray, " N"]:
    """A column of numbers. InputError for strings, and for missing and infinite numbers."""
    try:
        found = values.astype(np.float64)
    except (TypeError, ValueError):
        raise InputError(f"covariate {name} holds strings, but numbers in the training data; convert it") from None
    if count := int(np.isnan(found).sum()):
        raise _missing(name, count)
    if np.isinf(found).any():
        raise InputError(f"covariate {name} has infinite values; replace them")
    return found


def _missing(name: str, count: int) -> InputError:
    examples = f"{count:,} example{'s' * (count > 1)}"
    return InputError(f"covariate {name} is missing in {examples}; fill it in, or leave {name} out of context")
