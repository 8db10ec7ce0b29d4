"""The training loop: dispatch, measure, write down, checkpoint. Everything that it computes is in `epoch`."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import divergence, epoch, log, parallel
from jaxae.checkpoint import Checkpoints, Items
from jaxae.config import Config
from jaxae.data import Dataset, Info
from jaxae.errors import Interrupted
from jaxae.experiment import Experiment
from jaxae.feed import examples, feed
from jaxae.parallel import Plan, compile, place
from jaxae.types import Examples, State

INIT, TRAIN, TEST = range(3)  # what a key derived from the seed is for
# What a checkpoint remembers besides arrays: bytes of metrics.jsonl, seconds in all, seconds and images of training.
NEW: dict[str, Any] = {"size": 0, "wall": 0.0, "seconds": 0.0, "images": 0}


Stop: TypeAlias = Callable[[Callable[[], None] | None], bool]  # as signals.Stop


def go_on(save: Callable[[], None] | None) -> bool:  # noqa: ARG001
    """The `stop` of a run that nobody stops."""
    return False


class Outcome(NamedTuple):
    """What training gives, on the host."""

    state: State
    wall_seconds: float
    images_per_second: float  # without compilation


def fit(
    experiment: Experiment,
    config: Config,
    data: Dataset,
    plan: Plan,
    workdir: Path,
    stop: Stop = go_on,
    look: Callable[[State, int, log.TensorBoard], None] | None = None,
    prepare: "Prepare | None" = None,
) -> Outcome:
    """Train from the newest checkpoint in `workdir`, or from the start, to the last epoch.

    Adds to metrics.jsonl, tensorboard/ and checkpoints/. Diverged when a number is not finite, Interrupted when
    `stop` says so; from what is saved the same call goes on as if nothing had happened. OSError when the disk is full
    or the directory lost. Of several processes the first one reads and writes, for all.
    stop: asked after every dispatch, with a function that saves this moment; with None when all is saved.
    prepare: compiles, as `programs` does, which is what is used without it.
    look: draws a state: every `config.picture_every` steps, after epochs 1, 2, 5, 10, 20, 50, ..., and the last.
    """
    began = time.monotonic()
    writes = parallel.leads()
    several, size, count = config.seeds > 1, config.batch_size, len(data.train.x)
    seeds = range(config.seed, config.seed + config.seeds)
    last = epoch.first_step(config.epochs, count, size)
    train_key, test_key = (place(keys(config, purpose), plan, several) for purpose in (TRAIN, TEST))
    portions, test_data = feed(data.train, config, plan), place(examples(data.test), plan, False)
    metrics_file = workdir / "metrics.jsonl"
    writer: Any = Checkpoints(workdir / "checkpoints") if writes else log.Silent()
    with writer as checkpoints:
        restored = checkpoints.restore(abstract(experiment, config, data.shape))
        items, meta = restored or (start(experiment, config, data.shape), NEW)
        if writes:
            log.truncate(metrics_file, meta["size"])
        meta, lines = parallel.told([meta, log.read(metrics_file) if writes else []])
        items = parallel.given(items)
        state, totals = (place(items[name], plan, several) for name in ("state", "totals"))
        step = int(np.ravel(items["state"].step)[0])
        wall, seconds, images = meta["wall"] - began, meta["seconds"], meta["images"]

        # Both are compiled before the first step: until then there is nothing to save.
        train, measure = (prepare or programs)(
            experiment,
            data.info,
            size,
            plan,
            (state, totals, *portions(0, 0)[:2], train_key, 0, 0),
            (state, test_data, test_key),
        )

        parallel.meet()

        def rate() -> float:
            return images / seconds if seconds else 0.0

        def pause(due: bool) -> None:
            """A moment at which a run may be continued: save it where that is due, and stop if asked to."""
            meta = {
                "size": metrics_file.stat().st_size if writes else 0,
                "wall": wall + time.monotonic(),
                "seconds": seconds,
                "images": images,
            }
            save = partial(checkpoints.save, step, {"state": state, "totals": totals}, meta)
            stopping = parallel.most(float(stop(partial(save, wait=True)))) > 0
            if due or stopping:
                save(wait=stopping or step == last)  # before it is said that all is saved
            if stopping:
                parallel.part()
                raise Interrupted

        def write(epoch: int, split: str, metrics: dict[str, Any]) -> None:
            lines.append(log.record(epoch, step, split, metrics))
            if writes:
                log.append(metrics_file, lines[-1])
            board.scalars(lines[-1])

        # Steps between what happens within an epoch; never, without it.
        picture_every = config.picture_every or last
        save_every = config.checkpoint_every if config.checkpoint_unit == "steps" else last
        events: Any = log.TensorBoard(workdir / "tensorboard", step) if writes else log.Silent()
        bar: Any = log.Progress(config.epochs, last, step) if writes else log.Silent()
        with events as board, bar as progress:
            at_once = 0  # steps in a dispatch
            for now in range(sum(line["split"] == "test" for line in lines), config.epochs):
                first, end = (epoch.first_step(e, count, size) for e in (now, now + 1))
                trained = step == end  # before it was stopped
                while step < end:
                    waited = time.monotonic()
                    portion = portions(now, step)
                    steps = min(at_once or 1, portion.steps, *(n - step % n for n in (picture_every, save_every)))
                    args = (state, totals, portion.data, portion.order, train_key, portion.start)
                    t = time.monotonic()
                    with parallel.waiting():
                        state, totals, whole = jax.block_until_ready(train(*args, steps))  # on CPU, unblocked
                        host = jax.device_get(totals)  # collectives can deadlock
                    done = time.monotonic()
                    t = parallel.most(done - t)  # all processes are to do as many steps
                    if not divergence.finite(host, whole):
                        one = epoch.train(experiment.transition, data.shape, size, lambda x: x)
                        raise divergence.explain(train, one, args, size, steps, seeds)
                    step += steps
                    if at_once:  # the first one is slower
                        seconds, images = seconds + done - waited, images + steps * size * config.seeds
                    at_once = _pace(at_once, t)
                    progress.update(now + 1, step, float(np.mean(host["sum"]["loss"])) / (step - first), rate())
                    chosen = step == end and str(now + 1).rstrip("0") in ("1", "2", "5")
                    if writes and look and (chosen or step % picture_every == 0 or step == last):
                        look(jax.device_get(state), step, board)
                    if step < end:
                        pause(step % save_every == 0)
                if not trained:
                    means = {name: total / (end - first) for name, total in host["sum"].items()}
                    totals = {**totals, "sum": jax.tree.map(jnp.zeros_like, totals["sum"])}
                    write(now + 1, "train", means)
                    pause(False)
                with parallel.waiting():
                    tested = jax.device_get(measure(state, test_data, test_key))
                divergence.check({f"test {name}": value for name, value in tested.items()}, step, seeds)
                write(now + 1, "test", tested)
                progress.epoch(lines[-2], lines[-1], rate())
                finished = step if config.checkpoint_unit == "steps" else now + 1
                pause(finished % config.checkpoint_every == 0 or step == last)
        stop(None)
        return Outcome(jax.device_get(state), wall + time.monotonic(), rate())


def programs(
    experiment: Experiment,
    info: Info,
    size: int,
    plan: Plan,
    training: tuple[Any, ...],
    evaluation: tuple[Any, ...],
) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """`epoch.train` and `epoch.evaluate` of an experiment, compiled for arguments like these. size: of a batch."""
    train, evaluate = seeded(plan, training)
    return (
        compile(partial(epoch.train, experiment.transition, info.shape, size), plan, train, training),
        compile(partial(epoch.evaluate, experiment.evaluate, info.shape, size), plan, evaluate, evaluation),
    )


Prepare: TypeAlias = Callable[..., tuple[Callable[..., Any], Callable[..., Any]]]  # as `programs`


def seeded(plan: Plan, training: tuple[Any, ...]) -> tuple[tuple[bool, ...], tuple[bool, ...]]:
    """Which arguments of `epoch.train`, which are like these, and of `epoch.evaluate` have an axis of seeds."""
    several, data, order = plan.seeds > 1, training[2].x.ndim == 3, training[3].ndim == 2
    return (several, several, data, order, several, False, False), (several, False, several)


def _pace(at_once: int, seconds: float) -> int:
    """How many steps to dispatch next, so that it takes about a third of a second: short enough to stop promptly."""
    if seconds > 0.5 and at_once:
        return max(1, at_once // 2)
    return max(1, at_once * 2 if seconds < 0.25 else at_once)


def start(experiment: Experiment, config: Config, shape: tuple[int, ...]) -> Items:
    """The state before the first step and totals of no steps; with several seeds, a leading axis of seeds."""

    def one(key: jax.Array) -> Items:
        variables: Any = experiment.model.init(key, jnp.zeros((1, *shape)))
        params = variables.pop("params")
        state = State(jnp.int32(0), params, experiment.transition.init(params), dict(variables))
        batch = epoch.gather(
            Examples(
                jnp.zeros((1, int(np.prod(shape))), jnp.uint8),
                jnp.zeros(1, jnp.int32),
                jnp.ones(1, jnp.int32) if len(shape) == 2 else None,  # sequences
            ),
            *(jnp.zeros(config.batch_size, jnp.int32),) * 2,
            jnp.ones(config.batch_size),
            shape,
        )
        metrics = jax.eval_shape(experiment.transition.step, state, batch, key)[1]
        tested = jax.eval_shape(experiment.evaluate, params, state.extra, batch, key)[1][1]
        for kind, names in (("training", metrics), ("evaluation", tested)):
            if "loss" not in names:
                raise ValueError(f"no metric of {kind} is named loss: there are {sorted(names)}")
        return {"state": state, "totals": epoch.no_totals(metrics)}

    return jax.jit(jax.vmap(one) if config.seeds > 1 else one)(keys(config, INIT))


def abstract(experiment: Experiment, config: Config, shape: tuple[int, ...]) -> Items:
    """Shapes and dtypes of what `start` gives."""
    return jax.eval_shape(lambda: start(experiment, config, shape))


def keys(config: Config, purpose: int) -> jax.Array:
    """The key of each seed, of one or all."""

    def key(seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), purpose)

    if config.seeds == 1:
        return key(jnp.uint32(config.seed))
    return jax.vmap(key)(config.seed + jnp.arange(config.seeds, dtype=jnp.uint32))
