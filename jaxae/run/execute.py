"""A run: training, evaluation and the run directory."""

import ctypes
import dataclasses
from collections.abc import Callable, Sequence
from contextlib import ExitStack, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

from jaxae import data
from jaxae.core.batch import UNSPLIT
from jaxae.core.experiment import Experiment
from jaxae.core.types import Info, State
from jaxae.data import Dataset
from jaxae.devices import plan as plans
from jaxae.devices.processes import SINGLE_PROCESS, Processes
from jaxae.errors import InputError, input_errors
from jaxae.measure import measures
from jaxae.report import figures
from jaxae.run import command_line, directory, loop, results, tracking
from jaxae.run import config as configs
from jaxae.run.build import Build, built, title
from jaxae.run.config import Config
from jaxae.run.find import find, names
from jaxae.run.fingerprint import traced
from jaxae.run.progress import say
from jaxae.run.tracking import Trackers
from jaxae.run.warm_start import initial
from jaxae.training import epoch, records, selection
from jaxae.training.iterate import Compiler, require_suitable
from jaxae.training.start import Initial
from jaxae.training.trained import Trained

STRIPS = Path("figures/training")  # pictures drawn during training


def train(
    config: Config,
    build: Build,
    name: str,
    stop: loop.Stop = loop.never,
    processes: Processes = SINGLE_PROCESS,
    compiler: Compiler | None = None,
    known: Dataset | None = None,
    progress: bool = True,
    program: str = "",
) -> Path:
    """Train or resume a run, write its directory, and return the path.

    name: the experiment's name (see `find.name_of`). stop, compiler, progress: see `loop.train`. processes:
    communication with the other processes. known: the data, if it is loaded already. program: see `directory.describe`.
    A default batch size that exceeds the number of training examples becomes that number.
    Raises InputError, errors.Diverged, errors.Interrupted, and OSError when the disk is full or the directory lost.
    """
    workdir = Path(config.workdir or f"runs/{name.removesuffix('.py')}-{data.title(config.data)}")
    with processes.main_process_first():  # which prepares the data
        dataset = loaded(config) if known is None else known
    if (count := len(dataset.train.x)) < config.batch_size:
        text = f"exceeds the {count} training examples"
        if config.batch_size != type(config).batch_size:
            raise InputError(f"batch_size={config.batch_size} {text}; use at most as many")
        if processes.is_main_process and progress:
            say(f"--batch-size {config.batch_size} {text}; using {count}")
        config = dataclasses.replace(config, batch_size=count)
    if processes.is_main_process:
        tracking.require(config.track)
    experiment, plan = planned(config, build, dataset, processes)
    writes, description = processes.is_main_process, directory.describe(config, name, dataset, program)
    if other := directory.difference(processes.broadcast_json(description), description, configs.OWN):
        raise InputError(f"process_id={config.process_id}: differs from process 0: {other}")
    first = cache(partial(initial, config, experiment, dataset))
    with directory.locked(workdir) if writes else nullcontext():
        if writes:
            if config.overwrite or not (workdir / "config.json").exists():
                first()  # raises before anything is written
            directory.prepare(workdir, config, description, _outdated(workdir, config, build, dataset, description))
        if not processes.broadcast_json(complete(workdir, config)):
            if known is None and writes and progress:
                say(f"{config.data}: {data.summary(dataset)}")
            _fill(workdir, config, experiment, plan, dataset, name, stop, compiler, progress, first)
    return workdir


