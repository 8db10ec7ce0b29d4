"""Scaling between the user's units and model units."""

from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from jaxae.core.types import Scale
from jaxae.data.dataset import Dataset, Split
from jaxae.errors import InputError

Scaling = Literal["auto", "none", "unit", "standard"]
LARGEST = 2**24  # largest count: all below are exact in float32


class Moments(NamedTuple):
    """Statistics of the observed entries of a training split, for each place on the last axis of an example."""

    mean: Float[np.ndarray, " C"]
    std: Float[np.ndarray, " C"]
    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]


def scaled(dataset: Dataset, how: Scaling) -> Dataset:
    """A data set in the user's units, NaN where an entry is missing, in model units: 0 where an entry is missing.

    how: none; unit, from the range of the training split to [0, 1]; standard, to mean 0 and variance 1 over the
    training split; for each feature of a table, each channel of images and each dimension of series. auto: standard for
    real numbers, none for bytes and for images and series in [0, 1]. Bytes are divided by 255 first.
    A constant column becomes 0. InputError for a column without any entry. Counts stay as they are: InputError for
    unit and standard, and for a value that is no count.
    """
    if dataset.kind == "counts":
        return _counts(dataset, how)
    dataset = dataset._replace(from_bytes=dataset.train.x.dtype == np.uint8)
    pixels = dataset.kind != "table" and all(_within_unit(split.x) for split in dataset.splits)
    if how == "auto":
        how = "none" if pixels else "standard"
    if how == "none" and dataset.train.x.dtype == np.uint8:
        return dataset
    divided = dataset.each(lambda split: split._replace(x=_divided(split.x)))
    if how == "none":
        return _masked(divided)._replace(real=not pixels)
    known = moments(divided.train)
    if np.isnan(known.mean).any():
        column = int(np.isnan(known.mean).argmax())
        raise InputError(f"{divided.feature(column)} has no entry in the training split; leave it out")
    offset, factor = (known.mean, known.std) if how == "standard" else (known.low, known.high - known.low)
    if not np.isfinite([*offset, *factor]).all():
        column = int(np.argmin(np.isfinite(offset) & np.isfinite(factor)))
        raise InputError(f"{divided.feature(column)} has values too large to be scaled; leave it out, or divide them")
    scale = Scale(offset, np.where(factor > 1e-12 * np.abs(offset), factor, 1.0))
    changed = divided.each(lambda split: split._replace(x=(split.x - scale.offset) / scale.factor))
    found = _masked(changed)._replace(scale=scale, real=how == "standard")
    beyond = sum(int(((split.x < 0) | (split.x > 1)).sum()) for split in found.splits[1:])
    if how == "unit" and beyond:
        found = found._replace(notes=(*found.notes, f"{beyond:,} values outside the range of the training split"))
    return found


def _counts(dataset: Dataset, how: Scaling) -> Dataset:
    """Counts in float32, with the mean total of the observed ones of a training example."""
    if how in ("unit", "standard"):
        raise InputError(f"scale={how} has no effect on counts, which stay as they are; omit it, or use kind=table")
    for split in dataset.splits:
        wrong = (split.x < 0) | (split.x % 1 > 0) | (split.x > LARGEST)
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            raise InputError(
                f"{dataset.feature(column)} has {split.x[row, column]:.9g}, which is no count from 0 to {LARGEST:,}; "
                "leave it out, or use kind=table"
            )
    total = float(np.nansum(dataset.train.x) / len(dataset.train.x))
    if not total:
        raise InputError("all counts of the training split are 0: there is nothing to learn")
    return _masked(dataset)._replace(real=True, total=total)


def moments(split: Split) -> Moments:
    """Moments of the observed entries; NaN for a column without any. Padding of sequences is excluded."""
    x = split.x.reshape(-1, split.x.shape[-1]) if split.lengths is None else split.x[_steps(split)]
    x = x.astype(np.float64)
    known = ~np.isnan(x)
    count = known.sum(0)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        mean = np.where(known, x, 0).sum(0) / count
        std = np.sqrt(np.sum(np.where(known, x - mean[None], 0) ** 2, axis=0) / count)
    low, high = np.where(known, x, np.inf).min(0), np.where(known, x, -np.inf).max(0)
    return Moments(mean, std, low, high)


def _masked(dataset: Dataset) -> Dataset:
    """Missing entries and padding as 0, in float32, with the mask of the observed ones if any is missing."""
    missing = any(np.isnan(split.x).any() for split in dataset.splits)

    def one(split: Split) -> Split:
        x, known = split.x, ~np.isnan(split.x)
        if split.lengths is not None:
            x = np.where(_steps(split)[..., None], x, 0)
        values = np.where(known, x, 0).astype(np.float32)
        return split._replace(x=values, observed=known.astype(np.uint8) if missing else None)

    return dataset.each(one)


def _steps(split: Split) -> np.ndarray:
    """Whether a step is within its sequence."""
    return np.arange(split.x.shape[1])[None] < np.asarray(split.lengths)[:, None]


def _divided(x: UInt8[np.ndarray, "N *D"] | Float[np.ndarray, "N *D"]) -> Float[np.ndarray, "N *D"]:
    return x / np.float32(255) if x.dtype == np.uint8 else x


def _within_unit(x: np.ndarray) -> bool:
    low, high = np.fmin.reduce(x, None, initial=0), np.fmax.reduce(x, None, initial=0)  # ignore NaN
    return x.dtype == np.uint8 or bool(low >= 0 and high <= 1)
