"""Binary images: each pixel is white with its grey value as probability (Salakhutdinov & Murray 2008)."""

import numpy as np

from jaxae.data.dataset import Dataset, Split
from jaxae.data.draws import Draws
from jaxae.errors import InputError

CHUNK = 10_000  # examples


def binarize(dataset: Dataset, how: str) -> Dataset:
    """Binarize all splits (`static`), all but the training split (`dynamic`), or none (`none`).

    The result is part of the data, the same for every seed of a run. With `dynamic`, `step.binarized` resamples the
    training images in every step.
    """
    if how == "none":
        return dataset
    if how == "static" and isinstance(dataset.train.x, Draws):
        raise InputError("binarize=static needs stored images, not generated ones; use dynamic")
    return dataset._replace(
        train=_binarize(dataset.train, 0) if how == "static" else dataset.train,
        test=_binarize(dataset.test, 1),
        valid=None if dataset.valid is None else _binarize(dataset.valid, 2),
    )


def as_in_training(dataset: Dataset, how: str) -> Dataset:
    """With `how` = dynamic, also binarize the training images, as the training step does."""
    return binarize(dataset, "static") if how == "dynamic" else dataset


def _binarize(split: Split, stream: int) -> Split:
    rng = np.random.default_rng((20080705, stream))
    white = 255 if split.x.dtype == np.uint8 else 1
    x = np.empty(split.x.shape, split.x.dtype)
    for i in range(0, len(x), CHUNK):
        part = split.x[i : i + CHUNK]
        x[i : i + CHUNK] = white * (rng.random(part.shape, np.float32) < part / np.float32(white))
    return split._replace(x=x)
