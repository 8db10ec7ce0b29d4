"""Figures of decoded points in latent space: grid, samples, interpolation, traversal."""

from typing import TYPE_CHECKING, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int

from jaxae.core.types import Sampler
from jaxae.data import Dataset, spread
from jaxae.report.figures import conditions
from jaxae.report.figures.base import GAP, canvas, encoded, originals, pictures, remark, show, ten, tile
from jaxae.report.figures.conditions import grid, repeated
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def manifold(model: Trained, title: str, n: int = 15) -> "Figure":
    """Images decoded on an n x n grid of the 2-D latent space, at evenly spaced quantiles of N(0, 1) on each axis."""
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    figure = canvas(f"{title}: decoded grid of the latent space", 7.0, 7.0)
    axis = figure.subplots()
    images = pictures(np.asarray(model.decode(grid)))
    show(axis, tile(images, n))
    height, width = (size + 2 * GAP for size in images.shape[1:3])
    ticks = range(0, n, 2)
    labels = [f"{quantiles[i]:.1f}" for i in ticks]
    axis.set_xticks([(i + 0.5) * width for i in ticks], labels)
    axis.set_yticks([(n - i - 0.5) * height for i in ticks], labels)
    axis.set(xlabel="z1 (normal quantiles)", ylabel="z2 (normal quantiles)")
    return figure


