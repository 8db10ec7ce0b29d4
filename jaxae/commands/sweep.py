"""Train an experiment for every point of a grid.

    jaxae sweep vae --grid lr=1e-4,1e-3 latent=2,10 --seeds 3

Writes a run directory for each point, and a table and a plot of all points, into --workdir. All other flags belong to
the experiment. Quote the values of a field of several numbers: --grid "hidden=256,500 200". Points that differ only in
numbers that enter the step as arrays (learning rates, weights of a term, noise) share one compiled program. Repeating
the command resumes the sweep. --shard 2/4 trains the second of four shards; a task of a SLURM job array trains its own
shard (to repeat one task alone, pass its --shard). A point that diverges is recorded in POINT.diverged, and the sweep
continues. Exit codes: 0 done, even if points diverged; 2 bad input; 128 + signal.
"""

import dataclasses
import fcntl
import itertools
import os
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, NoReturn, TypeVar

import tyro
from tyro.conf import Positional

from jaxae import run
from jaxae.commands._arguments import parsed
from jaxae.errors import Diverged, InputError
from jaxae.report import html
from jaxae.report.figures import front
from jaxae.report.figures.base import COLOURS, canvas
from jaxae.report.figures.metrics import metric_names
from jaxae.run import command_line, directory, loop, results
from jaxae.run import config as configs
from jaxae.run.config import Config
from jaxae.run.find import find
from jaxae.run.program import diverged_line
from jaxae.run.sharing import other_fields, shared_compiler, traceable_fields
from jaxae.training import records
from jaxae.training.iterate import Compiler

T = TypeVar("T")
Point = dict[str, str]  # field -> value, as on the command line


@dataclass(frozen=True, kw_only=True)
class Options:
    """Arguments of `jaxae sweep`, besides the flags of the experiment."""

    experiment: Positional[Annotated[str, tyro.conf.arg(metavar="EXPERIMENT")]]
    """Name of the experiment, such as vae."""
    grid: Annotated[tuple[str, ...], tyro.conf.arg(metavar="FIELD=A,B [FIELD=A,B ...]")]
    """Values of each field; the grid has every combination."""
    workdir: str = ""
    """Directory of all runs. (default: runs/sweep-EXPERIMENT)"""
    shard: Annotated[str, tyro.conf.arg(metavar="I/N")] = ""
    """Shard to train, the I-th of N. (default: that of the SLURM task, or 1/1)"""


def main(argv: Sequence[str]) -> NoReturn:
    """Train all points, print their table, and exit."""
    run.program(lambda stop: sweep(stop, argv))


def sweep(stop: loop.Stop, argv: Sequence[str]) -> str:
    """Train the points of this shard, and return the table of all points."""
    own, flags = split(argv)
    options = parsed(Options, own)
    name = options.experiment
    module = find(name)
    points = grid(options.grid)
    workdir = Path(options.workdir or f"runs/sweep-{name}")
    chosen = [configure(module, flags, point, workdir) for point in points]
    with command_line.flags_of(module.Config):
        check_points(chosen)
        train_points(module, name, points_of_shard(chosen, options.shard or slurm(os.environ)), points[0], stop)
    rows = list(zip(points, chosen, strict=True))
    workdir.mkdir(parents=True, exist_ok=True)
    with (workdir / ".lock").open("a") as file:  # other shards write them too
        fcntl.flock(file, fcntl.LOCK_EX)
        table = summarize(rows)
        records.write(workdir / "summary.md", f"# {name}\n\n{table}")
        picture(rows, workdir / "summary.png", name)
    return f"{table}\ntable:   {workdir / 'summary.md'}\npicture: {workdir / 'summary.png'}"


