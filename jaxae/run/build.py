"""From a configuration to an experiment."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optax

from jaxae.core.experiment import ExpectedMetrics, Experiment
from jaxae.core.step import averaged, binarized
from jaxae.core.types import Info
from jaxae.run.config import Config
from jaxae.training import epoch, optimizers

Build = Callable[[Any, Info], Experiment]  # (config, what is known of the data) -> experiment


def built(config: Config, build: Build, info: Info) -> Experiment:
    """The experiment, with images binarized in every step, and averaged parameters, where the fields say so."""
    experiment = build(config, info)
    train = experiment.train
    if config.binarize == "dynamic":
        train = binarized(train)
    if config.ema:
        train = averaged(train, config.ema)
    return dataclasses.replace(experiment, train=train)


def expecting(build: Build, expected: Mapping[str, ExpectedMetrics]) -> Build:
    """A `build` with these expected figures: data set -> test metric -> at most, or a range."""
    return lambda config, info: dataclasses.replace(build(config, info), expected=expected)


def optimizer(config: Config, info: Info, schedule: optax.Schedule | None = None) -> optax.GradientTransformation:
    """The optimizer that the configuration names, or that was passed in its place.

    schedule: of the learning rate, where an experiment has one of its own. ValueError for fields that do not fit.
    """
    if not isinstance(config.optimizer, str):
        return config.optimizer
    if schedule is None:
        steps = epoch.first_step(config.epochs, info.train, config.batch_size)
        rate = optimizers.schedule(config.schedule, config.lr, steps, config.warmup_steps)
    else:
        rate = schedule
    return optimizers.optimizer(
        config.optimizer, rate, eps=config.eps, weight_decay=config.weight_decay, clip=config.clip
    )


def title(name: str, config: Config) -> str:
    """What the pictures and the page of a run are called."""
    return f"{name.removesuffix('.py')} on {Path(config.data).name}"
