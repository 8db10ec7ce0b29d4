"""Differences of log gamma functions, without cancellation at large arguments."""

from functools import reduce
from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float

SHIFT = 4  # from where Stirling's series is used
SERIES = (1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)


def binet(a: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """log gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for a > 0: Binet's function, the error of Stirling's formula.

    Differences of log gamma at large arguments cancel; those of this function, which is between 0 and 1 / (12 a), do
    not. Computed by Stirling's series (Abramowitz & Stegun 1964, 6.1.41), at a + 4 for a < 4, with an error below 1e-6.
    """
    small = a < SHIFT
    low = jnp.where(small, a, 1.0)
    ratios = prod((low + k) / (low + SHIFT) for k in range(SHIFT))
    shifted = (low - 0.5) * jnp.log1p(SHIFT / low) - SHIFT - jnp.log(ratios)
    return _series(jnp.where(small, a + SHIFT, a)) + jnp.where(small, shifted, 0.0)


def _series(a: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """`binet` for a >= SHIFT."""
    inverse, series = 1 / a, jnp.zeros_like(a)
    for coefficient in SERIES:
        series = series * inverse**2 + coefficient
    return series * inverse


def binet_slope(a: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """The derivative of `binet`, digamma(a) - log a + 1 / (2 a), with an error below 1e-6 of its larger terms.

    Computed by the derivative of the series of `binet`, at a + 4 for a < 4.
    """
    small = a < SHIFT
    low, high = jnp.where(small, a, 1.0), jnp.where(small, a + SHIFT, a)
    ends = low * (low + 3)  # the sum of 1 / (a + k), k = 0, 1, 2, 3, in one division
    reciprocals = (2 * low + 3) * (2 * ends + 2) / (ends * (ends + 2))
    shifted = jnp.log1p(SHIFT / low) - SHIFT * (low - 0.5) / (low * (low + SHIFT)) - reciprocals + SHIFT / high
    return _series_slope(high) + jnp.where(small, shifted, 0.0)


def _series_slope(a: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """`binet_slope` for a >= SHIFT."""
    square, series = 1 / a**2, jnp.zeros_like(a)
    for place, coefficient in enumerate(SERIES):
        series = series * square - (2 * (len(SERIES) - place) - 1) * coefficient
    return series * square


def binet_of_counts(x: Float[Array, "B *D"], a: Float[Array, "R *D"], slope: bool = False) -> Float[Array, "B *D"]:
    """`binet`, or `binet_slope`, of x + a for integers x >= 1.

    If a has the shape [1, *D], the values for counts x < SHIFT, which need logarithms, are evaluated once per count and
    not once per example.
    """
    function, series = (binet_slope, _series_slope) if slope else (binet, _series)
    if len(a) > 1:
        return function(x + a)
    found = series(jnp.maximum(x + a, SHIFT))
    return reduce(lambda found, n: jnp.where(x == n, function(a + n), found), range(1, SHIFT), found)
