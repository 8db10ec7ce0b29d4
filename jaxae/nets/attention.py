"""Self-attention and gated dense layers of transformers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxae.nets.layers import Activation, dot_general


def attention(
    query: Float[Array, "B T H D"],
    key: Float[Array, "B S H D"],
    value: Float[Array, "B S H D"],
    precision: str = "float32",
    mask: Bool[Array, "B S"] | Bool[Array, "#B T S"] | None = None,
) -> Float[Array, "B T H D"]:
    """softmax(Q K^T / sqrt(D)) V of each of H heads (Vaswani et al. 2017, equation 1); softmax in float32.

    precision: float32, or mixed: bfloat16 operands. mask: positions to attend to (default: all), the same for all
    queries, or [B, T, S] for each query.
    """
    operand = {"float32": jnp.float32, "mixed": jnp.bfloat16}[precision]

    def product(subscripts: str, a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.einsum(subscripts, a.astype(operand), b.astype(operand), preferred_element_type=jnp.float32)

    scores = product("bthd,bshd->bhts", query, key) / jnp.sqrt(query.shape[-1])
    where = None if mask is None else mask[:, None, None] if mask.ndim == 2 else mask[:, None]
    weights = jax.nn.softmax(scores, axis=-1, where=where)
    return product("bhts,bshd->bthd", weights, value)


class SelfAttention(nn.Module):
    """Multi-head self-attention over T positions: [B, T, C] -> [B, T, C]. ValueError unless heads divides C.

    mask: positions to attend to (default: all).
    """

    heads: int = 1
    zero: bool = False  # whether the output starts at 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"], mask: Bool[Array, "B T"] | None = None) -> Float[Array, "B T C"]:
        width = x.shape[-1]
        if width % self.heads:
            raise ValueError(f"heads={self.heads} does not divide {width} channels; use a divisor")
        dot, glorot = dot_general(self.precision), nn.initializers.glorot_uniform()
        parts = [
            nn.Dense(width, kernel_init=glorot, dot_general=dot, name=name)(x) for name in ("query", "key", "value")
        ]
        query, key, value = (part.reshape(*x.shape[:2], self.heads, -1) for part in parts)
        mixed = attention(query, key, value, self.precision, mask).reshape(x.shape)
        init = nn.initializers.zeros if self.zero else glorot
        return nn.Dense(width, kernel_init=init, dot_general=dot, name="output")(mixed)


class GatedMLP(nn.Module):
    """(activation(x W) * (x V)) U: [B, T, C] -> [B, T, C], hidden layer of `width` (Shazeer 2020, equation 6)."""

    width: int
    activation: Activation = nn.silu
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        dot, glorot = dot_general(self.precision), nn.initializers.glorot_uniform()

        def dense(width: int, name: str) -> nn.Dense:
            return nn.Dense(width, kernel_init=glorot, dot_general=dot, name=name)

        return dense(x.shape[-1], "output")(
            self.activation(dense(self.width, "gate")(x)) * dense(self.width, "value")(x)
        )
