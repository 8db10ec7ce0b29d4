"""The activation rule of matching pursuit (Mallat & Zhang 1993; Costa et al. 2025, "From Flat to Hierarchical")."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.variants.dictionary import Rule, Weights, norms, product


@dataclass(frozen=True)
class MatchingPursuit(Rule):
    """k steps that each subtract the residual's positive projection on the decoder row with the largest cosine.

    A row may be chosen more than once, so that at most k latents are active. The gradient passes through the
    coefficients, not through the choice.
    """

    active: int  # k

    @property
    def tied(self) -> bool:
        """The decoder is the dictionary of the encoder."""
        return True

    def codes(self, v: Float[Array, "B d"], weights: Weights) -> Float[Array, "B n"]:
        """Codes of centred inputs."""
        rows = weights.decoder
        norm = norms(rows)
        columns = jax.lax.stop_gradient((rows / norm[:, None]).T)

        def pursue(carry: tuple[Array, Array], _: None) -> tuple[tuple[Array, Array], None]:
            residual, z = carry
            best = jnp.argmax(product(jax.lax.stop_gradient(residual), columns, weights.precision), axis=1)
            row = rows[best]
            value = jax.nn.relu(jnp.sum(residual * row, axis=1)) / norm[best] ** 2
            chosen = jax.nn.one_hot(best, len(rows), dtype=z.dtype)
            return (residual - value[:, None] * row, z + value[:, None] * chosen), None

        start = v, jnp.zeros((len(v), len(rows)), v.dtype)
        return jax.lax.scan(pursue, start, length=self.active)[0][1]

    def penalty(self, *_: Any) -> None:
        """No penalty."""
