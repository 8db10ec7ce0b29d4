"""An autoencoder with finite scalar quantization (Mentzer, Minnen, Agustsson & Tschannen 2023)."""

from math import prod

import jax
from jaxtyping import Array, Float, Int

from jaxae.nets import Keys
from jaxae.variants.autoencoder import Autoencoder
from jaxae.variants.quantize.fsq import index, nearest, quantize


class FSQ(Autoencoder):
    """An autoencoder with codes on a grid: no codebook, and no codebook term in the loss.

    ValueError for fewer than 3 levels, and for 2^31 codes or more.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)  # of each of the Z channels of the encoder output

    @property
    def codes(self) -> int:
        """Number of grid points: the size of the implicit codebook."""
        return prod(self.levels)

    def __call__(
        self, x: Float[Array, "B *D"], keys: Keys | None = None, axis: str | None = None
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes, and the decoder output before the activation `output`."""
        z = quantize(self.encoder(x, keys, axis), self.levels)
        return z, self.decoder(z, keys, axis)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B *P Z"]:
        """Codes, in [-1, 1]."""
        return quantize(self.encoder(x), self.levels)

    def decode(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *D"]:
        """Reconstructions, from the grid points nearest to z."""
        return super().decode(nearest(z, self.levels))

    def indices(self, x: Float[Array, "B *D"]) -> Int[Array, "B *P"]:
        """Indices of the codes, from 0 to `codes` - 1."""
        return index(self.encode(x), self.levels)
