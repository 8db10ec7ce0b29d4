"""Training as a generator of snapshots: the one loop that drives the compiled epoch. Its clients do all the rest."""

import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.batch import Layout
from jaxae.core.experiment import Experiment
from jaxae.core.reduction import sums
from jaxae.core.types import Examples, Info, State
from jaxae.data import Dataset
from jaxae.devices import plan as plans
from jaxae.devices.plan import Plan, place
from jaxae.training import epoch, nonfinite
from jaxae.training.epoch import Totals
from jaxae.training.feed import examples, feed

INIT, TRAIN, TEST = range(3)  # what a key derived from the seed is for


class Snapshot(NamedTuple):
    """Training after a dispatch of steps."""

    step: int  # steps done
    epoch: int  # the epoch, counted from 1, that the last of them belongs to
    done: bool  # whether that epoch has all its steps
    state: State  # on the devices; with several seeds every leaf has a leading axis of seeds
    totals: Totals  # with the state all that is needed to resume
    train: dict[str, Any]  # means over the epoch's steps so far, one per seed where there are several
    test: dict[str, Any] | None  # means over the test split, at the end of an epoch
    seconds: float  # that the steps took, waiting for data included; 0 for none, and for the first, slower dispatch


class Programs(NamedTuple):
    """The compiled forms of `epoch.train` and `epoch.evaluate`."""

    train: Callable[..., Any]
    evaluate: Callable[..., Any]


# (experiment, info, batch_size, plan, arguments of `epoch.train`, of `epoch.evaluate`) -> compiled for such arguments
Compiler: TypeAlias = Callable[[Experiment, Info, int, Plan, tuple[Any, ...], tuple[Any, ...]], Programs]


def iterate(
    experiment: Experiment,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    seeds: int = 1,
    plan: Plan | None = None,
    resume: tuple[State, Totals] | None = None,
    every: int | Sequence[int] = (),
    data_limit: float = 0.0,
    compiler: Compiler | None = None,
) -> Iterator[Snapshot]:
    """Train, and yield a snapshot after every dispatch of steps.

    An epoch ends with two: after its last step, and with `test` after its evaluation. How many steps a dispatch has
    follows the clock, so stop at the end of an epoch, or at a step that `every` names: a snapshot is yielded at every
    multiple of it (of each of them). What is computed does not depend on who consumes it, nor on where.

    seeds: train this many (seed, seed + 1, ...) in one program. plan: on which devices (default: all).
    resume: state and totals of a snapshot, from which the same snapshots follow as if training had not been stopped.
    data_limit: bytes of training data that a device keeps; more is streamed (0: a quarter of its memory).
    compiler: as `compiled`, which is the default.
    ValueError for arguments that do not fit; errors.Diverged for a number that is not finite.
    """
    several, count, numbers = seeds > 1, len(data.train.x), range(seed, seed + seeds)
    stops = [every] if isinstance(every, int) else every
    for name, value, least in (("batch_size", batch_size, 1), ("seeds", seeds, 1), ("every", min(stops, default=0), 0)):
        if value < least:
            raise ValueError(f"{name}={value} must be at least {least}")
    if batch_size > count:
        raise ValueError(f"batch_size={batch_size}: there are only {count} training examples: take fewer")
    plan = plans.plan("auto", batch_size, seeds) if plan is None else plan
    train_key, test_key = (place(keys(numbers, purpose), plan, several) for purpose in (TRAIN, TEST))
    portions = feed(data.train, plan, numbers, batch_size, data_limit)
    test_data = place(examples(data.test), plan, False)
    items = start(experiment, data.info, batch_size, numbers) if resume is None else resume
    state, totals = (place(item, plan, several) for item in items)
    step = int(np.ravel(jax.device_get(state.step))[0])
    # Both are compiled before the first step: until then there is nothing to save.
    train, evaluate = (compiler or compiled)(
        experiment,
        data.info,
        batch_size,
        plan,
        (state, totals, *portions(0, 0)[:2], train_key, 0, 0),
        (state, test_data, test_key),
    )
    plan.processes.barrier()

    at_once = 0  # steps in a dispatch
    first = step * batch_size // count  # the epoch, counted from 0
    covered = int(np.ravel(jax.device_get(totals["steps"]))[0])
    if covered and step == epoch.first_step(first, count, batch_size):
        first -= 1  # whose evaluation is still to come
    for now in range(first, epochs):
        end = epoch.first_step(now + 1, count, batch_size)
        host = jax.device_get(totals)
        while step < end:
            waited = time.monotonic()
            portion = portions(now, step)
            steps = min(at_once or 1, portion.steps, *(n - step % n for n in stops if n))
            args = (state, totals, portion.data, portion.order, train_key, portion.start)
            began = time.monotonic()
            with plan.processes.waiting():
                state, totals, all_finite = jax.block_until_ready(train(*args, steps))  # on CPU, unblocked
                host = jax.device_get(totals)  # collectives can deadlock
            ended = time.monotonic()
            if not nonfinite.finite(host, all_finite):
                one = epoch.step(experiment.train, data.shape, batch_size, lambda x: x, Layout())
                raise nonfinite.explain(train, one, args, batch_size, steps, numbers)
            step += steps
            seconds = ended - waited if at_once else 0.0  # the first one is slower
            # All processes are to do as many steps.
            at_once = _pace(at_once, plan.processes.maximum(ended - began))
            yield Snapshot(step, now + 1, step == end, state, totals, _means(host), None, seconds)
        with plan.processes.waiting():
            tested = jax.device_get(evaluate(state, test_data, test_key))
        nonfinite.check({f"test {name}": value for name, value in tested.items()}, step, numbers)
        totals = {**totals, **jax.tree.map(jnp.zeros_like, {name: totals[name] for name in ("steps", "sum")})}
        yield Snapshot(step, now + 1, True, state, totals, _means(host), tested, 0.0)


