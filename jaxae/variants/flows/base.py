"""The protocol of normalizing flows, and flows made of other flows."""

from typing import TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Context: TypeAlias = Float[Array, "*outer H"] | None  # of each example; leading axes broadcast; None: no context
Flowed: TypeAlias = tuple[Float[Array, "*lead Z"], Float[Array, "*lead"]]  # vectors, log |det| of the Jacobian


class Flow(nn.Module):
    """An invertible map of vectors [*lead, Z], with the logarithm of its Jacobian determinant.

    log q(f(z)) = log q(z) - log |det df / dz| (Rezende & Mohamed 2015, equation 5). Every flow except `Reverse` is
    the identity initially.
    """

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """f(z), and log |det df / dz|."""
        raise NotImplementedError

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """f^-1(z), and log |det df^-1 / dz|. NotImplementedError for a flow without a closed-form inverse."""
        raise NotImplementedError(f"{type(self).__name__} has no closed-form inverse")


class Chain(Flow):
    """A composition of flows, applied in order."""

    flows: tuple[Flow, ...]

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """Apply all flows in order, and sum their log determinants."""
        total = jnp.zeros(z.shape[:-1])
        for flow in self.flows:
            z, log_det = flow.forward(z, context)
            total = total + log_det
        return z, total

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """Apply the inverses in reverse order."""
        total = jnp.zeros(z.shape[:-1])
        for flow in self.flows[::-1]:
            z, log_det = flow.inverse(z, context)
            total = total + log_det
        return z, total


class Inverted(Flow):
    """The inverse of a flow."""

    flow: Flow

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The inverse of the flow."""
        return self.flow.inverse(z, context)

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The flow."""
        return self.flow.forward(z, context)


class Reverse(Flow):
    """The dimensions in reverse order."""

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:  # noqa: ARG002
        """Its Jacobian is a permutation, with log determinant 0."""
        return jnp.flip(z, axis=-1), jnp.zeros(z.shape[:-1])

    def inverse(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """The same map."""
        return self.forward(z, context)


class Parameters(nn.Module):
    """A parameter vector plus a linear map of the context, initially 0, for each vector z."""

    size: int  # P
    start: nn.initializers.Initializer = nn.initializers.zeros  # of the vector

    @nn.compact
    def __call__(self, z: Float[Array, "*lead Z"], context: Context) -> Float[Array, "*lead P"]:
        shape = (*z.shape[:-1], self.size)
        found = jnp.broadcast_to(self.param("constant", self.start, (self.size,)), shape)
        if context is None:
            return found
        return found + nn.Dense(self.size, use_bias=False, kernel_init=nn.initializers.zeros)(context)


def positive(values: jax.Array) -> jax.Array:
    """softplus, shifted to be 1 at 0."""
    return jax.nn.softplus(values + jnp.log(jnp.expm1(1.0)))