def samples(model: Trained, data: Dataset, title: str, prior: Sampler | None = None, n: int = 10) -> "Figure":
    """n x n samples from the model's prior, or from one that is fitted to its codes.

    For a conditional model, n samples under each condition.
    """
    found = grid(model, data) if model.experiment.conditional else None
    rows, given = (n, {}) if found is None else (len(found.labels), repeated(found, n))
    images = pictures(np.asarray(model.sample(jax.random.key(0), n * rows, prior, **given)))
    sheet = tile(images, n)
    figure = canvas(sampled_from(title, prior), 6.0, 0.3 + 6.0 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    if found:
        _rows(axis, images.shape[1], found.labels)
    return figure


def counterfactuals(model: Trained, data: Dataset, title: str) -> "Figure":
    """Codes of ten test images, each decoded under every condition."""
    found = conditions.counterfactuals(model, data, 10)
    decoded = pictures(found.decoded.reshape(-1, *model.shape))
    first = originals(data, found.places)
    channels = max(first.shape[3], decoded.shape[3])
    first, decoded = (np.broadcast_to(x, (*x.shape[:3], channels)) for x in (first, decoded))
    lines = np.concatenate([first[:, None], decoded.reshape(len(first), -1, *decoded.shape[1:])], 1)
    sheet = tile(lines.reshape(-1, *lines.shape[2:]), lines.shape[1])
    about = f"{title}: codes of test images decoded under other conditions{remark(data, found.places)}"
    figure = canvas(about, 9.0, 1.2 + 8.6 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    _columns(axis, lines.shape[3], ["original", *found.labels])
    axis.tick_params(axis="x", labelrotation=90 * (max(map(len, found.labels)) > 6))
    return figure


def sampled_from(title: str, prior: Sampler | None) -> str:
    """Title of a figure of samples."""
    return f"{title}: samples from {'a Gaussian mixture fitted to the codes' if prior else 'the prior'}"


class Interpolation(NamedTuple):
    """Decoded points on straight lines between the codes of pairs of test examples."""

    pairs: Int[np.ndarray, "R 2"]  # indices in the test split
    decoded: Float[np.ndarray, "R C *D"]
    fractions: Float[np.ndarray, " C"]  # of the way from the first to the second code


def interpolated(model: Trained, data: Dataset, pairs: int, steps: int) -> Interpolation:
    """Decoded linear interpolations between the codes of up to this many pairs of test examples."""
    chosen = ten(data)
    half = min(max(len(chosen) // 2, 1), pairs)
    places = np.stack([chosen[:half], chosen[-half:]], 1)
    z = encoded(model, data.test, places.ravel()).reshape(half, 2, *model.code)
    t = np.linspace(0, 1, steps, dtype=np.float32)
    weight = t.reshape(steps, *(1,) * len(model.code))
    line = (1 - weight) * z[:, :1] + weight * z[:, 1:]
    decoded = np.asarray(model.decode(line.reshape(-1, *model.code)))
    return Interpolation(places, decoded.reshape(half, steps, *model.shape), t)


def interpolation(model: Trained, data: Dataset, title: str) -> "Figure":
    """Decoded linear interpolations between the codes of five pairs of test images."""
    found = interpolated(model, data, 5, 10)
    half, steps = found.decoded.shape[:2]
    ends = originals(data, found.pairs.ravel())
    decoded = pictures(found.decoded.reshape(-1, *model.shape))
    channels = max(ends.shape[3], decoded.shape[3])
    ends, decoded = (np.broadcast_to(x, (*x.shape[:3], channels)) for x in (ends, decoded))
    ends, decoded = ends.reshape(half, 2, *ends.shape[1:]), decoded.reshape(half, steps, *decoded.shape[1:])
    rows = np.concatenate([ends[:, :1], decoded, ends[:, 1:]], 1)
    sheet = tile(rows.reshape(-1, *rows.shape[2:]), steps + 2)
    name = f"{title}: linear interpolation between the codes of two test images{remark(data, found.pairs.ravel())}"
    figure = canvas(name, 9.0, 0.8 + 8.6 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    _columns(axis, rows.shape[3], ["original", *(f"{part:.0%}" for part in found.fractions), "original"])
    return figure


class Traversal(NamedTuple):
    """The code of a test example with one latent dimension moved, decoded."""

    dimensions: Int[np.ndarray, " R"]  # those with the largest standard deviations
    offsets: Float[np.ndarray, " C"]  # from the mean of the dimension, in standard deviations
    decoded: Float[np.ndarray, "R C *D"]


def traversed(model: Trained, data: Dataset, rows: int, steps: int) -> Traversal:
    """Latent traversal of the first test example, over up to this many dimensions."""
    z = encoded(model, data.test, spread(len(data.test.x), 2000))
    flat = z.reshape(len(z), -1)
    mean, deviation = flat.mean(0), flat.std(0)
    dimensions = np.argsort(-deviation, kind="stable")[:rows]
    offsets = np.linspace(-2, 2, steps)
    moved = np.tile(flat[0], (len(dimensions), steps, 1))
    for row, number in enumerate(dimensions):
        moved[row, :, number] = mean[number] + offsets * deviation[number]
    decoded = np.asarray(model.decode(moved.reshape(-1, *model.code)))
    return Traversal(dimensions, offsets, decoded.reshape(len(dimensions), steps, *model.shape))


def traversal(model: Trained, data: Dataset, title: str) -> "Figure":
    """Latent traversal of a test image, one dimension per row, in order of decreasing variance."""
    found = traversed(model, data, 10, 9)
    images = pictures(found.decoded.reshape(-1, *model.shape))
    sheet = tile(images, len(found.offsets))
    name = f"{title}: latent traversal, one dimension per row"
    figure = canvas(name, 8.0, 1.0 + 7.2 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    _columns(axis, images.shape[2], [f"{offset:+.1f}" for offset in found.offsets])
    _rows(axis, images.shape[1], [f"z{number + 1}" for number in found.dimensions])
    axis.set_xlabel("standard deviations from the mean")
    return figure


def _rows(axis: "Axes", height: int, labels: list[str]) -> None:
    axis.set_yticks([(row + 0.5) * (height + 2 * GAP) for row in range(len(labels))], labels, fontsize=8)


def _columns(axis: "Axes", width: int, labels: list[str]) -> None:
    axis.set_xticks([(column + 0.5) * (width + 2 * GAP) for column in range(len(labels))], labels, fontsize=8)