def _outdated(
    workdir: Path, config: Config, build: Build, dataset: Dataset, description: dict[str, Any]
) -> tuple[Path, ...]:
    """Files to delete from the directory of this run with fewer epochs; empty if it holds no such run.

    They are its results, its figures, and the picture of its last step, unless that is due in a longer run too.
    InputError if its steps depend on the number of epochs: then another number gives another run.
    """
    file = workdir / "config.json"
    if config.overwrite or not file.exists():
        return ()
    old = directory.read(file)
    epochs = old["config"].get("epochs")
    longer = {**old, "config": {**old["config"], "epochs": config.epochs}}
    if type(epochs) is not int or epochs >= config.epochs or directory.difference(longer, description):
        return ()
    if traced(config, build, dataset) != traced(dataclasses.replace(config, epochs=epochs), build, dataset):
        raise InputError(
            f"workdir={workdir} holds a run of epochs={epochs} whose schedule depends on the number of epochs: "
            f"it cannot be extended to {config.epochs}; use another workdir, or overwrite=True to start again"
        )
    last = epoch.first_step(epochs, len(dataset.train.x), config.batch_size)
    pictures = [*(workdir / "figures").glob("*.png"), *(workdir / "figures").glob("*.wav")]
    if not loop.picture_due(config, epochs, last, done=True):
        pictures.append(figures.strip_path(workdir / STRIPS, last))
    return (workdir / "report.html", workdir / "result.json", *pictures)


def complete(workdir: Path, config: Config) -> bool:
    """Whether a run directory is complete, including the report, which is written last.

    `jaxae report` writes the report of a run without figures too, so that the pictures must exist as well.
    """
    files = ("figures/loss.png", "report.html") if config.figures == "all" else ("result.json",)
    return all((workdir / file).exists() for file in files)


def _fill(
    workdir: Path,
    config: Config,
    experiment: Experiment,
    plan: plans.Plan,
    dataset: Dataset,
    name: str,
    stop: loop.Stop,
    compiler: Compiler | None,
    progress: bool,
    first: Callable[[], Initial | None],
) -> None:
    shown = dataset.shown

    def draw(state: State, step: int, trackers: Trackers) -> None:
        now = _trained(experiment, state, config, shown)[0]
        if len(shown.shape) > 1:  # rows of a table are not images
            trackers.picture(figures.strip(workdir / STRIPS, step, now, shown), step, "while_training")
        trackers.histogram("codes", figures.codes_of(now, shown, 1000)[0], step)

    draws = config.figures == "all"
    with ExitStack() as stack:
        opened: list[Trackers] = []

        def track(step: int, lines: Sequence[records.Record]) -> Trackers:
            opened.append(stack.enter_context(tracking.opened(workdir, config, step, lines)))
            return opened[0]

        outcome = loop.train(
            experiment,
            config,
            dataset,
            plan,
            workdir,
            stop,
            draw if draws else None,
            compiler,
            progress,
            first,
            track,
        )
        if not plan.processes.is_main_process:
            return
        _release_memory()
        if progress:
            say("training done: evaluating and drawing figures" if draws else "training done: evaluating")
        _finish(experiment, config, shown, workdir, name, outcome, opened[0])


def _finish(
    experiment: Experiment,
    config: Config,
    dataset: Dataset,
    workdir: Path,
    name: str,
    outcome: loop.Outcome,
    trackers: Trackers,
) -> None:
    """Evaluate the trained model, and write result.json, figures and report."""
    lines, draws = records.read(workdir / "metrics.jsonl"), config.figures == "all"
    every = _trained(experiment, outcome.state, config, dataset)
    trained, *others = (every[i] for i in range(config.seeds))
    expected = experiment.expected.get(config.data, {}) if configs.documented(config) else {}
    if outcome.kept:
        say(selection.described(outcome.kept, config.epochs, config.selection))
    tested = selection.final(lines, outcome.kept)
    result = results.collect(tested, expected, outcome) | measures.measures(trained, dataset, others)
    records.write_json(workdir / "result.json", result)
    paths = figures.draw(workdir / "figures", trained, dataset, lines, title(name, config)) if draws else []
    for path in paths:
        trackers.picture(path, lines[-1]["step"])
    trackers.parameters(config, tested)
    if draws:
        results.write_report(workdir, title(name, config), trained, dataset, result)


