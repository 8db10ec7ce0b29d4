"""Affine functions of each dimension."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.variants.flows.elementwise import Mapped

LIMIT = 5.0  # bound of log scales


@dataclass(frozen=True)
class Affine:
    """y = e^s x + t. Log scales s = 5 tanh(s' / 5) are bounded by 5, with the tanh of Dinh et al. 2017, section 4.1."""

    parameters: int = 2

    def forward(self, parameters: Float[Array, "*lead D 2"], x: Float[Array, "*lead D"]) -> Mapped:
        """e^s x + t, and s."""
        log_scale, shift = _split(parameters)
        return jnp.exp(log_scale) * x + shift, log_scale

    def inverse(self, parameters: Float[Array, "*lead D 2"], y: Float[Array, "*lead D"]) -> Mapped:
        """e^-s (y - t), and -s."""
        log_scale, shift = _split(parameters)
        return jnp.exp(-log_scale) * (y - shift), -log_scale


def _split(parameters: jax.Array) -> tuple[jax.Array, jax.Array]:
    return LIMIT * jnp.tanh(parameters[..., 0] / LIMIT), parameters[..., 1]
