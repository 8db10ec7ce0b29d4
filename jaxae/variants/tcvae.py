"""beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): the divergence in three parts, of which one is weighed."""

from math import log
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import gathered, mean, noise
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants.rate import Weight
from jaxae.variants.vae import VAE, Likelihood, reparameterize


def parts(
    q: prob.Normal, z: Float[Array, "B Z"], everyone: prob.Normal, examples: int
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """log q(z|x) - log q(z), log q(z) - sum_j log q(z_j) and sum_j log q(z_j) - log p(z_j), in nats.

    Their means are the mutual information of index and code, the total correlation, and the divergence of each unit
    (Chen et al. 2018, equation 2); for every example they sum to log q(z|x) - log p(z).
    So estimated they are off by constants, which are large and cancel in the sum: with all posteriors alike the parts
    are log M, (Z - 1) log M and -Z log M, not 0. What counts is how they change, and their gradients.
    q: posteriors of these examples; everyone: those of the whole batch [N, Z], from which q(z) and q(z_j) are estimated
    by minibatch weighted sampling: log q(z) = log sum_n q(z|x_n) - log(N M), M = `examples` in all (their equation 3).
    """
    there = prob.Normal(*(part[None] for part in everyone))
    density = prob.normal_units(there, z[:, None])  # log q(z_j of B | x of N), [B, N, Z]
    known = log(examples) + log(density.shape[1])
    joint = jax.nn.logsumexp(density.sum(2), axis=1) - known
    product = jnp.sum(jax.nn.logsumexp(density, axis=1) - known, axis=1)
    prior = prob.normal(prob.Normal(jnp.zeros_like(z), jnp.zeros_like(z)), z)
    return prob.normal(q, z) - joint, joint - product, product - prior


def loss(
    model: VAE,
    examples: int,
    beta: Weight,
    mutual: Weight = 1.0,
    units: Weight = 1.0,
    log_likelihood: Likelihood = prob.bernoulli,
) -> Loss:
    """-log p(x|z) + mutual * information + beta * total correlation + units * divergence of units (equation 4).

    All weights 1: the negative evidence lower bound, with a sample in place of the closed form of its divergence.
    examples: how many there are in training. For training: looks at the batch as a whole (see `batch.gathered`).
    Metrics: `loss`, `reconstruction`, `mutual_information`, `total_correlation`, `dimension_wise_kl`; nats per example.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        q: Any = model.apply(variables, batch.x, method="posterior")
        z = reparameterize(q, noise(key, batch, q.mean.shape[1:]))
        logits: Any = model.apply(variables, z, method="logits")
        everyone = prob.Normal(*(gathered(part) for part in q))
        information, correlation, divergence = parts(q, z, everyone, examples)
        terms = {
            "reconstruction": -log_likelihood(logits, batch.x),
            "mutual_information": information,
            "total_correlation": correlation,
            "dimension_wise_kl": divergence,
        }
        terms["loss"] = terms["reconstruction"] + mutual * information + beta * correlation + units * divergence
        metrics = {name: mean(values, batch) for name, values in terms.items()}
        return metrics["loss"], (extra, metrics)

    return objective
