"""The plain autoencoder (Rumelhart, Hinton & Williams 1986; Hinton & Salakhutdinov 2006) and its loss."""

from collections.abc import Callable
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import nets
from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import mean_over_observed, per_example, size
from jaxae.core.experiment import Corrupt
from jaxae.core.types import Extra, Info, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.nets import Activation, Keys


class Autoencoder(nn.Module):
    """z = encoder(x), reconstruction = output(decoder(z))."""

    encoder: nn.Module  # [B, *D] -> [B, *Z], such as `MLP` or `Conv`
    decoder: nn.Module  # [B, *Z] -> [B, *D], such as `MLP`, `UpConv` or `Deconv`
    output: Activation = nn.sigmoid  # from decoder outputs to pixels; with the logistic function they are logits

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
        """Reconstructions."""
        return self.output(self.decoder(z))


def output(info: Info) -> Activation:
    """Output activation for this data: logistic for pixels, linear for real-valued data."""
    return nets.linear if info.real else nn.sigmoid


def unit(objective: Literal["bce", "mse"], info: Info) -> str:
    """Unit of the loss (see `Experiment.unit`): nats for bce, except on real-valued data, where the loss is mse."""
    return "nats per {value}" if objective == "bce" and not info.real else "per {value}"


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: int,
    *,
    final: Activation = nets.linear,
    **options: Any,
) -> tuple[nets.MLP, nets.MLP]:
    """Encoder and decoder of dense layers for examples of this shape.

    hidden: widths of the encoder; the decoder mirrors them. final: activation of the code. options: further arguments
    of both nets.
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
    bias: float | tuple[float, ...] = 0.0,
    precision: str = "float32",
) -> tuple[nets.Conv, nets.UpConv]:
    """Encoder of convolutions with max-pooling and decoder of convolutions with upsampling, for images of this shape.

    filters: filters of the encoder; the decoder has the first `pools` of the reversed list. kernels: one width per
    layer, or one for all. pools: number of leading encoder layers with max-pooling (default: all). padding: padding of
    the decoder's second-to-last layer, unless its output would not cover the image. bias: initial bias of its last
    layer.
    """
    layers = len(filters)
    pools = layers if pools is None else pools
    lost = (kernels[::-1][:pools] or kernels)[-1] - 1  # pixels that this layer loses without padding
    if any(2 * (-(-size // 2**pools) * 2 ** (pools - 1) - lost) < size for size in shape[:2]):
        padding = "SAME"
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
    # Models of sequences take the mask of their steps.
    mask = () if batch.observed is None or batch.observed.ndim == x.ndim else (batch.observed,)
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
    objective: mse or bce; without a logistic output the loss is mse in either case.
    corrupt: corruption of the encoder's input (denoising). penalty: penalty on the codes, per example (sparse).
    Padding of sequences and missing entries are excluded; each example has the same weight.

    Terms: `loss`; `mse`, squared error, pixels in [0, 1], mean over pixels; `rmse`, its root per image; with a
    logistic output `bce`, cross-entropy in nats per pixel, and `reconstruction`, in nats per image; `code`, mean |z|
    over latent dimensions; `penalty`.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        noise, dropout = jax.random.split(key)
        x = batch.x if corrupt is None else corrupt(noise, batch)
        (z, before), updates = apply(model, variables, batch, x, dropout)
        values = {"mse": mean_over_observed((model.output(before) - batch.x) ** 2, batch.observed)}
        if model.output is nn.sigmoid:
            values["bce"] = mean_over_observed(cross_entropy(before, batch.x), batch.observed)
            values["reconstruction"] = size(batch.x, batch.observed) * values["bce"]
        total = weight * values[objective if "bce" in values else "mse"]
        if penalty is not None:
            values["penalty"] = penalty(z)
            total = total + values["penalty"]
        values |= {"loss": total, "rmse": jnp.sqrt(values["mse"]), "code": per_example(jnp.abs(z)) / z[0].size}
        return values, updates

    return terms
