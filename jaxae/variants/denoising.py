"""The denoising autoencoder (Vincent et al. 2008): the encoder sees a corrupted image, the target is the clean one."""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.batch import noise
from jaxae.types import Batch


def gaussian(scale: float) -> Callable[[Key[Array, ""], Batch], Float[Array, "B *D"]]:
    """Normal noise of this standard deviation, the result clipped to [0, 1]."""

    def corrupt(key: Key[Array, ""], batch: Batch) -> Float[Array, "B *D"]:
        return jnp.clip(batch.x + scale * noise(key, batch, batch.x.shape[1:]), 0, 1)

    return corrupt
