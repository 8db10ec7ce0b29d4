"""Formulas in NumPy for `counts.py`: log p(x) of cells by importance sampling, and the model-free negative binomial."""

from collections.abc import Iterator

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import gammaln, logsumexp

SAMPLES = 100  # of the importance sampling
AT_ONCE = 4  # cells


def log_mass(x: np.ndarray, mean: np.ndarray, r: np.ndarray, logit: np.ndarray | None = None) -> np.ndarray:
    """log p of counts: negative binomial of variance mean + mean^2 / r, with additional zeros of these logits."""
    counted = gammaln(x + r) - gammaln(r) - gammaln(x + 1) - r * np.log1p(mean / r) + x * np.log(mean / (mean + r))
    if logit is None:
        return counted
    return np.where(x > 0, counted, np.logaddexp(logit, counted)) - np.logaddexp(0, logit)


def log_normal(x: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """log N(x; mean, scale^2), summed over the last axis."""
    return np.sum(-0.5 * ((x - mean) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2 * np.pi), axis=-1)


def log_p(log_weights: np.ndarray) -> np.ndarray:
    """log p(x) of cells [N] from log p(x, z) / q(z|x) of samples [N, K]."""
    return logsumexp(log_weights, axis=1) - np.log(log_weights.shape[1])


def parts(count: int) -> Iterator[slice]:
    """Cells, a few at a time."""
    return (slice(first, min(first + AT_ONCE, count)) for first in range(0, count, AT_ONCE))


def model_free(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """log p of the test cells under negative binomials of mean (total of the cell) x (share of the gene).

    One inverse dispersion per gene, by maximum likelihood. Half a count is added to each gene.
    """
    share = train.sum(0, dtype=np.float64) + 0.5
    share /= share.sum()
    mean = train.sum(1, keepdims=True, dtype=np.float64) * share
    r = np.empty(train.shape[1])
    for gene in range(len(r)):

        def negative(log_r: float, gene: int = gene) -> float:
            return -float(log_mass(train[:, gene], mean[:, gene], np.exp(np.float64(log_r))).sum())

        r[gene] = np.exp(minimize_scalar(negative, bounds=(-8, 8), method="bounded").x)
    return log_mass(test, test.sum(1, keepdims=True) * share, r).sum(1)
