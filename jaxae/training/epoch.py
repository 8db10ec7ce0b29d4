"""An epoch as one compiled loop over data that stays on the device.

The order of the data is a function of (seed, epoch, step), and is not stored: epoch e is a permutation of all
examples; its last batch is filled up with the first examples of epoch e + 1, which starts after them. So every batch is
full, and every example occurs once in an epoch.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key

from jaxae.core.batch import UNSPLIT, Batch, Layout, Loss, PerDevice
from jaxae.core.reduction import sums
from jaxae.core.step import Transition
from jaxae.core.types import Examples, Generator, Metrics, State

# Totals of an epoch so far: "steps", their number; "sum" of each metric; "sum_error", the rounding error of that sum,
# to be added to the next value; "bad", the first non-finite step, or -1.
Totals: TypeAlias = dict[str, Any]


class Dealt(NamedTuple):
    """Batches of several steps without classes, of which every device has only its part."""

    x: jax.Array  # [n, T, B / n, D] for n parts, of which pmap has one on a device, without this axis

    def batch(self, number: Any) -> Examples:
        """The examples of a step, counted from the first one, or a device's part of them."""
        x = jax.lax.dynamic_index_in_dim(self.x, number, self.x.ndim - 3, keepdims=False)
        x = x.reshape(-1, x.shape[-1])
        return Examples(x, jnp.full(len(x), -1))


