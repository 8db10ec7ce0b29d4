"""Codes of a split, without holding all its examples as floats."""

from math import prod

import numpy as np
from jaxtyping import Float

from jaxae.core.experiment import MeasuredSplit, TrainedModel
from jaxae.data import slices


def codes_of(trained: TrainedModel, split: MeasuredSplit) -> Float[np.ndarray, "N *code"]:
    """Codes of all examples of a split, of up to `data.dataset.VALUES` numbers at a time."""
    parts = slices(len(split.x), prod(split.x.shape[1:]))
    return np.concatenate([np.asarray(trained.encode(split.x[part])) for part in parts])
