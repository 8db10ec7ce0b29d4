"""What a loss may do with a batch that is spread over devices: take means, draw noise.

Under `pmap` each device runs the loss on its share of the batch, with the axis `AXIS` bound. These functions then
speak of the whole batch; with one device, or under `jit`, there is no such axis and nothing to add up. Where a batch
is taken in parts (see `reduction`), a loss sees one of them, and the means over parts are taken outside of it.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.errors import InputError
from jaxae.types import Batch

AXIS = "data"
Tree = TypeVar("Tree")
_alone: ContextVar[bool] = ContextVar("alone", default=False)


@contextmanager
def alone() -> Iterator[None]:
    """What is traced meanwhile sees a part of a batch, and nothing of the others."""
    before = _alone.set(True)
    try:
        yield
    finally:
        _alone.reset(before)


def axis() -> str | None:
    """`AXIS` where the batch is spread over mapped devices, else None: Flax's `BatchNorm(axis_name=axis())`."""
    if _alone.get():
        return None
    try:
        jax.lax.axis_size(AXIS)
    except NameError:
        return None
    return AXIS


def mean(values: Float[Array, "B *rest"], batch: Batch) -> Float[Array, "*rest"]:
    """Mean over the real examples of the global batch; padding (weight 0) does not count.

    For the values of a loss and its metrics, which are sums over examples. See `pooled` for what is not.
    """
    weight = batch.weight.reshape(-1, *[1] * (values.ndim - 1))
    total, count = jnp.sum(weight * values, axis=0), jnp.sum(batch.weight)
    if axis():
        total, count = jax.lax.psum((total, count), AXIS)
    return total / count


def pooled(values: Float[Array, "B *rest"], batch: Batch) -> Float[Array, "*rest"]:
    """`mean`, for a loss that goes on computing with it: a penalty on mean activations, a statistic of the batch.

    InputError where batches are taken in parts, none of which knows the mean over all.
    """
    _whole()
    return mean(values, batch)


def _whole() -> None:
    if _alone.get():
        raise InputError("--accumulate, --reduction: not with a term that looks at the batch as a whole: leave it out")


def gathered(values: Float[Array, "B *rest"]) -> Float[Array, "N *rest"]:
    """The values of all examples of the global batch, in the order of `batch.number`, for a loss on pairs of them.

    InputError where batches are taken in parts. Only for training, whose batches are full: padding would count.
    """
    _whole()
    return jax.lax.all_gather(values, AXIS, tiled=True) if axis() else values


def average(tree: Tree) -> Tree:
    """Mean over the devices. The gradient of a loss made of `mean` is the mean of the devices' gradients."""
    return jax.lax.pmean(tree, AXIS) if axis() else tree


def keys(key: Key[Array, ""], batch: Batch) -> Key[Array, " B"]:
    """A key for each example, a function of (key, `batch.number`) alone: the same on any number of devices."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, batch.number)


def noise(key: Key[Array, ""], batch: Batch, shape: tuple[int, ...]) -> Float[Array, "B *shape"]:
    """Standard normal noise from the examples' own keys."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(keys(key, batch))
