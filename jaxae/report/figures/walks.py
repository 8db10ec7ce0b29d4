"""Figures of decoded points in latent space: grid, samples, interpolation, traversal."""

from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxae.core.types import Sampler
from jaxae.data import Dataset, spread
from jaxae.report.figures.base import GAP, canvas, encoded, lengths_of, pictures, show, ten, tile, unit
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def manifold(model: Trained, title: str, n: int = 15) -> "Figure":
    """Images decoded on an n x n grid of the 2-D latent space: normal quantiles, at equal prior mass."""
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


def samples(model: Trained, title: str, prior: Sampler | None = None, n: int = 10) -> "Figure":
    """n x n samples from the model's prior, or from one that is fitted to its codes."""
    figure = canvas(
        f"{title}: samples from {'a Gaussian mixture fitted to the codes' if prior else 'the prior'}", 6.0, 6.3
    )
    show(figure.subplots(), tile(pictures(np.asarray(model.sample(jax.random.key(0), n * n, prior))), n))
    return figure


def interpolation(model: Trained, data: Dataset, title: str, steps: int = 10) -> "Figure":
    """Linear interpolation between the codes of five pairs of test examples, decoded."""
    chosen = ten(data)
    half = max(len(chosen) // 2, 1)
    pairs = np.stack([chosen[:half], chosen[-half:]], 1)
    z = encoded(model, data, pairs.ravel()).reshape(half, 2, *model.code)
    t = np.linspace(0, 1, steps, dtype=np.float32).reshape(steps, *(1,) * len(model.code))
    line = (1 - t) * z[:, :1] + t * z[:, 1:]
    decoded = np.asarray(model.decode(line.reshape(-1, *model.code))).reshape(half, steps, *model.shape)
    x = unit(data.test.x[pairs])
    lengths = lengths_of(data, pairs)
    ends = None if lengths is None else np.repeat(lengths.max(1), steps + 2)
    rows = pictures(np.concatenate([x[:, :1], decoded, x[:, 1:]], 1).reshape(-1, *model.shape), ends)
    sheet = tile(rows, steps + 2)
    name = f"{title}: linear interpolation between the codes of two test examples"
    figure = canvas(name, 9.0, 0.8 + 8.6 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    _columns(axis, rows.shape[2], ["original", *(f"{part:.0%}" for part in t.ravel()), "original"])
    return figure


def traversal(model: Trained, data: Dataset, title: str, rows: int = 10, steps: int = 9) -> "Figure":
    """Latent traversal of a test example: one dimension varied and decoded per row, the largest variance first."""
    z = encoded(model, data, spread(len(data.test.x), 2000))
    flat = z.reshape(len(z), -1)
    mean, deviation = flat.mean(0), flat.std(0)
    dimensions = np.argsort(-deviation, kind="stable")[:rows]
    offsets = np.linspace(-2, 2, steps)
    moved = np.tile(flat[0], (len(dimensions), steps, 1))
    for row, number in enumerate(dimensions):
        moved[row, :, number] = mean[number] + offsets * deviation[number]
    decoded = pictures(np.asarray(model.decode(moved.reshape(-1, *model.code))))
    sheet = tile(decoded, steps)
    name = f"{title}: latent traversal, one dimension per row"
    figure = canvas(name, 8.0, 1.0 + 7.2 * len(sheet) / sheet.shape[1])
    axis = figure.subplots()
    show(axis, sheet)
    _columns(axis, decoded.shape[2], [f"{offset:+.1f}" for offset in offsets])
    height = decoded.shape[1] + 2 * GAP
    axis.set_yticks(
        [(row + 0.5) * height for row in range(len(dimensions))], [f"z{number + 1}" for number in dimensions]
    )
    axis.set_xlabel("standard deviations from the mean")
    return figure


def _columns(axis: "Axes", width: int, labels: list[str]) -> None:
    axis.set_xticks([(column + 0.5) * (width + 2 * GAP) for column in range(len(labels))], labels, fontsize=8)
