"""The plain autoencoder (Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006), and what is added to it."""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import keys, mean
from jaxae.nets import Activation, Keys
from jaxae.types import Batch, Extra, Loss, Metrics, Params


class Autoencoder(nn.Module):
    """z = encoder(x), and x again = output(decoder(z)): three models that share their weights."""

    encoder: nn.Module  # [B, *D] -> [B, *Z], as `MLP` and `Conv`
    decoder: nn.Module  # [B, *Z] -> [B, *D], as `MLP`, `UpConv` and `Deconv`
    output: Activation = nn.sigmoid  # to pixels; with the logistic function the decoder gives logits

    def __call__(self, x: Float[Array, "B *D"], keys: Keys | None = None) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes, and what the decoder makes of them before `output`. keys: while training, one per example."""
        z = self.encoder(x, keys)
        return z, self.decoder(z, keys)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *Z"]:
        """Codes."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "B *Z"]) -> Float[Array, "B *D"]:
        """Pixels in [0, 1]."""
        return jnp.clip(self.output(self.decoder(z)), 0, 1)


def loss(
    model: nn.Module,
    objective: Literal["bce", "mse"],
    *,
    train: bool = False,
    corrupt: Callable[[Key[Array, ""], Batch], Float[Array, "B *D"]] | None = None,
    penalty: Callable[[Float[Array, "B *Z"]], Float[Array, " B"]] | None = None,
    weight: float = 1.0,
) -> Loss:
    """How unlike the reconstructions are, times `weight`, plus the penalty.

    model: an `Autoencoder`, or another module whose __call__ gives codes and what comes before its `output`.
    train: whether dropout drops and batch norm looks at the batch.
    corrupt: what the encoder sees in place of x (denoising). penalty: of the codes, per example (sparse).
    Sequences: values that the mask leaves out do not count, and each sequence counts alike.

    Metrics: `loss`; `mse`, squared error, pixels in [0, 1], mean over pixels; `rmse`, its root per image; with a
    logistic output `bce`, cross-entropy in nats per pixel, and `reconstruction`, in nats per image; `code`, mean size
    |z| of a code's units; `penalty`.
    """

    def terms(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        noise, dropout = jax.random.split(key)
        x = batch.x if corrupt is None else corrupt(noise, batch)
        mask = () if batch.mask is None else (batch.mask,)
        (z, before), changed = model.apply(
            {"params": params, **extra}, x, keys(dropout, batch) if train else None, *mask, mutable=list(extra)
        )
        output = model.output
        values = {"mse": _over_pixels((output(before) - batch.x) ** 2, batch.mask)}
        if output is nn.sigmoid:
            values["bce"] = _over_pixels(prob.cross_entropy(before, batch.x), batch.mask)
        total = weight * values[objective]
        if penalty is not None:
            values["penalty"] = penalty(z)
            total = total + values["penalty"]
        values |= {"loss": total, "rmse": jnp.sqrt(values["mse"]), "code": prob.per_example(jnp.abs(z)) / z[0].size}
        if "bce" in values:
            size = batch.x[0].size if batch.mask is None else batch.mask.sum(1) * batch.x.shape[-1]
            values["reconstruction"] = size * values["bce"]
        metrics = {name: mean(value, batch) for name, value in values.items()}
        return metrics["loss"], (dict(changed), metrics)

    return terms


def _over_pixels(values: Float[Array, "B *D"], mask: Float[Array, "B T"] | None) -> Float[Array, " B"]:
    """Mean over the pixels of each example, or over the values that the mask keeps."""
    if mask is None:
        return prob.per_example(values) / values[0].size
    rows = values.reshape(*mask.shape, -1)
    return prob.per_example(rows * mask[..., None]) / (mask.sum(1) * rows.shape[2])
