"""Figures of series: curves over time, in the user's units, with a colour for each dimension."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.core.types import Sampler
from jaxae.data import Dataset, Split, within
from jaxae.report.figures import conditions, errors, walks
from jaxae.report.figures.base import COLOURS, MISSING, canvas, encoded, in_units, label, missing, remark, ten
from jaxae.report.figures.conditions import grid, own, repeated
from jaxae.training.examples import condition_of, part_of
from jaxae.training.trained import Trained
from jaxae.variants import iwae

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

POINTS = 60  # steps: originals of longer series are drawn as pale lines
DRAWS = 200  # posterior samples of the band
BAND = (0.05, 0.95)  # its quantiles


def curves(model: Trained, data: Dataset, title: str) -> "Figure":
    """Ten test series and their reconstructions over time; for variational models with the band of the posterior."""
    chosen = ten(data)
    decoded = np.asarray(model.decode(encoded(model, data.test, chosen), **own(model, data, chosen)))
    band = posterior_band(model, data.test.take(chosen), own(model, data, chosen))
    names = [f"class {label(data.classes, k)}" if data.classes else "" for k in data.test.y[chosen].tolist()]
    return _pairs(data, chosen, decoded, band, names, f"{title}: test series and their reconstructions")


def extremes(model: Trained, data: Dataset, title: str) -> "Figure":
    """The test series with the five smallest and the five largest squared errors, and their reconstructions."""
    found = errors.extremes(model, data, 5, 5)
    kinds = 5 * ["best"] + 5 * ["worst"]
    names = [f"{kind}: {error:.2g}" for kind, error in zip(kinds, found.errors, strict=True)]
    about = f"{title}: best and worst reconstructions of {found.compared:,} test series {errors.note(data)}"
    decoded = np.asarray(model.decode(found.codes, **own(model, data, found.places)))
    return _pairs(data, found.places, decoded, None, names, about)


def interpolation(model: Trained, data: Dataset, title: str) -> "Figure":
    """Decoded linear interpolations between the codes of three pairs of test series."""
    found = walks.interpolated(model, data, 3, 5)
    ends = _shown(data, found.pairs.ravel()).reshape(*found.pairs.shape, *model.shape)
    panels = np.concatenate([ends[:, :1], found.decoded, ends[:, 1:]], 1)
    if data.test.lengths is not None:
        longest = np.asarray(data.test.lengths)[found.pairs].max(1)
        panels[np.arange(panels.shape[2]) >= longest[:, None, None] + np.zeros((1, panels.shape[1], 1), int)] = np.nan
    columns = ["original", *(f"{part:.0%}" for part in found.fractions), "original"]
    about = f"{title}: linear interpolation between the codes of two test series"
    return _sheet(data, panels, [""] * len(panels), columns, about)


def traversal(model: Trained, data: Dataset, title: str) -> "Figure":
    """Latent traversal of a test series, one dimension per row, in order of decreasing variance."""
    found = walks.traversed(model, data, 6, 5)
    rows, columns = [f"z{k + 1}" for k in found.dimensions], [f"{offset:+.0f} std. dev." for offset in found.offsets]
    about = f"{title}: latent traversal, one dimension per row"
    return _sheet(data, found.decoded, rows, columns, about)


def samples(model: Trained, data: Dataset, title: str, prior: Sampler | None = None) -> "Figure":
    """Samples from the model's prior, or from one that is fitted to its codes; one row for each condition, if any."""
    if model.experiment.conditional:
        found = grid(model, data)
        rows, x = found.labels, model.sample(jax.random.key(0), 5 * len(found.labels), prior, **repeated(found, 5))
    else:
        rows, x = [""] * 4, model.sample(jax.random.key(0), 20, prior)
    panels = np.asarray(x).reshape(len(rows), 5, *model.shape)
    return _sheet(data, panels, rows, [""] * 5, walks.sampled_from(title, prior))


def counterfactuals(model: Trained, data: Dataset, title: str) -> "Figure":
    """Codes of three test series, each decoded under every condition."""
    found = conditions.counterfactuals(model, data, 3)
    panels = np.concatenate([_shown(data, found.places)[:, None], found.decoded], 1)
    about = f"{title}: codes of test series decoded under other conditions"
    return _sheet(data, panels, [""] * len(panels), ["original", *found.labels], about)


