"""Training as a generator of snapshots: the only loop that drives the compiled epoch."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.batch import Layout
from jaxae.core.experiment import Experiment
from jaxae.core.types import Info, State
from jaxae.data import Dataset
from jaxae.data.draws import Draws
from jaxae.devices import plan as plans
from jaxae.devices.plan import Plan, place, place_state
from jaxae.training import epoch, nonfinite
from jaxae.training.epoch import Totals
from jaxae.training.feed import blocks, complete, exceed, feed, within
from jaxae.training.start import TEST, TRAIN, Initial, keys, start


class Snapshot(NamedTuple):
    """State and metrics after a dispatch of steps, or after the evaluation of an epoch.

    step: steps done. epoch: that of the last step, counted from 1. done: whether all steps of that epoch are done.
    state: on the devices, and valid after training continues; with several seeds every leaf has a leading axis of
    seeds. totals: needed with `state` to resume. train: means of all terms over the epoch's steps so far, by name,
    including `loss`; with several seeds, one per seed. test, valid: the same over the test split, and over the
    validation split if there is one, after the evaluation that ends an epoch, otherwise None. seconds: duration of the
    steps, including data loading; 0 after an evaluation and for the first, slower dispatch.
    """

    step: int
    epoch: int
    done: bool
    state: State
    totals: Totals
    train: dict[str, Any]
    test: dict[str, Any] | None
    seconds: float
    valid: dict[str, Any] | None = None


Arguments: TypeAlias = tuple[Any, ...]


class Programs(NamedTuple):
    """The compiled forms of `epoch.train`, and of `epoch.evaluate` for every split that is evaluated."""

    train: Callable[..., Any]
    evaluate: Sequence[Callable[..., Any]]


# (experiment, info, batch_size, plan, arguments of `epoch.train`, of `epoch.evaluate` for every split) -> compiled
Compiler: TypeAlias = Callable[[Experiment, Info, int, Plan, Arguments, Sequence[Arguments]], Programs]


def iterate(
    experiment: Experiment,
    data: Dataset,
    *,
    epochs: int,
    batch_size: int,
    seed: int = 0,
    seeds: int = 1,
    plan: Plan | None = None,
    initial: Initial | None = None,
    resume: tuple[State, Totals] | None = None,
    every: int | Sequence[int] = (),
    data_limit: float = 0.0,
    compiler: Compiler | None = None,
) -> Iterator[Snapshot]:
    """Train, and yield a snapshot after every dispatch of steps.

    experiment: what `build(config, info)` returns, such as `vae.build(vae.Config(latent=4), data.info)`.
    data: from `jaxae.data.load` or `jaxae.data.from_arrays`.

    To stop early, leave the loop. To turn a snapshot into a model that can be saved, replace the state of a model from
    `fit`:

        model = jaxae.fit("dense", data, epochs=1)
        for snapshot in jaxae.iterate(model.experiment, data, epochs=100, batch_size=128):
            if snapshot.test and snapshot.test["loss"] < 0.02:
                break
        model = dataclasses.replace(model, state=snapshot.state)

    An epoch ends with two snapshots: after its last step, and with `test` after its evaluation. The number of steps per
    dispatch depends on timing; a snapshot is also yielded at every multiple of `every`, or of each of its entries;
    `every` is read before each dispatch. Results do not depend on dispatches, on the consumer, or on where training was
    resumed.

    seeds: train this many (seed, seed + 1, ...) in one program. plan: the devices to use (default: all).
    initial: initial parameters and other collections (default: random ones).
    resume: state and totals of a snapshot, from which training continues bit for bit.
    data_limit: bytes of all splits up to which a device holds them; larger data is streamed (0: a quarter of its
    memory).
    compiler: default `compiled`.
    ValueError, at the call, for invalid arguments; errors.Diverged for a non-finite number.
    """
    if not isinstance(experiment, Experiment):
        raise TypeError(
            f"experiment has type {type(experiment).__name__}, not jaxae.Experiment; pass the result of a build"
        )
    if not isinstance(data, Dataset):
        raise TypeError(
            f"data has type {type(data).__name__}, not Dataset; use jaxae.data.from_arrays or jaxae.data.load"
        )
    stops = [every] if isinstance(every, int | np.integer) else every
    least = {"epochs": (epochs, 1), "batch_size": (batch_size, 1), "seed": (seed, 0), "seeds": (seeds, 1)}
    for name, (value, low) in {**least, "every": (min(stops, default=0), 0)}.items():
        if not isinstance(value, int | np.integer):
            raise TypeError(f"{name}={value!r} must be an int")
        if value < low:
            raise ValueError(f"{name}={value} must be at least {low}")
    if batch_size > len(data.train.x):
        raise ValueError(f"batch_size={batch_size} exceeds the {len(data.train.x)} training examples; use fewer")
    require_suitable(experiment, data)
    if isinstance(data.train.x, Draws) and epoch.first_step(epochs, len(data.train.x), batch_size) * batch_size > 2**32:
        raise ValueError(
            f"epochs={epochs}: generated examples repeat after {2**32:,}; use fewer epochs, or a smaller train"
        )
    plan = plans.plan("auto", batch_size, seeds) if plan is None else plan
    if plan.seeds != seeds:
        raise ValueError(f"seeds={seeds} differs from the plan's {plan.seeds}; use the same number")
    numbers = range(seed, seed + seeds)

    def first() -> tuple[State, Totals]:
        if resume is not None:
            return resume
        return start(experiment, data.info, batch_size, numbers, initial=initial, plan=plan)

    stack, make = ExitStack(), compiler or compiled
    args = (experiment, data, epochs, batch_size, numbers, plan, first, stops, data_limit, make)
    return within(stack, _iterate(*args, stack))


def require_suitable(experiment: Experiment, data: Dataset) -> None:
    """Raise ValueError for data that the experiment does not support."""
    if any(split.lengths is not None for split in data.splits) and not experiment.sequences:
        raise ValueError("data holds sequences of different lengths; use an experiment for sequences")
    if data.train.observed is not None and not experiment.missing:
        raise ValueError(
            "the data have missing entries, but the loss of this experiment is not masked; fill them in, or use another"
        )
    if experiment.counts and data.total is None:
        raise ValueError("the experiment is for counts, but the data are not counts; read them with kind=counts")
    if data.total is not None and not experiment.counts:
        raise ValueError("the data are counts, but the loss of this experiment is for other data; read them as a table")
    if experiment.conditional:
        _require_conditions(experiment, data)


def _require_conditions(experiment: Experiment, data: Dataset) -> None:
    if not experiment.condition(data.conditions).size:
        raise ValueError(
            "a conditional model needs classes or covariates, and the data have neither; for a table, use "
            "target=COLUMN or context=COLUMN, and for arrays, pass y or context to fit"
        )
    if experiment.classes != "given":
        return
    known = np.unique(data.train.y)
    for name, split in (("test", data.test), ("validation", data.valid or data.test)):
        if len(new := np.setdiff1d(split.y, known)):
            what, fix = f"examples of class {data.classes[new[-1]]}", "leave them out"
            if new[-1] < 0:
                what, fix = "examples without a class", f"{fix}, or pass test_y (valid_y) to jaxae.data.from_arrays"
            raise ValueError(f"the {name} split has {what}, but the training split has none; {fix}")


def _iterate(
    experiment: Experiment,
    data: Dataset,
    epochs: int,
    batch_size: int,
    numbers: range,
    plan: Plan,
    first: Callable[[], tuple[State, Totals]],
    stops: Sequence[int],
    data_limit: float,
    compiler: Compiler,
    stack: ExitStack,
) -> Iterator[Snapshot]:
    several, count = len(numbers) > 1, len(data.train.x)
    train_key, test_key = (place(keys(numbers, purpose), plan, several) for purpose in (TRAIN, TEST))
    streams = exceed(data.splits, plan, data_limit)
    portions = feed(data.train, plan, numbers, batch_size, streams, stack=stack)
    evaluated_splits = {"test": data.test} if data.valid is None else {"test": data.test, "valid": data.valid}
    evaluated = [blocks(split, plan, batch_size, streams) for split in evaluated_splits.values()]
    sizes = [len(split.x) for split in evaluated_splits.values()]
    state, totals = (place_state(item, plan, several) for item in first())
    step = int(np.ravel(jax.device_get(state.step))[0])
    current = step * batch_size // count  # the epoch, counted from 0
    # Compile training and evaluation before the first step, while there is nothing to save.
    train, evaluate = compiler(
        experiment,
        data.info,
        batch_size,
        plan,
        (state, totals, *portions(current, step)[:2], train_key, 0, 0),
        [(state, next(of_split())[0], test_key, 0, size) for of_split, size in zip(evaluated, sizes, strict=True)],
    )
    plan.processes.barrier()

    at_once = 0  # steps in a dispatch
    covered = int(np.ravel(jax.device_get(totals["steps"]))[0])
    if covered and step == epoch.first_step(current, count, batch_size):
        current -= 1  # its evaluation is pending
    for now in range(current, epochs):
        end = epoch.first_step(now + 1, count, batch_size)
        host = jax.device_get(totals)
        while step < end:
            waited = time.monotonic()
            portion = portions(now, step)
            steps = min(at_once or 1, portion.steps, *(n - step % n for n in stops if n))
            args = (state, totals, portion.data, portion.order, train_key, portion.start)
            began = time.monotonic()
            with plan.processes.waiting():
                # Without blocking here, collectives can deadlock on CPU.
                state, totals, all_finite = jax.block_until_ready(train(*args, steps))
                host = jax.device_get(totals)
            ended = time.monotonic()
            if not nonfinite.finite(host, all_finite):
                one = epoch.step(experiment.train, data.shape, batch_size, lambda x: x, Layout())
                dispatch, rows = partial(_gathered, train, plan), complete(portion, plan)
                raise nonfinite.explain(dispatch, one, args, batch_size, steps, numbers, rows)
            step += steps
            seconds = ended - waited if at_once else 0.0  # the first one is slower
            # All processes must dispatch the same number of steps.
            at_once = _pace(at_once, plan.processes.maximum(ended - began))
            yield Snapshot(step, now + 1, step == end, state, totals, _means(host), None, seconds)
        with plan.processes.waiting():
            measured = [
                _sum([jax.device_get(measure(state, block, test_key, first, size)) for block, first in of_split()])
                for measure, of_split, size in zip(evaluate, evaluated, sizes, strict=True)
            ]
        metrics = dict(zip(evaluated_splits, measured, strict=True))
        for name, terms in metrics.items():
            nonfinite.check_finite({f"{name} {term}": value for term, value in terms.items()}, step, numbers)
        zeros = jax.tree.map(jnp.zeros_like, {name: totals[name] for name in ("steps", "sum", "sum_error")})
        totals = {**totals, **zeros}
        means, valid = _means(host), metrics.get("valid")
        yield Snapshot(step, now + 1, True, state, totals, means, metrics["test"], 0.0, valid)


def compiled(
    experiment: Experiment,
    info: Info,
    batch_size: int,
    plan: Plan,
    training: Arguments,
    evaluations: Sequence[Arguments],
) -> Programs:
    """`epoch.train` and `epoch.evaluate` of an experiment, compiled for arguments of these shapes and types."""
    train, evaluate = seeded(plan, training)
    over_steps = partial(epoch.train, experiment.train, info.shape, batch_size)
    of_split = partial(epoch.evaluate, experiment.evaluate, info.shape, batch_size)
    return Programs(
        plans.compile(over_steps, plan, train, training, [isinstance(argument, epoch.Dealt) for argument in training]),
        [plans.compile(of_split, plan, evaluate, evaluation) for evaluation in evaluations],
    )


def seeded(plan: Plan, training: Arguments) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which arguments of `epoch.train` (as in `training`) and of `epoch.evaluate` have an axis of seeds."""
    several, (data, order) = plan.seeds > 1, epoch.have_seeds(*training[2:4])
    return (several, several, data, order, several, False, False), (several, False, several, False, False)


def _gathered(train: Callable[..., Any], plan: Plan, *args: Any) -> Any:
    """Results, with the arrays that are split over processes gathered on the host."""
    return plan.processes.gather(train(*args))


def _sum(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sum of the results of all blocks, in float32."""
    if len(parts) == 1:
        return parts[0]
    return {name: np.float32(np.sum([part[name] for part in parts], axis=0, dtype=np.float64)) for name in parts[0]}


def _means(totals: Totals) -> dict[str, Any]:
    """Means over the steps of the totals; empty for no steps."""
    steps = int(np.ravel(totals["steps"])[0])
    return {name: total / steps for name, total in totals["sum"].items()} if steps else {}


def _pace(at_once: int, seconds: float) -> int:
    """Number of steps of the next dispatch, for about a third of a second: short enough to stop promptly."""
    if seconds > 0.5 and at_once:
        return max(1, at_once // 2)
    return max(1, at_once * 2 if seconds < 0.25 else at_once)
