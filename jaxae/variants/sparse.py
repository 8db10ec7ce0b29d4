"""The sparse autoencoder: an L1 penalty on the code, in place of the KL penalty of Ng 2011."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.divergences import per_example


def l1(weight: float) -> Callable[[Float[Array, "B *Z"]], Float[Array, " B"]]:
    """weight * sum over latent dimensions of |z|, per example."""
    return lambda z: weight * per_example(jnp.abs(z))
