"""Maximum mean discrepancy (Gretton et al. 2012)."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch

SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


def inverse_multiquadratic(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, "N M"]:
    """k(x, y) = sum_s C_s / (C_s + |x - y|^2), C_s = 2 Z s for s in `SCALES`.

    2 Z is the mean of |x - y|^2 under N(0, I); the scales are those of the code of Tolstikhin et al. 2018.
    """
    square = jnp.sum((x[:, None] - y[None]) ** 2, axis=2)
    return sum((c / (c + square) for c in (2.0 * x.shape[1] * s for s in SCALES)), jnp.zeros(()))


def discrepancy(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, ""]:
    """The unbiased estimate of MMD^2 (Gretton et al. 2012, equation 3): zero in expectation for equal distributions.

    Mean of k over pairs of different x, plus that of different y, minus twice that of x and y. ValueError for batches
    without pairs.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"batch_size={min(n, m)} must be at least 2 for the MMD of codes")

    def within(k: Float[Array, "N N"], count: int) -> Float[Array, ""]:
        return (jnp.sum(k) - len(SCALES) * count) / (count * (count - 1))  # k(x, x) = 1 for each scale

    between = jnp.mean(inverse_multiquadratic(x, y))
    return within(inverse_multiquadratic(x, x), n) + within(inverse_multiquadratic(y, y), m) - 2 * between


def from_prior(batch: Batch, z: Float[Array, "B Z"], key: Key[Array, ""]) -> Float[Array, " B"]:
    """`discrepancy` between the codes of the global batch and as many samples of N(0, I), one value per example."""
    return batch.repeat(discrepancy(batch.gather(z), batch.gather(batch.noise(key, z.shape[1:]))))
