"""`replay`: repeat the diverged step of a run, and name its non-finite values."""

import dataclasses
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxae.core.batch import Batch
from jaxae.core.experiment import Experiment
from jaxae.core.types import Examples, State
from jaxae.errors import InputError
from jaxae.run import directory, loop
from jaxae.run.diverged import FOLDER, ROWS
from jaxae.run.read import described
from jaxae.training import epoch, optimizers
from jaxae.training.checkpoint import Checkpoints
from jaxae.training.nonfinite import find_nonfinite, nonfinite_leaves


class Replay(NamedTuple):
    """The step at which a run diverged."""

    step: int
    seed: int
    state: State  # before it, of that seed
    batch: Batch
    key: Any  # of the step
    # Non-finite terms, gradients, inputs and outputs of layers, in order of computation; if all of them are finite,
    # leaves of the state after the step.
    nonfinite: list[str]

    def __str__(self) -> str:
        """One line."""
        first = f"{self.nonfinite[0]} is the first non-finite value" if self.nonfinite else "everything is finite"
        return f"step {self.step} (seed {self.seed}): {first}"


def replay(path: str | Path, experiment: ModuleType | Experiment | None = None, **fields: Any) -> Replay:
    """Repeat the step at which the run in this directory diverged, from its saved state.

    experiment, fields: as for `load`, but an Optax transformation is required. InputError for a directory that holds no
    diverged run.
    """
    path = Path(path)
    saved = directory.read(path / "config.json")
    if not (path / FOLDER).is_dir():
        raise InputError(f"{path} did not diverge in training: there is no folder {FOLDER}; use a run that did")
    if optimizers.is_fingerprint(saved["config"].get("optimizer")) and "optimizer" not in fields:
        raise InputError(
            f"{path} was trained with an Optax transformation; pass the same one to jaxae.replay(path, optimizer=...)"
        )
    _, found, config, info = described(path, experiment, fields)
    state = loop.abstract(found, dataclasses.replace(config, seeds=1), info)["state"]
    with Checkpoints(path / FOLDER, read_only=True) as checkpoints:
        restored = checkpoints.restore({"state": state})
    if restored is None:
        raise InputError(f"{path} holds no intact state in {FOLDER}")
    state = restored[0]["state"]
    with np.load(path / FOLDER / ROWS, allow_pickle=False) as file:
        arrays = dict(file)
    key = jax.random.fold_in(jax.random.wrap_key_data(jnp.asarray(arrays.pop("key"))), state.step)
    rows = jnp.arange(config.batch_size)
    data = Examples(**{name: jnp.asarray(array) for name, array in arrays.items()})
    batch = epoch.gather(data, rows, rows, jnp.ones(len(rows)), jnp.asarray(state.step), info.shape)
    names = find_nonfinite(found.train.step, state, batch, key)
    if not names:  # the optimizer's update overflows
        names = nonfinite_leaves(found.train.step(state, batch, jax.random.clone(key))[0])
    return Replay(int(state.step), restored[1]["seed"], state, batch, key, names)
