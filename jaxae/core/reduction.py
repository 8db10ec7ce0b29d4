"""How terms per example become means over the global batch, and gradients the gradient of that mean.

The engine's loss on a device is sum(weight * term) / (number of examples in the global batch); gradients and metrics
are summed over devices. With `Layout.microbatches` a device's share is processed in parts: less memory (gradient
accumulation) and, in a fixed order, the same bits on 1, 2, 4 and 8 devices. There the batch is always cut into the same
8 shards, each goes through the same instructions, and the results are added as a binary tree, whose branches are whole
on a device.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxae.core.batch import Batch, Layout, Loss, Terms, weighted_sum
from jaxae.core.types import Extra, Metrics, Params, Variables

SHARDS = 8
Tree = TypeVar("Tree")


def gradient(
    loss: Callable[[Params, Batch], tuple[Terms, Extra]], params: Params, batch: Batch
) -> tuple[Params, Metrics, Extra]:
    """Gradient of the mean of `terms["loss"]`, means of all terms, and updates, over the global batch.

    ValueError for a term that is not one number per example, and for updates from microbatches, which do not know the
    whole batch.
    """

    def summed(params: Params, batch: Batch, count: Any) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        terms, updates = loss(params, batch)
        sums = _sums(terms, batch)
        return sums["loss"] / count, (sums, updates)

    descent = jax.grad(summed, has_aux=True)
    axis = batch.layout.axis
    if not batch.layout.split:
        count = _over_devices(jnp.sum(batch.weight), axis)
        grads, (sums, updates) = descent(params, batch, count)
        grads, sums = _over_devices((grads, sums), axis)
        return grads, jax.tree.map(lambda total: total / count, sums), updates

    def part(batch: Batch) -> tuple[Params, Metrics]:
        grads, (sums, updates) = descent(params, batch, 1.0)
        if jax.tree.leaves(updates):
            raise ValueError(
                "accumulate and reduction=reproducible split batches, and statistics of whole batches, as of batch "
                "norm, are not known to a microbatch: leave them out"
            )
        return grads, sums

    (grads, sums), count = _over_microbatches(part, batch)
    return *jax.tree.map(lambda total: total / count, (grads, sums)), {}


def sums(loss: Loss, variables: Variables, batch: Batch, key: Any) -> Metrics:
    """Sum of every term over the examples of the global batch, padding left out."""

    def part(batch: Batch) -> Metrics:
        return _sums(loss(variables, batch, key)[0], batch)

    if not batch.layout.split:
        return _over_devices(part(batch), batch.layout.axis)
    return _over_microbatches(part, batch)[0]


def _sums(terms: Terms, batch: Batch) -> Metrics:
    if "loss" not in terms:
        raise ValueError(f"no term is named loss: there are {sorted(terms)}")
    for name, values in terms.items():
        if values.shape != batch.weight.shape:
            raise ValueError(
                f"the term {name} has shape {values.shape}, not one number for each of {len(batch.weight)} examples; "
                "Batch.repeat makes one of a number of the whole batch"
            )
    return {name: weighted_sum(values, batch.weight) for name, values in terms.items()}


def _over_devices(tree: Tree, axis: str | None) -> Tree:
    return jax.lax.psum(tree, axis) if axis else tree


def _over_microbatches(f: Callable[[Batch], Tree], batch: Batch) -> tuple[Tree, Float[Array, ""]]:
    """Sum of f, which gives sums over examples, and the number of examples, over microbatches and devices."""
    layout, step = batch.layout, batch.step
    size = len(batch.index) // layout.microbatches

    def counted(part: Batch) -> tuple[Tree, jax.Array]:
        # One step for all parts, not an array to be split; a microbatch sees nothing of the others.
        values = f(part.replace(step=step, layout=Layout(partial=True)))
        return values, jnp.sum(part.weight)

    parts = batch.replace(step=None)
    totals: tuple[Tree, jax.Array]
    if not layout.ordered:
        return _over_devices(optax.microbatch(counted, 0, size)(parts), layout.axis)
    cut = jax.tree.map(lambda a: a.reshape(layout.microbatches, size, *a.shape[1:]), parts)
    totals = _tree_sum(_one_by_one(counted, cut, layout.microbatches))
    # What follows only adds and divides: where a product came before a sum, the two might be rounded at once, or not.
    return jax.lax.optimization_barrier(_tree_sum(jax.lax.all_gather(totals, layout.axis)) if layout.axis else totals)


def _one_by_one(f: Callable[[Tree], Any], stacked: Tree, count: int) -> Any:
    """f of each of the `count` entries, stacked.

    XLA must not see how many there are: it would compile f otherwise around a single one. So the loop's end is hidden
    and there is one entry more, that is not used.
    """
    longer = jax.tree.map(lambda a: jnp.concatenate([a, a[:1]]), stacked)

    def body(i: jax.Array, results: Any) -> Any:
        part = jax.lax.optimization_barrier(jax.tree.map(lambda a: a[i], longer))
        result = jax.lax.optimization_barrier(f(part))
        return jax.tree.map(lambda into, one: into.at[i].set(one), results, result)

    shapes = jax.eval_shape(f, jax.tree.map(lambda a: a[0], stacked))
    empty = jax.tree.map(lambda leaf: jnp.zeros((count, *leaf.shape), leaf.dtype), shapes)
    return jax.lax.fori_loop(0, jax.lax.optimization_barrier(jnp.int32(count)), body, empty)


def _tree_sum(stacked: Tree) -> Tree:
    """Sum over the leading axis, a power of two long: neighbours first."""
    while len(jax.tree.leaves(stacked)[0]) > 1:
        stacked = jax.tree.map(lambda a: a[0::2] + a[1::2], stacked)
    return jax.tree.map(lambda a: a[0], stacked)