def split(argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments of the sweep, and those of the experiment: all other flags and their values."""
    known = ("-h", "--help", *(configs.flag(field.name) for field in dataclasses.fields(Options)))
    own: list[str] = []
    others: list[str] = []
    part = own
    for word in argv:
        if word.startswith("--") or word == "-h":
            part = own if word.split("=")[0] in known or word.startswith("--tyro-") else others
        part.append(word)
    return own, others


def check_points(points: list[Config]) -> None:
    """Raise InputError, before training, for two points of one name, unsupported flags, and runs of another sweep."""
    if len({config.workdir for config in points}) < len(points):
        raise InputError("--grid: two points have the same name; give each value once")
    for config in points:
        if config.coordinator or config.num_processes > 1 or config.summary:
            raise InputError("--coordinator, --num-processes and --summary are not for sweeps; use --shard")
        file = Path(config.workdir) / "config.json"
        there = directory.read(file)["config"] if file.exists() and not config.overwrite else configs.to_json(config)
        if differ := configs.differences(there, configs.to_json(config)):
            raise InputError(f"{config.workdir} holds another run: {differ}; use another workdir")


def slurm(environment: Mapping[str, str]) -> str:
    """The shard of this SLURM array task, as I/N; 1/1 outside a job array. InputError for a job array with gaps."""
    if "SLURM_ARRAY_TASK_ID" not in environment:
        return "1/1"
    task, first, last, step = (
        int(environment.get(f"SLURM_ARRAY_TASK_{name}", default))
        for name, default in (("ID", 0), ("MIN", 0), ("MAX", 0), ("STEP", 1))
    )
    count = (last - first) // step + 1
    if int(environment.get("SLURM_ARRAY_TASK_COUNT", count)) != count:
        raise InputError("the SLURM job array has gaps; set --shard I/N for this task")
    return f"{(task - first) // step + 1}/{count}"


def grid(arguments: Sequence[str]) -> list[Point]:
    """All points of the grid. InputError for an argument other than FIELD=A,B."""
    axes = {}
    for text in arguments:
        field, _, values = text.partition("=")
        axes[field.replace("-", "_")] = values.split(",")
        if not field or not all(values.split(",")):
            raise InputError(f"--grid must be FIELD=A,B, not {text}")
    if len(axes) < len(arguments):
        raise InputError("--grid: a field is given twice")
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def directory_name(point: Point) -> str:
    """The name of a point's directory."""
    return ",".join(f"{field}={value.replace(' ', '-').replace('/', '_')}" for field, value in point.items())


def configure(module: ModuleType, flags: list[str], point: Point, workdir: Path) -> Config:
    """The configuration of a point. InputError as for the experiment itself."""
    if "workdir" in point:
        raise InputError("--grid workdir: every point has its own; omit it")
    booleans = {field.name for field in dataclasses.fields(module.Config) if field.type is bool or field.type == "bool"}
    words = []
    for field, value in point.items():
        if field not in booleans:
            words += [configs.flag(field), *value.split()]
        elif value not in ("True", "False"):
            raise InputError(f"--grid {field}={value} must be True or False")
        elif value == "True":
            words += [configs.flag(field)]
    argv = [*flags, *words, "--workdir", str(workdir / directory_name(point))]
    return command_line.parse(module.Config, module.__doc__ or "", argv)


def points_of_shard(points: list[T], shard: str) -> list[T]:
    """The points of this shard: every N-th. InputError for a shard that is not I/N."""
    found = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise InputError(f"--shard {shard} must be I/N, from 1/N to N/N")
    return points[int(found[1]) - 1 :: int(found[2])]


def train_points(module: ModuleType, name: str, points: list[Config], axes: Point, stop: loop.Stop) -> None:
    """Train all points, and record those that diverge."""
    numbers: dict[Any, tuple[str, ...]] = {}  # keyed by the other fields
    shared: dict[Any, Callable[[Config], Compiler]] = {}
    floats = [field for field in axes if points and isinstance(getattr(points[0], field), float)]
    for config in points:
        group = other_fields(config, floats)
        if group not in numbers:
            numbers[group] = traceable_fields(module, config, floats)
        same = other_fields(config, numbers[group])
        if same not in shared:
            shared[same] = shared_compiler(module, numbers[group])
        try:
            run.train(config, module.build, name, stop, compiler=shared[same](config))
            note_of(config).unlink(missing_ok=True)
        except Diverged as error:
            stop(None)  # nothing is left to save
            print(f"{config.workdir}: {diverged_line(error)}", file=sys.stderr)
            note_of(config).write_text(f"{error}\n")


def summarize(rows: list[tuple[Point, Config]]) -> str:
    """A Markdown table: the test metrics of each point, with standard deviations over several seeds."""
    lines = [final_metrics(config) for _, config in rows]
    metrics = metric_names([line for line in lines if line])
    fields = [*rows[0][0]]
    text = [" | ".join(["", *fields, *metrics, ""]).strip(), "|" + "---|" * (len(fields) + len(metrics))]
    for (point, config), line in zip(rows, lines, strict=True):
        cells = [html.figure(line[name]) if line and name in line else "" for name in metrics]
        if not line and metrics:
            cells[0] = "diverged" if note_of(config).exists() else "not yet"
        text.append(" | ".join(["", *point.values(), *cells, ""]).strip())
    return "\n".join(text) + "\n"


def final_metrics(config: Config) -> records.Record | None:
    """The test metrics of a run, and those of its dictionary, if any; None for one that is not finished."""
    path = Path(config.workdir)
    if not run.complete(path, config):
        return None
    result = results.read(path)
    return {**result["metrics"], **front.measured([result])[0]}


def note_of(config: Config) -> Path:
    """The file that records where a point diverged."""
    return Path(f"{config.workdir}.diverged")


def picture(rows: list[tuple[Point, Config]], path: Path, title: str) -> None:
    """The test loss against the first field, a line for each value of the others, with bars of one standard deviation.

    For sparse autoencoders, explained variance against the number of active latents.
    """
    (first, *others), done = rows[0][0], [(point, line) for point, config in rows if (line := final_metrics(config))]
    if done and all("explained_variance" in line for _, line in done):
        curves: dict[str, list[records.Record]] = {}
        for point, line in done:
            label = ", ".join(f"{field} {point[field]}" for field in others) or title
            curves.setdefault(label, []).append(line)
        front.front(curves, f"{title}: explained variance").savefig(path, dpi=150)
        return
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
