"""The perceptual distance between images, in the activations of a classifier trained by `jaxae classifier`."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.types import Params
from jaxae.measure import classifier

Distance: TypeAlias = Callable[[Float[Array, "B H W C"], Float[Array, "B H W C"]], Float[Array, " B"]]


def distance(params: Params) -> Distance:
    """Squared distance of the activations of all convolutions, normalized over channels: LPIPS without learned weights.

        sum over layers l of mean over places p of |f_l,p(x) / |f_l,p(x)| - f_l,p(y) / |f_l,p(y)||^2

    Zhang, Isola, Efros, Shechtman & Wang 2018, equation 1 with w = 1; 1e-10 is added to squared norms. params: weights
    of a classifier for images of any size with as many channels (see `classifier`).
    """

    def normalized(f: Float[Array, "B h w F"]) -> Float[Array, "B h w F"]:
        return f / jnp.sqrt(jnp.sum(f**2, axis=-1, keepdims=True) + 1e-10)

    def of(x: Float[Array, "B H W C"], y: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        channels = classifier.channels(params)
        if x.shape[3] != channels:
            raise ValueError(
                f"the classifier is for images with {channels} channels, not {x.shape[3]}; train another one"
            )
        pairs = zip(classifier.activations(params, x), classifier.activations(params, y), strict=True)
        layers = [jnp.sum((normalized(f) - normalized(g)) ** 2, axis=-1).mean((1, 2)) for f, g in pairs]
        return sum(layers, jnp.zeros(len(x)))

    return of


def read(path: Path) -> Distance:
    """`distance` with the weights that `jaxae classifier` wrote to a file.

    The file is read when the distance is first computed, which raises InputError for a file without such weights.
    """
    weights = cache(lambda: classifier.read(path))

    def of(x: Float[Array, "B H W C"], y: Float[Array, "B H W C"]) -> Float[Array, " B"]:
        with jax.ensure_compile_time_eval():
            params = weights()
        return distance(params)(x, y)

    return of
