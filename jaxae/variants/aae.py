"""The adversarial autoencoder (Makhzani et al. 2015): a discriminator presses the codes into the shape of a prior."""

from typing import Any

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import mean, noise
from jaxae.nets import Keys
from jaxae.types import Batch, Extra, Loss, Metrics, Params
from jaxae.variants.autoencoder import Autoencoder


class Adversarial(Autoencoder, kw_only=True):
    """An autoencoder with a discriminator of codes. Parameter groups: encoder, decoder, discriminator."""

    discriminator: nn.Module  # [B, Z] -> [B, 1]: logit of "from the prior"

    def __call__(self, x: Float[Array, "B *D"], keys: Keys | None = None) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes, and what the decoder makes of them before `output`."""
        z, before = super().__call__(x, keys)
        if self.is_initializing():
            self.judge(z)
        return z, before

    def judge(self, z: Float[Array, "B Z"]) -> Float[Array, " B"]:
        """Logit of "z is from the prior"."""
        return self.discriminator(z)[:, 0]


def discriminate(model: Adversarial) -> Loss:
    """Cross-entropy of the discriminator on draws from N(0, I) and on codes: for descend(..., wrt=("discriminator",)).

    The regularization phase, first half (Makhzani et al. 2015, section 2.1). Metrics: `discriminator`, in nats.
    """

    def objective(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        z = jax.lax.stop_gradient(_codes(model, params, extra, batch))
        drawn = noise(key, batch, z.shape[1:])
        value = mean(prob.discrimination(_judged(model, params, extra, drawn), _judged(model, params, extra, z)), batch)
        return value, (extra, {"discriminator": value})

    return objective


def confuse(model: Adversarial) -> Loss:
    """-log D(encoder(x)): the second half, for descend(..., wrt=("encoder",)). Metrics: `generator`, in nats."""

    def objective(
        params: Params,
        extra: Extra,
        batch: Batch,
        key: Key[Array, ""],  # noqa: ARG001
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        logits = _judged(model, params, extra, _codes(model, params, extra, batch))
        value = mean(nn.softplus(-logits), batch)
        return value, (extra, {"generator": value})

    return objective


def _codes(model: Adversarial, params: Params, extra: Extra, batch: Batch) -> Any:
    return model.apply({"params": params, **extra}, batch.x, method="encode")


def _judged(model: Adversarial, params: Params, extra: Extra, z: Float[Array, "B Z"]) -> Any:
    return model.apply({"params": params, **extra}, z, method="judge")
