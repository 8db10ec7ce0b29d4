"""Binary images: each pixel is white with its grey value as probability (Salakhutdinov & Murray 2008)."""

import numpy as np

from jaxae.data import Dataset, Split

PIECE = 10_000  # examples


def drawn(dataset: Dataset, how: str) -> Dataset:
    """The set for `binarize`: `none` as it is; `static` with both splits drawn; `dynamic` with the test split drawn.

    The draws are a part of the data, the same for every seed of a run. What training images are drawn anew in every
    step is `step.binarized`.
    """
    train = _drawn(dataset.train, 0) if how == "static" else dataset.train
    return dataset if how == "none" else dataset._replace(train=train, test=_drawn(dataset.test, 1))


def as_in_training(dataset: Dataset, how: str) -> Dataset:
    """A set as `drawn` gives it, whose training images are also as training sees them: black and white, if dynamic."""
    return drawn(dataset, "static") if how == "dynamic" else dataset


def _drawn(split: Split, stream: int) -> Split:
    rng = np.random.default_rng((20080705, stream))
    white = 255 if split.x.dtype == np.uint8 else 1
    x = np.empty(split.x.shape, split.x.dtype)
    for i in range(0, len(x), PIECE):
        part = split.x[i : i + PIECE]
        x[i : i + PIECE] = white * (rng.random(part.shape, np.float32) < part / np.float32(white))
    return split._replace(x=x)
