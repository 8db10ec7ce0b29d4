"""The figure of data in batches: whether codes separate types but not batches."""

from typing import TYPE_CHECKING

import numpy as np

from jaxae.data import Dataset, spread
from jaxae.measure.integration import batches, scores
from jaxae.report.figures.base import canvas, colour, label
from jaxae.report.figures.plane import LIMIT, Projected, projected
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def integration(model: Trained, data: Dataset, title: str, shown: Projected | None = None) -> "Figure | None":
    """Codes of test examples in two dimensions, by class and by batch, with their scores; None without batches.

    The batch is the first covariate with categories (see `measure.integration.batches`). shown: the result of
    `projected`, if it has been computed already.
    """
    places = spread(len(data.test.x), LIMIT)
    batch = batches(data.test.context, data.covariates)
    if batch is None or len(places) < 3:
        return None
    z, plane, how = shown or projected(model, data)
    names = tuple(name.split("=", 1)[1] for name in data.covariates if "=" in name)
    panels = [("batch", batch[places], names)]
    if data.classes:
        panels.insert(0, ("type", data.test.y[places], data.classes))
    figure = canvas(f"{title}: {how} of the codes of {len(z):,} test examples", 6.0 * len(panels), 5.6)
    shuffled = np.random.default_rng(0).permutation(len(z))  # so that no group covers the others
    for axis, (name, numbers, words) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        colours = np.array([colour(number) for number in numbers.tolist()])
        axis.scatter(*plane[shuffled].T, s=max(4, min(30, 20_000 / len(z))), c=colours[shuffled], linewidths=0)
        for number in np.unique(numbers[numbers >= 0])[:10].tolist():
            axis.scatter([], [], c=colour(number), label=label(words, number))
        axis.legend(loc="best", fontsize=8)
        found = scores(z, numbers, name)
        text = ", ".join(f"{score.replace('_', ' of ')} {value:.2f}" for score, value in found.items())
        axis.set(xticks=[], yticks=[], title=f"by {name}: {text}" if text else f"by {name}")
    return figure