def compiled(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    plan: Plan,
    training: tuple[Any, ...],
    evaluation: tuple[Any, ...],
) -> Programs:
    """`epoch.train` and `epoch.evaluate` of an experiment, compiled for arguments like these."""
    train, evaluate = seeded(plan, training)
    return Programs(
        plans.compile(partial(epoch.train, experiment.train, info.shape, batch_size), plan, train, training),
        plans.compile(partial(epoch.evaluate, experiment.evaluate, info.shape, batch_size), plan, evaluate, evaluation),
    )


def seeded(plan: Plan, training: tuple[Any, ...]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which arguments of `epoch.train`, which are like these, and of `epoch.evaluate` have an axis of seeds."""
    several, data, order = plan.seeds > 1, training[2].x.ndim == 3, training[3].ndim == 2
    return (several, several, data, order, several, False, False), (several, False, several)


def start(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    seeds: range,
    layout: Layout = Layout(),  # noqa: B008
) -> tuple[State, Totals]:
    """The state before the first step and totals of no steps; with several seeds, a leading axis of seeds.

    ValueError for a transition or a loss that does not work on a batch of this layout.
    """
    shape = info.shape

    def one(key: jax.Array) -> tuple[State, Totals]:
        variables: Any = experiment.model.init(key, jnp.zeros((1, *shape)))
        params = variables.pop("params")
        state = State(jnp.int32(0), params, experiment.train.init(params), dict(variables))
        rows = (jnp.zeros(batch_size, jnp.int32),) * 2
        data = Examples(
            jnp.zeros((1, int(np.prod(shape))), jnp.uint8),
            jnp.zeros(1, jnp.int32),
            jnp.ones(1, jnp.int32) if experiment.sequences and len(shape) == 2 else None,
        )
        batch, split = (
            epoch.gather(data, *rows, jnp.ones(batch_size), state.step, shape, layout, training)
            for training in (True, False)
        )
        metrics = jax.eval_shape(experiment.train.step, state, batch, key)[1]
        jax.eval_shape(partial(sums, experiment.evaluate), state.variables, split, key)
        if "loss" not in metrics:
            raise ValueError(f"no metric of training is named loss: there are {sorted(metrics)}")
        return state, epoch.no_totals(metrics)

    return jax.jit(jax.vmap(one) if len(seeds) > 1 else one)(keys(seeds, INIT))


def keys(seeds: range, purpose: int) -> jax.Array:
    """The key of each seed, of one or all."""

    def key(seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), purpose)

    if len(seeds) == 1:
        return key(jnp.uint32(seeds[0]))
    return jax.vmap(key)(seeds[0] + jnp.arange(len(seeds), dtype=jnp.uint32))


def _means(totals: Totals) -> dict[str, Any]:
    """Means over the steps that the totals cover; of no steps there are none."""
    steps = int(np.ravel(totals["steps"])[0])
    return {name: total / steps for name, total in totals["sum"].items()} if steps else {}


def _pace(at_once: int, seconds: float) -> int:
    """How many steps to dispatch next, so that it takes about a third of a second: short enough to stop promptly."""
    if seconds > 0.5 and at_once:
        return max(1, at_once // 2)
    return max(1, at_once * 2 if seconds < 0.25 else at_once)
