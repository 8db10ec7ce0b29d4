"""Long short-term memory."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float


class LSTM(nn.Module):
    """Long short-term memory (Hochreiter & Schmidhuber 1997; with a forget gate: Gers et al. 2000).

    [B, T, D] -> the outputs [B, T, width], and the output [B, width] at the last unmasked step.
    """

    width: int

    @nn.compact
    def __call__(
        self, x: Float[Array, "B T D"], mask: Float[Array, "B T"] | None = None
    ) -> tuple[Float[Array, "B T width"], Float[Array, "B width"]]:
        lengths = None if mask is None else mask.sum(1).astype(jnp.int32)
        layer = nn.RNN(
            nn.OptimizedLSTMCell(self.width, kernel_init=nn.initializers.glorot_uniform()), return_carry=True
        )
        (_, last), outputs = layer(x, seq_lengths=lengths)
        return outputs, last
