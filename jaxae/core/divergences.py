"""Densities, divergences and bounds in nats: one number per example, summed over its dimensions."""

from math import log, pi, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class DiagonalNormal(NamedTuple):
    """Normal distributions with diagonal covariance, one per example."""

    mean: Float[Array, "B *D"]
    log_scale: Float[Array, "B *D"]  # logarithm of the standard deviation


def per_example(values: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """Sum over all axes but the first.

    Computed as a matrix product with ones, since XLA on CPU does not vectorize fused reductions: this reduced a VAE
    step on MNIST from 3.3 ms to 1.7 ms.
    """
    size = prod(values.shape[1:])
    return jnp.dot(values.reshape(-1, size), jnp.ones(size), precision="highest")


def log_normal(p: DiagonalNormal, x: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """log N(x; mean, scale^2) (Kingma & Welling 2014, appendix C.2)."""
    return per_example(log_normal_terms(p, x))


def log_normal_terms(p: DiagonalNormal, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The terms of `log_normal`, one per dimension."""
    z = (x - p.mean) * jnp.exp(-p.log_scale)
    return -0.5 * (z**2 + log(2 * pi)) - p.log_scale


def standard_normal(like: Float[Array, "B *D"]) -> DiagonalNormal:
    """N(0, I) of this shape."""
    return DiagonalNormal(jnp.zeros_like(like), jnp.zeros_like(like))


def discrimination(real: Float[Array, " B"], fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """-log D(real) - log(1 - D(fake)), the loss of a discriminator, from its logits.

    Goodfellow et al. 2014, equation 1; 2 log 2 for a discriminator at chance.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def importance_weighted(log_weights: Float[Array, "B K"]) -> Float[Array, " B"]:
    """log (1 / K) sum_k w_k; for w_k = p(x, z_k) / q(z_k|x) a lower bound on log p(x) (Burda et al. 2016, eq. 8)."""
    return jax.nn.logsumexp(log_weights, axis=1) - log(log_weights.shape[1])


def kl_normal(q: DiagonalNormal) -> Float[Array, " B"]:
    """KL(q || N(0, I)) = sum (mean^2 + scale^2 - 1) / 2 - log scale (Kingma & Welling 2014, appendix B)."""
    return per_example(kl_normal_terms(q))


def kl_normal_terms(q: DiagonalNormal) -> Float[Array, "B *D"]:
    """The terms of `kl_normal`, one per latent dimension."""
    return 0.5 * (q.mean**2 + jnp.exp(2 * q.log_scale) - 1) - q.log_scale
