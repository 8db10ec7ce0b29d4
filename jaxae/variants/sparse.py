"""The sparse autoencoder: a penalty presses the units of a code towards zero (Ng 2011; here by their L1 norm)."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae import prob


def l1(weight: float) -> Callable[[Float[Array, "B *Z"]], Float[Array, " B"]]:
    """weight * sum over units of |z|, per example."""
    return lambda z: weight * prob.per_example(jnp.abs(z))
