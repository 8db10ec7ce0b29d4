"""Encoders and decoders: arrays to arrays, no losses."""

from collections.abc import Callable
from math import prod

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxae import ops


class MLP(nn.Module):
    """Dense layers, the last one linear. [*lead, *D] -> [*lead, *outputs], D being the last `axes` axes.

    Kernels start from Glorot uniform (Glorot & Bengio 2010, equation 16), biases from zero.
    """

    hidden: tuple[int, ...]  # widths
    outputs: tuple[int, ...]  # shape of the result
    axes: int = 1  # how many axes one input has
    activation: Callable[[jax.Array], jax.Array] = nn.relu
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    precision: str = "float32"  # or "mixed": bfloat16 operands

    @nn.compact
    def __call__(self, x: Float[Array, "*lead_and_D"]) -> Float[Array, "*lead_and_outputs"]:
        split = x.ndim - self.axes
        lead = x.shape[:split]
        x = x.reshape(*lead, prod(x.shape[split:]))
        for width in self.hidden:
            x = self.activation(self._dense(width)(x))
        return self._dense(prod(self.outputs))(x).reshape(*lead, *self.outputs)

    def _dense(self, width: int) -> nn.Dense:
        return nn.Dense(width, kernel_init=self.kernel_init, dot_general=ops.dot_general(self.precision))
