"""A run: from the command line to a directory full of results, and back to a model.

An experiment script is a docstring, a `Config`, a `build(config, info)`, and `main(Config, build)`.
"""

import dataclasses
import importlib
import importlib.util
import logging
import math
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax

from jaxae import compiled, data, directory, figures, log, loop, report, results
from jaxae import config as configs
from jaxae.checkpoint import Checkpoints
from jaxae.config import Config as Config
from jaxae.core.batch import Layout
from jaxae.core.experiment import Experiment as Experiment
from jaxae.core.step import binarized
from jaxae.core.types import Info as Info
from jaxae.core.types import State
from jaxae.data import Dataset
from jaxae.devices import plan as plans
from jaxae.devices import processes, signals
from jaxae.devices.processes import ALONE, Processes
from jaxae.errors import DAMAGED, Diverged, InputError, Interrupted, first_line
from jaxae.training import epoch
from jaxae.training.iterate import Compiler
from jaxae.training.trained import Model, layers

Build = Callable[[Any, Info], Experiment]  # (config, what is known of the data) -> experiment


def main(kind: type[Config], build: Build, argv: Sequence[str] | None = None) -> None:
    """Run an experiment from the command line, and exit."""
    module = sys.modules[build.__module__]
    name = module.__spec__.name if module.__spec__ else Path(module.__file__ or "experiment").stem

    together = ALONE

    def work(stop: signals.Stop) -> str:
        nonlocal together
        config = configs.parse(kind, module.__doc__ or "", argv)
        if config.summary:
            return summary(config, build)
        with configs.flags_of(config):
            together = processes.join(
                config.coordinator, config.num_processes, config.process_id, config.heartbeat, config.patience
            )
        stop.patient = together.is_multiprocess
        workdir = train(config, build, name, stop, together)
        return results.summary(workdir) if together.is_main_process else ""

    program(work, lambda: together)


def program(work: Callable[[signals.Stop], str], together: Callable[[], Processes] = lambda: ALONE) -> NoReturn:
    """Do it, print what it gives, and exit; `work` is given what tells it to stop. together: the processes of the run.

    0: done. 1: another process was lost. 2: bad input. 3: diverged. 128 + signal: stopped by SIGINT or SIGTERM, with
    the last step saved.
    """
    logging.basicConfig(format="%(message)s", force=True)
    logging.getLogger("jaxae").setLevel(logging.INFO)
    with signals.stopping() as stop:
        try:
            with compiled.kept():
                said = work(stop)
            with suppress(BrokenPipeError):  # nobody may be listening any more
                print(said, end="\n" if said else "", flush=True)
            together().shutdown()
            code = 0
        except InputError as error:
            print(f"error: {' '.join(str(error).splitlines())}", file=sys.stderr)
            code = 2
        except Diverged as error:
            print(f"diverged: {error}; what was saved before is kept: lower --lr?", file=sys.stderr)
            code = 3
        except Interrupted:
            stop.end()
        except OSError as error:
            signals.cannot_write(error)
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" in str(error):
                said, code = "out of memory: take a smaller --batch-size, fewer --seeds or a smaller net", 2
            elif together().is_multiprocess:
                said, code = f"another process was lost: the same commands go on ({first_line(error)})", 1
            else:
                raise
            print(f"error: {said}", file=sys.stderr)
    if code and together().is_multiprocess:
        together().leave(code)
    sys.exit(code)


