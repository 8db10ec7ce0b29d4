"""Coupling flows: the transformation of one half of the dimensions depends on the other half (Dinh et al. 2017)."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import nets
from jaxae.variants.flows.base import Context, Flow, Flowed
from jaxae.variants.flows.elementwise import Elementwise


class Coupling(Flow):
    """z_1, the first half, is unchanged; z_2 becomes T(z_2; parameters that depend on z_1) (equations 4, 5 and 8).

    With affine T it is the coupling layer of RealNVP (Dinh, Sohl-Dickstein & Bengio 2017), with splines that of Durkan
    et al. 2019.
    """

    dimensions: int  # at least 2
    hidden: tuple[int, ...]  # widths of the net; (): linear
    elementwise: Elementwise

    def setup(self) -> None:
        if self.hidden:
            self.net = nets.MLP(self.hidden[:-1], self.hidden[-1:], final=nn.relu)
        size = (self.dimensions - self.dimensions // 2) * self.elementwise.parameters
        self.last = nn.Dense(size, kernel_init=nn.initializers.zeros)

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The Jacobian is triangular: its log determinant is the sum of the log derivatives of the second half."""
        kept, z, parameters = self._halves(z, context)
        z, log_slopes = self.elementwise.forward(parameters, z)
        return jnp.concatenate([kept, z], axis=-1), log_slopes.sum(-1)

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The inverse, which costs as much as `forward`."""
        kept, z, parameters = self._halves(z, context)
        z, log_slopes = self.elementwise.inverse(parameters, z)
        return jnp.concatenate([kept, z], axis=-1), log_slopes.sum(-1)

    def _halves(self, z: Float[Array, "*lead Z"], context: Context) -> tuple[Array, Array, Array]:
        """Both halves, and the parameters of the second."""
        kept, rest = jnp.split(z, [self.dimensions // 2], axis=-1)
        known = [kept] if context is None else [kept, jnp.broadcast_to(context, (*z.shape[:-1], context.shape[-1]))]
        h = jnp.concatenate(known, axis=-1)
        parameters = self.last(self.net(h) if self.hidden else h)
        return kept, rest, parameters.reshape(*rest.shape, self.elementwise.parameters)
