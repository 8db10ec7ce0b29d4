"""FactorVAE (Kim & Mnih 2018): a discriminator tells how far the units of the code are from independent."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import gathered, mean, noise
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants import vae
from jaxae.variants.rate import BOUND, Rate, Weight


class FactorVAE(vae.VAE):
    """A variational autoencoder with a discriminator of codes. Parameter groups: encoder, decoder, discriminator."""

    discriminator: nn.Module  # [B, Z] -> [B, 1]: logit of "from q(z)", not from the product of its units

    def __call__(
        self, x: Float[Array, "B *D"], eps: Float[Array, "B Z"] | None = None
    ) -> tuple[prob.Normal, Float[Array, "B *D"]]:
        """Posterior, and the logits at z = mean + scale * eps."""
        if self.is_initializing():
            self.judge(self.encode(x))
        return super().__call__(x, eps)

    def judge(self, z: Float[Array, "B Z"]) -> Float[Array, " B"]:
        """log D(z) / (1 - D(z)): its mean under q(z) estimates the total correlation (Kim & Mnih 2018, eq. 3)."""
        return self.discriminator(z)[:, 0]


def loss(model: FactorVAE, gamma: Weight, rate: Rate = BOUND) -> Loss:
    """The negative evidence lower bound plus gamma times the total correlation (equation 2): for encoder and decoder.

    Metrics as `vae.loss`, and `total_correlation` as the discriminator sees it, in nats.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        z = _codes(model, variables, batch, key)
        correlation = mean(_judged(model, variables, z), batch)
        negative_elbo, (extra, metrics) = vae.loss(model, rate=rate)(params, extra, batch, jax.random.clone(key))
        metrics |= {"total_correlation": correlation, "loss": negative_elbo + gamma * correlation}
        return metrics["loss"], (extra, metrics)

    return objective


def discriminate(model: FactorVAE) -> Loss:
    """Cross-entropy of the discriminator on codes and on codes whose units are permuted over the batch (algorithm 2).

    The permuted ones are of the same images as the others, drawn apart, where the source takes a second batch.
    For descend(..., wrt=("discriminator",)): nothing of it reaches the encoder. Metrics: `discriminator`, in nats.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        variables = {"params": params, **extra}
        *drawing, permuting = jax.random.split(key, 3)
        z, other = (jax.lax.stop_gradient(_codes(model, variables, batch, k)) for k in drawing)
        permuted = permute(gathered(other), permuting)[batch.number]
        value = mean(prob.discrimination(_judged(model, variables, z), _judged(model, variables, permuted)), batch)
        return value, (extra, {"discriminator": value})

    return objective


def permute(z: Float[Array, "N Z"], key: Key[Array, ""]) -> Float[Array, "N Z"]:
    """Each unit permuted over the examples, apart from the others: a draw from the product of their marginals.

    Kim & Mnih 2018, algorithm 1.
    """
    orders = jax.vmap(lambda k: jax.random.permutation(k, len(z)))(jax.random.split(key, z.shape[1]))
    return jnp.take_along_axis(z, orders.T, axis=0)


def _codes(model: FactorVAE, variables: Any, batch: Batch, key: Key[Array, ""]) -> Float[Array, "B Z"]:
    q: Any = model.apply(variables, batch.x, method="posterior")
    return vae.reparameterize(q, noise(key, batch, q.mean.shape[1:]))


def _judged(model: FactorVAE, variables: Any, z: Float[Array, "B Z"]) -> Float[Array, " B"]:
    logits: Any = model.apply(variables, z, method="judge")
    return logits
