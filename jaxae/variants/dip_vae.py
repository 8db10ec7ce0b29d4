"""DIP-VAE (Kumar, Sattigeri & Balakrishnan 2018): the covariance of the codes of all examples approaches identity."""

from typing import Literal, TypeAlias

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, kl_normal
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae

Of: TypeAlias = Literal["means", "samples"]


def covariance(q: DiagonalNormal, of: Of) -> Float[Array, "Z Z"]:
    """The covariance of posterior means (DIP-VAE-I), or of samples, with the mean posterior variances (DIP-VAE-II).

    q: posteriors of the global batch [N, Z]. With the factor 1 / N.
    """
    centred = q.mean - q.mean.mean(0, keepdims=True)
    of_means = centred.T @ centred / len(centred)
    return of_means + jnp.diag(jnp.mean(q.scale**2, axis=0)) if of == "samples" else of_means


def loss(model: vae.VAE, of: Of, off_diagonal: Weight, diagonal: Weight, kl_weight: Weight = 1.0) -> Loss:
    """-log p(x|z) + kl_weight * KL + off_diagonal sum_i!=j C_ij^2 + diagonal sum_i (C_ii - 1)^2, C of `covariance`.

    Kumar et al. 2018, section 3. Training only, since C needs the global batch (see `Batch.gather`).
    Terms: `loss`, `reconstruction`, `kl`, nats per example; `off_diagonal` and `diagonal`, the two sums.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = vae.sample_posterior(model, variables, batch, key)
        error, _ = vae.reconstruction(model, variables, batch, z)
        kl = kl_normal(q)
        squares = (covariance(DiagonalNormal(*(batch.gather(part) for part in q)), of) - jnp.eye(z.shape[1])) ** 2
        of_diagonal = jnp.trace(squares)
        beside = jnp.sum(squares) - of_diagonal
        weighted = batch.scheduled(off_diagonal) * beside + batch.scheduled(diagonal) * of_diagonal
        return {
            "loss": error + batch.scheduled(kl_weight) * kl + weighted,
            "reconstruction": error,
            "kl": kl,
            "off_diagonal": batch.repeat(beside),
            "diagonal": batch.repeat(of_diagonal),
        }, {}

    return objective
