"""`fit`: train an experiment on arrays, files or data sets, from Python."""

import dataclasses
import difflib
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxae import data as sources
from jaxae.core.experiment import Experiment
from jaxae.data import Dataset, binary, covariates
from jaxae.devices.plan import platform_error
from jaxae.errors import InputError, Interrupted
from jaxae.run import config as configs
from jaxae.run import directory, loop
from jaxae.run.build import Build
from jaxae.run.config import Config
from jaxae.run.execute import planned, train
from jaxae.run.find import find, name_of
from jaxae.run.fingerprint import fingerprint
from jaxae.run.progress import NoProgress, Progress, say
from jaxae.run.read import load
from jaxae.run.save import saver
from jaxae.run.warm_start import initial
from jaxae.training import epoch, records, selection
from jaxae.training.trained import Trained

OPTIMIZER_FIELDS = ("lr", "schedule", "warmup_steps", "eps", "weight_decay", "clip")
PROCESS_FIELDS = ("coordinator", "num_processes", "process_id", "heartbeat", "patience")
# Fields of the run directory.
RUN_FIELDS = ("log_likelihood_samples", *(field.name for field in dataclasses.fields(configs.Output)))
# Options for reading arrays.
OF_ARRAYS = (
    "y",
    *(field.name for field in dataclasses.fields(sources.Options) if field.name not in ("data", "binarize")),
)
ALIASES = {"learning_rate": "lr", "random_state": "seed", "max_iter": "epochs"}  # name elsewhere -> field
HINTS = {
    "optimizer": ", or an Optax transformation, such as optax.adam(1e-3)",
    "lr": "; pass a schedule to an optimizer, as in optimizer=optax.adam(schedule)",
}


class Source(NamedTuple):
    """An experiment: its name, `Config` class and `build` function."""

    name: str
    config: type[Config]
    build: Build
    program: str = ""  # of an `Experiment`: a hash of its computation


def fit(
    experiment: ModuleType | str | Experiment,
    data: Any,
    *,
    y: Any = None,
    context: Any = None,
    test: Any = None,
    valid: Any = None,
    workdir: str | Path | None = None,
    progress: bool = True,
    figures: bool | None = None,
    seeds: int = 1,
    **fields: Any,
) -> Trained:
    """Train an experiment, and return the trained model.

    experiment: a module with `Config` and `build` (such as `jaxae.experiments.vae`), its name ("vae"), or an
    `Experiment`.
    data: an array, a data frame, a `Dataset`, a path, or the name of a data set. Images are [N, H, W] or [N, H, W, C],
    of bytes, floats in [0, 1], or any numbers; a table is [N, D]; for an experiment for sequences, series are [N, T] or
    [N, T, D]. NaN marks a missing entry. Fields: kind, scale.
    test: a path with the test examples; a fraction or a number of examples to hold out; or 0 for the training examples.
    For an array it may be an array, or the name of a data set with a test split. Default: that of the source, or a
    tenth. valid: the validation examples, likewise, for the fields keep ("best": return the model of the epoch with the
    smallest validation loss) and stop_after.
    y, context: classes and covariates of an array, as in `jaxae.data.from_arrays`; context may name columns of a table.
    workdir: a run directory, with everything that the command line writes there; a run in it is resumed. Without one
    nothing is written.
    progress: show a bar, or a line per epoch. figures: draw pictures and report.html into the workdir (default: yes).
    seeds: train this many seeds in one program; every method of the result then has a leading axis of seeds.
    fields: fields of the experiment's `Config`, such as epochs, batch_size, lr, schedule, warmup_steps, ema, seed,
    init_from and latent; `jaxae vae --help` explains all of them. `optimizer` may be an Optax transformation, which
    config.json records by a hash; a run has ceil(epochs * training examples / batch_size) steps. An `Experiment` has an
    optimizer of its own. For a diverged run, `replay` names the first non-finite value. An interruption (Ctrl-C) ends
    training after the current dispatch; the model so far is returned. After training, while results are measured and
    figures drawn, it raises KeyboardInterrupt; the same call completes the run.
    TypeError for an unknown field; ValueError for invalid arguments and for a field without effect in this call;
    errors.Diverged for a non-finite number; OSError if the workdir cannot be written.
    """
    if trouble := platform_error():
        raise InputError(trouble)
    if context is not None and isinstance(data, str | Path):
        if not isinstance(context, str | list | tuple):
            raise TypeError("context must name columns if data is a path; put arrays into the .npz, as context=...")
        fields["context"], context = context, None
    seeds = configs.plain(seeds)
    if type(seeds) is not int:
        raise TypeError(f"seeds={seeds!r} must be an int")
    if figures not in (None, True, False):
        raise TypeError(f"figures={figures!r} must be a bool")
    if workdir is not None and not isinstance(workdir, str | Path):
        raise TypeError(f"workdir={workdir!r} must be a path")
    source = _source(experiment)
    fields = _checked(source.config, fields)
    arrays = {name: "..." for name, part in (("y", y), ("context", context)) if part is not None}
    _check_effect(experiment, data, workdir, figures, {**fields, **arrays})
    dataset, named = _dataset(source.config, data, (y, context), test, valid, fields, progress)
    drawn = figures is not False and workdir is not None
    fixed = {**named, "seeds": seeds, "workdir": str(workdir or ""), "figures": "all" if drawn else "none"}
    config = source.config(**{**fields, **fixed})
    count = len(dataset.train.x)
    if config.batch_size > count:
        _say(progress, f"batch_size={config.batch_size} exceeds the training split; using {count}")
        config = dataclasses.replace(config, batch_size=count)
    if isinstance(experiment, Experiment):
        source = source._replace(program=fingerprint(config, source.build, dataset))
    with _interruptible() as stop:
        if workdir is None:
            return _in_memory(source, config, dataset, stop, progress)
        try:
            train(config, source.build, source.name, stop, known=dataset, progress=progress, program=source.program)
        except Interrupted:
            say("interrupted: returning the model so far; the same call resumes")
    objects: dict[str, Any] = {"optimizer": config.optimizer} if not isinstance(config.optimizer, str) else {}
    return load(workdir, None if isinstance(experiment, str) else experiment, **objects)


