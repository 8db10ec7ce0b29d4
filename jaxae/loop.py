"""The training loop: dispatch, measure, write down, checkpoint. Everything that it computes is in `epoch`."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxae import epoch, log
from jaxae.checkpoint import Checkpoints, Items
from jaxae.config import Config
from jaxae.data import Dataset, Split
from jaxae.errors import Diverged
from jaxae.experiment import Experiment
from jaxae.parallel import Plan, compile, place
from jaxae.types import Examples, State

INIT, TRAIN, TEST = range(3)  # what a key derived from the seed is for
# What a checkpoint remembers besides arrays: bytes of metrics.jsonl, seconds in all, seconds and images of training.
NEW: dict[str, Any] = {"size": 0, "wall": 0.0, "seconds": 0.0, "images": 0}


class Interrupted(Exception):
    """Training was asked to stop, and has saved its last finished step."""


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
    stop: Callable[[], bool] = lambda: False,
    look: Callable[[State, int, log.TensorBoard], None] | None = None,
) -> Outcome:
    """Train from the newest checkpoint in `workdir`, or from the start, to the last epoch.

    Adds to metrics.jsonl, tensorboard/ and checkpoints/. Diverged when a number is not finite, Interrupted when
    `stop()` becomes true; both leave a checkpoint from which the same call goes on as if nothing had happened.
    look: draws a state: every `config.picture_every` steps, after epochs 1, 2, 5, 10, 20, 50, ..., and the last.
    """
    began = time.monotonic()
    several, size, count = config.seeds > 1, config.batch_size, len(data.train.x)
    seeds = range(config.seed, config.seed + config.seeds)
    last = epoch.first_step(config.epochs, count, size)
    train_key, test_key = (place(_keys(config, purpose), plan, several) for purpose in (TRAIN, TEST))
    train_data, test_data = (place(_examples(split), plan, False) for split in (data.train, data.test))
    train = compile(
        lambda share: epoch.train(experiment.transition, data.shape, size, share),
        plan,
        (several, several, False, several, several, False, False),
    )
    measure = compile(
        lambda share: epoch.evaluate(experiment.evaluate, data.shape, size, share), plan, (several, False, several)
    )
    metrics_file = workdir / "metrics.jsonl"
    with Checkpoints(workdir / "checkpoints") as checkpoints:
        restored = checkpoints.restore(abstract(experiment, config, data.shape))
        items, meta = restored or (start(experiment, config, data.shape), NEW)
        state, totals = (place(items[name], plan, several) for name in ("state", "totals"))
        step = int(np.ravel(items["state"].step)[0])
        wall, seconds, images = meta["wall"] - began, meta["seconds"], meta["images"]
        log.truncate(metrics_file, meta["size"])
        stop()  # from here on there is something to save, and it is asked after every dispatch

        def save() -> None:
            size = metrics_file.stat().st_size
            meta = {"size": size, "wall": wall + time.monotonic(), "seconds": seconds, "images": images}
            checkpoints.save(step, {"state": state, "totals": totals}, meta)

        def rate() -> float:
            return images / seconds if seconds else 0.0

        with (
            log.TensorBoard(workdir / "tensorboard", step) as board,
            log.Progress(config.epochs, last, step) as progress,
        ):
            at_once = 0  # steps in a dispatch; the first one compiles, and is not timed
            for now in range(step * size // count, config.epochs):
                first, end = (epoch.first_step(e, count, size) for e in (now, now + 1))
                order = place(_orders(seeds, now, count, size), plan, several)
                while step < end:
                    steps = min(at_once or 1, end - step)
                    if config.picture_every:
                        steps = min(steps, config.picture_every - step % config.picture_every)
                    begin = step * size - now * count
                    t = time.monotonic()
                    state, totals, finite = train(state, totals, train_data, order, train_key, begin, steps)
                    host = jax.device_get(totals)  # waits: on CPU, unblocked collectives can deadlock
                    t = time.monotonic() - t
                    step += steps
                    check_finite(host["bad"], finite, step, seeds)
                    if at_once:
                        seconds, images = seconds + t, images + steps * size * config.seeds
                    at_once = _pace(at_once, t)
                    loss = float(np.mean(host["sum"]["loss"])) / (step - first)
                    progress.update(now + 1, step, loss, rate())
                    often = bool(config.picture_every) and step % config.picture_every == 0
                    chosen = step == end and (str(now + 1).rstrip("0") in ("1", "2", "5") or step == last)
                    if look and (often or chosen):
                        look(jax.device_get(state), step, board)
                    if stop() and step < end:
                        save()
                        raise Interrupted
                means = {name: total / (end - first) for name, total in host["sum"].items()}
                totals = {**totals, "sum": jax.tree.map(jnp.zeros_like, totals["sum"])}
                tested = jax.device_get(measure(state, test_data, test_key))
                check_finite(
                    _not_finite({**means, **{f"test {name}": v for name, v in tested.items()}}, step), True, step, seeds
                )
                lines = [log.record(now + 1, step, "train", means), log.record(now + 1, step, "test", tested)]
                for line in lines:
                    log.append(metrics_file, line)
                    board.scalars(line)
                progress.epoch(lines[0], lines[1], rate())
                stopping = stop() and step < last
                if (now + 1) % config.checkpoint_every == 0 or step == last or stopping:
                    save()
                if stopping:
                    raise Interrupted
        return Outcome(jax.device_get(state), wall + time.monotonic(), rate())


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

    return jax.jit(jax.vmap(one) if config.seeds > 1 else one)(_keys(config, INIT))


def abstract(experiment: Experiment, config: Config, shape: tuple[int, ...]) -> Items:
    """Shapes and dtypes of what `start` gives."""
    return jax.eval_shape(lambda: start(experiment, config, shape))


def check_finite(bad: dict[str, Any], finite: Any, step: int, seeds: range) -> None:
    """Diverged, naming the first step and term that is not finite."""
    found = [
        (int(first), name == "loss", name, seed)
        for name, value in bad.items()
        for seed, first in zip(seeds, np.atleast_1d(value), strict=True)
        if first >= 0
    ]
    found += [
        (step, True, "a parameter or optimizer state", seed)
        for seed, ok in zip(seeds, np.broadcast_to(finite, len(seeds)), strict=True)
        if not ok
    ]
    if found:
        first, _, name, seed = min(found)
        raise Diverged(
            f"{name} is not finite at step {first} (seed {seed}); what was saved before is kept: lower --lr?"
        )


def _not_finite(metrics: dict[str, Any], step: int) -> dict[str, Any]:
    return {name: np.where(np.isfinite(value), -1, step) for name, value in metrics.items()}


def _keys(config: Config, purpose: int) -> jax.Array:
    def key(seed: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.key(seed), purpose)

    if config.seeds == 1:
        return key(jnp.uint32(config.seed))
    return jax.vmap(key)(config.seed + jnp.arange(config.seeds, dtype=jnp.uint32))


def _orders(seeds: range, now: int, count: int, size: int) -> np.ndarray:
    orders = [epoch.order(seed, now, count, size) for seed in seeds]
    return orders[0] if len(seeds) == 1 else np.stack(orders)


def _examples(split: Split) -> Examples:
    lengths = None if split.lengths is None else jnp.asarray(split.lengths)
    return Examples(jnp.asarray(split.x.reshape(len(split.x), -1)), jnp.asarray(split.y), lengths)