def _release_memory() -> None:
    """Return memory that training freed to the system: glibc keeps it in its arenas, fragmented."""
    with suppress(AttributeError, OSError):  # other C libraries have no such function
        ctypes.CDLL(None).malloc_trim(0)


def _trained(experiment: Experiment, state: State, config: Config, dataset: Dataset) -> Trained:
    """The model, with examples in model units."""
    seeds, conditions = loop.seeds_of(config), dataset.conditions
    return Trained(experiment, state, dataset.shape, seeds, real=dataset.real, conditions=conditions)


def loaded(config: Config) -> Dataset:
    """Load the data of the configuration. InputError, in terms of flags, for data that cannot be read."""
    with command_line.flags_of(config), input_errors():
        return data.loaded(config, config.data_dir, config.manual_dir)


def planned(
    config: Config, build: Build, dataset: Dataset, processes: Processes = SINGLE_PROCESS
) -> tuple[Experiment, plans.Plan]:
    """The experiment, and the plan for all devices. InputError, before anything is written, as in `checked`."""
    with input_errors():
        plan = plans.plan(
            config.parallel, config.batch_size, config.seeds, None, config.reduction, config.accumulate, processes
        )
    return checked(config, build, dataset, plan), plan


def checked(config: Config, build: Build, dataset: Dataset, plan: plans.Plan | None = None) -> Experiment:
    """The experiment. InputError, before anything is written, for a configuration incompatible with the data.

    plan: the loss must support its microbatches, and the state must fit into the memory of each device.
    """
    with input_errors():
        experiment = built(config, build, dataset.info)
        if dataset.train.observed is not None and not experiment.missing:
            able = ", ".join(_suitable(dataset.info, "missing"))
            raise ValueError(
                f"the data have missing entries; use an experiment that trains on the observed ones: {able}"
            )
        if dataset.info.counts and not experiment.counts:
            able = ", ".join(_suitable(dataset.info, "counts"))
            raise ValueError(f"the data are counts; use kind=table, or an experiment that models them: {able}")
        if config.context and not experiment.conditional:
            able = ", ".join(_suitable(dataset.info, "conditional"))
            raise ValueError(
                f"context={' '.join(config.context)} has no effect: the model is not conditional; use {able}"
            )
        require_suitable(experiment, dataset)
        if config.selection.needs_validation and dataset.valid is None:
            field = f"keep={config.keep}" if config.keep == "best" else f"stop_after={config.stop_after}"
            used = any("the validation split is used as the test split" in note for note in dataset.notes)
            but = ", but that of the data serves as the test split; hold out a test split with test=0.1"
            raise ValueError(f"{field} needs a validation split{but if used else '; hold one out with valid=0.1'}")
        # Tracing raises the errors of nets for wrong shapes, and of losses that do not support microbatches.
        layout = UNSPLIT if plan is None else plan.layout._replace(axis=None)
        state = loop.abstract(experiment, config, dataset.info, layout)
        records.check_names(state["totals"]["sum"])
    needed = plans.bytes_per_device(state, plan, config.seeds > 1)
    if needed > (there := plans.memory()):
        fsdp = "" if config.parallel == "fsdp" else ", or parallel=fsdp on several devices"
        raise InputError(
            f"parameters and optimizer state take {needed / 2**30:,.0f} GiB of {there / 2**30:,.0f}; use fewer "
            f"seeds or a smaller network{fsdp}"
        )
    if epoch.first_step(config.epochs, len(dataset.train.x), config.batch_size) >= 2**31:
        raise InputError(f"epochs={config.epochs}: more than {2**31} steps; use fewer, or a larger batch_size")
    return experiment


def _suitable(info: Info, field: Literal["missing", "counts", "conditional"]) -> list[str]:
    """Experiments that fit these data, and whose `field` is true."""
    found = []
    for name in names():
        module = find(name)
        with suppress(ValueError):
            experiment = module.build(module.Config(), info)
            if getattr(experiment, field) and not (experiment.conditional and info.classes + info.context == 0):
                found.append(name)
    return found