def _in_memory(source: Source, config: Config, dataset: Dataset, stop: loop.Stop, progress: bool) -> Trained:
    experiment, plan = planned(config, source.build, dataset)
    last = epoch.first_step(config.epochs, len(dataset.train.x), config.batch_size)
    start = initial(config, experiment, dataset)
    snapshots = loop.configured(experiment, dataset, config, plan, initial=start)
    history: list[records.Record] = []
    step, seconds, examples, kept = 0, 0.0, 0, None
    with Progress(config.epochs, last, 0, sources.words(dataset.kind).examples) if progress else NoProgress() as shown:
        for now in snapshots:
            if now.seconds:
                seconds, examples = seconds + now.seconds, examples + (now.step - step) * config.batch_size
            step, rate = now.step, config.seeds * examples / seconds if seconds else 0.0
            if config.selection.needs_validation and kept is None:
                kept = selection.init(now.state)
            if now.test is None:
                shown.update(now.epoch, step, float(np.mean(now.train["loss"])), rate)
            else:
                measured = {"train": now.train, "test": now.test, "valid": now.valid}
                lines = [records.record(now.epoch, step, name, of) for name, of in measured.items() if of is not None]
                history += lines
                shown.epoch(lines, rate)
                if kept and now.valid is not None:
                    kept = selection.update(kept, now.state, now.epoch, now.valid["loss"], config.selection)
            if kept and kept.stopped.all():
                break
            if stop(_nothing) and step < last:
                say(f"interrupted at step {step} of {last}: returning the model so far")
                break
    state, totals = jax.device_get((now.state, now.totals))
    about = directory.describe(config, source.name, dataset, source.program)
    save = saver(config, about, totals, *((state, kept) if kept else ()))
    if kept and kept.epoch.all():
        state = kept.state
        _say(progress, selection.described(kept, config.epochs, config.selection))
    units = (dataset.scale, dataset.real, dataset.from_bytes, dataset.conditions, dataset.features)
    return Trained(experiment, state, dataset.shape, loop.seeds_of(config), history, save, *units)


def _nothing() -> None:
    """Without a run directory there is nothing to save."""


def _source(experiment: ModuleType | str | Experiment) -> Source:
    if isinstance(experiment, Experiment):
        known = experiment
        return Source(type(known.model).__name__, Config, lambda *_: known)
    if isinstance(experiment, str):
        experiment = find(experiment)
    if not (hasattr(experiment, "Config") and hasattr(experiment, "build")):
        raise TypeError(
            f"experiment has type {type(experiment).__name__}; pass a name, a module or a jaxae.Experiment; for a Flax "
            "module, jaxae.Experiment(model, jaxae.descend(loss, optimizer), loss)"
        )
    return Source(name_of(experiment), experiment.Config, experiment.build)


