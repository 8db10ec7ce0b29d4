"""beta-TCVAE (Chen, Li, Grosse & Duvenaud 2018): the KL term as a sum of three terms, each with its own weight."""

from math import log

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, log_normal, log_normal_terms, standard_normal
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae


def kl_decomposition(
    q: DiagonalNormal, z: Float[Array, "B Z"], global_q: DiagonalNormal, examples: int
) -> tuple[Float[Array, " B"], Float[Array, " B"], Float[Array, " B"]]:
    """log q(z|x) - log q(z), log q(z) - sum_j log q(z_j) and sum_j log q(z_j) - log p(z_j), in nats.

    Their means are the mutual information of index and code, the total correlation, and the dimension-wise KL
    (Chen et al. 2018, equation 2); for every example they sum to log q(z|x) - log p(z).
    The estimates have large constant biases, which cancel in the sum: for equal posteriors they are log M,
    (Z - 1) log M and -Z log M, not 0. Only their changes and gradients are meaningful.
    q: posteriors of these examples. global_q: posteriors of the global batch [N, Z], from which minibatch weighted
    sampling estimates q(z) and q(z_j): log q(z) = log sum_n q(z|x_n) - log(N M) (their equation 3). examples: M, number
    of training examples.
    """
    there = DiagonalNormal(*(part[None] for part in global_q))
    density = log_normal_terms(there, z[:, None])  # log q(z_j of B | x of N), [B, N, Z]
    known = log(examples) + log(density.shape[1])
    joint = jax.nn.logsumexp(density.sum(2), axis=1) - known
    product = jnp.sum(jax.nn.logsumexp(density, axis=1) - known, axis=1)
    prior = log_normal(standard_normal(z), z)
    return log_normal(q, z) - joint, joint - product, product - prior


def loss(
    model: vae.VAE,
    examples: int,
    beta: Weight,
    mutual: Weight = 1.0,
    dimension_wise: Weight = 1.0,
) -> Loss:
    """-log p(x|z) + mutual * information + beta * total correlation + dimension_wise * dimension-wise KL (equation 4).

    With all weights 1, the negative evidence lower bound with a one-sample estimate of the KL term.
    examples: number of training examples. Training only, since it needs the global batch (see `Batch.gather`).
    Terms: `loss`, `reconstruction`, `mutual_information`, `total_correlation`, `dimension_wise_kl`; nats per example.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = vae.sample_posterior(model, variables, batch, key)
        error, _ = vae.reconstruction(model, variables, batch, z)
        global_q = DiagonalNormal(*(batch.gather(part) for part in q))
        information, correlation, divergence = kl_decomposition(q, z, global_q, examples)
        weighted = (
            batch.scheduled(mutual) * information
            + batch.scheduled(beta) * correlation
            + batch.scheduled(dimension_wise) * divergence
        )
        return {
            "loss": error + weighted,
            "reconstruction": error,
            "mutual_information": information,
            "total_correlation": correlation,
            "dimension_wise_kl": divergence,
        }, {}

    return objective
