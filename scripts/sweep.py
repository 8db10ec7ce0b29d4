"""Trains an experiment for every point of a grid: python scripts/sweep.py vae --grid lr=1e-4,1e-3 latent=2,10 --seeds 3

A run directory for each point, a table and a picture of all in --workdir (default: runs/sweep-EXPERIMENT). All other
flags are the experiment's. A field of several numbers takes them in quotes: --grid "hidden=256,500 200". Points that
differ only in numbers that enter the step as arrays (learning rates, weights of a term, noise) share one compiled
program. Repeated, a sweep goes on where it stopped. --shard 2/4 does the second of four shares; in a SLURM job array
each task takes its own (one that is to be done again, alone, needs its --shard). Exit codes are those of an experiment;
a point that diverges is noted, and the others go on.
"""

import argparse
import dataclasses
import fcntl
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import jax
import numpy as np

from jaxae import run
from jaxae.core.batch import Layout, Share
from jaxae.devices import plan as plans
from jaxae.errors import Diverged, InputError, input_errors
from jaxae.report import html
from jaxae.report.figures.base import COLOURS, canvas
from jaxae.report.figures.metrics import order
from jaxae.run import command_line, directory, loop, results
from jaxae.run import config as configs
from jaxae.run.config import Config
from jaxae.run.find import find
from jaxae.training import epoch, records
from jaxae.training.iterate import Compiler, Programs, seeded, start

Point = dict[str, str]  # field -> value, as they were given


class Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def main() -> None:
    run.program(sweep)


def sweep(stop: loop.Stop, argv: Sequence[str] | None = None) -> str:
    """The table of all points that there are."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("experiment", help="its name: vae")
    parser.add_argument("--grid", nargs="+", required=True, metavar="FIELD=A,B", help="values of a field")
    parser.add_argument("--workdir", type=Path, help="default: runs/sweep-EXPERIMENT")
    parser.add_argument("--shard", metavar="I/N", help="default: that of SLURM, or 1/1")
    options, flags = parser.parse_known_args(argv)
    name = options.experiment
    module = find(name)
    points = grid(options.grid)
    workdir = options.workdir or Path(f"runs/sweep-{name}")
    chosen = [configure(module, flags, point, workdir) for point in points]
    with command_line.flags_of(module.Config):
        check(chosen)
        train(module, name, share(chosen, options.shard or slurm(os.environ)), points[0], stop)
    rows = list(zip(points, chosen, strict=True))
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a") as file:  # other shares write it too
        fcntl.flock(file, fcntl.LOCK_EX)
        table = summarize(rows)
        records.write(workdir / "summary.md", f"# {name}\n\n{table}")
        picture(rows, workdir / "summary.png", name)
    return f"{table}\ntable:   {workdir / 'summary.md'}\npicture: {workdir / 'summary.png'}"


def check(points: list[Config]) -> None:
    """InputError, before the first is trained, for points that cannot be a sweep."""
    if len({config.workdir for config in points}) < len(points):
        raise InputError("--grid: two points have the same name: give each value once")
    for config in points:
        if config.coordinator or config.num_processes > 1 or config.summary:
            raise InputError("--coordinator, --num-processes, --summary: are not for sweeps: see --shard")
        file = Path(config.workdir) / "config.json"
        there = directory.read(file)["config"] if file.exists() and not config.overwrite else configs.to_json(config)
        if differ := configs.differences(there, configs.to_json(config)):
            raise InputError(f"{config.workdir}: holds another run: {differ}; give another workdir")


def slurm(environment: Mapping[str, str]) -> str:
    """The share of this task of a SLURM job array; the whole, elsewhere. InputError for an array with gaps."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return "1/1"
    task, first, last, step = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("MIN", 0), ("MAX", 0), ("STEP", 1))
    )
    count = (last - first) // step + 1
    if int(environment.get("SLURM_ARRAY_TASK_COUNT", count)) != count:
        raise InputError("the SLURM job array has gaps: say with --shard I/N which share this task does")
    return f"{(task - first) // step + 1}/{count}"


