"""Finite scalar quantization (Mentzer, Minnen, Agustsson & Tschannen 2023): each channel is rounded to a few levels."""

from math import prod

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Quantized, Quantizer, straight_through


class FSQ(Quantizer):
    """Codes are the points of a grid; there is no codebook and no loss.

    ValueError for fewer than 3 levels, and for 2^31 codes or more.
    """

    levels: tuple[int, ...] = (8, 5, 5, 5)  # of each of the Z channels

    @property
    def size(self) -> int:
        """Number of grid points."""
        return prod(self.levels)

    @property
    def shrink(self) -> tuple[float, ...]:
        """1 / (L - 1), so that residuals, at most half the distance between levels, fill the range of the levels."""
        return tuple(1 / (count - 1) for count in self.levels)

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The vectors, mapped into the range of the grid (see `bound`)."""
        return bound(z, self.levels) / _row(np.array(self.levels) // 2, z.ndim)

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:  # noqa: ARG002
        """The nearest grid points."""
        q = nearest(z, self.levels)
        terms = {"quantization": per_example((z - q) ** 2), "loss": jnp.zeros(len(z))}
        return Quantized(straight_through(z, q), index(q, self.levels), terms)

    def embed(self, indices: Int[Array, "B *P"]) -> Float[Array, "B *P Z"]:
        """The grid points with these indices."""
        return code(indices, self.levels)

    def nearest(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The nearest grid points."""
        return nearest(z, self.levels)


def bound(z: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """Map z into the interval whose integers are the levels, and 0 to 0: for L levels,

        (-(L - 1) / 2, (L - 1) / 2) for odd L, (-L / 2, L / 2 - 1) for even L.

    The map is a hyperbolic tangent (section 3.1 of the paper), shifted by a half for even L (its appendix A.1).
    ValueError for L < 3, where 0 is at the end of the interval, and for 2^31 codes or more.
    """
    if min(levels) < 3 or prod(levels) >= 2**31:
        raise ValueError(f"levels={list(levels)}: each must be at least 3, and their product below {2**31}")
    half = (np.array(levels) - 1) / 2
    offset = np.where(np.array(levels) % 2, 0, 0.5)
    scale, down, shift = (_row(v, z.ndim) for v in (half, offset, np.arctanh(offset / half)))
    return scale * jnp.tanh(z + shift) - down


def quantize(z: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """Round each channel to its nearest level k, with a straight-through gradient, and scale it to k / floor(L / 2)."""
    bounded = bound(z, levels)
    return straight_through(bounded, jnp.round(bounded)) / _row(np.array(levels) // 2, z.ndim)


def nearest(z: Float[Array, "*P Z"], levels: tuple[int, ...]) -> Float[Array, "*P Z"]:
    """The grid points nearest to z, in [-1, 1]."""
    middle = _row(np.array(levels) // 2, z.ndim)
    top = _row((np.array(levels) - 1) // 2, z.ndim)
    return jnp.clip(jnp.round(z * middle), -middle, top) / middle


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
