"""The masked autoencoder: a part of the image is hidden, and is to be told from the rest.

Masking noise (Vincent et al. 2010, section 3.3) on whole patches, judged by what is hidden alone (He et al. 2022).
"""

from collections.abc import Callable
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae import prob
from jaxae.batch import keys, mean
from jaxae.errors import InputError
from jaxae.types import Batch, Extra, Loss, Metrics, Params

Mask = Callable[[Key[Array, ""], Batch], Float[Array, "B H W C"]]  # 1 where a pixel is hidden, 0 elsewhere


def patches(shape: tuple[int, ...], patch: int, share: float) -> Mask:
    """Hides this share of the patches of every image, drawn without replacement, in all channels.

    shape: of an image. patch: width in pixels; patches that do not fit are cut at the right and at the bottom.
    InputError for examples that are no images, and for a share that hides all patches or none.
    """
    if len(shape) != 3:
        raise InputError(f"examples of shape {shape} are not images: patches need [H, W, C]")
    rows, columns = (-(-size // patch) for size in shape[:2])
    count, hidden = rows * columns, int(share * rows * columns + 0.5)
    if not 0 < hidden < count:
        raise InputError(f"--hidden-share {share}: hides {hidden} of {count} patches: some must be hidden, some seen")

    def one(key: Key[Array, ""]) -> Float[Array, "H W C"]:
        grid = (jax.random.permutation(key, count) < hidden).reshape(rows, columns, 1).astype(jnp.float32)
        pixels = grid.repeat(patch, axis=0).repeat(patch, axis=1)[: shape[0], : shape[1]]
        return jnp.broadcast_to(pixels, shape)

    return lambda key, batch: jax.vmap(one)(keys(key, batch))


def visible(mask: Mask) -> Callable[[Key[Array, ""], Batch], Float[Array, "B H W C"]]:
    """What the encoder sees: zeros where the mask hides."""
    return lambda key, batch: batch.x * (1 - mask(key, batch))


def loss(model: nn.Module, objective: Literal["bce", "mse"], mask: Mask) -> Loss:
    """How unlike the hidden pixels their reconstruction is; each image counts alike. The key is that of `visible`.

    model: an `Autoencoder` with a logistic output.
    Metrics, means over the hidden pixels: `loss`, the objective; `bce`, nats per pixel; `mse`, pixels in [0, 1]. And
    `code`, mean size |z| of a code's units.
    """

    def terms(
        params: Params, extra: Extra, batch: Batch, key: Key[Array, ""]
    ) -> tuple[jax.Array, tuple[Extra, Metrics]]:
        hidden = mask(key, batch)
        seen = batch.x * (1 - hidden)
        (z, logits), changed = model.apply({"params": params, **extra}, seen, mutable=list(extra))
        count = prob.per_example(hidden)
        values = {
            "bce": prob.per_example(hidden * prob.cross_entropy(logits, batch.x)) / count,
            "mse": prob.per_example(hidden * (nn.sigmoid(logits) - batch.x) ** 2) / count,
            "code": prob.per_example(jnp.abs(z)) / z[0].size,
        }
        metrics = {name: mean(value, batch) for name, value in values.items()}
        metrics["loss"] = metrics[objective]
        return metrics["loss"], (dict(changed), metrics)

    return terms
