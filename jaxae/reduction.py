"""How what is computed from a batch becomes a mean over all of it: at once, or in parts, one after the other.

Parts take less memory (gradient accumulation). In a fixed order they also give the same bits on 1, 2, 4 and 8 devices:
the batch is always cut into the same 8 shards, each goes through the same instructions, and the results are added as
a binary tree, whose branches are whole on a device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from jaxae.batch import AXIS, alone, average, axis
from jaxae.errors import InputError
from jaxae.types import Batch, Params

SHARDS = 8
Tree = TypeVar("Tree")


class Parts(NamedTuple):
    """How a device takes its share of a batch."""

    number: int  # one after the other
    ordered: bool  # in the fixed order


_parts: ContextVar[Parts | None] = ContextVar("parts", default=None)


@contextmanager
def taken_in(parts: Parts | None) -> Iterator[None]:
    """What is traced meanwhile takes its batches in these parts; at once, where there are none."""
    before = _parts.set(parts)
    try:
        yield
    finally:
        _parts.reset(before)


def gradient(loss: Callable[[Params, Batch], Any], params: Params, batch: Batch) -> Any:
    """(gradient, (extra, metrics)) of a loss -> (scalar, (extra, metrics)), over the whole batch on all devices.

    InputError for a loss that changes `extra` where batches are taken in parts: no part knows the whole.
    """
    descent = jax.grad(loss, has_aux=True)
    if _parts.get() is None:
        grads, aux = descent(params, batch)
        return average(grads), aux

    def part(batch: Batch) -> Any:
        grads, (extra, metrics) = descent(params, batch)
        if jax.tree.leaves(extra):
            raise InputError(
                "--accumulate, --reduction: not with statistics of whole batches, as of batch norm: leave it out"
            )
        return grads, (extra, metrics)

    return means(part, batch)


def means(f: Callable[[Batch], Tree], batch: Batch) -> Tree:
    """f(batch), whose leaves are means over the real examples, as those that `batch.mean` gives."""
    parts = _parts.get()
    if parts is None:
        return f(batch)
    totals, count = _totals(f, batch, parts)
    return jax.tree.map(lambda total: total / count, totals)


def sums(f: Callable[[Batch], Tree], batch: Batch, real: jax.Array) -> Tree:
    """`means` times the number of real examples: what is added up over batches."""
    parts = _parts.get()
    if parts is None:
        return jax.tree.map(lambda mean: real * mean, f(batch))
    return _totals(f, batch, parts)[0]


def _totals(f: Callable[[Batch], Tree], batch: Batch, parts: Parts) -> tuple[Tree, jax.Array]:
    def weighed(part: Batch) -> tuple[Tree, jax.Array]:
        with alone():
            values, count = f(part), jnp.sum(part.weight)
        return jax.tree.map(lambda value: jnp.where(count > 0, count * value, 0), values), count

    size = len(batch.number) // parts.number
    totals: tuple[Tree, jax.Array]
    if not parts.ordered:
        totals = optax.microbatch(weighed, 0, size)(batch)
        return jax.lax.psum(totals, AXIS) if axis() else totals
    cut = jax.tree.map(lambda a: a.reshape(parts.number, size, *a.shape[1:]), batch)
    totals = _tree_sum(_one_by_one(weighed, cut, parts.number))
    # What follows only adds and divides: where a product came before a sum, the two might be rounded at once, or not.
    return jax.lax.optimization_barrier(_tree_sum(jax.lax.all_gather(totals, AXIS)) if axis() else totals)


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
