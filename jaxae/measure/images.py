"""Reconstruction quality: squared error, its minimum over shifts, structural similarity (SSIM)."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

Decode = Callable[[jax.Array], jax.Array]  # codes [N, Z] -> images [N, H, W, C], each from its own code alone


_gauss = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)


WINDOW: list[float] = (_gauss / _gauss.sum()).tolist()  # one axis of structural similarity's window


@jax.jit
def mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Squared error, mean over the pixels of each image in [0, 1]: (1 / HWC) sum (x - y)^2."""
    return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


@partial(jax.jit, static_argnames="reach")
def shift_mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"], reach: int = 2) -> Float[Array, " N"]:
    """The smallest `mse` over all shifts of y by up to `reach` whole pixels each way; zero padding.

    Like the tangent distance (Simard, LeCun & Denker 1993), with an exhaustive search in place of the tangent.
    """
    _, h, w, _ = x.shape
    padded = jnp.pad(y, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    steps = range(2 * reach + 1)
    return jnp.stack([mse(x, padded[:, i : i + h, j : j + w]) for i in steps for j in steps]).min(0)


@jax.jit
def ssim(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Structural similarity of images in [0, 1]: 1 for identical ones, below for all others.

    Wang, Bovik, Sheikh & Simoncelli 2004, equations 13 to 17: with m, v and c the means, variances and covariance in
    a Gaussian window of 11 x 11 pixels, sigma 1.5, the mean over channels and all places where the window fits of

        (2 m_x m_y + C1) (2 c + C2) / ((m_x^2 + m_y^2 + C1) (v_x + v_y + C2)),  C1 = 0.01^2, C2 = 0.03^2.

    ValueError for images that are smaller than the window.
    """
    _, h, w, _ = x.shape
    if min(h, w) < len(WINDOW):
        raise ValueError(f"images of {h} x {w} pixels are smaller than structural similarity's window of 11 x 11")
    c1, c2 = 0.01**2, 0.03**2
    (mx, my, cov), (_, _, vx), (_, _, vy) = _local(x, y), _local(x, x), _local(y, y)
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    return similarity.mean((1, 2, 3))


def _local(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> tuple[Array, Array, Array]:
    """Means of x and y and their covariance in every window, each [N, H - 10, W - 10, C].

    One axis after the other by the law of total covariance, cov(x, y) = E cov(x, y | row) + cov(E x | row, E y | row):
    a sum of products of deviations, where E xy - E x E y would cancel to noise on smooth images.
    """
    cov = jnp.zeros_like(x)
    for axis in (1, 2):
        rows = [_slices(v, axis) for v in (x, y, cov)]
        x, y = _mean(rows[0]), _mean(rows[1])
        cov = _mean([c + (a - x) * (b - y) for a, b, c in zip(*rows, strict=True)])
    return x, y, cov


def _slices(x: jax.Array, axis: int) -> list[jax.Array]:
    size = x.shape[axis] - len(WINDOW) + 1
    return [jax.lax.slice_in_dim(x, k, k + size, axis=axis) for k in range(len(WINDOW))]


def _mean(values: list[jax.Array]) -> jax.Array:
    return sum((w * v for w, v in zip(WINDOW, values, strict=True)), jnp.zeros(()))


def reconstruction_quality(
    decode: Decode, z: Num[Any, "N *Z"], x: UInt8[Any, "N H W C"], size: int = 1000
) -> dict[str, float]:
    """`mse`, `shift_mse` and `ssim` of the images x and those decoded from their codes z, means over the images."""
    total = dict.fromkeys(("mse", "shift_mse", "ssim"), 0.0)
    for i in range(0, len(x), size):
        original, decoded = jnp.asarray(x[i : i + size].astype(np.float32) / 255), decode(z[i : i + size])
        for name, measure in (("mse", mse), ("shift_mse", shift_mse), ("ssim", ssim)):
            total[name] += float(measure(original, decoded).sum()) / len(x)
    return total