def first_step(epoch: int, examples: int, batch_size: int) -> int:
    """Number of steps before the epoch (counted from 0), which is the index of the first batch that starts in it."""
    return -(-epoch * examples // batch_size)


def order(seed: int, epoch: int, examples: int, batch_size: int) -> Int[np.ndarray, " N_plus_B"]:
    """The examples in the order of this epoch, and the next epoch's first B."""
    this, following = (np.random.default_rng((seed, e)).permutation(examples) for e in (epoch, epoch + 1))
    return np.concatenate([this, following[:batch_size]]).astype(np.int32)


def no_totals(names: Iterable[str]) -> Totals:
    """Zero totals, for metrics of these names."""
    names = list(names)
    return {
        "steps": jnp.int32(0),
        "sum": {name: jnp.zeros(()) for name in names},
        "sum_error": {name: jnp.zeros(()) for name in names},
        "bad": {name: jnp.full((), -1) for name in names},
    }


def train(
    transition: Transition, shape: tuple[int, ...], batch_size: int, per_device: PerDevice, layout: Layout
) -> Callable[..., Any]:
    """`steps(state, totals, data, order, key, start, count)` -> (state, totals, whether both are finite).

    Takes `count` steps, from the batch that starts at `order[start]`; changing either needs no recompilation.
    """
    one = step(transition, shape, batch_size, per_device, layout)

    def steps(
        state: State,
        totals: Totals,
        data: Examples | Generator | Dealt,
        order: jax.Array,
        key: Key[jax.Array, ""],
        start: jax.Array,
        count: jax.Array,
    ) -> tuple[State, Totals, jax.Array]:
        def body(i: jax.Array, carry: tuple[State, Totals]) -> tuple[State, Totals]:
            state, totals = carry
            new, metrics = one(state, data, order, key, start + i * batch_size)
            return new, _add(totals, metrics, state.step)

        state, totals = jax.lax.fori_loop(0, count, body, (state, totals))
        return state, totals, _all_finite((state, totals))

    return steps


def step(
    transition: Transition, shape: tuple[int, ...], batch_size: int, per_device: PerDevice, layout: Layout
) -> Callable[..., tuple[State, Metrics]]:
    """`one(state, data, order, key, start)` -> (state, metrics): a step on the batch that starts at `order[start]`.

    With a generator, `order` is the key of its examples, and `start` the number of the first one, converted by
    `signed`. The key is not part of the state, so that seeds with the same key generate each example only once. `Dealt`
    has no order.
    """

    def one(
        state: State, data: Examples | Generator | Dealt, order: jax.Array, key: Key[jax.Array, ""], start: jax.Array
    ) -> tuple[State, Metrics]:
        index = per_device(jnp.arange(batch_size))
        rows: Any = slice(None)
        if isinstance(data, Generator):
            data = drawn(data, order, start, index, layout)
        elif isinstance(data, Dealt):
            data = data.batch(start // batch_size)
        else:
            rows = per_device(jax.lax.dynamic_slice_in_dim(order, start, batch_size))
        batch = gather(data, rows, index, jnp.ones(index.shape), state.step, shape, layout, training=True)
        new, metrics = transition.step(state, batch, jax.random.fold_in(key, state.step))
        return new._replace(step=state.step + 1), metrics

    return one


def evaluate(
    loss: Loss, shape: tuple[int, ...], batch_size: int, per_device: PerDevice, layout: Layout
) -> Callable[..., Metrics]:
    """`measure(state, data, key, first, count)` -> means of the terms over all examples, including a short last batch.

    data: the examples from `first` on, of `count` in all; the means over all are the sum of the results of such blocks.
    """

    def measure(
        state: State, data: Examples, key: Key[jax.Array, ""], first: jax.Array | int = 0, count: Any = None
    ) -> Metrics:
        n = data.x.shape[0]
        total = n if count is None else count

        def batch_sums(i: jax.Array) -> Metrics:
            place = per_device(i * batch_size + jnp.arange(batch_size))
            index = first + place
            weight = (index < total).astype(jnp.float32)
            rows = jnp.minimum(place, n - 1)
            batch = gather(data, rows, index, weight, state.step, shape, layout, training=False)
            again = jax.random.clone(key)  # one key for all batches: noise differs by example index
            return sums(loss, state.variables, batch, again)

        def body(i: jax.Array, carry: tuple[Metrics, Metrics]) -> tuple[Metrics, Metrics]:
            return compensated(*carry, batch_sums(i))

        zero = jax.tree.map(lambda m: jnp.zeros(m.shape), jax.eval_shape(batch_sums, jnp.int32(0)))
        added, _ = jax.lax.fori_loop(0, -(-n // batch_size), body, (zero, zero))
        return jax.tree.map(lambda value: value / total, added)

    return measure


def gather(
    data: Examples,
    rows: Any,
    index: jax.Array,
    weight: jax.Array,
    step: jax.Array,
    shape: tuple[int, ...],
    layout: Layout = UNSPLIT,
    training: bool = True,
) -> Batch:
    """The batch of these rows, uint8 scaled from 0..255 to [0, 1]; sequences with the mask of their steps."""
    x = data.x[rows]
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    observed = None if data.observed is None else data.observed[rows].astype(jnp.float32).reshape(-1, *shape)
    if data.lengths is not None:
        steps = (jnp.arange(shape[0])[None] < data.lengths[rows][:, None]).astype(jnp.float32)
        observed = steps if observed is None else observed * steps[..., None]
    context = None if data.context is None else data.context[rows]
    x, y = x.reshape(-1, *shape), data.y[rows]
    return Batch(x, index, weight, step, observed, y, context, training=training, layout=layout)


def have_seeds(data: Examples | Generator | Dealt, order: jax.Array) -> tuple[bool, bool]:
    """Whether the examples, and the order or the key of a generator, have an axis of seeds."""
    if isinstance(data, Dealt):
        return data.x.ndim == 5, False
    if isinstance(data, Generator):
        return False, order.ndim == 1
    return data.x.ndim == 3, order.ndim == 2


def signed(number: int) -> int:
    """The int32 with the bits of this number as a uint32."""
    return (number + 2**31) % 2**32 - 2**31


def drawn(generator: Generator, key: jax.Array, first: Any, index: Any, layout: Layout = UNSPLIT) -> Examples:
    """The examples of a step, numbered first + index, modulo 2**32.

    An ordered layout generates them in its microbatches, since the rounding of a matrix product depends on its shape.
    """
    numbers = jnp.asarray(first, jnp.int32).astype(jnp.uint32) + jnp.asarray(index, jnp.uint32)
    if layout.ordered:
        x = jax.lax.map(partial(generator.examples, key), numbers.reshape(layout.microbatches, -1))
    else:
        x = generator.examples(key, numbers)
    return Examples(x.reshape(len(numbers), -1), jnp.full(len(numbers), -1))


def compensated(total: Metrics, error: Metrics, values: Metrics) -> tuple[Metrics, Metrics]:
    """total + values + error, and the rounding error of that sum, which is `error` of the next one (Kahan 1965).

    Keeps a sum accurate to float32 over any number of calls. The rounding error is exact, even where a value exceeds
    the total (Knuth's TwoSum; Ogita, Rump & Oishi 2005, algorithm 3.1).
    """
    values = jax.tree.map(jnp.add, values, error)
    new = jax.tree.map(jnp.add, total, values)

    def lost(old: jax.Array, value: jax.Array, new: jax.Array) -> jax.Array:
        added = new - old
        return (old - (new - added)) + (value - added)

    return new, jax.tree.map(lost, total, values, new)


def _add(totals: Totals, metrics: Metrics, step: jax.Array) -> Totals:
    def first(bad: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where((bad < 0) & ~jnp.isfinite(value), step, bad)

    total, error = compensated(totals["sum"], totals["sum_error"], metrics)
    return {
        "steps": totals["steps"] + 1,
        "sum": total,
        "sum_error": error,
        "bad": jax.tree.map(first, totals["bad"], metrics),
    }


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
