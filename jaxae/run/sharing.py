"""One compiled program for runs whose configurations differ only in numbers."""

import copy
import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from types import ModuleType
from typing import Any

import jax
import numpy as np

from jaxae.core.batch import UNSPLIT, Layout, PerDevice
from jaxae.core.experiment import Experiment
from jaxae.core.types import Info
from jaxae.devices import plan as plans
from jaxae.errors import input_errors
from jaxae.run import loop
from jaxae.run.build import built
from jaxae.run.config import Config
from jaxae.run.execute import loaded
from jaxae.training import epoch
from jaxae.training.iterate import Arguments, Compiler, Programs, seeded
from jaxae.training.start import INIT, initialise, keys


def other_fields(config: Config, fields: Sequence[str]) -> tuple[Any, ...]:
    """The values of all other fields except seed and workdir."""
    fields = (*fields, "seed", "workdir")
    return tuple(getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in fields)


def traceable_fields(module: ModuleType, config: Config, fields: list[str]) -> tuple[str, ...]:
    """Fields that can be traced, as no Python code branches on them; only the first if tracing all of them fails."""
    dataset = loaded(config)

    def state(values: dict[str, Any]) -> Any:
        experiment = built(_with(config, values), module.build, dataset.info)
        seeds = keys(loop.seeds_of(config), INIT)
        return initialise(experiment, dataset.info, config.batch_size, UNSPLIT, seeds)

    def fits(*fields: str) -> bool:
        try:
            with input_errors():
                jax.eval_shape(state, {field: np.float32(1) for field in fields})
        except TypeError:  # JAX's concretization errors are TypeErrors
            return False
        return True

    found = tuple(field for field in fields if fits(field))
    return found if fits(*found) else found[:1]


def _with(config: Config, values: dict[str, Any]) -> Config:
    """A copy of the configuration with traced numbers in these fields, without type checks."""
    found = copy.copy(config)
    for name, value in values.items():
        object.__setattr__(found, name, value)
    return found


def shared_compiler(module: ModuleType, numbers: tuple[str, ...]) -> Callable[[Config], Compiler]:
    """Compilers, one per configuration, that compile once for all configurations that differ only in these numbers."""
    shared: list[Programs] = []

    def of(config: Config) -> Compiler:
        values: dict[str, Any] = {name: np.float32(getattr(config, name)) for name in numbers}

        def compiler(
            _: Experiment,
            info: Info,
            size: int,
            plan: plans.Plan,
            training: Arguments,
            evaluations: Sequence[Arguments],
        ) -> Programs:
            def build(values: dict[str, Any]) -> Experiment:
                return built(_with(config, values), module.build, info)

            def train(per_device: PerDevice, layout: Layout) -> Callable[..., Any]:
                def steps(values: dict[str, Any], *args: Any) -> Any:
                    return epoch.train(build(values).train, info.shape, size, per_device, layout)(*args)

                return steps

            def evaluate(per_device: PerDevice, layout: Layout) -> Callable[..., Any]:
                def measure(values: dict[str, Any], *args: Any) -> Any:
                    return epoch.evaluate(build(values).evaluate, info.shape, size, per_device, layout)(*args)

                return measure

            if not shared:
                for_training, for_evaluation = seeded(plan, training)
                shared.append(
                    Programs(
                        plans.compile(train, plan, (False, *for_training), (values, *training)),
                        [plans.compile(evaluate, plan, (False, *for_evaluation), (values, *e)) for e in evaluations],
                    )
                )
            steps, tests = shared[0]
            return Programs(partial(steps, values), [partial(test, values) for test in tests])

        return compiler

    return of
