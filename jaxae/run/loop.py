"""The command line's loop around `iterate`: metrics, checkpoints, progress, pictures, signals."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np

from jaxae.core.batch import UNSPLIT, Layout
from jaxae.core.experiment import Experiment
from jaxae.core.types import Info, State
from jaxae.data import Dataset, words
from jaxae.devices.plan import Plan
from jaxae.errors import Diverged, Interrupted
from jaxae.run import diverged
from jaxae.run.config import Config
from jaxae.run.progress import NoProgress, Progress
from jaxae.run.tracking import Trackers
from jaxae.training import epoch, records, selection
from jaxae.training.checkpoint import Checkpoints, NoCheckpoints
from jaxae.training.epoch import Totals
from jaxae.training.iterate import Compiler, Snapshot, iterate
from jaxae.training.records import Record
from jaxae.training.selection import SelectionState
from jaxae.training.start import Initial, shapes, start

# Values of a checkpoint besides arrays: bytes of metrics.jsonl, total seconds, seconds and images of training.
NEW: dict[str, Any] = {"size": 0, "wall": 0.0, "seconds": 0.0, "images": 0}

Stop: TypeAlias = Callable[[Callable[[], None] | None], bool]  # like signals.Stop


def never(save: Callable[[], None] | None) -> bool:  # noqa: ARG001
    """The default `stop`: never."""
    return False


class Outcome(NamedTuple):
    """Result of training, on the host."""

    state: State  # the one that is kept
    wall_seconds: float
    images_per_second: float  # examples of any kind, without compilation
    kept: SelectionState | None = None  # if `config.selection` validates


def train(
    experiment: Experiment,
    config: Config,
    data: Dataset,
    plan: Plan,
    workdir: Path,
    stop: Stop = never,
    draw: Callable[[State, int, Trackers], None] | None = None,
    compiler: Compiler | None = None,
    progress: bool = True,
    initial: Callable[[], Initial | None] = lambda: None,
    track: Callable[[int, Sequence[Record]], Trackers] | None = None,
) -> Outcome:
    """Train from the newest checkpoint in `workdir`, or from the start, to the last epoch.

    Adds to metrics.jsonl and checkpoints/. Raises Diverged for a non-finite number, Interrupted if `stop`
    returns True (the same call then resumes bit for bit), and OSError if the disk is full or the directory lost. With
    several processes, only the main one reads and writes.
    stop: called after every dispatch with a function that saves a checkpoint, and with None after the last save.
    draw: draws a state, every `config.picture_every` steps, after epochs 1, 2, 5, 10, 20, 50, ..., and the last.
    compiler: see `iterate`. progress: show a bar, or a line per epoch. initial: parameters to start from; called if
    there is no checkpoint. track: opens the trackers of a run that starts at a step, with its lines of metrics.jsonl.
    """
    began, processes = time.monotonic(), plan.processes
    writes, seeds = processes.is_main_process, seeds_of(config)
    last = epoch.first_step(config.epochs, len(data.train.x), config.batch_size)
    metrics_file = workdir / "metrics.jsonl"
    with Checkpoints(workdir / "checkpoints") if writes else NoCheckpoints() as checkpoints:
        shapes_of = cache(partial(abstract, experiment, config, data.info))
        restored = None
        if isinstance(checkpoints, Checkpoints) and not checkpoints.empty:
            restored = checkpoints.restore(shapes_of())
        if processes.broadcast_json(restored is not None):  # by the main process; the others receive its arrays
            items, meta = restored or (jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes_of()), NEW)
        else:
            new = start(experiment, data.info, config.batch_size, seeds, initial=initial(), plan=plan)
            kept = selection.init(processes.gather(new[0])) if config.selection.needs_validation else None
            items, meta = as_items(*new, kept), NEW
        if writes:
            records.truncate(metrics_file, meta["size"])
        meta, lines = processes.broadcast_json([meta, records.read(metrics_file) if writes else []])
        items = processes.broadcast_tree(items)
        state, totals, kept = items["state"], items["totals"], items.get("kept")
        step = int(np.ravel(state.step)[0])
        wall, seconds, images = meta["wall"] - began, meta["seconds"], meta["images"]

        def rate() -> float:
            return images / seconds if seconds else 0.0

        def ended() -> bool:
            return step == last or (kept is not None and bool(kept.stopped.all()))

        def pause(due: bool) -> None:
            """Save a checkpoint if one is due, and stop if requested."""
            meta = {
                "size": metrics_file.stat().st_size if writes else 0,
                "wall": wall + time.monotonic(),
                "seconds": seconds,
                "images": images,
            }
            items = as_items(state, totals, kept)
            save = partial(checkpoints.save, step, meta=meta)
            stopping = processes.maximum(float(stop(partial(save, items, wait=True)))) > 0
            if due or stopping:
                save(processes.gather(items), wait=stopping or ended())  # before the stop is reported
            if stopping:
                processes.shutdown()
                raise Interrupted

        def write(epoch: int, split: str, metrics: dict[str, Any]) -> None:
            lines.append(records.record(epoch, step, split, metrics))
            if writes:
                records.append(metrics_file, lines[-1])

        save_every = config.checkpoint_every if config.checkpoint_unit == "steps" else 0
        resume, every = (state, totals), (config.picture_every, save_every)
        options: dict[str, Any] = {"resume": resume, "every": every, "compiler": compiler}
        stopped = kept is not None and kept.stopped.all()
        snapshots = iter(()) if stopped else configured(experiment, data, config, plan, **options)
        trackers = track(step, lines) if track and writes else None
        with (
            Progress(config.epochs, last, step, words(data.kind).examples)
            if writes and progress
            else NoProgress() as shown,
            saving_diverged_step(workdir, writes),
        ):
            for now in snapshots:
                if now.seconds:
                    seconds += now.seconds
                    images += (now.step - step) * config.batch_size * config.seeds
                step, state, totals = now.step, now.state, now.totals
                if now.test is None:
                    shown.update(now.epoch, step, float(np.mean(now.train["loss"])), rate())
                    if draw and (step == last or picture_due(config, now.epoch, step, now.done)):
                        complete = processes.gather(state)
                        if trackers:
                            draw(jax.device_get(complete), step, trackers)
                    if now.done:
                        write(now.epoch, "train", now.train)
                    pause(not now.done and save_every > 0 and step % save_every == 0)
                else:
                    write(now.epoch, "test", now.test)
                    if now.valid is not None:
                        write(now.epoch, "valid", now.valid)
                    measured = [line for line in lines[-3:] if line["epoch"] == now.epoch]
                    shown.epoch(measured, rate())
                    if trackers:
                        trackers.metrics(measured)
                    if kept is not None and now.valid is not None:
                        kept = selection.update(
                            kept, processes.gather(state), now.epoch, now.valid["loss"], config.selection
                        )
                    finished = step if save_every else now.epoch
                    pause(finished % config.checkpoint_every == 0 or ended())
                    if ended():
                        break
        stop(None)
        final = jax.device_get(processes.gather(kept.state if kept else state))
        return Outcome(final, wall + time.monotonic(), rate(), kept)


def configured(experiment: Experiment, data: Dataset, config: Config, plan: Plan, **options: Any) -> Iterator[Snapshot]:
    """`iterate` with the fields of a configuration. options: other arguments of `iterate`."""
    return iterate(
        experiment,
        data,
        epochs=config.epochs,
        batch_size=config.batch_size,
        seed=config.seed,
        seeds=config.seeds,
        plan=plan,
        data_limit=config.device_data_limit * 2**30,
        **options,
    )


def picture_due(config: Config, epoch: int, step: int, done: bool) -> bool:
    """Whether a picture is due after this step, for any number of epochs. done: whether the step ends the epoch."""
    chosen = done and str(epoch).rstrip("0") in ("1", "2", "5")
    return chosen or (config.picture_every > 0 and step % config.picture_every == 0)


@contextmanager
def saving_diverged_step(workdir: Path, writes: bool) -> Iterator[None]:
    """Save the inputs of a diverged step into `diverged/`."""
    try:
        yield
    except Diverged as error:
        if writes:
            diverged.save(workdir, error)
        raise


def seeds_of(config: Config) -> range:
    """The seeds of a run."""
    return range(config.seed, config.seed + config.seeds)


def as_items(state: State, totals: Totals, kept: SelectionState | None = None) -> dict[str, Any]:
    """State, totals and the kept state, if any, as a checkpoint names them."""
    return {"state": state, "totals": totals, **({"kept": kept} if kept is not None else {})}


def abstract(experiment: Experiment, config: Config, info: Info, layout: Layout = UNSPLIT) -> dict[str, Any]:
    """Shapes and dtypes of the arrays in a checkpoint."""
    new = shapes(experiment, info, config.batch_size, seeds_of(config), layout)
    kept = selection.shapes(new[0]) if config.selection.needs_validation else None
    return as_items(new[0], new[1], kept)
