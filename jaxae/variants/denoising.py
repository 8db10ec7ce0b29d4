"""The denoising autoencoder (Vincent et al. 2008): the input is a corrupted image, the target the clean one."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch
from jaxae.core.experiment import Corrupt


def gaussian(scale: float, pixels: bool = True) -> Corrupt:
    """Normal noise of this standard deviation. pixels: clip the result to [0, 1]."""

    def corrupt(key: Key[Array, ""], batch: Batch) -> Float[Array, "B *D"]:
        noisy = batch.x + scale * batch.noise(key, batch.x.shape[1:])
        return jnp.clip(noisy, 0, 1) if pixels else noisy

    return corrupt
