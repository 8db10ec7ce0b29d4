"""Autoregressive flows: the transformation of each dimension depends on the dimensions before it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets import MADE
from jaxae.variants.flows.base import Context, Flow, Flowed
from jaxae.variants.flows.elementwise import Elementwise


class Autoregressive(Flow):
    """f_i(z) = T(z_i; parameters of z_1, ..., z_(i - 1)), with the parameters of all dimensions from one MADE.

    With affine T, `forward` is a step of the inverse autoregressive flow (Kingma et al. 2016, equation 10), and its
    inverse is a step of the masked autoregressive flow (Papamakarios, Pavlakou & Murray 2017, equation 3). `forward`
    needs one pass of the net, `inverse` one per dimension.
    """

    net: MADE  # P outputs
    elementwise: Elementwise

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The Jacobian is triangular: its log determinant is the sum of the log derivatives."""
        z, log_slopes = self.elementwise.forward(self.net(z, context), z)
        return z, log_slopes.sum(-1)

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """Invert one dimension per pass: pass i computes dimension i from the dimensions before it."""

        def improved(found: jax.Array) -> tuple[jax.Array, jax.Array]:
            return self.elementwise.inverse(self.net(found, context), z)

        first = improved(jnp.zeros_like(z))  # creates the parameters outside the loop
        found, log_slopes = jax.lax.fori_loop(1, z.shape[-1], lambda _, last: improved(last[0]), first)
        return found, log_slopes.sum(-1)
