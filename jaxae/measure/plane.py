"""Defects of a 2-D latent space."""

from math import inf
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Num

from jaxae.data.dataset import VALUES
from jaxae.measure.images import Decode

STEP = 0.01  # of central differences, in standard deviations; their error is O(STEP^2)


def defects(decode: Decode, z: Num[Any, "N Z"], y: Int[Any, " N"]) -> dict[str, float]:
    """Four defects of a 2-D latent space, from codes z and classes y; dimensionless and invariant to the scale of z.

    From D. Foster, "Generative Deep Learning", 2nd edition, chapter 3: classes of unequal area, asymmetry about the
    origin, holes where sampled codes decode to no sensible image, and neighbours that decode to different images.
    """
    return {
        "unequal_areas": unequal_areas(z, y),
        "asymmetry": asymmetry(z),
        "holes": holes(z),
        "roughness": roughness(decode, z),
    }


def unequal_areas(z: Num[Any, "N Z"], y: Int[Any, " N"]) -> float:
    """Standard deviation over classes of log area_c: 0 for equal areas, log 2 for a typical twofold deviation.

    area_c = pi sqrt(det cov_c) is the area of the ellipse at one standard deviation from the class mean; constant
    factors cancel. Infinite if the covariance of a class is singular.
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
    The means include pairs of a code with itself (a V-statistic), so that the minimum is 0, up to rounding, for a set
    equal to its negation; for n standard normal codes the expected value is about 1.4 / n. At most 2,000 codes, evenly
    spaced through the array, are used.
    """
    from scipy.spatial.distance import cdist

    z = np.asarray(z, np.float64)
    z = z[np.linspace(0, len(z) - 1, min(len(z), 2000)).astype(int)]
    return float(1 - cdist(z, z).mean() / cdist(z, -z).mean())


def holes(z: Num[Any, "N Z"], seed: int = 0) -> float:
    """Fraction of samples of a normal distribution fitted to the codes with no code nearby: 0.01 for normal codes.

    The codes are whitened, and 10,000 points are sampled from N(0, I). "Nearby" is the 0.99 quantile of the distances
    from these points to the nearest of N samples of N(0, I).
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
    and 1 only for a linear decoder (Gaussian Poincare inequality: Nash 1958; Chernoff 1981); large if neighbours
    decode to different images. Computed from 2,000 samples, whitened to mean 0 and covariance 1 exactly, so that a
    linear decoder gives 1 up to rounding; slopes are central differences over 0.02, since decoders may lack
    forward-mode derivatives; the samples are decoded in 8 chunks, or more for large images, to fit into memory. A
    constant decoder gives nan.
    """
    _, mean, factor = _whiten(np.asarray(z, np.float64))
    draws = _whiten(np.random.default_rng(seed).standard_normal((2000, len(mean))))[0]
    origin, axes, points = (jnp.asarray(a, jnp.float32) for a in (mean[None], factor.T, draws))

    def images(w: jax.Array) -> jax.Array:
        return decode(origin + jnp.dot(w, axes, precision="highest"))

    def chunk(w: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        def square(e: jax.Array) -> jax.Array:
            return jnp.sum((images(w + STEP * e) - images(w - STEP * e)) ** 2) / (2 * STEP) ** 2

        f, squares = images(w), jax.lax.map(square, jnp.eye(len(mean))[:, None])
        return f.mean(0), f.var(0).sum(), squares.sum() / len(w)

    size = jax.eval_shape(images, points[:1]).size
    count = next(n for n in (8, 16, 40, 80, 200, 400, 1000, 2000) if n == 2000 or 2000 // n * size <= VALUES)
    means, within, squares = jax.lax.map(chunk, points.reshape(count, 2000 // count, -1))
    return float(squares.mean() / (within.mean() + means.var(0).sum()))


def _whiten(z: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(w, mean, L): w [N, Z] of mean 0 and covariance 1 with z = mean + L w, L the covariance's Cholesky factor."""
    mean, covariance = z.mean(0), np.atleast_2d(np.cov(z, rowvar=False, bias=True))
    if np.linalg.matrix_rank(covariance, hermitian=True) < len(mean):
        raise ValueError(f"{len(z)} codes of {len(mean)} dimensions lie in a subspace: they have no normal density")
    factor = np.linalg.cholesky(covariance)
    return np.linalg.solve(factor, (z - mean).T).T, mean, factor