def grid(given: list[str]) -> list[Point]:
    """Every point. InputError for what is not FIELD=A,B."""
    axes = {}
    for text in given:
        field, _, values = text.partition("=")
        axes[field.replace("-", "_")] = values.split(",")
        if not field or not all(values.split(",")):
            raise InputError(f"--grid {text}: must be FIELD=A,B")
    if len(axes) < len(given):
        raise InputError("--grid: a field is given twice")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def folder(point: Point) -> str:
    """The name of a point's directory."""
    return ",".join(f"{field}={value.replace(' ', '-').replace('/', '_')}" for field, value in point.items())


def configure(module: ModuleType, flags: list[str], point: Point, workdir: Path) -> Config:
    """The configuration of a point. InputError as for the experiment itself."""
    if "workdir" in point:
        raise InputError("--grid workdir: every point has its own")
    truth = {field.name for field in dataclasses.fields(module.Config) if field.type is bool or field.type == "bool"}
    words = []
    for field, value in point.items():
        if field not in truth:
            words += [command_line.flag(field), *value.split()]
        elif value not in ("True", "False"):
            raise InputError(f"--grid {field}={value}: must be True or False")
        elif value == "True":
            words += [command_line.flag(field)]
    argv = [*flags, *words, "--workdir", str(workdir / folder(point))]
    return command_line.parse(module.Config, module.__doc__ or "", argv)


