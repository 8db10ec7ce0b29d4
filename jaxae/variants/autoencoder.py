"""The plain autoencoder (Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006) and its loss."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.experiment import Corrupt
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.nets import Activation, Keys


class Autoencoder(nn.Module):
    """z = encoder(x), reconstruction = output(decoder(z))."""

    encoder: nn.Module  # [B, *D] -> [B, *Z], as `MLP` and `Conv`
    decoder: nn.Module  # [B, *Z] -> [B, *D], as `MLP`, `UpConv` and `Deconv`
    output: Activation = nn.sigmoid  # to pixels; with the logistic function the decoder outputs logits

    def __call__(
        self, x: Float[Array, "B *D"], keys: Keys | None = None, axis: str | None = None
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes, and the decoder output before the activation `output`. keys, axis: see `nets`."""
        z = self.encoder(x, keys, axis)
        return z, self.decoder(z, keys, axis)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *Z"]:
        """Codes."""
        return self.encoder(x)

    def decode(self, z: Float[Array, "B *Z"]) -> Float[Array, "B *D"]:
        """Pixels in [0, 1]."""
        return jnp.clip(self.output(self.decoder(z)), 0, 1)


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: int,
    *,
    final: Activation = nets.linear,
    **options: Any,
) -> tuple[nets.MLP, nets.MLP]:
    """Encoder and decoder of dense layers for examples of this shape.

    hidden: widths of the encoder; the decoder mirrors them. final: activation of the code. options: arguments of both.
    """
    encoder = nets.MLP(hidden, (latent,), axes=len(shape), final=final, **options)
    return encoder, nets.MLP(hidden[::-1], shape, **options)


def pooled(
    shape: tuple[int, ...],
    filters: tuple[int, ...],
    kernels: tuple[int, ...] = (3,),
    *,
    pools: int | None = None,
    padding: str = "SAME",
    bias: float = 0.0,
    precision: str = "float32",
) -> tuple[nets.Conv, nets.UpConv]:
    """Encoder of convolutions with max-pooling and decoder of convolutions with upsampling, for images of this shape.

    filters: filters of the encoder; the decoder has the first `pools` of the reversed list. kernels: one width per
    layer, or one for all. pools: number of leading encoder layers with max-pooling (default: all). padding: padding of
    the decoder's second-to-last layer. bias: initial bias of its last layer.
    """
    layers = len(filters)
    pools = layers if pools is None else pools
    encoder = nets.Conv(filters, kernels, pools=(2,) * pools + (1,) * (layers - pools), precision=precision)
    decoder = nets.UpConv(
        shape,
        filters[::-1][:pools],
        kernels[::-1][:pools] or kernels,
        last=kernels[0],
        bias=bias,
        paddings=("SAME",) * (pools - 1) + (padding,),
        precision=precision,
    )
    return encoder, decoder


def apply(
    model: nn.Module, variables: Variables, batch: Batch, x: Float[Array, "B *D"], key: Key[Array, ""]
) -> tuple[Any, Extra]:
    """Apply a model to x in place of `batch.x`, with dropout and batch statistics in training: (result, updates)."""
    keys = batch.keys(key) if batch.training else None
    mask = () if batch.observed is None else (batch.observed,)
    collections = [name for name in variables if name != "params"]
    found, updates = model.apply(variables, x, keys, batch.axis, *mask, mutable=collections)
    return found, dict(updates) if batch.training else {}


def loss(
    model: nn.Module,
    objective: Literal["bce", "mse"],
    *,
    corrupt: Corrupt | None = None,
    penalty: Callable[[Float[Array, "B *Z"]], Float[Array, " B"]] | None = None,
    weight: float = 1.0,
) -> Loss:
    """Reconstruction error, times `weight`, plus a penalty on the code.

    model: an `Autoencoder`, or another module whose __call__ returns (codes, decoder output before `output`).
    corrupt: input of the encoder in place of x (denoising). penalty: penalty on the codes, per example (sparse).
    Sequences: padding is excluded, and each sequence has the same weight.

    Terms: `loss`; `mse`, squared error, pixels in [0, 1], mean over pixels; `rmse`, its root per image; with a
    logistic output `bce`, cross-entropy in nats per pixel, and `reconstruction`, in nats per image; `code`, mean |z|
    over latent dimensions; `penalty`.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        noise, dropout = jax.random.split(key)
        x = batch.x if corrupt is None else corrupt(noise, batch)
        (z, before), updates = apply(model, variables, batch, x, dropout)
        values = {"mse": _mean_over_pixels((model.output(before) - batch.x) ** 2, batch.observed)}
        if model.output is nn.sigmoid:
            values["bce"] = _mean_over_pixels(cross_entropy(before, batch.x), batch.observed)
            size = batch.x[0].size if batch.observed is None else batch.observed.sum(1) * batch.x.shape[-1]
            values["reconstruction"] = size * values["bce"]
        total = weight * values[objective]
        if penalty is not None:
            values["penalty"] = penalty(z)
            total = total + values["penalty"]
        values |= {"loss": total, "rmse": jnp.sqrt(values["mse"]), "code": per_example(jnp.abs(z)) / z[0].size}
        return values, updates

    return terms


def _mean_over_pixels(values: Float[Array, "B *D"], mask: Float[Array, "B T"] | None) -> Float[Array, " B"]:
    """Mean over the pixels of each example, or over its unmasked steps."""
    if mask is None:
        return per_example(values) / values[0].size
    rows = values.reshape(*mask.shape, -1)
    return per_example(rows * mask[..., None]) / (mask.sum(1) * rows.shape[2])
