"""The ladder variational autoencoder (Sonderby, Raiko, Maaloe, Sonderby & Winther 2016), without batch norm."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import nets
from jaxae.core.divergences import DiagonalNormal, clipped
from jaxae.likelihoods import Likelihood
from jaxae.variants import hvae, top_down
from jaxae.variants.vae import normal


class Layer(hvae.Layer):
    """q(z_l|x, z_(l + 1)) is proportional to p(z_l|z_(l + 1)) times a normal density that depends on x alone.

    The state is z_(l + 1).
    """

    def posterior(self, state: Float[Array, "N S"], p: DiagonalNormal, features: Float[Array, "N F"]) -> DiagonalNormal:  # noqa: ARG002
        """q(z_l|x, z_(l + 1)); q(z_L|x) depends on the features alone."""
        q = normal(self.of_q(features))
        return q if self.of_p is None else combined(q, p)

    def merge(self, state: Float[Array, "N S"], z: Float[Array, "N Z_l"]) -> Float[Array, "N Z_l"]:  # noqa: ARG002
        """z_l, which is the state of the layer below."""
        return z


def combined(q: DiagonalNormal, p: DiagonalNormal) -> DiagonalNormal:
    """The normalized product of both densities: means are weighted by precisions, which add up."""
    log_precisions = [-2 * clipped(part.log_scale) for part in (q, p)]
    weight = jax.nn.sigmoid(log_precisions[0] - log_precisions[1])
    return DiagonalNormal(weight * q.mean + (1 - weight) * p.mean, -0.5 * jnp.logaddexp(*log_precisions))


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: tuple[int, ...],
    likelihood: Likelihood,
    bias: tuple[float, ...] = (),
    **options: Any,
) -> top_down.TopDown:
    """A model for examples of this shape. bias: initial bias of the decoder's last layer. options: arguments of nets.

    hidden: width H_l of the two dense layers from the features of layer l - 1, or x, to those of layer l, and of the
    two from z_l to p(z_(l - 1)|z_l) or p(x|z_1). latent: number of dimensions of z_1, ..., z_L. ValueError unless there
    is one width per layer.
    """
    if len(hidden) != len(latent):
        raise ValueError(f"hidden={hidden} must have one width for each of {len(latent)} layers")
    axes = [len(shape), *[1] * (len(latent) - 1)]
    features = tuple(
        nets.MLP((width,), (width,), axes=count, **options) for width, count in zip(hidden, axes, strict=True)
    )
    priors = [nets.MLP((width, width), (2 * size,), **options) for width, size in zip(hidden[1:], latent, strict=False)]
    layers = [
        Layer(size, nets.MLP((), (2 * size,), **options), of_p)
        for size, of_p in zip(latent, [*priors, None], strict=True)
    ]
    decoder = nets.MLP((hidden[0], hidden[0]), likelihood.parameters(shape), last_bias=bias, **options)
    return top_down.TopDown(
        encoder=top_down.Features(features, options.get("activation", nn.relu), chained=True),
        layers=tuple(layers),
        decoder=likelihood.decoder(decoder),
        likelihood=likelihood,
    )