def share(all_of_them: list[Config], shard: str) -> list[Config]:
    """What this shard is to do: every n-th. InputError for what is not I/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard {shard}: must be I/N, from 1/N to N/N")
    return all_of_them[int(found[1]) - 1 :: int(found[2])]


def train(module: ModuleType, name: str, points: list[Config], axes: Point, stop: loop.Stop) -> None:
    """Train all of them; note those that diverge."""
    numbers: dict[Any, tuple[str, ...]] = {}  # by what else there is in a configuration
    shared: dict[Any, Callable[[Config], Compiler]] = {}
    floats = [field for field in axes if points and isinstance(getattr(points[0], field), float)]
    for config in points:
        group = apart(config, floats)
        if group not in numbers:
            numbers[group] = arrays(module, config, floats)
        same = apart(config, numbers[group])
        if same not in shared:
            shared[same] = sharing(module, numbers[group])
        try:
            run.train(config, module.build, name, stop, compiler=shared[same](config))
            note_of(config).unlink(missing_ok=True)
        except Diverged as error:
            stop(None)  # its checkpoints are closed
            print(f"{config.workdir}: diverged: {error}", file=sys.stderr)
            note_of(config).write_text(f"{error}\n")


def apart(config: Config, fields: Sequence[str]) -> tuple[Any, ...]:
    """What a configuration says but for these fields, and where it is."""
    fields = (*fields, "seed", "workdir")
    return tuple(getattr(config, field.name) for field in dataclasses.fields(config) if field.name not in fields)


def arrays(module: ModuleType, config: Config, fields: list[str]) -> tuple[str, ...]:
    """Those of these fields that may enter the step as arrays: nothing is decided by their value before it."""
    dataset = run.loaded(config)

    def state(values: dict[str, jax.Array]) -> Any:
        experiment = run.built(dataclasses.replace(config, **values), module.build, dataset.info)
        return start(experiment, dataset.info, config.batch_size, loop.seeds_of(config))

    def fits(*fields: str) -> bool:
        try:
            with input_errors():
                jax.eval_shape(state, {field: np.float32(1) for field in fields})
        except TypeError:  # JAX's own among them
            return False
        return True

    found = tuple(field for field in fields if fits(field))
    return found if fits(*found) else found[:1]


def sharing(module: ModuleType, numbers: tuple[str, ...]) -> Callable[[Config], Compiler]:
    """Compilers, one per configuration, that compile once for all configurations that differ in these numbers alone."""
    shared: list[Programs] = []

    def of(config: Config) -> Compiler:
        values = {name: np.float32(getattr(config, name)) for name in numbers}

        def compiler(
            _: run.Experiment, info: run.Info, size: int, plan: plans.Plan, training: Any, evaluation: Any
        ) -> Programs:
            def build(values: dict[str, Any]) -> run.Experiment:
                return run.built(dataclasses.replace(config, **values), module.build, info)

            def train(share: Share, layout: Layout) -> Callable[..., Any]:
                def steps(values: dict[str, Any], *args: Any) -> Any:
                    return epoch.train(build(values).train, info.shape, size, share, layout)(*args)

                return steps

            def evaluate(share: Share, layout: Layout) -> Callable[..., Any]:
                def measure(values: dict[str, Any], *args: Any) -> Any:
                    return epoch.evaluate(build(values).evaluate, info.shape, size, share, layout)(*args)

                return measure

            if not shared:
                for_training, for_evaluation = seeded(plan, training)
                shared.append(
                    Programs(
                        plans.compile(train, plan, (False, *for_training), (values, *training)),
                        plans.compile(evaluate, plan, (False, *for_evaluation), (values, *evaluation)),
                    )
                )
            return Programs(*(partial(program, values) for program in shared[0]))

        return compiler

    return of


def summarize(rows: list[tuple[Point, Config]]) -> str:
    """A Markdown table: the test metrics of each point, with deviations where there are several seeds."""
    lines = [finished(config) for _, config in rows]
    metrics = order([line for line in lines if line])
    fields = [*rows[0][0]]
    text = [" | ".join(["", *fields, *metrics, ""]).strip(), "|" + "---|" * (len(fields) + len(metrics))]
    for (point, config), line in zip(rows, lines, strict=True):
        cells = [html.figure(line[name]) if line and name in line else "" for name in metrics]
        if not line and metrics:
            cells[0] = "diverged" if note_of(config).exists() else "not yet"
        text.append(" | ".join(["", *point.values(), *cells, ""]).strip())
    return "\n".join(text) + "\n"


def finished(config: Config) -> records.Record | None:
    """The test metrics of a run; None for one that is not finished."""
    path = Path(config.workdir)
    return results.read(path)["metrics"] if run.complete(path, config) else None


def note_of(config: Config) -> Path:
    """The file that says where a point diverged."""
    return Path(f"{config.workdir}.diverged")


def picture(rows: list[tuple[Point, Config]], path: Path, title: str) -> None:
    """The test loss over the first field, a line for each value of the others, with bars of one standard deviation."""
    (first, *others), done = rows[0][0], [(point, line) for point, config in rows if (line := finished(config))]
    values = list(dict.fromkeys(point[first] for point, _ in rows))
    try:
        places = {text: float(text) for text in values}
    except ValueError:
        places = {text: float(i) for i, text in enumerate(values)}
    figure = canvas(f"{title}: test loss", 6.4, 4.4)
    axis = figure.subplots()
    groups = list(dict.fromkeys(tuple(point[field] for field in others) for point, _ in rows))
    for i, group in enumerate(groups):
        part = [(p[first], line["loss"]) for p, line in done if tuple(p[field] for field in others) == group]
        part = sorted(part, key=lambda pair: places[pair[0]])
        axis.errorbar(
            [places[text] for text, _ in part],
            [records.mean(loss) for _, loss in part],
            [records.std(loss) or 0 for _, loss in part],
            color=COLOURS[i % len(COLOURS)],
            marker="o",
            capsize=3,
            label=", ".join(f"{field} {text}" for field, text in zip(others, group, strict=True)),
        )
    low, high = min(places.values()), max(places.values())
    if low > 0 and high / low >= 10:
        axis.set_xscale("log")
    axis.set_xticks([places[text] for text in values], values)
    axis.minorticks_off()
    axis.set(xlabel=first, ylabel="test loss")
    axis.grid(alpha=0.3)
    if others:
        axis.legend()
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
