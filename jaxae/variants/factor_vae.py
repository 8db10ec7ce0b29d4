"""FactorVAE (Kim & Mnih 2018): a discriminator estimates the total correlation of the code."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.divergences import DiagonalNormal, discrimination
from jaxae.core.kl_term import BOUND, Rate
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae


class FactorVAE(vae.VAE, kw_only=True):
    """A variational autoencoder and a discriminator on its codes. Parameter groups: encoder, decoder, discriminator."""

    discriminator: nn.Module  # [B, Z] -> [B, 1]: logit of "from q(z)", not from the product of its marginals

    def __call__(self, x: Float[Array, "B *D"], c: vae.Condition = None) -> tuple[DiagonalNormal, Float[Array, "B *P"]]:
        """Posterior, and the decoder output at its mean."""
        if self.is_initializing():
            self.discriminate(self.encode(x, c))
        return super().__call__(x, c)

    def discriminate(self, z: Float[Array, "B Z"]) -> Float[Array, " B"]:
        """log D(z) / (1 - D(z)): its mean under q(z) estimates the total correlation (Kim & Mnih 2018, eq. 3)."""
        return self.discriminator(z)[:, 0]


def loss(model: FactorVAE, gamma: Weight, rate: Rate = BOUND) -> Loss:
    """The negative evidence lower bound plus gamma times the total correlation (equation 2).

    Use with descend(..., wrt=("encoder", "decoder")).
    Terms: those of `vae.loss`, and `total_correlation`, the discriminator's estimate, in nats.
    """
    bound = vae.loss(model, rate)

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        terms, updates = bound(variables, batch, key)
        z = vae.sample_posterior(model, variables, batch, jax.random.clone(key))[1]
        correlation = _logits(model, variables, z)
        total = terms["loss"] + batch.scheduled(gamma) * correlation
        return {**terms, "loss": total, "total_correlation": correlation}, updates

    return objective


def discriminator_loss(model: FactorVAE) -> Loss:
    """Cross-entropy of the discriminator on codes and on codes permuted over the batch (algorithm 2), in nats.

    The permuted codes are second posterior samples for the same images; the source uses a second batch.
    Use with descend(..., wrt=("discriminator",), name="discriminator"); no gradient reaches the encoder.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        first, second, permuting = jax.random.split(key, 3)
        z, other = (jax.lax.stop_gradient(vae.sample_posterior(model, variables, batch, k)[1]) for k in (first, second))
        permuted = permute(batch.gather(other), permuting)[batch.index]
        return {"loss": discrimination(_logits(model, variables, z), _logits(model, variables, permuted))}, {}

    return objective


def permute(z: Float[Array, "N Z"], key: Key[Array, ""]) -> Float[Array, "N Z"]:
    """Permute each latent dimension independently over the examples: samples from the product of the marginals.

    Kim & Mnih 2018, algorithm 1.
    """
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(z)))(jax.random.split(key, z.shape[1]))
    return jnp.take_along_axis(z, orders.T, axis=0)


def _logits(model: FactorVAE, variables: Variables, z: Float[Array, "B Z"]) -> Any:
    return model.apply(variables, z, method="discriminate")
