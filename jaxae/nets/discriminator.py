"""A discriminator of patches of images."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets.conv import Convolution
from jaxae.nets.residual import norm


class PatchDiscriminator(nn.Module):
    """Logits of "real" for overlapping patches: [B, H, W, C] -> [B, h, w].

    Isola, Zhu, Zhou & Efros 2017, section 3.2.2. Convolutions of width 4, all but the last two of stride 2, leaky ReLU;
    group norm, which is per example, in place of batch norm.
    """

    filters: tuple[int, ...]  # of all layers but the last, which has 1
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w"]:
        last = len(self.filters) - 1
        for number, filters in enumerate(self.filters):
            stride = 2 if number < last else 1
            x = Convolution(filters, 4, stride, precision=self.precision, name=f"layer{number}")(x)
            x = nn.leaky_relu(norm(x, f"norm{number}") if number else x, 0.2)
        return jnp.squeeze(Convolution(1, 4, precision=self.precision, name="output")(x), axis=-1)
