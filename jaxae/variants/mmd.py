"""Maximum mean discrepancy (Gretton et al. 2012): WAE-MMD and InfoVAE, which match the aggregate posterior to p(z)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import kl_normal, per_example
from jaxae.core.types import Extra, Variables
from jaxae.variants import autoencoder, vae


def inverse_multiquadratic(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, "N M"]:
    """k(x, y) = C / (C + |x - y|^2), C = 2 Z, the mean of |x - y|^2 under N(0, I) (Tolstikhin et al. 2018)."""
    scale = 2.0 * x.shape[1]
    square = jnp.sum((x[:, None] - y[None]) ** 2, axis=2)
    return scale / (scale + square)


def discrepancy(x: Float[Array, "N Z"], y: Float[Array, "M Z"]) -> Float[Array, ""]:
    """The unbiased estimate of MMD^2 (Gretton et al. 2012, equation 3): zero on average for equal distributions.

    Mean of k over pairs of different x, plus that of different y, minus twice that of x and y. ValueError for batches
    without pairs.
    """
    n, m = len(x), len(y)
    if min(n, m) < 2:
        raise ValueError(f"batch_size={min(n, m)} must be at least 2 for the MMD of codes")

    def within(k: Float[Array, "N N"], count: int) -> Float[Array, ""]:
        return (jnp.sum(k) - count) / (count * (count - 1))  # k(x, x) = 1

    between = jnp.mean(inverse_multiquadratic(x, y))
    return within(inverse_multiquadratic(x, x), n) + within(inverse_multiquadratic(y, y), m) - 2 * between


def from_prior(batch: Batch, z: Float[Array, "B Z"], key: Key[Array, ""]) -> Float[Array, " B"]:
    """`discrepancy` of the codes of the global batch and as many samples of N(0, I), repeated for every example."""
    return batch.repeat(discrepancy(batch.gather(z), batch.gather(batch.noise(key, z.shape[1:]))))


def wasserstein(model: autoencoder.Autoencoder, weight: Weight) -> Loss:
    """Squared error plus weight * MMD^2 of codes and N(0, I) (Tolstikhin et al. 2018, algorithm 2).

    For a deterministic encoder. Training only, since it needs the whole batch (see `Batch.gather`). Terms: `loss`,
    `reconstruction`, squared error summed over the pixels of an image, and `mmd`.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        (z, before), updates = autoencoder.apply(model, variables, batch, batch.x, key)
        error = per_example((model.output(before) - batch.x) ** 2)
        mmd = from_prior(batch, z, jax.random.clone(key))
        return {"loss": error + batch.scheduled(weight) * mmd, "reconstruction": error, "mmd": mmd}, updates

    return objective


def information(model: vae.VAE, kl_weight: Weight, mmd_weight: Weight) -> Loss:
    """InfoVAE: -log p(x|z) + kl_weight * KL + mmd_weight * MMD^2 of q(z) and N(0, I).

    Zhao et al. 2019, equation 6, with kl_weight = 1 - alpha and mmd_weight = alpha + lambda - 1; weights 1 and 0 give
    the negative evidence lower bound. Training only, as `wasserstein`. Terms: `loss`, `reconstruction`, `kl`, in nats
    per example, and `mmd`.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        posterior, prior = jax.random.split(key)
        q, z = vae.sample_posterior(model, variables, batch, posterior)
        error, _ = vae.reconstruction(model, variables, batch, z)
        kl, mmd = kl_normal(q), from_prior(batch, z, prior)
        total = error + batch.scheduled(kl_weight) * kl + batch.scheduled(mmd_weight) * mmd
        return {"loss": total, "reconstruction": error, "kl": kl, "mmd": mmd}, {}

    return objective
