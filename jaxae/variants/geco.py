"""GECO (Rezende & Viola 2018): the smallest KL term whose reconstruction error stays below a tolerance."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import kl_normal
from jaxae.core.types import Extra, Variables
from jaxae.variants import vae

STATE = "constraint"  # collection of the multiplier and of the moving average


class GECO(vae.VAE):
    """A variational autoencoder with a Lagrange multiplier, which is trained without a gradient."""

    def setup(self) -> None:
        """Create the multiplier, 1, and the moving average, 0."""
        self.multiplier = self.variable(STATE, "multiplier", jnp.ones, (), jnp.float32)
        self.average = self.variable(STATE, "average", jnp.zeros, (), jnp.float32)


def loss(model: GECO, tolerance: float, rate: float = 1e-2, decay: float = 0.99, limit: float = 1e6) -> Loss:
    """KL + multiplier * (-log p(x|z) - tolerance), with a multiplier that grows while the error exceeds the tolerance.

    Rezende & Viola 2018, algorithm 1: after each step the multiplier is multiplied by exp(rate * C), and here also
    clipped to [1 / limit, limit]. C is the moving average, with this decay, of (-log p(x|z) - tolerance) / tolerance
    over batches.
    tolerance: nats per example, positive. Training only, since C is a mean over the global batch (see `Batch.mean`).
    Terms: `loss`; `reconstruction`, -log p(x|z), and `kl`, nats per example; `multiplier`, that of this step.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        q, z = vae.sample_posterior(model, variables, batch, key)
        error, _ = vae.reconstruction(model, variables, batch, z)
        kl, old = kl_normal(q), variables[STATE]
        excess = jax.lax.stop_gradient(batch.mean(error) / tolerance - 1)
        average = jnp.where(batch.step == 0, excess, decay * old["average"] + (1 - decay) * excess)
        new = jnp.clip(old["multiplier"] * jnp.exp(rate * average), 1 / limit, limit)
        return {
            "loss": kl + old["multiplier"] * (error - tolerance),
            "reconstruction": error,
            "kl": kl,
            "multiplier": batch.repeat(old["multiplier"]),
        }, {STATE: {"multiplier": new, "average": average}}

    return objective