def manifold(model: Trained, data: Dataset, title: str, n: int = 7) -> "Figure":
    """Series decoded on an n x n grid of the 2-D latent space, at evenly spaced quantiles of N(0, 1) on each axis."""
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    x = np.asarray(model.decode(grid)).reshape(n, n, *model.shape)
    rows, columns = [f"z2 = {z:.1f}" for z in quantiles[::-1]], [f"z1 = {z:.1f}" for z in quantiles]
    return _sheet(data, x, rows, columns, f"{title}: decoded grid of the latent space")


def sketch(x: Float[np.ndarray, "N T D"], lengths: Int[np.ndarray, " N"] | None, height: int = 48) -> np.ndarray:
    """Curves of series in [0, 1] as small pictures [N, height, W, 3]; padding is not drawn. x: NaN where missing."""
    from matplotlib.colors import to_rgb

    steps = x.shape[1]
    width = min(max(steps, 64), 128)
    ends = np.full(len(x), steps) if lengths is None else np.asarray(lengths)
    places = np.linspace(0, steps - 1, width)
    before = places.astype(int).clip(0, max(steps - 2, 0))
    part = (places - before)[None, :, None]
    left, right = x[:, before], x[:, np.minimum(before + 1, steps - 1)]
    values = np.where(part == 0, left, np.where(part == 1, right, (1 - part) * left + part * right))
    rows = (1 - values.clip(0, 1)) * (height - 1)
    after = np.concatenate([rows[:, 1:], rows[:, -1:]], 1)
    after = np.where(np.isnan(after), rows, after)
    low, high = np.floor(np.minimum(rows, after)), np.ceil(np.maximum(rows, after))
    grid = np.arange(height)[None, :, None]
    images = np.ones((len(x), height, width, 3), np.float32)
    inside = (places[None] <= ends[:, None] - 1)[:, None]
    absent = np.any(np.isnan(values), axis=2, keepdims=True).swapaxes(1, 2) & inside
    images[np.broadcast_to(absent, images.shape[:3])] = 1 - 0.25 * (1 - np.array(to_rgb(MISSING)))  # as in `_shade`
    for number, colour in zip(range(x.shape[2]), COLOURS, strict=False):
        images[(grid >= low[:, None, :, number]) & (grid <= high[:, None, :, number]) & inside] = to_rgb(colour)
    return images


def posterior_band(
    model: Trained, split: Split, given: Mapping[str, Any] = MappingProxyType({})
) -> Float[np.ndarray, "2 N T D"] | None:
    """The quantiles `BAND` of series decoded from `DRAWS` samples of their posterior; None for a deterministic model.

    The band is the spread of the decoded mean, without the noise of the likelihood, in the units of the model's scale.
    given: `y` and `context` of the series, for a conditional model.
    """
    net: Any = model.experiment.model
    if not hasattr(net, "posterior"):
        return None
    steps = () if split.lengths is None else (within(split.lengths, split.x.shape[1]).astype(np.float32),)
    c = condition_of(model, split.y, split.context)
    q = net.apply(model.variables, jnp.asarray(split.x, jnp.float32), *steps, *c, method="posterior")
    if not isinstance(q, iwae.Posterior):
        return None
    z = q.samples(jax.random.normal(jax.random.key(0), (len(split.x), DRAWS, q.size)))
    if hasattr(net, "flow"):
        z, _ = net.apply(model.variables, z, jnp.asarray(split.x, jnp.float32), *c, method="flow")
    decoded = (np.asarray(model.decode(codes, **part_of(given, i))) for i, codes in enumerate(z))
    return np.stack([np.quantile(draws, BAND, axis=0) for draws in decoded], 1)


def _shown(data: Dataset, places: np.ndarray) -> Float[np.ndarray, "N T D"]:
    """These test series in the user's units; NaN after their end, and where an entry was not measured."""
    x = np.array(in_units(data, data.test.x[places]), np.float64)
    absent = missing(data, places)
    if absent is not None:
        x[absent] = np.nan
    x[~_within(data, places)] = np.nan
    return x


def _within(data: Dataset, places: np.ndarray) -> Bool[np.ndarray, "N T"]:
    """Whether a step is within its series."""
    lengths = np.full(len(places), data.shape[0]) if data.test.lengths is None else data.test.lengths[places]
    return within(np.asarray(lengths), data.shape[0])


