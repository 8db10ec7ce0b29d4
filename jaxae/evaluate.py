"""Numbers for what the eye sees: how alike two images are, and what is wrong with a plane of codes."""

from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num, UInt8

Decode = Callable[[jax.Array], jax.Array]  # codes [N, Z] -> images [N, H, W, C], each from its own code alone

_gauss = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
STEP = 0.01  # to either side, in units of standard deviation: slopes err by its square
WINDOW: list[float] = (_gauss / _gauss.sum()).tolist()  # one axis of structural similarity's window


@jax.jit
def mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"]) -> Float[Array, " N"]:
    """Squared error, mean over the pixels of each image in [0, 1]: (1 / HWC) sum (x - y)^2."""
    return jnp.mean((x - y) ** 2, axis=(1, 2, 3))


@partial(jax.jit, static_argnames="reach")
def shift_mse(x: Float[Array, "N H W C"], y: Float[Array, "N H W C"], reach: int = 2) -> Float[Array, " N"]:
    """The least `mse` over all shifts of y by up to `reach` whole pixels each way; zeros come in at the border.

    A tangent distance (Simard, LeCun & Denker 1993) without the tangent: the small set of shifts is searched whole.
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


def likeness(decode: Decode, z: Num[Any, "N *Z"], x: UInt8[Any, "N H W C"], size: int = 1000) -> dict[str, float]:
    """`mse`, `shift_mse` and `ssim` of the images x and those decoded from their codes z, means over the images."""
    total = dict.fromkeys(("mse", "shift_mse", "ssim"), 0.0)
    for i in range(0, len(x), size):
        original, decoded = jnp.asarray(x[i : i + size].astype(np.float32) / 255), decode(z[i : i + size])
        for name, measure in (("mse", mse), ("shift_mse", shift_mse), ("ssim", ssim)):
            total[name] += float(measure(original, decoded).sum()) / len(x)
    return total


def plane(decode: Decode, z: Num[Any, "N Z"], y: Int[Any, " N"]) -> dict[str, float]:
    """Four defects of an autoencoder's plane of codes z with classes y, each without unit and blind to z's scale.

    Foster 2019 (Generative Deep Learning, chapter 3) names them: classes take areas of very different size, the codes
    do not lie evenly about the origin, there are holes where a drawn code gives no sensible image, and neighbours
    need not decode alike.
    """
    return {
        "unequal_areas": unequal_areas(z, y),
        "asymmetry": asymmetry(z),
        "holes": holes(z),
        "roughness": roughness(decode, z),
    }


def unequal_areas(z: Num[Any, "N Z"], y: Int[Any, " N"]) -> float:
    """Standard deviation over the classes of log area_c: 0 when all take the same area, log 2 for a usual factor of 2.

    area_c = pi sqrt(det cov_c), that of the ellipse one standard deviation around the class's mean; the factor pi, or
    its like for a volume in Z dimensions, drops out. Infinite if a class is flat: its codes lie in fewer dimensions.
    """
    z, y = np.asarray(z, np.float64), np.asarray(y)
    covariances = [np.atleast_2d(np.cov(z[y == label], rowvar=False, bias=True)) for label in np.unique(y)]
    if any(np.linalg.matrix_rank(c, hermitian=True) < len(c) for c in covariances):
        return inf
    return float(np.std(np.linalg.slogdet(np.stack(covariances)).logabsdet / 2))


def asymmetry(z: Num[Any, "N Z"]) -> float:
    """1 - E|z - z'| / E|z + z'| over all ordered pairs of codes: 0 if z and -z are distributed alike, at most 1.

    That E|z - z'| <= E|z + z'| is due to Buja, Logan, Reeds & Shepp 1994; twice the difference is the energy distance
    of z from -z, so it is 0 only for symmetry (Szekely & Rizzo 2013), and this is that distance over its upper bound.
    Pairs of a code with itself count (a V-statistic): a set equal to its negation then has 0 to rounding, and none has
    less; n normal codes have 1.4 / n on average. From at most 2,000 codes, evenly spaced through the array.
    """
    from scipy.spatial.distance import cdist

    z = np.asarray(z, np.float64)
    z = z[np.linspace(0, len(z) - 1, min(len(z), 2000)).astype(int)]
    return float(1 - cdist(z, z).mean() / cdist(z, -z).mean())


def holes(z: Num[Any, "N Z"], seed: int = 0) -> float:
    """Share of draws from the codes' normal distribution that have no code nearby: 0.01 for normal codes.

    In coordinates where that distribution is standard, 10,000 draws; nearby is the distance within which 99 % of them
    find one of as many codes as z has, had those been drawn from the normal distribution too.
    """
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(seed)
    codes = _whiten(np.asarray(z, np.float64))[0]
    draws, normal = rng.standard_normal((10_000, codes.shape[1])), rng.standard_normal(codes.shape)
    nearby = np.quantile(cKDTree(normal).query(draws)[0], 0.99)
    return float(np.mean(cKDTree(codes).query(draws)[0] > nearby))


def roughness(decode: Decode, z: Num[Any, "N Z"], seed: int = 0) -> float:
    """E |df/dw|^2 / E |f - E f|^2: squared slope over variance of the images f(w) = decode(mean + L w).

    w is standard normal, L L' the covariance of the codes, and the norms sum over pixels and directions. At least 1,
    and 1 only for a linear decoder (Gaussian Poincare inequality: Nash 1958; Chernoff 1981): images that jump between
    neighbours have steep slopes for their variance. From 2,000 draws, moved and scaled to mean 0 and covariance 1
    exactly, so that a linear decoder has 1 to rounding; slopes are central differences over 0.02 (a decoder need only
    be differentiable backwards); in 8 pieces, so that the images fit into memory. A constant decoder has no variance:
    nan.
    """
    _, mean, factor = _whiten(np.asarray(z, np.float64))
    draws = _whiten(np.random.default_rng(seed).standard_normal((2000, len(mean))))[0]
    origin, axes, pieces = (jnp.asarray(a, jnp.float32) for a in (mean[None], factor.T, draws.reshape(8, 250, -1)))

    def images(w: jax.Array) -> jax.Array:
        return decode(origin + jnp.dot(w, axes, precision="highest"))

    def piece(w: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def square(e: jax.Array) -> jax.Array:
            return jnp.sum((images(w + STEP * e) - images(w - STEP * e)) ** 2) / (2 * STEP) ** 2

        f, squares = images(w), jax.lax.map(square, jnp.eye(len(mean))[:, None])
        return f.mean(0), f.var(0).sum(), squares.sum() / len(w)

    means, within, squares = jax.lax.map(piece, pieces)
    return float(squares.mean() / (within.mean() + means.var(0).sum()))


def _whiten(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(w, mean, L): w [N, Z] of mean 0 and covariance 1 with z = mean + L w, L the covariance's Cholesky factor."""
    mean, covariance = z.mean(0), np.atleast_2d(np.cov(z, rowvar=False, bias=True))
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(mean):
        raise ValueError(f"{len(z)} codes of {len(mean)} dimensions lie in fewer: they have no normal density")
    factor = np.linalg.cholesky(covariance)
    return np.linalg.solve(factor, (z - mean).T).T, mean, factor