def train(
    config: Config,
    build: Build,
    name: str,
    stop: loop.Stop = loop.never,
    together: Processes = ALONE,
    compiler: Compiler | None = None,
) -> Path:
    """Train, or resume, and write everything that a run directory holds; the directory.

    name: the module of the experiment. stop, compiler: see `loop.train`. together: the processes of the run.
    Raises InputError, errors.Diverged, errors.Interrupted, and OSError when the disk is full or the directory lost.
    """
    workdir = Path(config.workdir or f"runs/{name.split('.')[-1]}-{Path(config.data).stem}")
    with together.main_process_first():  # which prepares the data
        dataset = loaded(config)
    if len(dataset.train.x) < config.batch_size:
        raise InputError(
            f"--batch-size {config.batch_size}: there are only {len(dataset.train.x)} training examples: take fewer"
        )
    with configs.flags_of(config):
        plan = plans.plan(
            config.parallel, config.batch_size, config.seeds, None, config.reduction, config.accumulate, together
        )
    # So that what does not go in microbatches is found before anything is written.
    experiment = checked(config, build, dataset, plan.layout._replace(axis=None))
    writes, description = together.is_main_process, directory.describe(config, name, dataset)
    if other := directory.difference(together.broadcast_json(description), description, configs.OWN):
        raise InputError(f"--process-id {config.process_id}: is not in the run of process 0: {other}")
    with directory.alone(workdir) if writes else nullcontext():
        if writes:
            directory.prepare(workdir, config, description)
        if not together.broadcast_json(complete(workdir, config)):
            _fill(workdir, config, experiment, plan, dataset, name, stop, compiler)
    return workdir


def complete(workdir: Path, config: Config) -> bool:
    """Whether a run directory holds everything: the report is written last."""
    last = "report.html" if config.figures == "all" else "result.json"
    return (workdir / last).exists()


def _fill(
    workdir: Path,
    config: Config,
    experiment: Experiment,
    plan: plans.Plan,
    dataset: Dataset,
    name: str,
    stop: loop.Stop,
    compiler: Compiler | None,
) -> None:
    def model(state: State, seed: int = 0) -> Model:
        return Model(experiment, *_pick(state, config, seed), dataset.shape)

    def look(state: State, step: int, board: log.TensorBoard) -> None:
        now = model(state)
        board.picture(figures.strip(workdir / "figures" / "training", step, now, dataset), step, "while_training")
        board.histogram("codes", figures.codes_of(now, dataset, 1000)[0], step)

    draws = config.figures == "all"
    outcome = loop.train(experiment, config, dataset, plan, workdir, stop, look if draws else None, compiler)
    if not plan.processes.is_main_process:
        return
    log.say("trained: now it is measured, and the figures are drawn" if draws else "trained: now it is measured")
    lines = log.read(workdir / "metrics.jsonl")
    trained, *others = (model(outcome.state, seed) for seed in range(config.seeds))
    expected = experiment.expected.get(config.data, {}) if configs.documented(config) else {}
    result = results.collect(lines[-1], expected, outcome) | results.measures(trained, dataset, others)
    directory.write_json(workdir / "result.json", result)
    paths = figures.draw(workdir / "figures", trained, dataset, lines, title(name, config)) if draws else []
    with log.TensorBoard(workdir / "tensorboard", lines[-1]["step"]) as board:
        for path in paths:
            board.picture(path, lines[-1]["step"])
        board.parameters(configs.to_json(config), lines[-1])
    if draws:
        report.write(workdir, title(name, config), trained, dataset, result)


def loaded(config: Config) -> Dataset:
    """The data that the configuration names."""
    with configs.flags_of(config):
        return data.load(config.data, config.data_dir, config.manual_dir, config.binarize)


def built(config: Config, build: Build, info: Info) -> Experiment:
    """The experiment, trained on images that are sampled anew in every step where that is asked for."""
    experiment = build(config, info)
    if config.binarize == "dynamic":
        return dataclasses.replace(experiment, train=binarized(experiment.train))
    return experiment


def checked(config: Config, build: Build, dataset: Dataset, layout: Layout = Layout()) -> Experiment:  # noqa: B008
    """The experiment. InputError, before anything is written, for a configuration that does not suit the data."""
    with configs.flags_of(config):
        experiment = built(config, build, dataset.info)
        if dataset.train.lengths is not None and not experiment.sequences:
            raise InputError(f"--data {config.data}: holds sequences, and this experiment takes none")
        # Nets see only here what shapes they are given.
        state = loop.abstract(experiment, config, dataset.info, layout)
    needed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    if needed > (there := plans.memory()):
        raise InputError(
            f"parameters and optimizer take {needed / 2**30:,.0f} GiB, and there are {there / 2**30:,.0f}: take fewer "
            f"--seeds or a smaller net"
        )
    if epoch.first_step(config.epochs, len(dataset.train.x), config.batch_size) >= 2**31:
        raise InputError(f"--epochs {config.epochs}: more than {2**31} steps: take fewer, or a larger --batch-size")
    return experiment


