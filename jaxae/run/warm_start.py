"""Training that starts from the parameters of another run."""

import dataclasses
from pathlib import Path

import jax
import numpy as np

from jaxae.core.experiment import Experiment
from jaxae.data import Dataset
from jaxae.errors import InputError
from jaxae.run import directory, loop
from jaxae.run.config import Config
from jaxae.run.read import restored_for_use
from jaxae.training.checkpoint import OtherArrays
from jaxae.training.start import Initial


def initial(config: Config, experiment: Experiment, dataset: Dataset) -> Initial | None:
    """Initial parameters from the run `init_from`; None without it.

    Only the arrays must agree: experiment, configuration and optimizer of that run may differ. InputError for a run
    with different parameters, or with another number of seeds.
    """
    if not config.init_from:
        return None
    path = Path(config.init_from)
    there = directory.read(path / "config.json")["config"]
    seeds = there.get("seeds")
    if seeds not in (1, config.seeds):
        raise InputError(f"init_from={path} has {seeds} seeds, not 1 or seeds={config.seeds}; use a run with as many")
    selects = {name: there[name] for name in ("keep", "stop_after") if name in there}
    alike = dataclasses.replace(config, seeds=int(seeds), **selects)
    try:
        source = restored_for_use(path, loop.abstract(experiment, alike, dataset.info), bool(there.get("ema")))
    except OtherArrays as error:
        differences = "; ".join(line.removeprefix("state/") for line in error.differences[:3])
        raise InputError(
            f"init_from={path} has different parameters: {differences}; use a run with the same shapes"
        ) from None
    params, extra = source.variables["params"], source.extra
    if seeds < config.seeds:
        params, extra = jax.tree.map(lambda leaf: np.stack([leaf] * config.seeds), (params, extra))
    return params, extra
