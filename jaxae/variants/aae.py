"""The adversarial autoencoder (Makhzani et al. 2015): a discriminator matches the aggregate posterior to the prior."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import discrimination
from jaxae.core.types import Extra, Variables
from jaxae.nets import Keys
from jaxae.variants.autoencoder import Autoencoder


class Adversarial(Autoencoder, kw_only=True):
    """An autoencoder with a discriminator on its codes. Parameter groups: encoder, decoder, discriminator."""

    discriminator: nn.Module  # [B, Z] -> [B, 1]: logit of "from the prior"

    def __call__(
        self, x: Float[Array, "B *D"], keys: Keys | None = None, axis: str | None = None
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes, and the decoder output before the activation `output`."""
        z, before = super().__call__(x, keys, axis)
        if self.is_initializing():
            self.discriminate(z)
        return z, before

    def discriminate(self, z: Float[Array, "B Z"]) -> Float[Array, " B"]:
        """Logit of "z is from the prior"."""
        return self.discriminator(z)[:, 0]


def discriminator_loss(model: Adversarial, prior_scale: float = 1.0) -> Loss:
    """Cross-entropy of the discriminator on samples of N(0, prior_scale^2 I) and on codes, in nats per example.

    The first half of the regularization phase (Makhzani et al. 2015, section 2.1). Use with
    descend(..., wrt=("discriminator",), name="discriminator").
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        z = jax.lax.stop_gradient(_codes(model, variables, batch))
        real = _logits(model, variables, prior_scale * batch.noise(key, z.shape[1:]))
        return {"loss": discrimination(real, _logits(model, variables, z))}, {}

    return objective


def generator_loss(model: Adversarial) -> Loss:
    """-log D(encoder(x)), in nats per example. Use with descend(..., wrt=("encoder",), name="generator").

    The second half of the regularization phase (Makhzani et al. 2015, section 2.1).
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:  # noqa: ARG001
        return {"loss": nn.softplus(-_logits(model, variables, _codes(model, variables, batch)))}, {}

    return objective


def _codes(model: Adversarial, variables: Variables, batch: Batch) -> Any:
    return model.apply(variables, batch.x, method="encode")


def _logits(model: Adversarial, variables: Variables, z: Float[Array, "B Z"]) -> Any:
    return model.apply(variables, z, method="discriminate")
