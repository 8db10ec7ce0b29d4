"""The sparse autoencoder: a penalty on the L1 norm of the code (Ng 2011, with another penalty)."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.divergences import per_example


def l1(weight: float) -> Callable[[Float[Array, "B *Z"]], Float[Array, " B"]]:
    """weight * sum over latent dimensions of |z|, per example."""
    return lambda z: weight * per_example(jnp.abs(z))
