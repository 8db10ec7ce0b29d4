"""Reconstruction quality: squared error, its minimum over shifts, PSNR, structural similarity (SSIM)."""

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

Decode = Callable[[jax.Array], jax.Array]  # codes [N, Z] -> images [N, H, W, C], each from its own code alone
Moments = tuple[Array, ...]  # means of x and y, variances of x and y, covariance

_gauss = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)


WINDOW: list[float] = (_gauss / _gauss.sum()).tolist()  # one axis of structural similarity's window
VALUES = 1000 * 28 * 28  # maximum pixels times channels that are compared at once, unless one image has more


@jax.jit
def mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Squared error, mean over the pixels of each image in [0, 1]: (1 / HWC) sum (x - y)^2."""
    return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


@jax.jit
def psnr(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Peak signal-to-noise ratio of images in [0, 1], -10 log10 `mse` dB; at most 100, for equal images."""
    return -10 * jnp.log10(jnp.maximum(mse(x, y), 1e-10))


@partial(jax.jit, static_argnames="reach")
def shift_mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"], reach: int = 2) -> Float[Array, " N"]:
    """The smallest `mse` over all shifts of y by up to `reach` pixels along each axis; zero padding.

    Like the tangent distance (Simard, LeCun & Denker 1993), with an exhaustive search in place of the tangent.
    """
    _, h, w, _ = x.shape
    padded = jnp.pad(y, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    width = 2 * reach + 1

    def smaller(k: jax.Array, least: jax.Array) -> jax.Array:
        moved = jax.lax.dynamic_slice_in_dim(padded, k // width, h, axis=1)
        return jnp.minimum(least, mse(x, jax.lax.dynamic_slice_in_dim(moved, k % width, w, axis=2)))

    return jax.lax.fori_loop(0, width**2, smaller, jnp.full(len(x), jnp.inf))


@jax.jit
def ssim(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Structural similarity of images in [0, 1]: 1 for identical images, below 1 for all others.

    Wang, Bovik, Sheikh & Simoncelli 2004, equations 13 to 17: with m, v and c the means, variances and covariance in
    a Gaussian window of 11 x 11 pixels, sigma 1.5, the mean over channels and all places where the window fits of

        (2 m_x m_y + C1) (2 c + C2) / ((m_x^2 + m_y^2 + C1) (v_x + v_y + C2)),  C1 = 0.01^2, C2 = 0.03^2.

    ValueError for images that are smaller than the window.
    """
    _, h, w, _ = x.shape
    if min(h, w) < len(WINDOW):
        raise ValueError(f"images of {h} x {w} pixels are smaller than structural similarity's window of 11 x 11")
    c1, c2 = 0.01**2, 0.03**2
    mx, my, vx, vy, cov = _local(x, y)
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similarity.mean((1, 2, 3))


def _local(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Moments:
    """The moments in every window, each [N, H - 10, W - 10, C].

    They are computed along one axis after the other by the law of total covariance, cov(x, y) = E cov(x, y | row) +
    cov(E x | row, E y | row), as sums of products of deviations: E xy - E x E y would cancel to noise on smooth images.
    """
    zero = jnp.zeros_like(x)
    return _along(2, *_along(1, x, y, zero, zero, zero))


def _along(axis: int, x: Array, y: Array, vx: Array, vy: Array, cov: Array) -> Moments:
    """The moments in windows along one axis, from those of every position."""
    size = x.shape[axis] - len(WINDOW) + 1

    def mean(f: Callable[..., tuple[Array, ...]]) -> tuple[Array, ...]:
        def weighted(k: int | jax.Array) -> tuple[Array, ...]:
            parts = (jax.lax.dynamic_slice_in_dim(v, k, size, axis) for v in (x, y, vx, vy, cov))
            return tuple(jnp.asarray(WINDOW)[k] * v for v in f(*parts))

        def add(k: jax.Array, total: tuple[Array, ...]) -> tuple[Array, ...]:
            return jax.tree.map(jnp.add, total, weighted(k))

        return jax.lax.fori_loop(1, len(WINDOW), add, weighted(0))  # unrolled, all terms would be in memory at once

    mx, my = mean(lambda x, y, *_: (x, y))
    return mx, my, *mean(lambda x, y, vx, vy, cov: (vx + (x - mx) ** 2, vy + (y - my) ** 2, cov + (x - mx) * (y - my)))


def reconstruction_quality(
    decode: Decode, z: Num[Any, "N *Z"], x: UInt8[Any, "N H W C"] | Float[Any, "N H W C"]
) -> dict[str, float]:
    """Means of `mse`, `shift_mse`, `psnr` and `ssim` between the images x and those decoded from their codes z.

    x: bytes, or pixels in [0, 1]. Decodes and compares at most `VALUES` pixels times channels at once.
    """
    measures = {"mse": mse, "shift_mse": shift_mse, "psnr": psnr, "ssim": ssim}
    total = dict.fromkeys(measures, 0.0)
    size = max(1, VALUES // prod(x.shape[1:]))
    for i in range(0, len(x), size):
        part = x[i : i + size]
        original = jnp.asarray(part.astype(np.float32) / (255 if part.dtype == np.uint8 else 1))
        decoded = decode(z[i : i + size])
        for name, measure in measures.items():
            total[name] += float(measure(original, decoded).sum()) / len(x)
    return total
