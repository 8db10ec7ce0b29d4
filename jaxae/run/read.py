"""Reading a run back: its model, its data, its result."""

import dataclasses
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxae import data
from jaxae.core.experiment import Experiment
from jaxae.core.types import Averaged, Info, State
from jaxae.data import Dataset
from jaxae.data.options import Options
from jaxae.errors import DAMAGED, InputError, first_line
from jaxae.run import config as configs
from jaxae.run import directory, loop, results, saelens, tensors
from jaxae.run.build import Build, built, title
from jaxae.run.config import Config
from jaxae.run.diverged import FOLDER
from jaxae.run.find import find, names
from jaxae.run.save import saver, without_optimizer, without_state
from jaxae.training import optimizers, records
from jaxae.training.checkpoint import Checkpoints
from jaxae.training.trained import Trained


def load(path: str | Path, experiment: ModuleType | Experiment | None = None, **fields: Any) -> Trained:
    """The trained model of a run directory, from its config.json and newest intact checkpoint; of all its seeds.

    path: a run directory, or a folder in the format safetensors or saelens, written by `jaxae export` or by SAELens
    (see `saelens.read`). The model of such a folder has no optimizer state; one from safetensors can be neither trained
    nor saved.

    experiment: its module, or the `Experiment` itself; needed only for one outside the package `jaxae.experiments`.
    fields: configuration fields that were passed as objects and are not in config.json: only `optimizer`, an Optax
    transformation, without which the model is loaded without its optimizer state and can be neither trained nor saved.
    InputError for a directory that holds no run, or no intact checkpoint.
    """
    path = Path(path)
    if saelens.is_folder(path):
        if experiment is not None or set(fields) > {"optimizer"}:
            raise InputError(f"{path} is a folder of SAELens; pass no other argument than optimizer")
        return saelens.read(path, **fields)
    if tensors.is_folder(path) and fields:
        raise InputError(f"{path} is a folder of safetensors without optimizer state; omit {', '.join(fields)}")
    saved, found, config, info = described(path, experiment, fields)
    with _model_of(path):
        abstract = loop.abstract(found, config, info)
    save: Callable[..., None]
    if tensors.is_folder(path):
        state, save = tensors.read(path, abstract["state"]), without_state
        found = dataclasses.replace(found, train=found.train._replace(step=without_state))
    elif optimizers.is_fingerprint(saved["config"]["optimizer"]) and "optimizer" not in fields:
        state = restored_for_use(path, abstract, bool(config.ema))
        save = saver(config, saved)
        found = dataclasses.replace(found, train=found.train._replace(step=without_optimizer))
    elif "kept" in abstract:
        items = restored(path, abstract)
        state, save = _kept(items), saver(config, saved, items["totals"], items["state"], items["kept"])
    else:
        state, save = restored(path, {"state": abstract["state"]})["state"], saver(config, saved)
    lines = records.read(path / "metrics.jsonl") if (path / "metrics.jsonl").exists() else []
    scale, from_bytes = directory.scale_of(saved), saved["data"].get("from_bytes", True)
    about = (directory.conditions_of(saved), tuple(saved["data"].get("features", ())))
    return Trained(found, state, info.shape, loop.seeds_of(config), lines, save, scale, info.real, from_bytes, *about)


def _kept(items: dict[str, Any]) -> Any:
    """The kept state; before the first evaluation, the last one."""
    return items["kept"].state if np.all(items["kept"].epoch) else items["state"]


def restored(path: Path, items: dict[str, Any], skip: tuple[str, ...] = ()) -> dict[str, Any]:
    """Items of the newest intact checkpoint of a run directory. InputError if there is none.

    items: their shapes and dtypes. skip: as in `Checkpoints.restore`.
    """
    found = None
    if (path / "checkpoints").is_dir():
        with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
            found = checkpoints.restore(items, skip)
    if found is None:
        fix = "it diverged: see jaxae.replay" if (path / FOLDER).is_dir() else "repeat the command that made it"
        raise InputError(f"{path} has no intact checkpoint: {fix}")
    return found[0]


def restored_for_use(path: Path, abstract: dict[str, Any], averaged: bool) -> State:
    """The model's state, without the optimizer state, in the newest intact checkpoint. InputError as in `restored`.

    abstract: shapes and dtypes of the run's items. averaged: whether the run has moving averages of the parameters,
    which are restored too.
    """

    def parts(state: State) -> Any:
        averages = {"opt_state": {"params": state.params}} if averaged else {}
        return {"step": state.step, "params": state.params, "extra": state.extra, **averages}

    items = {"state": parts(abstract["state"])}
    if kept := abstract.get("kept"):
        items["kept"] = kept._replace(state=parts(kept.state))
    found = restored(path, items, skip=("state/opt_state/", "kept/state/opt_state/"))
    state = _kept(found) if kept else found["state"]
    opt_state = Averaged((), state.pop("opt_state")["params"]) if averaged else ()
    return State(**state, opt_state=opt_state)


