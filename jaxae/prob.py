"""Log-likelihoods and divergences in nats: one number per example, summed over its dimensions."""

from math import log, pi, prod
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class Normal(NamedTuple):
    """A diagonal normal distribution, one per example."""

    mean: Float[Array, "B *D"]
    log_scale: Float[Array, "B *D"]  # logarithm of the standard deviation


def per_example(values: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """Sum over all axes but the first.

    As a product with ones, because XLA on CPU does not vectorize what it fuses into a reduction: a VAE's step on
    MNIST went from 3.3 ms to 1.7.
    """
    size = prod(values.shape[1:])
    return jnp.dot(values.reshape(-1, size), jnp.ones(size), precision="highest")


def cross_entropy(logits: Float[Array, "B *D"], x: Float[Array, "B *D"]) -> Float[Array, "B *D"]:
    """-(x log s(l) + (1 - x) log(1 - s(l))), s the logistic function, in nats.

    One exponential for value and gradient, where Optax's takes two logarithms of sums: a VAE's step 16 % shorter.
    """
    size = jnp.abs(logits)
    positive = 0.5 * (logits + size)  # whose slope at 0 is a half, as it must be
    return positive + jnp.log1p(jnp.exp(-size)) - x * logits


def bernoulli(logits: Float[Array, "B *D"], x: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """log p(x) = sum_d x log s(l) + (1 - x) log(1 - s(l)), s the logistic function.

    Kingma & Welling 2014, appendix C.1. For x between 0 and 1 this is minus the cross-entropy: the usual
    objective on grey pixels, but not a normalized likelihood.
    """
    return -per_example(cross_entropy(logits, x))


def normal(p: Normal, x: Float[Array, "B *D"]) -> Float[Array, " B"]:
    """log N(x; mean, scale^2) (Kingma & Welling 2014, appendix C.2)."""
    return per_example(normal_units(p, x))


def normal_units(p: Normal, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
    """The terms of `normal`, one for each unit."""
    z = (x - p.mean) * jnp.exp(-p.log_scale)
    return -0.5 * (z**2 + log(2 * pi)) - p.log_scale


def discrimination(real: Float[Array, " B"], fake: Float[Array, " B"]) -> Float[Array, " B"]:
    """-log D(real) - log(1 - D(fake)), the loss of a discriminator, from its logits.

    Goodfellow et al. 2014, equation 1; 2 log 2 if it cannot tell.
    """
    return jax.nn.softplus(-real) + jax.nn.softplus(fake)


def importance_weighted(log_weights: Float[Array, "B K"]) -> Float[Array, " B"]:
    """log (1 / K) sum_k w_k: with w_k = p(x, z_k) / q(z_k|x) a lower bound of log p(x) (Burda et al. 2016, eq. 8)."""
    return jax.nn.logsumexp(log_weights, axis=1) - log(log_weights.shape[1])


def kl_normal(q: Normal) -> Float[Array, " B"]:
    """KL(q || N(0, I)) = sum (mean^2 + scale^2 - 1) / 2 - log scale (Kingma & Welling 2014, appendix B)."""
    return per_example(kl_units(q))


def kl_units(q: Normal) -> Float[Array, "B *D"]:
    """The terms of `kl_normal`, one for each unit of the code."""
    return 0.5 * (q.mean**2 + jnp.exp(2 * q.log_scale) - 1) - q.log_scale
