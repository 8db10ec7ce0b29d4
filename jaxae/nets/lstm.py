"""Long short-term memory."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with a forget gate: Gers et al. 2000).

    [B, T, D] -> the outputs [B, T, width], and the output [B, width] at the last unmasked step. Gates are in the order
    input, forget, cell, output. As in Keras, the initial kernels are those of one matrix for all gates, Glorot-uniform
    for the input and orthogonal for the recurrence, and the initial bias of the forget gate is 1.
    """

    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], mask: Float[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T width"], Float[Array, "B width"]]:
        kernel = self.param("kernel", nn.initializers.glorot_uniform(), (x.shape[2], 4 * self.width))
        recurrent = self.param("recurrent", nn.initializers.orthogonal(), (self.width, 4 * self.width))
        bias = self.param("bias", _forget_one, (4, self.width)).ravel()

        def step(
            carry: tuple[jax.Array, jax.Array], inputs: jax.Array
        ) -> tuple[tuple[jax.Array, jax.Array], jax.Array]:
            h, c = carry
            i, f, g, o = jnp.split(inputs + h @ recurrent, 4, axis=1)
            c = nn.sigmoid(f) * c + nn.sigmoid(i) * jnp.tanh(g)
            h = nn.sigmoid(o) * jnp.tanh(c)
            return (h, c), h

        zero = jnp.zeros((len(x), self.width))
        inputs = x @ kernel + bias[None, None]
        _, outputs = jax.lax.scan(step, (zero, zero), inputs.swapaxes(0, 1))
        outputs = outputs.swapaxes(0, 1)
        if mask is None:
            return outputs, outputs[:, -1]
        return outputs, outputs[jnp.arange(len(x)), mask.sum(1).astype(jnp.int32) - 1]


def _forget_one(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:  # noqa: ARG001
    return jnp.zeros(shape).at[1].set(1)
