"""Write one HTML report of several finished runs on the same data.

It has the curves of all runs, a table of their metrics with mean and standard deviation over seeds, and reconstructions
of the same test examples.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any, NoReturn

import numpy as np

from jaxae import run
from jaxae.commands._arguments import Runs, module_of, parsed
from jaxae.data import Dataset, words
from jaxae.errors import InputError
from jaxae.report import html
from jaxae.report.figures import front, series, table
from jaxae.report.figures.base import (
    COLOURS,
    bitmap,
    data_url,
    displayed,
    encoded,
    figure_url,
    originals,
    pictures,
    ten,
    tile,
)
from jaxae.report.figures.conditions import own
from jaxae.report.figures.metrics import metric_names
from jaxae.report.wall import small
from jaxae.training import records
from jaxae.training.trained import Trained


@dataclass(frozen=True, kw_only=True)
class Options(Runs):
    """Arguments of `jaxae compare`."""

    out: Path = Path("compare.html")
    """HTML file to write."""


def main(argv: Sequence[str]) -> NoReturn:
    """Write the report, and exit."""
    run.program(lambda _: compare(parsed(Options, argv)))


def compare(options: Options) -> str:
    """Write the report, and return the line to print. InputError as in `page`, and for an unwritable file."""
    text = page(options.runs, module_of(options))
    try:
        options.out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"--out {options.out} cannot be written ({error.strerror}); use another") from None
    return f"report: {options.out}"


def page(paths: Sequence[Path], module: ModuleType | None = None) -> str:
    """The HTML report. InputError for a directory without a finished run, and for runs on different data."""
    labels = _labels(paths)
    saved, data = run.same_data(paths)
    loaded = [run.load_finished(path, module, data) for path in paths]
    models = {label: every[0] for label, (every, *_) in zip(labels, loaded, strict=True)}
    results = [result for _, _, result, _ in loaded]
    lines = {
        label: (records.read(path / "metrics.jsonl"), model.experiment.unit)
        for label, path, (model, *_) in zip(labels, paths, loaded, strict=True)
    }
    metrics = metric_names([result["metrics"] for result in results])
    about_runs = [
        {
            "label": label,
            "metrics": {name: html.figure(result["metrics"][name]) for name in records.names(result["metrics"])},
            "seeds": about["config"]["seeds"],
            "reached": result["reached"],
            "seconds": f"{result['wall_seconds']:,.0f}",
            "command": about["command"],
        }
        for label, about, result in zip(labels, saved, results, strict=True)
    ]
    dictionaries = dict(zip(labels, front.measured(results), strict=True))
    fields = [{"experiment": about["experiment"], **about["config"]} for about in saved]
    names = dict.fromkeys(name for config in fields for name in config if name != "workdir")
    table = {name: [config.get(name, "") for config in fields] for name in names}
    return html.render(
        "compare.html",
        title=f"{len(paths)} runs on {Path(saved[0]['config']['data']).name}",
        runs=about_runs,
        dictionaries=_cells(dictionaries),
        front=_front(dictionaries, [about["experiment"] for about in saved]),
        metrics=metrics,
        examples=words(data.kind).examples,
        strips=strips(models, data),
        differences={name: values for name, values in table.items() if any(value != values[0] for value in values)},
        data={"charts": html.charts(lines, data.kind), "wall": None, "colours": COLOURS},
    )


def strips(models: dict[str, Trained], data: Dataset) -> list[tuple[str, str]]:
    """Labelled pictures of reconstructions by each model, as data URLs: for images a strip of ten below the originals,
    for series the curves of ten, for tables a pair plot.
    """
    if len(data.shape) < 3:
        return [(label, _drawn(model, data, label)) for label, model in models.items()]
    chosen = ten(data)
    rows = {}
    for label, model in models.items():
        model, shown = displayed(model, data)
        rows["original"] = originals(shown, chosen)
        hides = hasattr(model.experiment.model, "hidden")
        inputs = f"{label}, from {'masked' if hides else 'noisy'} images" if model.experiment.corrupt else label
        codes = encoded(model, data.test, chosen, corrupted=True)
        rows[inputs] = pictures(np.asarray(model.decode(codes, **own(model, data, chosen))))
    return [(label, data_url(bitmap(tile(small(images), len(images))))) for label, images in rows.items()]


def _cells(dictionaries: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, str]]:
    """The metrics of sparse autoencoders as text, by label and name; empty without any."""
    names = [name for name in front.COLUMNS if any(name in found for found in dictionaries.values())]
    cells = {
        label: {name: html.figure(found[name]) if name in found else "" for name in names}
        for label, found in dictionaries.items()
    }
    return cells if names else {}


def _front(dictionaries: Mapping[str, Mapping[str, Any]], experiments: Sequence[str]) -> str:
    """Explained variance against L0 of all sparse autoencoders, a curve for each experiment; empty without any."""
    curves: dict[str, list[Mapping[str, Any]]] = {}
    for name, found in zip(experiments, dictionaries.values(), strict=True):
        if found:
            curves.setdefault(name, []).append(found)
    return figure_url(front.front(curves, "Explained variance over active latents")) if curves else ""


def _drawn(model: Trained, data: Dataset, label: str) -> str:
    model = replace(model, scale=data.scale)
    if len(data.shape) == 2:
        return figure_url(series.curves(model, data, label))
    return figure_url(table.pairs(model, data, table.paired(model, data), label))


def _labels(paths: Sequence[Path]) -> list[str]:
    """The shortest distinct ends of the paths, of equal depth. InputError for a path given twice."""
    parts = [path.absolute().parts for path in paths]
    if len(set(parts)) < len(parts):
        raise InputError("a run is passed twice; pass each run once")
    depth = next(n for n in range(1, 1000) if len({part[-n:] for part in parts}) == len(parts))
    return [str(Path(*part[-depth:])) for part in parts]
