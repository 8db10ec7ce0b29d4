"""Figures of tables and counts, in the user's units and with the names of the columns."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.core.types import Sampler
from jaxae.data import Dataset, slices, spread
from jaxae.measure import anomalies
from jaxae.report.figures import errors, walks
from jaxae.report.figures.base import COLOURS, MISSING, at_most, canvas, encoded, in_units, missing
from jaxae.report.figures.conditions import counterfactuals as decoded_under_all
from jaxae.report.figures.conditions import own
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_COLUMNS = 40  # of the bar chart of errors
PAIRED = 5  # columns of a pair plot
POINTS = 1000  # rows of a pair plot
WORST = 6  # rows
CAUSES = 4  # columns of each worst row: those with the largest errors
UNMEASURED = 3  # unmeasured columns of each worst row


def column_rmse(model: Trained, data: Dataset) -> Float[np.ndarray, " D"]:
    """Root mean squared error of each column, over the observed entries of up to 10,000 test rows, in model units."""
    model, rows = replace(model, scale=None), spread(len(data.test.x), errors.LIMIT)
    total, count = np.zeros(data.shape), np.zeros(data.shape)
    for part in slices(len(rows), prod(data.shape)):
        split = data.test.take(rows[part])
        square = (np.asarray(model.reconstruct(split)) - split.x) ** 2
        known = np.ones(square.shape) if split.observed is None else split.observed
        total, count = total + (square * known).sum(0), count + known.sum(0)
    return np.sqrt(total / np.maximum(count, 1))


def column_errors(model: Trained, data: Dataset, title: str) -> "Figure":
    """Bar chart of the test RMSE of the `MAX_COLUMNS` columns with the largest errors.

    In counts, or in standard deviations if standardized.
    """
    values = column_rmse(model, data)
    places = np.argsort(-values, kind="stable")[:MAX_COLUMNS][::-1]
    figure = canvas(f"{title}: columns with the largest errors", 7.0, 0.8 + 0.22 * len(places))
    axis = figure.subplots()
    axis.barh([name[:40] for name in _distinct(_names(data, places))], values[places], color=COLOURS[0])
    unit = ", in counts" if data.kind == "counts" else ", in standard deviations" * errors.standardized(data)
    axis.set_xlabel("root mean squared error" + unit)
    axis.grid(alpha=0.3, axis="x")
    return figure


def pairs(model: Trained, data: Dataset, columns: Int[np.ndarray, " K"], title: str) -> "Figure":
    """Pair plot of these columns of test rows and of their reconstructions; filled-in entries have another colour."""
    places = spread(len(data.test.x), at_most(data, POINTS))
    x = _rows(data, places)[:, columns]
    y = np.asarray(model.decode(encoded(model, data.test, places), **own(model, data, places)))[:, columns]
    about = f"{title}: test rows and their reconstructions"
    return _pair_plot(x, y, "their reconstructions", _names(data, columns), about, np.isnan(x))


def samples(
    model: Trained, data: Dataset, columns: Int[np.ndarray, " K"], title: str, prior: Sampler | None = None
) -> "Figure":
    """Pair plot of these columns of test rows and of as many samples from the prior, or from a fitted one."""
    places = spread(len(data.test.x), at_most(data, POINTS))
    x = _rows(data, places)[:, columns]
    given = own(model, data, places)
    y = np.asarray(model.sample(jax.random.key(0), len(places), prior, **given))[:, columns]
    about = walks.sampled_from(title, prior) + ", under the conditions of the test rows" * bool(given)
    return _pair_plot(x, y, "samples", _names(data, columns), about)


def paired(model: Trained, data: Dataset) -> Int[np.ndarray, " K"]:
    """The columns of a pair plot: the `PAIRED` with the largest errors that vary, in their order in the table."""
    values = column_rmse(model, data)
    x = data.test.x[spread(len(data.test.x), at_most(data, errors.LIMIT))]
    order = np.argsort(np.where(x.std(0) > 0, -values, np.inf), kind="stable")
    return np.sort(order[:PAIRED])


def worst_rows(model: Trained, data: Dataset, title: str) -> "Figure":
    """The test rows with the largest squared errors, and their columns with the largest errors (see `causes`)."""
    found = errors.extremes(model, data, 0, min(WORST, len(data.test.x)))
    order = np.argsort(-found.errors, kind="stable")
    given = {"mean squared error": [f"{found.errors[i]:.3g}" for i in order]}
    about = f"{title}: worst reconstructions of {found.compared:,} test rows\n{errors.note(data)}"
    return causes(model, data, found.places[order], found.codes[order], given, about)


def highest_scores(model: Trained, data: Dataset, title: str) -> "Figure":
    """The test rows with the highest anomaly scores and their p-values, with the columns of `worst_rows`.

    The score is the loss, and the reference of the p-values are the training rows.
    """
    test, train = (split.take(spread(len(split.x), errors.LIMIT)) for split in (data.test, data.train))
    scores, known = model.score(test), model.score(train)
    p = anomalies.p_values(scores, known)
    order = np.argsort(-scores, kind="stable")[:WORST]
    places = spread(len(data.test.x), errors.LIMIT)[order]
    given = {"score": [f"{scores[i]:.4g}" for i in order], "p-value": [f"{p[i]:.2g}" for i in order]}
    about = (
        f"{title}: highest scores (loss) of {len(scores):,} test rows\np-values against {len(known):,} training rows"
    )
    return causes(model, data, places, encoded(model, data.test, places), given, about)


def causes(
    model: Trained,
    data: Dataset,
    places: Int[np.ndarray, " K"],
    codes: Float[np.ndarray, "K *code"],
    given: Mapping[str, Sequence[str]],
    about: str,
) -> "Figure":
    """Originals and reconstructions of test rows, in the columns with the largest errors and in unmeasured columns.

    given: further cells of each row, by column heading.
    """
    from matplotlib.colors import to_rgba

    lines, shaded = [], []
    x = _rows(data, places)
    y = np.asarray(model.decode(codes, **own(model, data, places)))
    scale = 1.0 if data.scale is None else data.scale.factor
    for i, place in enumerate(places):
        absent = np.flatnonzero(np.isnan(x[i]))
        square = np.nan_to_num((x[i] - y[i]) / scale) ** 2
        columns = [k for k in np.argsort(-square, kind="stable")[:CAUSES] if square[k] > 0]
        head = [f"{place}", *([data.classes[data.test.y[place]][:16]] if data.classes else [])]
        head += [values[i] for values in given.values()]
        for k in [*columns, *absent[:UNMEASURED]]:
            measured = not np.isnan(x[i, k])
            share = f"{square[k] / square.sum():.0%}" if measured else ""
            original = f"{x[i, k]:.5g}" if measured else "not measured"
            lines.append([*head, _names(data, np.array([k]))[0][:30], original, f"{y[i, k]:.5g}", share])
            shaded.append(not measured)
            head = [""] * len(head)
    heads = ["test row", *(["class"] if data.classes else []), *given]
    heads += ["column", "original", "reconstruction", "share of the error"]
    if any(shaded):
        about += "\npink: not measured, and filled in by the reconstruction"
    figure = canvas(about, 9.0, 1.0 + 0.24 * len(lines))
    axis = figure.subplots()
    axis.set_axis_off()
    box: Any = (0, 0, 1, 1)
    cells = axis.table(lines, colLabels=heads, cellLoc="left", bbox=box)
    cells.auto_set_font_size(False)
    cells.set_fontsize(8)
    cells.auto_set_column_width(list(range(len(heads))))
    groups = np.cumsum([bool(line[0]) for line in lines])
    for (line, column), cell in cells.get_celld().items():
        cell.set_linewidth(0)
        if line == 0:
            cell.set_text_props(weight="bold")
        else:
            pink = heads[column] == "original" and shaded[line - 1]
            cell.set_facecolor(to_rgba(MISSING, 0.35) if pink else ("white", "#eef1f5")[groups[line - 1] % 2])
    return figure


def traversal(model: Trained, data: Dataset, title: str) -> "Figure":
    """Latent traversal of a test row: one panel per latent dimension, with lines for the columns that change most."""
    found = walks.traversed(replace(model, scale=None), data, 6, 21)
    names = [f"z{dimension + 1}" for dimension in found.dimensions]
    about = f"{title}: latent traversal of a test row, one latent dimension per panel"
    figure = _lines(data, found.offsets, found.decoded, names, about)
    figure.supxlabel("latent value, in standard deviations from its mean", fontsize=10)
    return figure


def counterfactuals(model: Trained, data: Dataset, title: str) -> "Figure":
    """Codes of test rows decoded under every condition: one panel per row, lines for the columns that change most."""
    found = decoded_under_all(replace(model, scale=None), data, 6)
    names = [f"test row {place}" for place in found.places]
    about = f"{title}: codes of test rows decoded under other conditions"
    figure = _lines(data, np.arange(len(found.labels)), found.decoded, names, about, marker="o", linestyle=":")
    for axis in figure.axes:
        axis.set_xticks(range(len(found.labels)), found.labels, rotation=90, fontsize=8)
    return figure


def _lines(
    data: Dataset,
    offsets: Float[np.ndarray, " C"] | Int[np.ndarray, " C"],
    decoded: Float[np.ndarray, "R C D"],
    titles: list[str],
    about: str,
    **style: Any,
) -> "Figure":
    """Columns of decoded rows against offsets: up to six panels, with a line for each column that changes most."""
    names = np.array(_names(data, np.arange(data.shape[0])))
    span = np.ptp(decoded, axis=1)
    places = np.sort(np.argsort(-span.max(0), kind="stable")[: len(COLOURS)])
    columns = min(3, len(decoded))
    rows = -(-len(decoded) // columns)
    figure = canvas(about, 3.0 + 3.0 * max(columns, 2), 1.4 + 2.5 * rows)
    axes = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
    for axis in axes[len(decoded) :]:
        axis.set_axis_off()
    for axis, name, values in zip(axes, titles, decoded, strict=False):
        for place, colour in zip(places, COLOURS, strict=False):
            axis.plot(offsets, values[:, place], color=colour, label=names[place][:30], **style)
        axis.set_title(name, fontsize=9)
        axis.grid(alpha=0.3)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside right center", fontsize=8, frameon=False)
    figure.supylabel("column" + ", in standard deviations" * errors.standardized(data), fontsize=10)
    return figure


def _pair_plot(
    x: Float[np.ndarray, "N K"],
    y: Float[np.ndarray, "N K"],
    name: str,
    columns: list[str],
    about: str,
    filled: Bool[np.ndarray, "N K"] | None = None,
) -> "Figure":
    """Scatter plots of every pair of columns of the test rows x and of other rows y, with histograms on the diagonal.

    name: name of the rows y. x: NaN where an entry was not measured. filled: entries of y that x lacks; points with
    such a coordinate have the colour `MISSING`.
    """
    count = len(columns)
    side = max(5.5, 1.9 * count)
    figure = canvas(about, side, side + 0.4)
    axes = figure.subplots(count, count, squeeze=False)
    filled = np.zeros(y.shape, bool) if filled is None else filled
    both = np.concatenate([x, y])
    low, high = np.nanmin(both, axis=0), np.nanmax(both, axis=0)
    margin = np.where(high > low, 0.05 * (high - low), 0.5)
    low, high = low - margin, high + margin
    for i, j in np.ndindex(count, count):
        axis: Any = axes[i, j]
        if j > i:
            axis.set_axis_off()
        elif i == j:
            for values, colour in zip((x[:, i], y[:, i]), COLOURS, strict=False):
                bins = np.linspace(low[i], high[i], 31).tolist()
                axis.hist(values[~np.isnan(values)], bins=bins, color=colour, alpha=0.5, density=True)
            axis.set_yticks([])
        else:
            where = filled[:, i] | filled[:, j]
            parts = ((x, COLOURS[0]), (y[~where], COLOURS[1]), (y[where], MISSING))
            for points, colour in parts:
                axis.scatter(points[:, j], points[:, i], s=6, color=colour, alpha=0.5, linewidths=0)
            axis.set_ylim(low[i], high[i])
        axis.set_xlim(low[j], high[j])
        axis.tick_params(labelsize=7, labelbottom=i == count - 1, labelleft=j == 0 and i > 0)
        if i == count - 1:
            axis.set_xlabel(columns[j][:24], fontsize=8)
        if j == 0:
            axis.set_ylabel(columns[i][:24], fontsize=8)
    texts = {"test rows": COLOURS[0], name: COLOURS[1]}
    if filled.any():
        texts["reconstructions of entries that were not measured"] = MISSING
    keys = [axes[0, 0].scatter([], [], color=colour) for colour in texts.values()]
    figure.legend(
        keys, list(texts), loc="outside lower center", ncols=3 if len(columns) > 2 else 1, fontsize=8, frameon=False
    )
    return figure


def _rows(data: Dataset, places: np.ndarray) -> Float[np.ndarray, "N D"]:
    """These test rows in the user's units; NaN where an entry was not measured."""
    x = np.array(in_units(data, data.test.x[places]), np.float64)
    absent = missing(data, places)
    if absent is not None:
        x[absent] = np.nan
    return x


def _names(data: Dataset, places: np.ndarray) -> list[str]:
    return [data.features[place] if data.features else str(place) for place in places]


def _distinct(names: list[str]) -> list[str]:
    """The names, with numbers before those whose first 40 characters are not unique."""
    short = [name[:40] for name in names]
    return [name if short.count(name) == 1 else f"{place} {name}"[:40] for place, name in enumerate(short)]
