"""Scaling between the user's units and model units."""

from collections.abc import Iterator
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.core.types import Scale
from jaxae.data.dataset import Dataset, Split, within
from jaxae.data.rows import chunks, has_missing, mapped
from jaxae.errors import InputError

Scaling = Literal["auto", "none", "unit", "standard"]
LARGEST = 2**24  # largest count: all below are exact in float32


class Moments(NamedTuple):
    """Statistics of the observed entries of a training split, for each index along the last axis of an example."""

    mean: Float[np.ndarray, " C"]
    std: Float[np.ndarray, " C"]
    low: Float[np.ndarray, " C"]
    high: Float[np.ndarray, " C"]


def scaled(dataset: Dataset, how: Scaling) -> Dataset:
    """Convert a data set from the user's units to model units; a missing entry, NaN before, becomes 0.

    how: none; unit, from the range of the training split to [0, 1]; standard, to mean 0 and variance 1 over the
    training split; for each feature of a table, each channel of images and each dimension of series. auto: standard for
    real numbers, none for bytes and for images and series in [0, 1]. Bytes of images are divided by 255 first. `Rows`
    are scaled when they are read, other arrays in chunks.
    A constant column becomes 0. InputError for a column without observed entries. Counts are not scaled: InputError for
    unit and standard, and for a value that is not a count.
    """
    if dataset.kind == "counts":
        return _counts(dataset, how)
    of_bytes = dataset.train.x.dtype == np.uint8 and dataset.kind == "image"
    dataset = dataset._replace(from_bytes=dataset.from_bytes or of_bytes)
    pixels = dataset.kind != "table" and all(_within_unit(split.x) for split in dataset.splits)
    if how == "auto":
        how = "none" if pixels else "standard"
    if how == "none" and of_bytes:
        return dataset
    missing = any(has_missing(split.x) for split in dataset.splits)
    converted = partial(in_model_units, missing=missing, divide=of_bytes)
    if how == "none":
        return dataset.each(partial(converted, scale=None))._replace(real=not pixels)
    known = moments(dataset.train, of_bytes)
    if np.isnan(known.mean).any():
        column = int(np.isnan(known.mean).argmax())
        raise InputError(f"{dataset.feature(column)} has no entry in the training split; leave it out")
    offset, factor = (known.mean, known.std) if how == "standard" else (known.low, known.high - known.low)
    if not np.isfinite([*offset, *factor]).all():
        column = int(np.argmin(np.isfinite(offset) & np.isfinite(factor)))
        raise InputError(f"{dataset.feature(column)} has values too large to be scaled; leave it out, or divide them")
    scale = Scale(offset, np.where(factor > 1e-12 * np.abs(offset), factor, 1.0))
    found = dataset.each(partial(converted, scale=scale))
    found = found._replace(scale=scale, real=how == "standard")
    if how == "unit":
        beyond = sum(int(((part < 0) | (part > 1)).sum()) for split in found.splits[1:] for part in chunks(split.x))
        if beyond:
            found = found._replace(notes=(*found.notes, f"{beyond:,} values outside the range of the training split"))
    return found


def _counts(dataset: Dataset, how: Scaling) -> Dataset:
    """Counts in float32, with the mean total of the observed ones of a training example."""
    if how in ("unit", "standard"):
        raise InputError(f"scale={how} has no effect on counts, which are not scaled; omit it, or use kind=table")
    for part in (part for split in dataset.splits for part in chunks(split.x)):
        wrong = (part < 0) | (part % 1 > 0) | (part > np.float64(LARGEST))
        if wrong.any():
            row, column = map(int, np.argwhere(wrong)[0])
            raise InputError(
                f"{dataset.feature(column)} has {part[row, column]:.9g}, which is not a count from 0 to {LARGEST:,}; "
                "leave it out, or use kind=table"
            )
    counted = sum(float(np.nansum(part, dtype=np.float64)) for part in chunks(dataset.train.x))
    total = counted / len(dataset.train.x)
    if not total:
        raise InputError("all counts of the training split are 0: there is nothing to learn")
    missing = any(has_missing(split.x) for split in dataset.splits)
    kept = dataset.each(partial(in_model_units, scale=None, missing=missing))
    return kept._replace(real=True, total=total)


def moments(split: Split, divide: bool = False) -> Moments:
    """Moments of the observed entries; NaN for a column without observed entries. Padding is excluded."""

    def parts() -> Iterator[np.ndarray]:
        for part in chunks(split.x) if split.lengths is None else [split.x[_steps(split)]]:
            yield (part / np.float32(255) if divide else part).reshape(-1, split.x.shape[-1]).astype(np.float64)

    count, total, low, high = 0.0, 0.0, np.inf, -np.inf
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        for x in parts():
            known = ~np.isnan(x)
            count, total = count + known.sum(0), total + np.where(known, x, 0).sum(0)
            low = np.minimum(low, np.where(known, x, np.inf).min(0, initial=np.inf))
            high = np.maximum(high, np.where(known, x, -np.inf).max(0, initial=-np.inf))
        mean = np.asarray(total / count)
        square = sum(np.sum(np.where(np.isnan(x), 0, x - mean[None]) ** 2, axis=0) for x in parts())
        return Moments(mean, np.sqrt(square / count), np.asarray(low), np.asarray(high))


def in_model_units(split: Split, scale: Scale | None, missing: bool, divide: bool = False) -> Split:
    """Missing entries and padding as 0, in float32, with the mask of the observed ones if any is missing."""

    def convert(part: np.ndarray) -> np.ndarray:
        part = part / np.float32(255) if divide else part
        with np.errstate(invalid="ignore"):  # signalling NaN in damaged files
            part = part if scale is None else (part - scale.offset) / scale.factor
            return (np.where(np.isnan(part), 0, part) if missing else part).astype(np.float32)

    x = mapped(split.x, convert, np.float32)
    if split.lengths is not None:
        x[~_steps(split)] = 0
    return split._replace(x=x, observed=mapped(split.x, _known, np.uint8) if missing else None)


def _known(part: np.ndarray) -> np.ndarray:
    return (~np.isnan(part)).astype(np.uint8)


def _steps(split: Split) -> np.ndarray:
    """Whether a step is within its sequence."""
    return within(np.asarray(split.lengths), split.x.shape[1])


def _within_unit(x: Any) -> bool:
    if x.dtype == np.uint8:
        return True
    return all(  # ignores NaN
        np.fmin.reduce(part, None, initial=0) >= 0 and np.fmax.reduce(part, None, initial=0) <= 1 for part in chunks(x)
    )
