"""Figures of test examples and their reconstructions."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxae.data import Dataset
from jaxae.report.figures.base import (
    COLOURS,
    bitmap,
    canvas,
    displayed,
    encoded,
    label,
    lengths_of,
    pictures,
    show,
    ten,
    tile,
    unit,
)
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(model: Trained, data: Dataset, title: str) -> "Figure":
    """Ten test examples above their reconstructions; in between, the noisy ones, if there is noise."""
    chosen = ten(data)
    x = data.test.x[chosen]
    rows = {"original": x}
    inputs = np.asarray(model.corrupted(x))
    if model.experiment.corrupt:
        rows["noisy"] = inputs.clip(0, 1)  # the mark of hidden pixels is below 0
    rows["denoised" if model.experiment.corrupt else "decoded"] = np.asarray(model.reconstruct(inputs))
    rows = {name: pictures(unit(images)) for name, images in rows.items()}
    figure = canvas(f"{title}: test examples and their reconstructions", 1.1 * len(x), 0.5 + 1.2 * len(rows))
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            show(axis, image)
    if data.classes:
        for axis, number in zip(axes[0], data.test.y[chosen].tolist(), strict=True):
            axis.set_title(label(data.classes, number), fontsize=9)
    return figure


def curves(model: Trained, data: Dataset, title: str) -> "Figure":
    """Ten test sequences and their reconstructions over time; up to ten dimensions."""
    chosen = ten(data)
    x, lengths = data.test.x[chosen], lengths_of(data, chosen)
    y = np.asarray(model.reconstruct(x, lengths))
    if lengths is None:
        lengths = np.full(len(x), x.shape[1])
    figure = canvas(f"{title}: test sequences (points) and their reconstructions (lines)", 12.0, 4.5)
    axes = figure.subplots(2, 5, sharex=True, sharey=True)
    for axis, original, decoded, length in zip(axes.flat, x, y, lengths, strict=False):
        for number, colour in zip(range(x.shape[2]), COLOURS, strict=False):
            axis.plot(original[:length, number], ".", color=colour)
            axis.plot(decoded[:length, number], color=colour)
        axis.grid(alpha=0.3)
    figure.supxlabel("step")
    figure.supylabel("value")
    return figure


def extremes(model: Trained, data: Dataset, title: str) -> "Figure":
    """The test examples of the five smallest and the five largest squared errors, above their reconstructions."""
    count = min(len(data.test.x), 10_000)
    y = np.asarray(model.decode(encoded(model, data, np.arange(count), corrupted=True)))
    errors = squared_errors(data, y)
    order = np.argsort(errors, kind="stable")
    chosen = np.concatenate([order[:5], order[-5:]])
    figure = canvas(f"{title}: best and worst reconstructions of {count:,} test examples (squared error)", 11.0, 2.9)
    axes = figure.subplots(2, 10)
    for column, (number, kind) in enumerate(zip(chosen, 5 * ["best"] + 5 * ["worst"], strict=True)):
        one = slice(number, number + 1)
        lengths = lengths_of(data, np.array([number]))
        show(axes[0][column], pictures(unit(data.test.x[one]), lengths)[0])
        show(axes[1][column], pictures(y[one], lengths)[0])
        axes[0][column].set_title(f"{kind}\n{errors[number]:.2g}", fontsize=9)
    axes[0][0].set_ylabel("original")
    axes[1][0].set_ylabel("decoded")
    return figure


def squared_errors(data: Dataset, y: np.ndarray) -> np.ndarray:
    """Squared error of the first test examples decoded as y, mean over the pixels, or the unmasked steps, of each."""
    x, lengths = data.test.x[: len(y)], data.test.lengths
    errors = ((unit(x) - y) ** 2).reshape(*x.shape[:2], -1).mean(2)
    mask = np.ones(errors.shape) if lengths is None else np.arange(x.shape[1]) < np.asarray(lengths)[: len(y), None]
    means: np.ndarray = (errors * mask).sum(1) / mask.sum(1)
    return means


def strip_path(folder: Path, step: int) -> Path:
    """Path of the reconstructions after this step of training: `folder`/STEP.png."""
    return folder / f"{step:07d}.png"


def strip(folder: Path, step: int, model: Trained, data: Dataset) -> Path:
    """Save ten reconstructions during training as `folder`/STEP.png, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = strip_path(folder, step)
    model, data = displayed(model, data)
    chosen = ten(data)
    images = pictures(np.asarray(model.decode(encoded(model, data, chosen, corrupted=True))), lengths_of(data, chosen))
    bitmap(tile(images, len(images))).save(path)
    return path


def training(strips: list[Path], data: Dataset, title: str, rows: int = 10) -> "Figure":
    """Originals above their reconstructions during training, at geometrically spaced steps."""
    from PIL import Image

    places = np.unique(np.geomspace(1, len(strips), min(rows, len(strips))).round().astype(int) - 1)
    chosen = ten(data)
    images = pictures(unit(data.test.x[chosen]), lengths_of(data, chosen))
    lines = {"original": tile(images, len(images))}
    for place in places:
        with Image.open(strips[place]) as picture:
            pixels = np.asarray(picture)
        lines[f"step {int(strips[place].stem):,}"] = pixels.reshape(*pixels.shape[:2], -1)
    height, width = lines["original"].shape[:2]
    figure = canvas(f"{title}: reconstructions during training", 8.0, 0.5 + (0.1 + 7.0 * height / width) * len(lines))
    for axis, (name, pixels) in zip(figure.subplots(len(lines), 1), lines.items(), strict=True):
        show(axis, pixels)
        axis.set_ylabel(name, rotation=0, ha="right", va="center")
    return figure
