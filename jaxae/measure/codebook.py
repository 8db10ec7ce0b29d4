"""Codebook usage on the test split."""

from collections.abc import Sequence
from functools import partial
from math import log2
from typing import Any

import jax
import numpy as np
from jaxtyping import Int

from jaxae.core.experiment import MeasuredData, RecordedData
from jaxae.training import examples


def indices(trained: Any, x: Any) -> Int[np.ndarray, "N *P"]:
    """Indices of the codes of these examples, in the user's units, or of a split.

    trained: a trained `VQVAE` of one seed, or another model with a method `indices`.
    """
    apply = jax.jit(partial(trained.experiment.model.apply, method="indices"))
    return np.concatenate([np.asarray(apply(trained.variables, part.x)) for part in examples.parts(trained, x)])


def usage(trained: Any, data: MeasuredData, levels: Sequence[int] = ()) -> dict[str, float]:
    """`perplexity`, exp of the entropy of code usage, from 1 to K, and `usage`, the fraction of codes in use.

    With several quantizers per vector, or codebooks that change at the positions `levels`, both are means over the
    codebooks. trained: see `indices`; the model has an attribute `codes`, K. `bits`: size of the indices of an example,
    log2(K) each; `bits_per_second`: the bit rate, for recordings.
    """
    from scipy import stats

    size: int = trained.experiment.model.codes
    found = indices(trained, data.test)
    several = found.ndim == len(trained.code) + 1  # a last axis of quantizers
    parts = np.split(found, levels, axis=1)
    each = [one for part in parts for one in (part.reshape(-1, part.shape[-1]).T if several else part.reshape(1, -1))]
    counts = [np.unique(one, return_counts=True)[1] for one in each]
    bits = found[0].size * log2(size)
    rate = data.sample_rate if isinstance(data, RecordedData) else 0
    return {
        "perplexity": float(np.mean([np.exp(stats.entropy(count)) for count in counts])),
        "usage": float(np.mean([len(count) / size for count in counts])),
        "bits": bits,
        **({"bits_per_second": bits * rate / data.test.x.shape[1]} if rate else {}),
    }
