"""The masked autoencoder: patches of the image are hidden from the encoder and are the target.

Masking noise (Vincent et al. 2010, section 3.3) on patches, with the loss on hidden pixels only (He et al. 2022).
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.experiment import Corrupt
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.variants import autoencoder

Mask = Callable[[Key[Array, ""], Batch], Float[Array, "B H W C"]]  # 1 where a pixel is hidden, 0 elsewhere


def patches(shape: tuple[int, ...], patch: int, fraction: float) -> Mask:
    """Hide this fraction of the patches of every image, sampled without replacement, in all channels.

    shape: shape of an image. patch: width in pixels; patches are cropped at the right and bottom edges.
    ValueError for examples that are not images, and for a fraction that hides all patches or none.
    """
    if len(shape) != 3:
        raise ValueError(f"examples of shape {shape} are not images: patches need [H, W, C]")
    rows, columns = (-(-size // patch) for size in shape[:2])
    count, hidden = rows * columns, int(fraction * rows * columns + 0.5)
    if not 0 < hidden < count:
        raise ValueError(f"hidden_share={fraction} hides {hidden} of {count} patches: hide at least one, and not all")

    def one(key: Key[Array, ""]) -> Float[Array, "H W C"]:
        grid = (jax.random.permutation(key, count) < hidden).reshape(rows, columns, 1).astype(jnp.float32)
        pixels = grid.repeat(patch, axis=0).repeat(patch, axis=1)[: shape[0], : shape[1]]
        return jnp.broadcast_to(pixels, shape)

    return lambda key, batch: jax.vmap(one)(batch.keys(key))


def visible(mask: Mask) -> Corrupt:
    """Encoder input: the image with hidden pixels set to 0."""
    return lambda key, batch: batch.x * (1 - mask(key, batch))


def loss(model: nn.Module, objective: Literal["bce", "mse"], mask: Mask) -> Loss:
    """Reconstruction error of the hidden pixels, the same weight for each image. Uses the key as `visible` does.

    model: an `Autoencoder` with a logistic output.
    Terms, means over the hidden pixels: `loss`, the objective; `bce`, nats per pixel; `mse`, pixels in [0, 1]. Also
    `code`, mean |z| over latent dimensions.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        hidden = mask(key, batch)
        (z, logits), updates = autoencoder.apply(model, variables, batch, batch.x * (1 - hidden), jax.random.clone(key))
        count = per_example(hidden)
        values = {
            "bce": per_example(hidden * cross_entropy(logits, batch.x)) / count,
            "mse": per_example(hidden * (nn.sigmoid(logits) - batch.x) ** 2) / count,
            "code": per_example(jnp.abs(z)) / z[0].size,
        }
        return {"loss": values[objective], **values}, updates

    return terms
