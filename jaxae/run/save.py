"""`Trained.save`: a model as the directory of the run that trained it."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np

from jaxae.core.types import State
from jaxae.errors import InputError
from jaxae.run import command_line, directory, loop
from jaxae.run import config as configs
from jaxae.run.config import Config
from jaxae.training import epoch, records
from jaxae.training.checkpoint import Checkpoints
from jaxae.training.epoch import Totals
from jaxae.training.selection import SelectionState
from jaxae.training.start import start
from jaxae.training.trained import Trained


def saver(
    config: Config,
    description: dict[str, Any],
    totals: Totals | None = None,
    last: State | None = None,
    kept: SelectionState | None = None,
) -> Callable[..., None]:
    """The function behind `Trained.save`, for the models of a run: (path, model, *, checkpoint=True).

    With checkpoint=False it writes config.json and metrics.jsonl only, into an existing folder.

    description: the run's description, as in config.json. totals: sums over the steps of an unfinished epoch, required
    to save a model within an epoch. last, kept: the last state, and the kept one, of a run that selects its state by
    the validation split (`config.selection`).
    """
    info = directory.info_of(description)

    def save(path: Path, model: Trained, *, checkpoint: bool = True) -> None:
        own = dataclasses.replace(config, seed=model.seeds[0], seeds=len(model.seeds), workdir="")
        command = command_line.command(own, description["experiment"]) if description["command"] else ""
        fields = {**configs.to_json(own), "optimizer": description["config"]["optimizer"]}
        new = {**description, "saved": True, "config": fields, "command": command}
        if not checkpoint:
            records.write_json(path / "config.json", new)
            _write_history(path, model)
            return
        if configs.to_json(config)["optimizer"] != description["config"]["optimizer"]:
            without_optimizer()

        def of_model(tree: Any) -> Any:
            some = len(model.seeds) < config.seeds
            return jax.tree.map(lambda leaf: leaf[model.seeds[0] - config.seed], tree) if some else tree

        state = model.state if last is None else of_model(last)
        step = int(np.ravel(state.step)[0])
        if totals is None:
            now = step * config.batch_size // info.train
            if step not in (epoch.first_step(now + late, info.train, config.batch_size) for late in (0, 1)):
                raise ValueError("the run stopped within an epoch; copy its directory, which holds the rest")
            sums = start(model.experiment, info, config.batch_size, model.seeds)[1]
        else:
            sums = of_model(totals)
        items = loop.as_items(state, sums, None if kept is None else of_model(kept)._replace(state=model.state))
        with directory.locked(path):
            if (path / "config.json").exists() and directory.difference(directory.read(path / "config.json"), new):
                raise InputError(f"{path} holds another model; delete it, or save into another folder")
            directory.prepare(path, own, new)
            _write_history(path, model)
            with Checkpoints(path / "checkpoints") as checkpoints:
                meta = {**loop.NEW, "size": (path / "metrics.jsonl").stat().st_size}
                checkpoints.save(step, jax.device_get(items), meta, wait=True)

    return save


def _write_history(path: Path, model: Trained) -> None:
    records.truncate(path / "metrics.jsonl", 0)
    for line in model.history:
        records.append(path / "metrics.jsonl", line)


def without_optimizer(*_: Any) -> NoReturn:
    """Raise ValueError for a model whose optimizer is unknown. It is also the training step of such a model."""
    raise ValueError("the model was loaded without its optimizer; pass it to jaxae.load(path, optimizer=...)")


def without_state(*_: Any, **__: Any) -> NoReturn:
    """Raise ValueError for a model of a folder of safetensors, as its training step and its saver."""
    raise ValueError("a folder of safetensors has no optimizer state; train or save the model of its run")
