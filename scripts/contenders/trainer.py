"""The steps of an experiment, as `jaxae.loop` compiles and feeds them, without what it does between them."""

from collections.abc import Callable
from functools import partial

import jax
import numpy as np

from jaxae import epoch, feed, loop, parallel
from jaxae.config import Config
from jaxae.data import Info, Split
from jaxae.run import Experiment


def trainer(experiment: Experiment, config: Config, split: Split) -> Callable[[int], float]:
    """Steps on one device: does that many more and gives their mean loss."""
    info, size, several = Info(split.x.shape[1:], len(split.x)), config.batch_size, config.seeds > 1
    plan = parallel.plan("auto", size, config.seeds, jax.devices()[:1])
    items = loop.start(experiment, config, info.shape)
    state, totals = (parallel.place(items[name], plan, several) for name in ("state", "totals"))
    key = parallel.place(loop.keys(config, loop.TRAIN), plan, several)
    portions = feed.feed(split, config, plan)
    example = (state, totals, *portions(0, 0)[:2], key, 0, 0)
    function = partial(epoch.train, experiment.transition, info.shape, size)
    train = parallel.compile(function, plan, loop.seeded(plan, example)[0], example)
    step = 0

    def steps(count: int) -> float:
        nonlocal state, totals, step
        before, end = np.mean(jax.device_get(totals["sum"]["loss"])), step + count
        while step < end:
            data, order, begin, most = portions(step * size // info.train, step)
            now = min(most, end - step)
            state, totals, _ = jax.block_until_ready(train(state, totals, data, order, key, begin, now))
            step += now
        return float(np.mean(jax.device_get(totals["sum"]["loss"])) - before) / count

    return steps