def _checked(kind: type[Config], fields: dict[str, Any]) -> dict[str, Any]:
    """The fields with lists as tuples. TypeError for an unknown field, or a value of another type."""
    hints = configs.hints_of(kind)
    for name in fields:
        if name not in hints:
            near = [ALIASES[name]] if name in ALIASES else difflib.get_close_matches(name, hints, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(hints)}"
            raise TypeError(f"{name} is not a field of {kind.__module__}.Config: {hint}")
    plain = {name: configs.plain(value) for name, value in fields.items()}
    plain |= {name: (v,) for name, v in plain.items() if hints[name] == tuple[str, ...] and isinstance(v, str)}
    for name, value in plain.items():
        if not configs.fits(value, hints[name]) and not (name == "optimizer" and hasattr(value, "update")):
            hint = HINTS.get(name, "") if callable(value) or name == "optimizer" else ""
            raise TypeError(f"{name}={value!r} must be {configs.spelled(hints[name])}{hint}")
    return plain


def _check_effect(
    experiment: ModuleType | str | Experiment, data: Any, workdir: Any, figures: bool | None, fields: dict[str, Any]
) -> None:
    """Raise ValueError for a field that has no effect in this call."""
    given = {**fields, "figures": figures} if figures else fields
    own = isinstance(experiment, Experiment)
    custom = own or not isinstance(fields.get("optimizer", ""), str)
    for applies, names, why in (
        (
            True,
            ("patience",),
            "in fit, where it is a timeout between processes; for early stopping use stop_after",
        ),
        (True, PROCESS_FIELDS, "in fit, which trains in one process; omit it, or use the command line"),
        (True, ("summary",), "in fit; omit it, and call jaxae.run.layer_tables(config, build)"),
        (workdir is None, RUN_FIELDS, "without a run directory; omit it, or pass workdir="),
        (figures is False, ("picture_every",), "with figures=False; omit one of them"),
        (not isinstance(data, str | Path), ("data_dir", "manual_dir"), "with an array or a Dataset; omit it"),
        (isinstance(data, str | Path), ("y",), "with a path, which has classes of its own; omit it (see target)"),
        (isinstance(data, Dataset), OF_ARRAYS, "on a Dataset; pass it to jaxae.data.load or jaxae.data.from_arrays"),
        (own, ("optimizer", "precision"), "with a custom optimizer; omit it"),
        (custom, OPTIMIZER_FIELDS, "with a custom optimizer; omit it"),
    ):
        for name in names:
            if applies and name in given:
                raise ValueError(f"{name}={given[name]} has no effect {why}")


def _dataset(
    config: type[Config], data: Any, of: tuple[Any, Any], test: Any, valid: Any, fields: dict[str, Any], progress: bool
) -> tuple[Dataset, dict[str, Any]]:
    """The data, and how config.json names it and its splits."""
    options = config(**{f.name: fields[f.name] for f in dataclasses.fields(sources.Options) if f.name in fields})
    folders = (fields.get("data_dir", ""), fields.get("manual_dir", ""))
    parts = {"test": test, "valid": valid}
    if isinstance(data, str | Path):
        for name, part in parts.items():
            if np.ndim(part):
                raise ValueError(f"{name}= is an array, but data is a path; pass a path, a fraction or a number")
        named: dict[str, Any] = {"data": str(data), **{n: str(p) for n, p in parts.items() if p is not None}}
        found = sources.loaded(dataclasses.replace(options, **named), *folders)
        _say(progress, f"{data}: {sources.summary(found)}")
        return found, named
    if isinstance(data, Dataset):
        if test is not None or valid is not None:
            raise ValueError("test= and valid= are for arrays and paths; a Dataset has its own splits")
        return binary.binarize(data, options.binarize), {"data": sources.ARRAY}
    for name, part in [*parts.items()]:
        if isinstance(part, str | Path):
            there = sources.examples(dataclasses.replace(options, data=str(part)), *folders, classes=True)
            parts |= there.arguments(name, *(given is not None for given in of))
    found = sources.from_arrays(data, of[0], context=of[1], **parts, options=options)
    held = " (a tenth held out as the test split; see test=)" if test is None and found.test is not found.train else ""
    _say(progress, sources.summary(found) + held)
    return found, {"data": sources.ARRAY, "context": tuple(covariates.categories(found.covariates))}


@contextmanager
def _interruptible() -> Iterator[loop.Stop]:
    """Yield a function that returns whether Ctrl-C was pressed. Works in the main thread only.

    A second Ctrl-C raises KeyboardInterrupt. A call with None, after training, restores the previous handler.
    """
    pressed = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.default_int_handler(number, frame)
        pressed = True

    def stop(save: Callable[[], None] | None) -> bool:
        if save is None:
            signal.signal(signal.SIGINT, before)
            if pressed:
                raise Interrupted
        return pressed

    if threading.current_thread() is not threading.main_thread():
        yield loop.never
        return
    before = signal.signal(signal.SIGINT, handle)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _say(progress: bool, line: str) -> None:
    if progress:
        say(line)
