"""Data augmentation: random changes of training images, a function of the key of each example."""

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch
from jaxae.core.step import Transition
from jaxae.core.types import Info, Metrics, State

Name: TypeAlias = Literal["flip", "crop", "colour"]
Change: TypeAlias = Callable[[Key[Array, ""], Float[Array, "H W C"]], Float[Array, "H W C"]]

MARGIN = 8  # a crop moves an image by up to an eighth of its size
STRENGTH = 0.2  # brightness, contrast and saturation change by up to this fraction


def flip(key: Key[Array, ""], x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """The image, or with probability 1/2 its mirror image, left and right swapped."""
    return jnp.where(jax.random.bernoulli(key), x[:, ::-1], x)


def crop(key: Key[Array, ""], x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """A uniformly sampled window of the size of the image, in the image padded by reflection.

    The padding is an eighth of height and width on each side: 4 pixels for 32 (He et al. 2016, section 4.2, with
    zeros).
    """
    margins = [size // MARGIN for size in x.shape[:2]]
    padded = jnp.pad(x, [*((m, m) for m in margins), (0, 0)], mode="reflect")
    keys = jax.random.split(key)
    rows, columns = (jax.random.randint(k, (), 0, 2 * m + 1) for k, m in zip(keys, margins, strict=True))
    return jax.lax.dynamic_slice(padded, (rows, columns, 0), x.shape)


def colour(key: Key[Array, ""], x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
    """Change brightness, contrast and saturation of pixels in [0, 1] by factors from U(0.8, 1.2), then clip.

    Contrast is scaled about 0.5, saturation about the mean of red, green and blue, if there are three channels.
    """
    brightness, contrast, saturation = jax.random.uniform(key, (3,), minval=1 - STRENGTH, maxval=1 + STRENGTH)
    x = 0.5 + contrast * (brightness * x - 0.5)
    if x.shape[2] == 3:
        grey = ((x[..., 0] + x[..., 1] + x[..., 2]) / 3)[..., None]
        x = grey + saturation * (x - grey)
    return jnp.clip(x, 0, 1)


CHANGES: Mapping[Name, Change] = {"flip": flip, "crop": crop, "colour": colour}


def augmented(transition: Transition, names: Sequence[Name], info: Info) -> Transition:
    """The transition on images with these changes, in this order; each step samples them again for every example.

    ValueError for data that are not complete images, and for `colour` of real numbers.
    """
    given = f"augment={' '.join(names)}"
    if len(info.shape) != 3 or info.missing:
        what = "with missing pixels" if len(info.shape) == 3 else f"of shape {info.shape}"
        raise ValueError(f"{given} needs complete images [H, W, C], not examples {what}; omit it")
    if "colour" in names and info.real:
        raise ValueError(f"{given}: colour needs pixels in [0, 1], but the data are real numbers; use flip and crop")

    def one(key: Key[Array, ""], x: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        for number, name in enumerate(names):
            x = CHANGES[name](jax.random.fold_in(key, number), x)
        return x

    def step(state: State, batch: Batch, key: Key[Array, ""]) -> tuple[State, Metrics]:
        own, rest = jax.random.split(key)
        keys, size = batch.keys(own), len(batch.index)
        if batch.layout.ordered:  # in microbatches, since rounding may depend on the shape
            parts = jax.tree.map(lambda a: a.reshape(batch.layout.microbatches, -1, *a.shape[1:]), (keys, batch.x))
            x = jax.lax.map(lambda part: jax.vmap(one)(*part), parts).reshape(size, *info.shape)
        else:
            x = jax.vmap(one)(keys, batch.x)
        return transition.step(state, batch.replace(x=x), rest)

    return transition._replace(step=step)
