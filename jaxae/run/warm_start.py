"""Training that starts from the parameters of another run."""

from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxae.core.experiment import Experiment
from jaxae.data import Dataset
from jaxae.errors import InputError
from jaxae.run import directory, loop
from jaxae.run.config import Config
from jaxae.run.read import load
from jaxae.training import optimizers
from jaxae.training.checkpoint import leaves
from jaxae.training.start import Initial


def initial(config: Config, experiment: Experiment, dataset: Dataset) -> Initial | None:
    """Initial parameters from the run `init_from`; None without it.

    InputError for a run of other parameters, or of another number of seeds.
    """
    if not config.init_from:
        return None
    source = load(config.init_from, **_same_optimizer(config))
    if len(source) not in (1, config.seeds):
        raise InputError(f"init_from={config.init_from}: has {len(source)} seeds, not 1 or seeds={config.seeds}")
    found = {"params": source.params, "extra": source.extra}
    if len(source) < config.seeds:
        found = jax.tree.map(lambda leaf: np.stack([leaf] * config.seeds), found)
    state = loop.abstract(experiment, config, dataset.info)["state"]
    there, here = leaves(found), leaves({"params": state.params, "extra": state.extra})
    if differ := [path for path in {**here, **there} if here.get(path) != there.get(path)]:
        differences = "; ".join(
            f"{path} is {there.get(path, 'missing')} there, {here.get(path, 'missing')} here" for path in differ[:3]
        )
        raise InputError(f"init_from={config.init_from}: holds other parameters: {differences}")
    return found["params"], found["extra"]


def _same_optimizer(config: Config) -> dict[str, Any]:
    """The optimizer of the configuration, if it is the Optax transformation of the run that training starts from."""
    there = directory.read(Path(config.init_from) / "config.json")["config"].get("optimizer")
    own = config.optimizer
    return {} if isinstance(own, str) or optimizers.fingerprint(own) != there else {"optimizer": own}
