"""jaxae itself: the program that an experiment trains with."""

import dataclasses
import importlib
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
import turns

from jaxae import config as configs
from jaxae import data, epoch, feed, loop, parallel
from jaxae.step import descend


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    module = importlib.import_module(f"experiments.{work['experiment']}")
    config = configs.parse(module.Config, "", work["flags"])
    shape, size, count = (28, 28, 1), config.batch_size, len(images)
    experiment = module.build(config, data.Info(shape, count))
    if work["net"] == "vae":  # with the optimizer that the others have
        experiment = dataclasses.replace(experiment, transition=descend(experiment.evaluate, optax.adam(work["lr"])))
    several = config.seeds > 1
    plan = parallel.plan("auto", size, config.seeds, jax.devices()[:1])
    items = loop.start(experiment, config, shape)
    state, totals = (parallel.place(items[name], plan, several) for name in ("state", "totals"))
    key = parallel.place(loop.keys(config, loop.TRAIN), plan, several)
    split = data.Split(images.reshape(-1, *shape), np.zeros(count, np.int32))
    rows, order = feed.feed(split, config, plan)(0, 0)[:2]
    example = (state, totals, rows, order, key, 0, 0)
    function = partial(epoch.train, experiment.transition, shape, size)
    train = parallel.compile(function, plan, loop.seeded(plan, example)[0], example)
    at = 0  # step within the order

    def steps(count: int) -> float:
        nonlocal state, totals, at
        while count:
            at = at if (at + 1) * size <= len(images) else 0
            now = min(count, len(images) // size - at)
            start = jax.device_get(totals["sum"]["loss"])
            state, totals, _ = jax.block_until_ready(train(state, totals, rows, order, key, at * size, now))
            at, count = at + now, count - now
        return float(np.mean(jax.device_get(totals["sum"]["loss"]) - start) / now)

    return steps


if __name__ == "__main__":
    turns.serve(build)
