"""A net whose input is a random subset of the columns."""

from math import prod

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets.layers import Keys


class Subset(nn.Module):
    """A net that receives a random subset of the dimensions of its input, fixed at initialisation; the others are 0.

    The mask is the variable `kept` of the collection `columns`. With an axis of seeds each seed has its own subset, as
    in feature bagging (Lazarevic & Kumar 2005).
    """

    net: nn.Module  # [B, *D] -> [B, *Z]
    fraction: float  # of the dimensions that are kept, in (0, 1]; at least one is

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B *D"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "B *Z"]:
        def draw() -> Float[Array, "*D"]:
            size = prod(x.shape[1:])
            kept = jax.random.permutation(self.make_rng("params"), size) < max(1, round(self.fraction * size))
            return kept.astype(jnp.float32).reshape(x.shape[1:])

        kept = self.variable("columns", "kept", draw)
        return jnp.asarray(self.net(x * kept.value[None]))
