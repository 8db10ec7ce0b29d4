"""The hierarchical variational autoencoder of Tomczak & Welling 2018 (section 3), with dense layers."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import nets
from jaxae.core.divergences import DiagonalNormal, standard_normal
from jaxae.likelihoods import Likelihood
from jaxae.variants import top_down
from jaxae.variants.vae import normal


class Layer(top_down.Layer):
    """q(z_l|x, all z above) depends on the features and on these z, which are the state; p(z_L) = N(0, I)."""

    latent: int  # number of latent dimensions Z
    of_q: nn.Module  # [N, F + S] -> [N, 2 Z]
    of_p: nn.Module | None = None  # [N, S] -> [N, 2 Z]; None: N(0, I)

    @property
    def size(self) -> int:
        """Number of latent dimensions."""
        return self.latent

    def prior(self, state: Float[Array, "N S"]) -> tuple[DiagonalNormal, Float[Array, "N S"]]:
        """p(z_l|all z above), and these z."""
        if self.of_p is None:
            return standard_normal(jnp.zeros((len(state), self.latent))), state
        return normal(self.of_p(state)), state

    def posterior(self, state: Float[Array, "N S"], p: DiagonalNormal, features: Float[Array, "N F"]) -> DiagonalNormal:  # noqa: ARG002
        """q(z_l|x, all z above)."""
        return normal(self.of_q(jnp.concatenate([features, state], axis=1)))

    def merge(self, state: Float[Array, "N S"], z: Float[Array, "N Z_l"]) -> Float[Array, "N T"]:
        """z_l concatenated with all z above."""
        return jnp.concatenate([z, state], axis=1)


def dense(
    shape: tuple[int, ...],
    hidden: tuple[int, ...],
    latent: tuple[int, ...],
    likelihood: Likelihood,
    bias: tuple[float, ...] = (),
    **options: Any,
) -> top_down.TopDown:
    """A model for examples of this shape. bias: initial bias of the decoder's last layer. options: arguments of nets.

    hidden: widths of the nets of the features of x, of p(z_l|...) and, in reverse order, of p(x|z); the last one is
    also the width of the layer whose input is the features and the z above. latent: dimensions of z_1, ..., z_L.
    """

    def net(widths: tuple[int, ...], outputs: int) -> nets.MLP:
        return nets.MLP(widths, (outputs,), **options)

    *lower, top = latent
    layers = tuple(Layer(size, net(hidden[-1:], 2 * size), net(hidden, 2 * size)) for size in lower)
    features = tuple(nets.MLP(hidden[:-1], hidden[-1:], axes=len(shape), **options) for _ in latent)
    decoder = nets.MLP(hidden[::-1], likelihood.parameters(shape), last_bias=bias, **options)
    return top_down.TopDown(
        encoder=top_down.Features(features, options.get("activation", nn.relu)),
        layers=(*layers, Layer(top, net((), 2 * top))),
        decoder=likelihood.decoder(decoder),
        likelihood=likelihood,
    )
