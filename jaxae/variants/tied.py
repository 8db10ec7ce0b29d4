"""Tied weights: the decoder's matrix is the transpose of the encoder's (Vincent et al. 2010, section 3.1)."""

from math import prod

import flax.linen as nn
import jax
from jaxtyping import Array, Float

from jaxae.nets import Activation, Keys
from jaxae.nets.layers import dot_general


class Tied(nn.Module):
    """z = activation(x W + b), logits = z W' + c: about half the weights of an autoencoder with the same code size."""

    shape: tuple[int, ...]  # of an example
    latent: int
    activation: Activation = nn.relu
    output: Activation = nn.sigmoid
    precision: str = "float32"

    def setup(self) -> None:
        pixels = prod(self.shape)
        self.kernel = self.param("kernel", nn.initializers.glorot_uniform(), (pixels, self.latent))
        self.encoder_bias = self.param("encoder_bias", nn.initializers.zeros, (1, self.latent))
        self.decoder_bias = self.param("decoder_bias", nn.initializers.zeros, (1, pixels))

    def __call__(
        self,
        x: Float[Array, "B *D"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes and logits."""
        z = self.encode(x)
        return z, self.logits(z)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """Codes."""
        return self.activation(self._product(x.reshape(len(x), -1), self.kernel) + self.encoder_bias)

    def logits(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """Decoder output before the activation `output`."""
        return (self._product(z, self.kernel.T) + self.decoder_bias).reshape(-1, *self.shape)

    def decode(self, z: Float[Array, "B Z"]) -> Float[Array, "B *D"]:
        """Reconstructions."""
        return self.output(self.logits(z))

    def _product(self, a: jax.Array, b: jax.Array) -> jax.Array:
        return dot_general(self.precision)(a, b, (((1,), (0,)), ((), ())))
