"""Figures of tables and counts."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float

from jaxae.data import Dataset, spread
from jaxae.report.figures.base import COLOURS, canvas
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLUMNS = 40  # in a figure


def column_rmse(model: Trained, data: Dataset) -> Float[np.ndarray, " D"]:
    """Root mean squared error of each column, over the observed entries of up to 10,000 test rows, in model units."""
    rows = spread(len(data.test.x), 10_000)
    square = (np.asarray(model.reconstruct(data.test.x[rows])) - data.test.x[rows]) ** 2
    known = np.ones(square.shape) if data.test.observed is None else data.test.observed[rows]
    total: np.ndarray = (square * known).sum(0) / np.maximum(known.sum(0), 1)
    return np.sqrt(total)


def column_errors(model: Trained, data: Dataset, title: str) -> "Figure":
    """Bar chart of the test RMSE of the `MAX_COLUMNS` columns with the largest errors.

    In counts, or in standard deviations if standardized.
    """
    values = column_rmse(model, data)
    places = np.argsort(-values, kind="stable")[:MAX_COLUMNS][::-1]
    names = [data.features[place] if data.features else str(place) for place in places]
    figure = canvas(f"{title}: columns with the largest errors", 7.0, 0.8 + 0.22 * len(places))
    axis = figure.subplots()
    axis.barh([name[:40] for name in _distinct(names)], values[places], color=COLOURS[0])
    unit = ", in counts" if data.kind == "counts" else ", in standard deviations" * data.real
    axis.set_xlabel("root mean squared error" + unit)
    axis.grid(alpha=0.3, axis="x")
    return figure


def _distinct(names: list[str]) -> list[str]:
    """Names whose first 40 characters differ."""
    short = [name[:40] for name in names]
    return [name if short.count(name) == 1 else f"{place} {name}"[:40] for place, name in enumerate(short)]
