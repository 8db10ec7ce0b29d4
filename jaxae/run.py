"""A run: from the command line to a directory full of results, and back to a model.

An experiment script is a docstring, a `Config`, a `build(config, info)`, and `main(Config, build)`.
"""

import importlib
import importlib.metadata
import importlib.util
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxae import config as configs
from jaxae import data, figures, log, loop, parallel, report, results
from jaxae.checkpoint import Checkpoints
from jaxae.config import Config as Config
from jaxae.data import Info as Info
from jaxae.errors import Diverged, InputError
from jaxae.experiment import Experiment as Experiment
from jaxae.experiment import Model, reads_masks
from jaxae.types import State

Build = Callable[[Any, Info], Experiment]  # (config, what is known of the data) -> experiment
OURS = ("metrics.jsonl", "result.json", "report.html", "checkpoints", "tensorboard", "figures", "config.json")


def main(kind: type[Config], build: Build, argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line, and exit.

    0: done. 2: bad input. 3: diverged. 128 + signal: stopped by SIGINT or SIGTERM, its last step saved.
    """
    logging.basicConfig(format="%(message)s")
    logging.getLogger("jaxae").setLevel(logging.INFO)
    module = sys.modules[build.__module__]
    name = module.__spec__.name if module.__spec__ else Path(module.__file__ or "experiment").stem
    with _signals() as stop:
        try:
            config = configs.parse(kind, module.__doc__ or "", argv)
            print(layers(config, build) if config.summary else results.summary(train(config, build, name, stop)))
            code = 0
        except InputError as error:
            print(f"error: {error}", file=sys.stderr)
            code = 2
        except Diverged as error:
            print(f"diverged: {error}", file=sys.stderr)
            code = 3
        except loop.Interrupted:
            print("stopped, and saved: the same command goes on from here", file=sys.stderr)
            code = 128 + stop.number
    sys.exit(code)


def train(config: Config, build: Build, name: str, stop: Callable[[], bool] = lambda: False) -> Path:
    """Train, or go on training, and write everything that a run directory holds; the directory.

    name: the module of the experiment. Raises InputError, errors.Diverged and loop.Interrupted.
    """
    workdir = Path(config.workdir or f"runs/{name.split('.')[-1]}-{Path(config.data).stem}")
    dataset = data.load(config.data, config.data_dir, config.manual_dir)
    if len(dataset.train.x) < config.batch_size:
        raise InputError(
            f"--batch-size {config.batch_size}: there are only {len(dataset.train.x)} training examples: take fewer"
        )
    plan = parallel.plan(config.parallel, config.batch_size, config.seeds)
    experiment = checked(config, build, dataset)
    prepare(workdir, config, describe(config, name, dataset))
    if (workdir / "result.json").exists():
        return workdir

    def model(state: State) -> Model:
        return Model(experiment, *_pick(state, config, 0), dataset.shape)

    def picture(state: State, step: int) -> Path:
        return figures.strip(workdir / "figures" / "training", step, model(state), dataset)

    outcome = loop.fit(experiment, config, dataset, plan, workdir, stop, picture)
    lines = log.read(workdir / "metrics.jsonl")
    trained = model(outcome.state)
    title = f"{name.split('.')[-1]} on {Path(config.data).name}"
    paths = figures.draw(workdir / "figures", trained, dataset, lines, title)
    with log.TensorBoard(workdir / "tensorboard", lines[-1]["step"]) as board:
        for path in paths:
            board.picture(path, lines[-1]["step"])
    expected = experiment.expected if configs.documented(config) else {}
    result = results.collect(lines[-1], expected, outcome) | results.measures(trained, dataset)
    report.write(workdir, title, result, paths)
    write_json(workdir / "result.json", result)
    return workdir


def checked(config: Config, build: Build, dataset: data.Dataset) -> Experiment:
    """The experiment. InputError, before anything is written, for a configuration that does not suit the data."""
    experiment = build(config, dataset.info)
    if dataset.train.lengths is not None:
        if not reads_masks(experiment.model):
            raise InputError(f"--data {config.data}: holds sequences, for which there is experiments.sequence")
        if config.picture_every:
            raise InputError(f"--picture-every {config.picture_every}: is for images; --data {config.data} has none")
    loop.abstract(experiment, config, dataset.shape)  # nets see only here what shapes they are given
    return experiment


def load(path: str | Path, module: ModuleType | None = None, seed: int = 0) -> Model:
    """The model of a run directory, from its config.json and newest whole checkpoint.

    module: the experiment's module; needed only for one outside the package `experiments`.
    seed: which one of a run with several, counted from 0.
    InputError for a directory that holds no run, or no whole checkpoint.
    """
    path = Path(path)
    saved = _read_description(path / "config.json")
    name, info = saved["experiment"], Info(tuple(saved["data"]["shape"]), saved["data"]["train"])
    if module is None:
        if not re.fullmatch(r"experiments(\.\w+)+", name) or not importlib.util.find_spec(name):
            raise InputError(f"{path}: was trained by {name}: jaxae.load(run, module) with that module")
        module = importlib.import_module(name)
    config = configs.from_json(module.Config, saved["config"])
    if not 0 <= seed < config.seeds:
        raise InputError(f"{path}: has {config.seeds} seed(s), counted from 0: there is no seed {seed}")
    experiment = module.build(config, info)
    state = loop.abstract(experiment, config, info.shape)["state"]
    restored = None
    if (path / "checkpoints").is_dir():
        with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore({"state": state})
    if restored is None:
        raise InputError(f"{path}: has no whole checkpoint: repeat the command that made it")
    return Model(experiment, *_pick(restored[0]["state"], config, seed), info.shape)


def prepare(workdir: Path, config: Config, description: dict[str, Any]) -> None:
    """Make the run directory, or see that the run in it is this one. InputError if it cannot be used."""
    file = workdir / "config.json"
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file.with_name("config.json.tmp").unlink(missing_ok=True)  # of a run killed as it began
        if file.exists():
            old = _read_description(file)
            if not config.overwrite:
                return _same_run(workdir, old, description)
            for path in (workdir / name for name in OURS):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        elif any(workdir.iterdir()):
            raise InputError(f"--workdir {workdir}: is not empty and holds no run: give another")
        write_json(file, description)
    except OSError as error:
        raise InputError(f"--workdir {workdir}: cannot be written ({error.strerror}): give another") from None


def _read_description(file: Path) -> dict[str, Any]:
    """What `describe` gave. InputError if the file says anything else."""
    if not file.exists():
        raise InputError(f"{file.parent}: holds no run: there is no config.json")
    try:
        saved = json.loads(file.read_text())
        name, fields, about = saved["experiment"], saved["config"], saved["data"]
        if not (isinstance(name, str) and isinstance(fields, dict) and isinstance(about["fingerprint"], str)):
            raise TypeError("wrong types")
        if not all(type(size) is int and size > 0 for size in (*about["shape"], about["train"])):
            raise TypeError("wrong shape")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: describes no run ({error!r}): give another directory") from None
    return saved


def _same_run(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    differ = configs.differences(old["config"], new["config"])
    if old["experiment"] != new["experiment"]:
        differ = f"{old['experiment']} there, {new['experiment']} here"
    elif not differ and old["data"]["fingerprint"] != new["data"]["fingerprint"]:
        differ = "the data itself has changed"
    if differ:
        raise InputError(
            f"--workdir {workdir} holds another run: {differ}; give another --workdir, or --overwrite to start again"
        )


def describe(config: Config, name: str, dataset: data.Dataset) -> dict[str, Any]:
    """What `config.json` holds: all that is needed to do the run again."""
    packages = ("jaxae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    devices = jax.devices()
    return {
        "experiment": name,
        "config": configs.to_json(config),
        "versions": {"python": sys.version.split()[0], **{p: importlib.metadata.version(p) for p in packages}},
        "device": {
            "kind": devices[0].device_kind,
            "platform": devices[0].platform,
            "count": len(devices),
            "cores": os.cpu_count(),
        },
        "git": _commit(),
        "data": {
            "fingerprint": dataset.fingerprint(),
            "shape": list(dataset.shape),
            "train": len(dataset.train.x),
            "test": len(dataset.test.x),
            "classes": list(dataset.classes),
        },
    }


def layers(config: Config, build: Build) -> str:
    """The layers of encoder, decoder and the whole, as tables: name, output shape, parameters."""
    dataset = data.load(config.data, config.data_dir, config.manual_dir)
    model = checked(config, build, dataset).model
    key, x = jax.random.key(0), jnp.zeros((1, *dataset.shape))
    z = jnp.zeros(jax.eval_shape(lambda: model.init_with_output(key, x, method="encode"))[0].shape)
    wide = {"width": 160, "force_terminal": False, "no_color": True}
    tables = {"encoder": (x, "encode"), "decoder": (z, "decode"), "end to end": (x, "__call__")}
    return "\n".join(
        f"{name}\n{nn.tabulate(model, key, console_kwargs=wide)(argument, method=method)}"
        for name, (argument, method) in tables.items()
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that the file is old or new, never half."""
    partial = path.with_name(path.name + ".tmp")
    partial.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    partial.replace(path)


def _pick(state: State, config: Config, seed: int) -> tuple[Any, Any]:
    params, extra = state.params, state.extra
    return jax.tree.map(lambda leaf: leaf[seed], (params, extra)) if config.seeds > 1 else (params, extra)


def _commit() -> str | None:
    """The commit of the checkout that this file is in, or None where it is in none (or there is no git)."""
    here = Path(__file__).parent
    ask = ["git", "rev-parse", "--show-toplevel", "HEAD"]
    try:
        found = subprocess.run(ask, cwd=here, capture_output=True, text=True, check=True).stdout.split("\n")
    except (OSError, subprocess.CalledProcessError):
        return None
    return found[1] if Path(found[0]) == here.parent else None


class _Stop:
    """Whether SIGINT or SIGTERM has come. Before this is first asked nothing needs saving: they end the process."""

    def __init__(self) -> None:
        self.number, self.asked = 0, False

    def __call__(self) -> bool:
        self.asked = True
        return self.number > 0

    def handle(self, number: int, _: FrameType | None) -> None:
        if not self.asked:
            sys.exit(128 + number)
        self.number = number
        signal.signal(number, signal.SIG_DFL)
        print("stopping after this step; again to end at once", file=sys.stderr, flush=True)


@contextmanager
def _signals() -> Iterator[_Stop]:
    stop = _Stop()
    old = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