def _pairs(
    data: Dataset,
    places: np.ndarray,
    decoded: Float[np.ndarray, "N T D"],
    band: Float[np.ndarray, "2 N T D"] | None,
    names: list[str],
    about: str,
) -> "Figure":
    """Up to ten test series and their reconstructions, one panel per series."""
    from matplotlib.lines import Line2D

    x, inside, absent = _shown(data, places), _within(data, places), missing(data, places)
    few = data.shape[0] <= POINTS
    marks: dict[str, Any] = {"marker": ".", "linestyle": "none"} if few else {"alpha": 0.4, "linewidth": 1.0}
    figure = canvas(about + remark(data, places), 12.0, 5.2)
    axes = figure.subplots(2, 5, sharex=True)
    for axis in axes.flat[len(places) :]:
        axis.set_axis_off()
    for i, axis in enumerate(axes.flat[: len(places)]):
        steps = inside[i]
        for number, colour in enumerate(_colours(data)):
            if band is not None:
                low, high = band[:, i, steps, number]
                axis.fill_between(_time(data)[steps], low, high, color=colour, alpha=0.25, linewidth=0)
            axis.plot(_time(data)[steps], x[i, steps, number], color=colour, **marks)
            axis.plot(_time(data)[steps], decoded[i, steps, number], color=colour, linewidth=1.2)
        if absent is not None:
            _shade(axis, data, absent[i].any(1) & steps)
        axis.set_title(names[i], fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(alpha=0.3)
    keys = [Line2D([], [], color="#444", **marks), Line2D([], [], color="#444", linewidth=1.2)]
    texts = ["original", "reconstruction"]
    if band is not None:
        keys.append(Line2D([], [], color="#444", alpha=0.25, linewidth=8))
        texts.append(f"{BAND[0]:.0%} to {BAND[1]:.0%} of posterior samples, decoded")
    _legend(figure, data, keys, texts)
    axes[-1][len(axes[-1]) // 2].set_xlabel("time in seconds" if data.sample_rate else "step")
    figure.supylabel("value", fontsize=10)
    return figure


def _sheet(
    data: Dataset, panels: Float[np.ndarray, "R C T D"], rows: list[str], columns: list[str], about: str
) -> "Figure":
    """Series as small panels with common axes, in labelled rows and columns."""
    figure = canvas(about, max(6.0, 0.6 + 1.6 * len(columns)), 1.4 + 1.1 * len(rows))
    axes = figure.subplots(len(rows), len(columns), sharex=True, sharey=True, squeeze=False)
    for line, row, name in zip(axes, panels, rows, strict=True):
        line[0].set_ylabel(name)
        for axis, x in zip(line, row, strict=True):
            for number, colour in enumerate(_colours(data)):
                axis.plot(_time(data), x[:, number], color=colour, linewidth=1.0)
            axis.grid(alpha=0.3)
            axis.tick_params(labelsize=7)
    for axis, name in zip(axes[0], columns, strict=True):
        axis.set_title(name, fontsize=9)
    _legend(figure, data, [], [])
    axes[-1][len(axes[-1]) // 2].set_xlabel("time in seconds" if data.sample_rate else "step")
    figure.supylabel("value", fontsize=10)
    return figure


def _colours(data: Dataset) -> tuple[str, ...]:
    """A colour for each of up to ten dimensions."""
    return COLOURS[: data.shape[1]]


def _time(data: Dataset) -> Float[np.ndarray, " T"]:
    """The time of every step: in seconds for recordings, otherwise the number of the step."""
    return np.arange(data.shape[0]) / (data.sample_rate or 1)


def _legend(figure: "Figure", data: Dataset, keys: list[Any], texts: list[str]) -> None:
    """Add a legend of lines and colours below the panels; none for a single line of one dimension."""
    from matplotlib.lines import Line2D

    if data.shape[1] > 1:
        colours = _colours(data)
        keys = keys + [Line2D([], [], color=colour, linewidth=3) for colour in colours]
        texts = texts + [data.features[k] if data.features else f"dimension {k + 1}" for k in range(len(colours))]
        if data.shape[1] > len(colours):
            texts[-1] += f" of {data.shape[1]}"
    if keys:
        figure.legend(keys, texts, loc="outside lower center", ncols=min(len(keys), 6), fontsize=8, frameon=False)


def _shade(axis: "Axes", data: Dataset, absent: Bool[np.ndarray, " T"]) -> None:
    """Shade the steps at which an entry was not measured."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], absent, [False]]).astype(int))).reshape(-1, 2)
    step = 1 / (data.sample_rate or 1)
    for first, after in edges:
        axis.axvspan((first - 0.5) * step, (after - 0.5) * step, color=MISSING, alpha=0.25, linewidth=0)
