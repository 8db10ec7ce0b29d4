"""MADE, the masked autoencoder for distribution estimation: outputs of a dimension depend on those before it."""

from itertools import pairwise
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxae.nets.layers import Activation


class MADE(nn.Module):
    """Masked dense layers: [*lead, D] -> [*lead, D, P]; the P outputs of a dimension depend on those before it.

    All outputs depend on the context [*lead, H] as well, which is added to the first layer by a linear map; its leading
    axes broadcast. The last kernel is 0 initially, so that all outputs are. Germain, Gregor, Murray & Larochelle 2015.
    """

    dimensions: int  # D
    hidden: tuple[int, ...]  # widths
    outputs: int  # P
    context: int = 0  # H; 0: no context
    activation: Activation = nn.relu

    def setup(self) -> None:
        self.masks: Any = masks(self.dimensions, self.hidden, 0 if self.context else 1)
        widths = (self.dimensions, *self.hidden, self.dimensions * self.outputs)
        init = nn.initializers.glorot_uniform()
        inits = [*[init] * len(self.hidden), nn.initializers.zeros]
        self.kernels = [self.param(f"kernel_{i}", inits[i], widths[i : i + 2]) for i in range(len(inits))]
        self.biases = [self.param(f"bias_{i}", nn.initializers.zeros, (width,)) for i, width in enumerate(widths[1:])]
        self.of_context: Any = (
            self.param("kernel_context", inits[0], (self.context, widths[1])) if self.context else None
        )

    def __call__(
        self, x: Float[Array, "*lead D"], context: Float[Array, "*outer H"] | None = None
    ) -> Float[Array, "*lead D P"]:
        last = jnp.repeat(self.masks[-1], self.outputs, axis=1)
        for i, mask in enumerate((*self.masks[:-1], last)):
            x = _plus(x @ (self.kernels[i] * mask), self.biases[i])
            if i == 0 and context is not None:
                x = x + context @ self.of_context
            x = self.activation(x) if i < len(self.hidden) else x
        return x.reshape(*x.shape[:-1], self.dimensions, self.outputs)


def _plus(x: jax.Array, bias: jax.Array) -> jax.Array:
    return x + bias.reshape(*[1] * (x.ndim - 1), -1)


def masks(dimensions: int, hidden: tuple[int, ...], lowest: int = 1) -> list[Float[np.ndarray, "I O"]]:
    """The mask of each kernel; the last has one column per dimension (Germain et al. 2015, equations 12 and 13).

    Dimension d, counted from 1, has the degree d; degrees of hidden units cycle through `lowest`, ..., D - 1. A unit
    depends on those units of the previous layer whose degree is at most its own, an output on units of lower degree.
    With lowest=0 some units depend on the context alone.
    """
    degrees = [np.arange(1, dimensions + 1)]
    degrees += [lowest + np.arange(width) % max(dimensions - lowest, 1) for width in hidden]
    found = [after[None] >= before[:, None] for before, after in pairwise(degrees)]
    return [mask.astype(np.float32) for mask in (*found, degrees[0][None] > degrees[-1][:, None])]
