"""Maximum mean discrepancy (Gretton et al. 2012): WAE-MMD and InfoVAE, which press all codes together to the prior."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import gathered, mean, noise
from jaxae.errors import InputError
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants.autoencoder import Autoencoder
from jaxae.variants.rate import Weight
from jaxae.variants.vae import VAE, Likelihood, reparameterize


def inverse_multiquadratic(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, "N M"]:
    """k(x, y) = C / (C + |x - y|^2), C = 2 Z: |x - y|^2 of two draws of N(0, I) (Tolstikhin et al. 2018)."""
    scale = 2.0 * x.shape[1]
    square = jnp.sum((x[:, None] - y[None]) ** 2, axis=2)
    return scale / (scale + square)


def discrepancy(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, ""]:
    """The unbiased estimate of MMD^2 (Gretton et al. 2012, equation 3): zero on average for equal distributions.

    Mean of k over pairs of different x, plus that of different y, minus twice that of x and y. InputError for batches
    without pairs.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise InputError(f"--batch-size {min(n, m)}: a discrepancy of codes needs at least 2 of them")

    def within(k: Float[Array, "N N"], count: int) -> Float[Array, ""]:
        return (jnp.sum(k) - count) / (count * (count - 1))  # k(x, x) = 1

    between = jnp.mean(inverse_multiquadratic(x, y))
    return within(inverse_multiquadratic(x, x), n) + within(inverse_multiquadratic(y, y), m) - 2 * between


def wasserstein(model: Autoencoder, weight: Weight) -> Loss:
    """Squared error plus weight * MMD^2 of codes and N(0, I) (Tolstikhin et al. 2018, algorithm 2).

    For an encoder without noise, in training: it looks at the batch as a whole (see `batch.gathered`). Metrics: `loss`,
    `reconstruction`, squared error summed over the pixels of an image, and `mmd`.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        applied: Any = model.apply({"params": params, **extra}, batch.x)
        z, before = applied
        error = prob.per_example((model.output(before) - batch.x) ** 2)
        apart = discrepancy(gathered(z), gathered(noise(key, batch, z.shape[1:])))
        return _summed({"reconstruction": error}, error, weight, apart, extra, batch)

    return objective


def information(model: VAE, kl: Weight, weight: Weight, log_likelihood: Likelihood = prob.bernoulli) -> Loss:
    """InfoVAE: -log p(x|z) + kl * KL + weight * MMD^2 of q(z) and N(0, I).

    Zhao et al. 2019, equation 6, with kl = 1 - alpha and weight = alpha + lambda - 1. 1 and 0: the negative evidence
    lower bound. For training, as `wasserstein`. Metrics: `loss`,
    `reconstruction`, `kl`, in nats per example, and `mmd`.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        posterior, prior = jax.random.split(key)
        q: Any = model.apply(variables, batch.x, method="posterior")
        z = reparameterize(q, noise(posterior, batch, q.mean.shape[1:]))
        logits: Any = model.apply(variables, z, method="logits")
        terms = {"reconstruction": -log_likelihood(logits, batch.x), "kl": prob.kl_normal(q)}
        apart = discrepancy(gathered(z), gathered(noise(prior, batch, z.shape[1:])))
        value = terms["reconstruction"] + kl * terms["kl"]
        return _summed(terms, value, weight, apart, extra, batch)

    return objective


def _summed(
    terms: Metrics, value: jax.Array, weight: Weight, apart: jax.Array, extra: Extra, batch: Batch
) -> tuple[jax.Array, tuple[Extra, Metrics]]:
    apart = mean(jnp.broadcast_to(apart, value.shape), batch)  # the same on all devices, and its gradient shared
    metrics = {name: mean(values, batch) for name, values in terms.items()}
    metrics |= {"mmd": apart, "loss": mean(value, batch) + weight * apart}
    return metrics["loss"], (extra, metrics)
