"""How a test split uses a codebook."""

from functools import partial
from typing import Any

import jax
import numpy as np

from jaxae.core.experiment import MeasuredData, TrainedModel


def usage(trained: TrainedModel, data: MeasuredData) -> dict[str, float]:
    """How the test split uses the codebook: `perplexity`, from 1 to K, and `usage`, the share of codes it contains.

    trained: of a `VQVAE`, or of another model with as many `codes` and their `index`.
    """
    from scipy import stats

    model: Any = trained.experiment.model
    index = jax.jit(partial(model.apply, method="index"))
    starts = range(0, len(data.test.x), 1000)
    rows = [np.ravel(index(trained.variables, trained.encode(data.test.x[i : i + 1000]))) for i in starts]
    counts = np.unique(np.concatenate(rows), return_counts=True)[1]
    return {"perplexity": float(np.exp(stats.entropy(counts))), "usage": len(counts) / model.codes}
