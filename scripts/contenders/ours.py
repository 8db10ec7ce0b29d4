"""jaxae itself: the program that an experiment trains with."""

import dataclasses
import importlib
from typing import Any

import numpy as np
import optax
import turns
from trainer import trainer

from jaxae import config as configs
from jaxae.data import Info, Split
from jaxae.step import descend


def build(work: dict[str, Any], images: np.ndarray) -> turns.Steps:
    module = importlib.import_module(f"experiments.{work['experiment']}")
    config = configs.parse(module.Config, "", work["flags"])
    split = Split(images.reshape(-1, 28, 28, 1), np.zeros(len(images), np.int32))
    experiment = module.build(config, Info((28, 28, 1), len(images)))
    if work["net"] == "vae":  # with the optimizer that the others have
        experiment = dataclasses.replace(experiment, transition=descend(experiment.evaluate, optax.adam(work["lr"])))
    return trainer(experiment, config, split)


if __name__ == "__main__":
    turns.serve(build)
