"""Codebook usage on the test split."""

from functools import partial
from typing import Any

import jax
import numpy as np

from jaxae.core.experiment import MeasuredData, TrainedModel


def usage(trained: TrainedModel, data: MeasuredData) -> dict[str, float]:
    """`perplexity`, exp of the entropy of code usage, from 1 to K, and `usage`, the fraction of codes in use.

    trained: a trained `VQVAE`, or another model with an attribute `codes`, K, and a method `index`.
    """
    from scipy import stats

    model: Any = trained.experiment.model
    index = jax.jit(partial(model.apply, method="index"))
    starts = range(0, len(data.test.x), 1000)
    rows = [np.ravel(index(trained.variables, trained.encode(data.test.x[i : i + 1000]))) for i in starts]
    counts = np.unique(np.concatenate(rows), return_counts=True)[1]
    return {"perplexity": float(np.exp(stats.entropy(counts))), "usage": len(counts) / model.codes}
