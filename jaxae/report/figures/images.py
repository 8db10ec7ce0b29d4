"""Figures of test images and their reconstructions, and the strips during training."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxae.data import Dataset
from jaxae.report.figures import errors
from jaxae.report.figures.base import (
    bitmap,
    canvas,
    displayed,
    encoded,
    in_units,
    label,
    lengths_of,
    marked,
    missing,
    originals,
    pictures,
    remark,
    show,
    ten,
    tile,
)
from jaxae.report.figures.conditions import own
from jaxae.report.figures.series import sketch
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reconstructions(model: Trained, data: Dataset, title: str) -> "Figure":
    """Ten test images above their reconstructions, with the noisy or masked inputs, if any, in between."""
    chosen = ten(data)
    rows = {"original": originals(data, chosen)}
    hidden, decoded = getattr(model.experiment.model, "hidden", None), "decoded"
    if model.experiment.corrupt:
        inputs = np.asarray(model.corrupted(data.test.take(chosen)))
        if hidden is None:
            rows["noisy"], decoded = pictures(inputs.clip(0, 1)), "denoised"
        else:
            rows["masked"] = marked(pictures(inputs.clip(0, 1)), inputs == hidden)
    codes = encoded(model, data.test, chosen, corrupted=True)
    rows[decoded] = pictures(np.asarray(model.decode(codes, **own(model, data, chosen))))
    about = f"{title}: test images and their reconstructions{remark(data, chosen)}"
    if "masked" in rows:
        about += "\npink: hidden from the encoder"
    figure = canvas(about, 1.1 * len(chosen), 0.5 + 1.2 * len(rows))
    axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            show(axis, image)
    if data.classes:
        for axis, number in zip(axes[0], data.test.y[chosen].tolist(), strict=True):
            axis.set_title(label(data.classes, number), fontsize=9)
    return figure


def extremes(model: Trained, data: Dataset, title: str) -> "Figure":
    """The test images with the five smallest and the five largest squared errors, above their reconstructions."""
    found = errors.extremes(model, data, 5, 5)
    decoded = np.asarray(model.decode(found.codes, **own(model, data, found.places)))
    rows = {"original": originals(data, found.places), "decoded": pictures(decoded)}
    about = f"{title}: best and worst reconstructions of {found.compared:,} test images (squared error)"
    figure = canvas(about + remark(data, found.places), 11.0, 2.9)
    axes = figure.subplots(2, 10)
    for line, (name, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, images, strict=True):
            show(axis, image)
    for axis, error, kind in zip(axes[0], found.errors, 5 * ["best"] + 5 * ["worst"], strict=True):
        axis.set_title(f"{kind}\n{error:.2g}", fontsize=9)
    return figure


def strip_path(folder: Path, step: int) -> Path:
    """Path of the reconstructions after this step of training: `folder`/STEP.png."""
    return folder / f"{step:07d}.png"


def strip(folder: Path, step: int, model: Trained, data: Dataset) -> Path:
    """Save ten reconstructions during training as `folder`/STEP.png, and return the path."""
    folder.mkdir(parents=True, exist_ok=True)
    path = strip_path(folder, step)
    model, data = displayed(model, data)
    chosen = ten(data)
    codes = encoded(model, data.test, chosen, corrupted=True)
    decoded = np.asarray(model.decode(codes, **own(model, data, chosen)))
    lengths = lengths_of(data, chosen)
    images = sketch(decoded, lengths) if decoded.ndim == 3 else pictures(decoded)
    bitmap(tile(images, len(images))).save(path)
    return path


def training(strips: list[Path], data: Dataset, title: str, rows: int = 10) -> "Figure":
    """Originals above their reconstructions during training, at geometrically spaced steps."""
    from PIL import Image

    places = np.unique(np.geomspace(1, len(strips), min(rows, len(strips))).round().astype(int) - 1)
    chosen = ten(data)
    if len(data.shape) == 2:
        x, absent = in_units(data, data.test.x[chosen]), missing(data, chosen)
        images = sketch(x if absent is None else np.where(absent, np.nan, x), lengths_of(data, chosen))
    else:
        images = originals(data, chosen)
    lines = {"original": tile(images, len(images))}
    for place in places:
        with Image.open(strips[place]) as picture:
            pixels = np.asarray(picture)
        lines[f"step {int(strips[place].stem):,}"] = pixels.reshape(*pixels.shape[:2], -1)
    height, width = lines["original"].shape[:2]
    about = f"{title}: reconstructions during training{remark(data, chosen)}"
    figure = canvas(about, 8.0, 0.5 + (0.1 + 7.0 * height / width) * len(lines))
    for axis, (name, pixels) in zip(figure.subplots(len(lines), 1), lines.items(), strict=True):
        show(axis, pixels)
        axis.set_yticks([len(pixels) / 2], [name])
        axis.tick_params(length=0)
    return figure
