"""Reduction of terms per example to means over the global batch, and the gradient of the mean loss.

The engine's loss on a device is sum(weight * term) / (number of examples in the global batch); gradients and metrics
are summed over devices. `Layout.microbatches` is gradient accumulation, which saves memory. `Layout.ordered` gives the
same bits on 1, 2, 4 and 8 devices: the batch is always split into the same 8 shards, each runs the same instructions,
and the results are added as a binary tree with a complete subtree per device.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Layout, Loss, Terms, weighted_sum
from jaxae.core.types import Extra, Metrics, Params, Variables

SHARDS = 8
TERM = "term "  # prefix of the terms' names in a traced step
Tree = TypeVar("Tree")


def gradient(
    loss: Callable[[Params, Batch], tuple[Terms, Extra]], params: Params, batch: Batch
) -> tuple[Params, Metrics, Extra]:
    """Gradient of the mean of `terms["loss"]`, means of all terms, and updates, over the global batch.

    ValueError for a term that is not one number per example, and for updates from a microbatch.
    """

    def summed(params: Params, batch: Batch, count: jax.Array | float) -> tuple[jax.Array, tuple[Metrics, Extra]]:
        terms, updates = _pair(loss(params, batch))
        sums = _sums({name: checkpoint_name(values, TERM + name) for name, values in terms.items()}, batch)
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
                "a microbatch cannot update statistics of the global batch, such as those of batch norm; "
                "use accumulate=1 and reduction=fast"
            )
        return grads, sums

    (grads, sums), count = _over_microbatches(part, batch)
    return *jax.tree.map(lambda total: total / count, (grads, sums)), {}


def sums(loss: Loss, variables: Variables, batch: Batch, key: Key[Array, ""]) -> Metrics:
    """Sum of every term over the examples of the global batch, excluding padding."""

    def part(batch: Batch) -> Metrics:
        return _sums(_pair(loss(variables, batch, key))[0], batch)

    if not batch.layout.split:
        return _over_devices(part(batch), batch.layout.axis)
    return _over_microbatches(part, batch)[0]


def _pair(found: Any) -> tuple[Terms, Extra]:
    """The result of a loss. TypeError unless it is (terms, updates)."""
    if not (isinstance(found, tuple) and len(found) == 2 and isinstance(found[0], dict)):
        raise TypeError(
            f"a loss must return (terms, updates), two dictionaries, not a {type(found).__name__}; updates may be {{}}"
        )
    return found


def _sums(terms: Terms, batch: Batch) -> Metrics:
    if "loss" not in terms:
        raise ValueError(f"the loss returns no term named loss, only {sorted(terms)}; name the minimised term loss")
    for name, values in terms.items():
        if jnp.shape(values) != batch.weight.shape:
            raise ValueError(
                f"the term {name} has shape {jnp.shape(values)}, not one number for each of {len(batch.weight)} "
                "examples; Batch.repeat broadcasts a statistic of the batch to a term"
            )
    return {name: weighted_sum(values, batch.weight) for name, values in terms.items()}


def _over_devices(tree: Tree, axis: str | None) -> Tree:
    return jax.lax.psum(tree, axis) if axis else tree


def _over_microbatches(f: Callable[[Batch], Tree], batch: Batch) -> tuple[Tree, Float[Array, ""]]:
    """Sum f(microbatch) and the number of examples over microbatches and devices."""
    layout, step = batch.layout, batch.step
    size = len(batch.index) // layout.microbatches

    def counted(part: Batch) -> tuple[Tree, jax.Array]:
        # The step is a scalar, which cannot be split into microbatches.
        values = f(part.replace(step=step, layout=Layout(partial=True)))
        return values, jnp.sum(part.weight)

    parts = batch.replace(step=None)
    totals: tuple[Tree, jax.Array]
    if not layout.ordered:
        return _over_devices(optax.microbatch(counted, 0, size)(parts), layout.axis)
    cut = jax.tree.map(lambda a: a.reshape(layout.microbatches, size, *a.shape[1:]), parts)
    totals = _tree_sum(_one_by_one(counted, cut, layout.microbatches))
    # Only sums and divisions follow, since XLA might contract a product and a sum to a fused multiply-add.
    return jax.lax.optimization_barrier(_tree_sum(jax.lax.all_gather(totals, layout.axis)) if layout.axis else totals)


def _one_by_one(f: Callable[[Tree], Any], stacked: Tree, count: int) -> Any:
    """Apply f to each of the `count` entries, and stack the results.

    XLA compiles f differently for a single entry, so the barrier hides the trip count, and an unused entry is appended.
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
    """Pairwise sum over the leading axis, whose length is a power of two."""
    while len(jax.tree.leaves(stacked)[0]) > 1:
        stacked = jax.tree.map(lambda a: a[0::2] + a[1::2], stacked)
    return jax.tree.map(lambda a: a[0], stacked)
