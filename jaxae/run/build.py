"""From a configuration to an experiment."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import optax

from jaxae.core.experiment import ExpectedMetrics, Experiment
from jaxae.core.step import averaged, binarized
from jaxae.core.types import Info
from jaxae.data.augmentation import augmented
from jaxae.run.config import Config
from jaxae.training import epoch, optimizers

Build = Callable[[Any, Info], Experiment]  # (config, properties of the data) -> experiment


def built(config: Config, build: Build, info: Info) -> Experiment:
    """Build the experiment, with augmentation, binarization, skipped steps and averages as configured."""
    experiment = build(config, info)
    train = experiment.train
    if config.binarize == "dynamic":
        train = binarized(train)
    if config.augment:
        train = augmented(train, config.augment, info)
    if config.skip:
        train = optimizers.counted(train, config.skip)
    if config.ema:
        train = averaged(train, config.ema)
    return dataclasses.replace(experiment, train=train)


def expecting(build: Build, expected: Mapping[str, ExpectedMetrics]) -> Build:
    """A `build` with these expected results: data set -> test metric -> upper bound, or range."""
    return lambda config, info: dataclasses.replace(build(config, info), expected=expected)


def optimizer(
    config: Config, info: Info, schedule: optax.Schedule | None = None, *, steps: int | None = None
) -> optax.GradientTransformation:
    """The optimizer of the configuration.

    schedule: learning rate schedule, instead of the configured one. steps: number of steps over which the configured
    schedule decays (default: all steps of the run; in `phases`, pass the steps of the phase).
    ValueError for a configured decay or warm-up in addition to `schedule`.
    """
    if not isinstance(config.optimizer, str):
        return config.optimizer
    if schedule is None:
        total = epoch.first_step(config.epochs, info.train, config.batch_size) if steps is None else steps
        rate = optimizers.schedule(config.schedule, config.lr, total, config.warmup_steps)
    else:
        own = "has no effect with the experiment's own learning rate schedule"
        if config.warmup_steps:
            raise ValueError(f"warmup_steps={config.warmup_steps} {own}; use 0")
        if config.schedule in get_args(optimizers.Decay) and config.schedule != "constant":
            raise ValueError(f"schedule={config.schedule} {own}; use constant")
        rate = schedule
    fields = {"eps": config.eps, "weight_decay": config.weight_decay, "clip": config.clip, "skip": config.skip}
    return optimizers.optimizer(config.optimizer, rate, **fields)


def title(name: str, config: Config) -> str:
    """Title of a run's figures and report."""
    return f"{name.removesuffix('.py')} on {Path(config.data).name}"
