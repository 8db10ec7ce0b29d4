"""What a loss may do with a batch that is spread over devices: take means, draw noise.

Under `pmap` each device runs the loss on its share of the batch, with the axis `AXIS` bound. These functions then
speak of the whole batch; with one device, or under `jit`, there is no such axis and nothing to add up.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.types import Batch

AXIS = "data"
Tree = TypeVar("Tree")


def axis() -> str | None:
    """`AXIS` where the batch is spread over mapped devices, else None: Flax's `BatchNorm(axis_name=axis())`."""
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return None
    return AXIS


def mean(values: Float[Array, "B *rest"], batch: Batch) -> Float[Array, "*rest"]:
    """Mean over the real examples of the global batch; padding (weight 0) does not count."""
    weight = batch.weight.reshape(-1, *[1] * (values.ndim - 1))
    total, count = jnp.sum(weight * values, axis=0), jnp.sum(batch.weight)
    if axis():
        total, count = jax.lax.psum((total, count), AXIS)
    return total / count


def average(tree: Tree) -> Tree:
    """Mean over the devices. The gradient of a loss made of `mean` is the mean of the devices' gradients."""
    return jax.lax.pmean(tree, AXIS) if axis() else tree


def keys(key: Key[Array, ""], batch: Batch) -> Key[Array, " B"]:
    """A key for each example, a function of (key, `batch.number`) alone: the same on any number of devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.number)


def noise(key: Key[Array, ""], batch: Batch, shape: tuple[int, ...]) -> Float[Array, "B *shape"]:
    """Standard normal noise from the examples' own keys."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys(key, batch))
