"""Figures of missing entries and their imputations, of tables and of images."""

from typing import TYPE_CHECKING

import numpy as np

from jaxae.data import Dataset, spread
from jaxae.report.figures.base import COLOURS, MISSING, at_most, canvas, missing, originals, pictures, show, ten
from jaxae.training.imputation import obstacle
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 1000  # of a table
PANELS = 12  # columns of a table: those with the most missing entries
SAMPLES = 1000  # of importance sampling


def columns(model: Trained, data: Dataset, title: str) -> "Figure | None":
    """Histograms of the observed and the imputed values of columns, with one imputation of each missing entry.

    In the user's units. None if the model cannot impute, or if no entry of the test rows is missing.
    """
    places = spread(len(data.test.x), at_most(data, ROWS))
    absent = missing(data, places)
    if obstacle(model) or absent is None:
        return None
    found = np.asarray(model.impute(data.test.take(places), SAMPLES, draws=1).draws[0])
    counts = absent.sum(0)
    order = np.argsort(-counts, kind="stable")
    chosen = np.sort(order[counts[order] > 0][:PANELS])
    across = min(4, len(chosen))
    down = -(-len(chosen) // across)
    figure = canvas(f"{title}: observed and imputed entries of test rows", 2.6 * across + 1, 2.2 * down + 1)
    axes = figure.subplots(down, across, squeeze=False).ravel()
    for axis in axes[len(chosen) :]:
        axis.set_axis_off()
    for axis, place in zip(axes, chosen, strict=False):
        values, where = found[:, place], absent[:, place]
        bins = np.linspace(values.min(), max(values.max(), values.min() + 1e-6), 31).tolist()
        for part, colour in ((values[~where], COLOURS[0]), (values[where], MISSING)):
            axis.hist(part, bins=bins, color=colour, alpha=0.5, density=True)
        name = data.features[place] if data.features else str(place)
        axis.set_title(f"{name[:24]}\n{counts[place]:,} of {len(places):,} missing", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.set_yticks([])
    keys = [axes[0].scatter([], [], color=colour) for colour in (COLOURS[0], MISSING)]
    texts = ["observed", "missing: a sample given the observed entries of the row"]
    figure.legend(keys, texts, loc="outside lower center", ncols=2, fontsize=8, frameon=False)
    return figure


def images(model: Trained, data: Dataset, title: str) -> "Figure | None":
    """Ten test images with missing pixels, their imputation, and two samples of the missing pixels.

    None if the model cannot impute, or if no pixel is missing.
    """
    chosen = ten(data)
    if obstacle(model) or missing(data, chosen) is None:
        return None
    found = model.impute(data.test.take(chosen), SAMPLES, draws=2)
    rows = {"observed": originals(data, chosen), "imputed": pictures(np.asarray(found.x))}
    rows |= {f"sample {i + 1}": pictures(np.asarray(part)) for i, part in enumerate(found.draws)}
    about = f"{title}: test images with missing pixels (pink), and imputations"
    figure = canvas(about, 1.1 * len(chosen), 0.5 + 1.2 * len(rows))
    axes = figure.subplots(len(rows), len(chosen), squeeze=False)
    for line, (name, row) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(name)
        for axis, image in zip(line, row, strict=True):
            show(axis, image.clip(0, 1))
    return figure
