"""Finite scalar quantization (Mentzer, Minnen, Agustsson & Tschannen 2023): each channel is rounded to a few levels."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxae.nets import Keys
from jaxae.variants.autoencoder import Autoencoder
from jaxae.variants.vqvae import straight_through


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
        middle = _row(np.array(self.levels) // 2, z.ndim)
        top = _row((np.array(self.levels) - 1) // 2, z.ndim)
        return super().decode(jnp.clip(jnp.round(z * middle), -middle, top) / middle)

    def index(self, z: Float[Array, "B *P Z"]) -> Int[Array, "B *P"]:
        """Indices of these codes, from 0 to `codes` - 1."""
        return index(z, self.levels)


def bound(z: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """Map z into the interval whose integers are the levels, and 0 to 0: for L levels,

        (-(L - 1) / 2, (L - 1) / 2), or (-L / 2, L / 2 - 1), as L is odd or even.

    A hyperbolic tangent (section 3.1 of the paper), shifted by a half for even L (its appendix A.1).
    ValueError for L < 3, where 0 is at the end of the interval, and for 2^31 codes or more.
    """
    if min(levels) < 3 or prod(levels) >= 2**31:
        raise ValueError(f"levels={list(levels)}: each must be at least 3, and their product below {2**31}")
    half = (np.array(levels) - 1) / 2
    offset = np.where(np.array(levels) % 2, 0, 0.5)
    scale, down, shift = (_row(v, z.ndim) for v in (half, offset, np.arctanh(offset / half)))
    return scale * jnp.tanh(z + shift) - down


def quantize(z: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """Round each channel to its nearest level, straight through, and scale it to [-1, 1]: k / floor(L / 2)."""
    bounded = bound(z, levels)
    return straight_through(bounded, jnp.round(bounded)) / _row(np.array(levels) // 2, z.ndim)


def index(codes: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Int[Array, "*P"]:
    """Index of each code, from 0 to prod(levels) - 1: its levels as digits, least significant first."""
    middle = _row(np.array(levels) // 2, codes.ndim)
    digits = jnp.round(codes * middle + middle).astype(jnp.int32)
    basis = np.cumprod([1, *levels[:-1]]).astype(np.int32)
    return jnp.sum(digits * basis.reshape(*[1] * (codes.ndim - 1), -1), axis=-1)


def code(index: Int[Array, "*P"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """The code of each index: the inverse of `index`."""
    digits = jnp.stack(jnp.unravel_index(index, levels[::-1])[::-1], axis=-1)
    middle = _row(np.array(levels) // 2, digits.ndim)
    return (digits - middle) / middle


def _row(values: np.ndarray, axes: int) -> jax.Array:
    """Values along the last of `axes` axes."""
    return jnp.asarray(values, jnp.float32).reshape(*[1] * (axes - 1), -1)