def described(
    path: Path, experiment: ModuleType | Experiment | None, fields: dict[str, Any]
) -> tuple[dict[str, Any], Experiment, Config, Info]:
    """Contents of config.json, and the experiment, configuration and data properties that it describes.

    Arguments and errors are those of `load`. An Optax transformation that is not passed is `optax.identity()`.
    """
    saved = directory.read(path / "config.json")
    for name, value in fields.items():
        if optimizers.fingerprint(value) != saved["config"].get(name):
            raise InputError(f"{path} was trained with another {name}; pass the same one, or none")
    info = directory.info_of(saved)
    build: Build
    if isinstance(experiment, Experiment):
        known = experiment
        build, config = lambda *_: known, configs.from_json(Config, saved["config"])
    else:
        module, config = recorded_experiment(path, saved, experiment)
        build = module.build
    config = dataclasses.replace(config, **fields)
    with _model_of(path):
        return saved, built(config, build, info), config, info


@contextmanager
def _model_of(path: Path) -> Iterator[None]:
    """InputError for a configuration from which no model can be built."""
    try:
        yield
    except (*DAMAGED, IndexError) as error:
        raise InputError(f"{path}: its config.json describes no model: {first_line(error)}") from None


def load_finished(
    path: str | Path, module: ModuleType | None = None, known: Dataset | None = None
) -> tuple[Trained, Dataset, dict[str, Any], str]:
    """Model (of all seeds), data, result and title of a finished run; model and data in model units.

    known: the data, if it is loaded already. InputError for a run that is not finished, and for data that is missing or
    has changed.
    """
    path = Path(path)
    saved = directory.read(path / "config.json")
    module, config = recorded_experiment(path, saved, module)
    if known is None:
        _require_data(path, saved)
    require_finished(path, saved)
    result = results.read(path)
    found = dataset(path, saved) if known is None else known
    model = dataclasses.replace(load(path, module), scale=None)
    return model, found, result, title(saved["experiment"], config)


def require_finished(path: Path, saved: dict[str, Any]) -> None:
    """Raise InputError for a run that is not finished."""
    if not (path / "result.json").exists():
        command = saved["command"] and f"{saved['command']} --workdir {shlex.quote(str(path))}"
        again = command or f"the same call of jaxae.fit with workdir={str(path)!r}"
        raise InputError(f"{path} is not finished: {again} resumes it")


def _require_data(path: Path, saved: dict[str, Any]) -> None:
    """Raise InputError for a run on an array, which its directory does not hold."""
    if saved["config"].get("data") == data.ARRAY:
        raise InputError(
            f"{path} was trained on an array, which the run directory does not hold; train on a .npy file, since this "
            "command needs the data"
        )


def same_data(paths: Sequence[Path]) -> tuple[list[dict[str, Any]], Dataset]:
    """Contents of the config.json of each run, and their common data. InputError for runs on different data."""
    saved = [directory.read(path / "config.json") for path in paths]
    for path, about in zip(paths, saved, strict=True):
        if about["data"]["fingerprint"] != saved[0]["data"]["fingerprint"]:
            raise InputError(
                f"{path}: its data differ from those of {paths[0]}; use runs with the same --data and --binarize"
            )
    return saved, dataset(paths[0], saved[0])


def dataset(path: Path, saved: dict[str, Any]) -> Dataset:
    """Load the data of a run, of shards a sample. InputError for data that is missing or has changed."""
    _require_data(path, saved)
    found = data.loaded(options_of(saved), *(saved["config"][name] for name in ("data_dir", "manual_dir")))
    if found.fingerprint() != saved["data"]["fingerprint"]:
        raise InputError(f"{path}: its data, {saved['config']['data']}, has changed since; restore it")
    return found.shown


def options_of(saved: dict[str, Any]) -> Options:
    """How the data of a config.json were read, including their kind and sample rate."""
    fields = {field.name: configs.plain(saved["config"][field.name]) for field in dataclasses.fields(Options)}
    found = {name: saved["data"][name] for name in ("kind", "sample_rate") if name in saved["data"]}
    return Options(**{**fields, **found})


def recorded_experiment(
    path: Path, saved: dict[str, Any], module: ModuleType | None = None
) -> tuple[ModuleType, Config]:
    """Module and configuration of a config.json. InputError for a module outside the package, unless it is passed."""
    name = saved["experiment"]
    if module is None:
        if name not in names():
            if saved.get("program"):
                raise InputError(f"{path} was trained as a jaxae.Experiment, {name}; pass it to jaxae.load")
            raise InputError(
                f"{path} was trained by {name}, which is not in jaxae.experiments; pass its module, jaxae.load(path, "
                "module), or module=NAME on the command line"
            )
        module = find(name)
    return module, configs.from_json(module.Config, saved["config"])
