"""The inverse of a mean, for the initial output of a decoder."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

STEPS = 40


def invert(
    mean: Callable[[Float[Any, "*D"]], Float[Any, "*D"]], wanted: Float[np.ndarray, "*D"], limit: float
) -> Float[np.ndarray, "*D"]:
    """The argument from -limit to limit at which an increasing function has the wanted values, by bisection."""
    mean = jax.jit(mean)
    low, high = np.full_like(wanted, -limit), np.full_like(wanted, limit)
    for _ in range(STEPS):
        middle = (low + high) / 2
        above = np.asarray(mean(jnp.asarray(middle, jnp.float32))) > wanted
        low, high = np.where(above, low, middle), np.where(above, middle, high)
    return (low + high) / 2
