"""The state that training starts from, and its random keys."""

from functools import partial
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.batch import UNSPLIT, Batch, Layout
from jaxae.core.experiment import Experiment
from jaxae.core.reduction import sums
from jaxae.core.types import Examples, Extra, Info, Params, State
from jaxae.devices.plan import Plan, place, state_shardings
from jaxae.training import epoch
from jaxae.training.epoch import Totals

INIT, TRAIN, TEST, DATA, IMPUTE = range(5)  # purposes of keys derived from the seed
# The program runs only once; without optimization, its compilation takes less CPU time: 5 s less for `convolutional`,
# 0.5 s less for `vae`.
UNOPTIMIZED = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}

Initial: TypeAlias = tuple[Params, Extra]  # with several seeds every leaf has a leading axis of seeds


def start(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    seeds: range,
    layout: Layout = UNSPLIT,
    initial: Initial | None = None,
    plan: Plan | None = None,
) -> tuple[State, Totals]:
    """The state before the first step and zero totals; with several seeds, a leading axis of seeds.

    initial: initial parameters and other collections (default: random ones). plan: with fsdp, the state is initialised
    in shards, since it may exceed one device.
    ValueError for a transition or a loss that does not support this layout.
    """
    options = UNOPTIMIZED if jax.default_backend() == "cpu" else None
    first = partial(initialise, experiment, info, batch_size, layout)
    key = keys(seeds, INIT)
    if plan is None or plan.mode != "fsdp":
        return jax.jit(first, compiler_options=options)(key, initial)
    shards = state_shardings(jax.eval_shape(first, key, initial), plan, len(seeds) > 1)
    return jax.jit(first, compiler_options=options, out_shardings=shards)(place(key, plan, False), initial)


def shapes(
    experiment: Experiment, info: Info, batch_size: int, seeds: range, layout: Layout = UNSPLIT
) -> tuple[State, Totals]:
    """Shapes and dtypes of the result of `start`; raises the same errors."""
    return jax.eval_shape(partial(initialise, experiment, info, batch_size, layout), keys(seeds, INIT))


def initialise(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    layout: Layout,
    key: jax.Array,
    initial: Initial | None = None,
) -> tuple[State, Totals]:
    """`start` from a key, or from one key per seed, without compilation."""

    def one(key: jax.Array, initial: Initial | None) -> tuple[State, Totals]:
        classes = 0 if experiment.classes == "unused" else info.classes
        condition = [jnp.zeros((1, classes + info.context))] if experiment.conditional else []
        variables: Any = experiment.model.init(key, jnp.zeros((1, *info.shape)), *condition)
        params, extra = initial or (variables.pop("params"), dict(variables))
        state = State(jnp.int32(0), params, experiment.train.init(params), extra)
        batch, split = (blank(experiment, info, batch_size, layout, training) for training in (True, False))
        metrics = jax.eval_shape(experiment.train.step, state, batch, key)[1]
        jax.eval_shape(partial(sums, experiment.evaluate), state.variables, split, key)
        if "loss" not in metrics:
            raise ValueError(f"training reports no metric named loss, only {sorted(metrics)}; name one of them loss")
        return state, epoch.no_totals(metrics)

    return (jax.vmap(one, in_axes=(0, 0 if initial else None)) if key.ndim else one)(key, initial)


def blank(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    layout: Layout = UNSPLIT,
    training: bool = True,
) -> Batch:
    """A batch of zeros in the shapes of the experiment."""
    zeros = jnp.zeros((1, int(np.prod(info.shape))), jnp.uint8)
    data = Examples(
        zeros,
        jnp.zeros(1, jnp.int32),
        jnp.ones(1, jnp.int32) if experiment.sequences and len(info.shape) == 2 else None,
        zeros if info.missing else None,
        jnp.zeros((1, info.context)) if info.context else None,
    )
    rows = jnp.zeros(batch_size, jnp.int32)
    return epoch.gather(data, rows, rows, jnp.ones(batch_size), jnp.int32(0), info.shape, layout, training)


def keys(seeds: range, purpose: int) -> jax.Array:
    """One key per seed, for this purpose; without an axis for a single seed."""
    return _keys(np.uint32(seeds[0]), len(seeds), np.uint32(purpose))


def folded(keys: jax.Array, number: int) -> jax.Array:
    """The key of one seed, or of each of several, with this number folded in."""
    fold = partial(jax.random.fold_in, data=number)
    return jax.vmap(fold)(keys) if keys.ndim else fold(keys)


@partial(jax.jit, static_argnums=1)
def _keys(first: jax.Array, count: int, purpose: jax.Array) -> jax.Array:
    def key(seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), purpose)

    return key(first) if count == 1 else jax.vmap(key)(first + jnp.arange(count, dtype=jnp.uint32))
