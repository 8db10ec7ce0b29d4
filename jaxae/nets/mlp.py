"""Dense layers."""

from math import prod

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets.layers import Activation, Keys, dot_general, linear


class MLP(nn.Module):
    """Dense layers. [*lead, *D] -> [*lead, *outputs], D being the last `axes` axes."""

    hidden: tuple[int, ...]  # widths
    outputs: tuple[int, ...]  # shape of the result
    axes: int = 1  # number of axes of one input
    activation: Activation = nn.relu
    final: Activation = linear  # activation of the result
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()
    bias_init: nn.initializers.Initializer = nn.initializers.zeros
    precision: str = "float32"  # or "mixed": bfloat16 operands
    last_bias: tuple[float, ...] = ()  # initial bias of the last layer (default: bias_init)
    use_bias: bool = True

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*lead_and_D"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "*lead_and_outputs"]:
        split = x.ndim - self.axes
        lead = x.shape[:split]
        x = x.reshape(*lead, prod(x.shape[split:]))
        for width in self.hidden:
            x = self.activation(self._dense(width, self.bias_init)(x))
        bias = nn.initializers.constant(jnp.array(self.last_bias)) if self.last_bias else self.bias_init
        return self.final(self._dense(prod(self.outputs), bias)(x)).reshape(*lead, *self.outputs)

    def _dense(self, width: int, bias: nn.initializers.Initializer) -> nn.Dense:
        dot = dot_general(self.precision)
        return nn.Dense(width, self.use_bias, kernel_init=self.kernel_init, bias_init=bias, dot_general=dot)
