"""The planar flow (Rezende & Mohamed 2015)."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.variants.flows.base import Context, Flow, Flowed, Parameters, positive


class Planar(Flow):
    """f(z) = z + u tanh(w^T z + b) (equation 10): u, w and b are linear in the context."""

    dimensions: int

    def setup(self) -> None:
        self.parameters = Parameters(2 * self.dimensions + 1, _initial)

    def forward(self, z: Float[Array, "*lead Z"], context: Context = None) -> Flowed:
        """log |det df / dz| = log (1 + (1 - tanh^2) w^T u) (equation 12).

        The flow is invertible if w^T u > -1, so u is shifted along w until w^T u equals softplus(w^T u) - 1 of the
        parameters (appendix A.1, with the softplus shifted so that u = 0 remains 0).
        """
        w, u, b = jnp.split(self.parameters(z, context), [self.dimensions, 2 * self.dimensions], axis=-1)
        product = _dot(w, u)
        slope = positive(product) - 1
        u = u + (slope - product) * w / _dot(w, w)
        t = jnp.tanh(_dot(w, z) + b)
        return z + u * t, jnp.log1p((1 - t**2) * slope)[..., 0]


def _dot(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.sum(a * b, axis=-1, keepdims=True)


def _initial(key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, " P"]:
    """w from N(0, I / Z); u and b are 0."""
    half = shape[0] // 2
    return nn.initializers.normal(half**-0.5)(key, shape) * (jnp.arange(shape[0]) < half)
