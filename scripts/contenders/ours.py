"""jaxae: the compiled program of an experiment."""

import dataclasses
import importlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
import optax
import turns

from jaxae.core.experiment import Experiment
from jaxae.core.step import descend
from jaxae.data import Dataset, Split
from jaxae.devices import plan as plans
from jaxae.run import command_line
from jaxae.run.config import Config
from jaxae.training.iterate import iterate

EPOCHS = 2**31  # never reached


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    module = importlib.import_module(f"jaxae.experiments.{work['experiment']}")
    config = command_line.parse(module.Config, "", work["flags"])
    data = dataset(images, work["shape"])
    experiment = module.build(config, data.info)
    if work["net"] == "vae":  # the optimizer of the other contenders
        experiment = dataclasses.replace(experiment, train=descend(experiment.evaluate, optax.adam(work["lr"])))
    return stepper(experiment, config, data)


def dataset(images: np.ndarray, shape: Sequence[int] = (28, 28, 1)) -> Dataset:
    """All images for training and one for the test split, since the other contenders do not evaluate."""
    x, y = images.reshape(-1, *shape), np.zeros(len(images), np.int32)
    return Dataset(Split(x, y), Split(x[:1], y[:1]), ())


def stepper(experiment: Experiment, config: Config, data: Dataset) -> turns.Steps:
    """`steps(count)` on one device: trains `count` more steps and returns the mean loss of the epoch so far."""
    stops = [1]  # read by `iterate` before every dispatch
    snapshots = iterate(
        experiment,
        data,
        epochs=EPOCHS,
        batch_size=config.batch_size,
        seed=config.seed,
        seeds=config.seeds,
        plan=plans.plan("auto", config.batch_size, config.seeds, jax.devices()[:1]),
        every=stops,
    )
    step = 0

    def steps(count: int) -> float:
        nonlocal step
        step += count
        stops[:] = [step]
        last = next(now for now in snapshots if now.step == step)
        return float(np.mean(last.train["loss"]))

    return steps


if __name__ == "__main__":
    turns.serve(build)