def title(name: str, config: Config) -> str:
    """What the pictures and the page of a run are called."""
    return f"{name.split('.')[-1]} on {Path(config.data).name}"


def load(path: str | Path, module: ModuleType | None = None, seed: int = 0) -> Model:
    """The model of a run directory, from its config.json and newest whole checkpoint.

    module: the experiment's module; needed only for one outside the package `experiments`.
    seed: which one of a run with several, counted from 0.
    InputError for a directory that holds no run, or no whole checkpoint.
    """
    path = Path(path)
    saved = directory.read(path / "config.json")
    info = Info(tuple(saved["data"]["shape"]), saved["data"]["train"])
    module, config = recorded(path, saved, module)
    if not 0 <= seed < config.seeds:
        raise InputError(f"{path}: has {config.seeds} seed(s), counted from 0: there is no seed {seed}")
    try:
        experiment = module.build(config, info)
        state = loop.abstract(experiment, config, info)["state"]
    except (*DAMAGED, IndexError) as error:
        raise InputError(f"{path}: its config.json describes no model: {first_line(error)}") from None
    restored = None
    if (path / "checkpoints").is_dir():
        with Checkpoints(path / "checkpoints", read_only=True) as checkpoints:
            restored = checkpoints.restore({"state": state})
    if restored is None:
        raise InputError(f"{path}: has no whole checkpoint: repeat the command that made it")
    return Model(experiment, *_pick(restored[0]["state"], config, seed), info.shape)


def finished(
    path: str | Path, module: ModuleType | None = None, known: Dataset | None = None
) -> tuple[Model, Dataset, dict[str, Any], str]:
    """Of a finished run: its model (first seed), its data (or what is known of it already), its result and its title.

    InputError for one that is not finished, and for data that is no longer there or no longer the same.
    """
    path = Path(path)
    saved = directory.read(path / "config.json")
    module, config = recorded(path, saved, module)
    ended(path, saved)
    result = results.read(path)
    found = dataset(path, saved) if known is None else known
    return load(path, module), found, result, title(saved["experiment"], config)


def ended(path: Path, saved: dict[str, Any]) -> None:
    """InputError for a run that is not finished."""
    if not (path / "result.json").exists():
        again = f"{saved['command']} --workdir {shlex.quote(str(path))}"
        raise InputError(f"{path}: is not finished: {again} goes on with it")


def dataset(path: Path, saved: dict[str, Any]) -> Dataset:
    """The data of the run that config.json describes. InputError where it is not, or no longer the same."""
    found = data.load(*(saved["config"][name] for name in ("data", "data_dir", "manual_dir", "binarize")))
    if found.fingerprint() != saved["data"]["fingerprint"]:
        raise InputError(f"{path}: its data, {saved['config']['data']}, has changed since")
    return found


def recorded(path: Path, saved: dict[str, Any], module: ModuleType | None = None) -> tuple[ModuleType, Config]:
    """The module and the configuration that a config.json names. InputError for a module that is not to be imported."""
    name = saved["experiment"]
    if module is None:
        if not re.fullmatch(r"experiments\.[a-z]\w*", name) or not importlib.util.find_spec(name):
            raise InputError(f"{path}: was trained by {name}, which is not in the package experiments: name its module")
        module = importlib.import_module(name)
    return module, configs.from_json(module.Config, saved["config"])


def summary(config: Config, build: Build) -> str:
    """The layers of encoder, decoder and the whole, as tables."""
    dataset = loaded(config)
    return "\n".join(f"{name}\n{t}" for name, t in layers(checked(config, build, dataset).model, dataset.shape).items())


def _pick(state: State, config: Config, seed: int) -> tuple[Any, Any]:
    params, extra = state.params, state.extra
    return jax.tree.map(lambda leaf: leaf[seed], (params, extra)) if config.seeds > 1 else (params, extra)
