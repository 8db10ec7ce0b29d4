"""An epoch as one compiled loop over data that stays on the device.

The order of the data is a function of (seed, epoch, step), and nothing of it is stored: epoch e is a permutation of
all examples; the batch at its end is filled up from the start of epoch e + 1, which then begins after it. So every
batch is full, and every example is seen once in an epoch.
"""

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, Key

from jaxae.reduction import sums
from jaxae.step import Transition
from jaxae.types import Batch, Examples, Loss, Metrics, State

Share: TypeAlias = Callable[[jax.Array], jax.Array]  # [B] -> this device's part of it
Totals: TypeAlias = dict[str, dict[str, jax.Array]]  # "sum" of each metric, "bad": its first step that is not finite


def first_step(epoch: int, examples: int, batch_size: int) -> int:
    """Number of steps before the epoch (counted from 0): the first batch that starts in it."""
    return -(-epoch * examples // batch_size)


def order(seed: int, epoch: int, examples: int, batch_size: int) -> Int[np.ndarray, " N_plus_B"]:
    """The examples in the order of this epoch, and the next epoch's first B."""
    this, following = (np.random.default_rng((seed, e)).permutation(examples) for e in (epoch, epoch + 1))
    return np.concatenate([this, following[:batch_size]]).astype(np.int32)


def no_totals(names: Iterable[str]) -> Totals:
    """Totals of no steps, for metrics of these names."""
    names = list(names)
    return {"sum": {name: jnp.zeros(()) for name in names}, "bad": {name: jnp.full((), -1) for name in names}}


def train(transition: Transition, shape: tuple[int, ...], batch_size: int, share: Share) -> Callable[..., Any]:
    """`steps(state, totals, data, order, key, start, count)` -> (state, totals, whether both are finite).

    Does `count` steps, the first on the batch that starts at `order[start]`; both may change without compiling again.
    """

    def steps(
        state: State,
        totals: Totals,
        data: Examples,
        order: jax.Array,
        key: Key[jax.Array, ""],
        start: jax.Array,
        count: jax.Array,
    ) -> tuple[State, Totals, jax.Array]:
        number = share(jnp.arange(batch_size))

        def body(i: jax.Array, carry: tuple[State, Totals]) -> tuple[State, Totals]:
            state, totals = carry
            rows = share(jax.lax.dynamic_slice_in_dim(order, start + i * batch_size, batch_size))
            batch = gather(data, rows, number, jnp.ones(number.shape), shape)
            new, metrics = transition.step(state, batch, jax.random.fold_in(key, state.step))
            return new._replace(step=state.step + 1), _add(totals, metrics, state.step)

        state, totals = jax.lax.fori_loop(0, count, body, (state, totals))
        return state, totals, _all_finite((state, totals))

    return steps


def evaluate(loss: Loss, shape: tuple[int, ...], batch_size: int, share: Share) -> Callable[..., Metrics]:
    """`measure(state, data, key)` -> the metrics of the loss as means over all examples, the last short batch too."""

    def measure(state: State, data: Examples, key: Key[jax.Array, ""]) -> Metrics:
        n = data.x.shape[0]

        def metrics(i: jax.Array) -> Metrics:
            number = share(i * batch_size + jnp.arange(batch_size))
            weight = (number < n).astype(jnp.float32)
            batch = gather(data, jnp.minimum(number, n - 1), number, weight, shape)
            again = jax.random.clone(key)  # one key for all batches: noise belongs to the numbers of the examples
            real = jnp.minimum(batch_size, n - i * batch_size)
            return sums(lambda part: loss(state.params, state.extra, part, again)[1][1], batch, real)

        def body(i: jax.Array, total: Metrics) -> Metrics:
            return jax.tree.map(jnp.add, total, metrics(i))

        zero = jax.tree.map(lambda m: jnp.zeros(m.shape), jax.eval_shape(metrics, jnp.int32(0)))
        return jax.tree.map(lambda total: total / n, jax.lax.fori_loop(0, -(-n // batch_size), body, zero))

    return measure


def gather(data: Examples, rows: jax.Array, number: jax.Array, weight: jax.Array, shape: tuple[int, ...]) -> Batch:
    """The batch of these rows, uint8 scaled from 0..255 to [0, 1]; sequences with their mask."""
    x = data.x[rows]
    if x.dtype == jnp.uint8:
        x = x.astype(jnp.float32) / 255
    mask = None
    if data.lengths is not None:
        mask = (jnp.arange(shape[0])[None] < data.lengths[rows][:, None]).astype(jnp.float32)
    return Batch(x.reshape(-1, *shape), data.y[rows], number, weight, mask)


def _add(totals: Totals, metrics: Metrics, step: jax.Array) -> Totals:
    def first(bad: jax.Array, value: jax.Array) -> jax.Array:
        return jnp.where((bad < 0) & ~jnp.isfinite(value), step, bad)

    return {
        "sum": jax.tree.map(jnp.add, totals["sum"], metrics),
        "bad": jax.tree.map(first, totals["bad"], metrics),
    }


def _all_finite(tree: Any) -> jax.Array:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]))
