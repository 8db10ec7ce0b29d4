"""The gamma function without the cancellation between its logarithms at large arguments."""

from math import prod

import jax.numpy as jnp
from jaxtyping import Array, Float

SHIFT = 4  # from where Stirling's series is used
SERIES = (1 / 1188, -1 / 1680, 1 / 1260, -1 / 360, 1 / 12)


def binet(a: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """log gamma(a) - (a - 1/2) log a + a - log(2 pi) / 2 for a > 0: Binet's function, the error of Stirling's formula.

    Differences of log gamma at large arguments cancel, those of this function, between 0 and 1 / (12 a), do not. By
    Stirling's series (Abramowitz & Stegun 1964, 6.1.41), from a + 4 for a < 4. Its error is below 1e-6.
    """
    small = a < SHIFT
    low = jnp.where(small, a, 1.0)
    high = jnp.where(small, a + SHIFT, a)
    ratios = prod((low + k) / (low + SHIFT) for k in range(SHIFT))
    shifted = (low - 0.5) * jnp.log1p(SHIFT / low) - SHIFT - jnp.log(ratios)
    inverse, series = 1 / high, jnp.zeros_like(high)
    for coefficient in SERIES:
        series = series * inverse**2 + coefficient
    return series * inverse + jnp.where(small, shifted, 0.0)
