"""Pictures of a run, as PNG files."""

from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxae import log
from jaxae.data import Dataset
from jaxae.experiment import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Ten colours that people with any colour vision tell apart best (Petroff 2021, arXiv:2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")

GAP = 1  # pixels around each image of a grid


def draw(folder: Path, model: Model, data: Dataset, lines: list[log.Record], title: str) -> list[Path]:
    """All pictures that suit the model, into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    from matplotlib.text import Text

    figures = {
        "loss": loss(lines, title),
        "reconstructions": reconstructions(model, data, title),
    }
    if prod(model.code) > 1:
        figures["latent"] = latent(model, data, title)
    if model.experiment.prior:
        figures["samples"] = samples(model, title)
        if model.code == (2,):
            figures["manifold"] = manifold(model, title)
    paths = [folder / f"{name}.png" for name in figures]
    for path, figure in zip(paths, figures.values(), strict=True):
        for text in figure.findobj(Text):
            text.set_parse_math(False)  # a class may be called $a^$
        figure.savefig(path, dpi=130, metadata={"Software": None})
    return paths


def loss(lines: list[log.Record], title: str) -> "Figure":
    """Every metric over epochs, train and test; with several seeds the mean and a band of one standard deviation."""
    names = sorted({name for line in lines for name in log.names(line)}, key=lambda name: (name != "loss", name))
    columns, rows = min(len(names), 3), -(-len(names) // 3)
    figure = _figure(f"{title}: metrics over epochs", 3.6 * columns, 0.4 + 2.8 * rows)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axis in axes[len(names) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, names, strict=False):
        for colour, split in zip(COLOURS, ("train", "test"), strict=False):
            part = [line for line in lines if line["split"] == split and name in line]
            if not part:
                continue  # measured in training only
            epochs = np.array([line["epoch"] for line in part])
            mean = np.array([log.scalar(line, name) for line in part])
            axis.plot(epochs, mean, color=colour, label=split, marker="." if len(part) < 20 else None)
            if f"{name}_std" in part[0]:
                std = np.array([line[f"{name}_std"] for line in part])
                axis.fill_between(epochs, mean - std, mean + std, color=colour, alpha=0.25, linewidth=0)
        unit = {"mse": "per pixel", "bce": "nats per pixel"}.get(name, "nats per image")
        axis.set(title=name, xlabel="epoch", ylabel=unit)
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    return figure


def reconstructions(model: Model, data: Dataset, title: str) -> "Figure":
    """Ten test images, from all over the split, over their reconstructions."""
    chosen = np.linspace(0, len(data.test.x) - 1, min(10, len(data.test.x))).astype(int)
    x = data.test.x[chosen]
    y = np.asarray(model.reconstruct(x))
    figure = _figure(f"{title}: test images over their reconstructions", 1.1 * len(x), 2.9)
    axes = figure.subplots(2, len(x), squeeze=False)
    for column, pair in enumerate(zip(x, y, strict=True)):
        for axis, image in zip(axes[:, column], pair, strict=True):
            _show(axis, image)
        if data.classes:
            axes[0][column].set_title(data.classes[data.test.y[chosen[column]]][:10], fontsize=9)
    for axis, label in zip(axes[:, 0], ("original", "decoded"), strict=True):
        axis.set_ylabel(label)
    return figure


def latent(model: Model, data: Dataset, title: str) -> "Figure":
    """The codes of up to 10,000 test images, coloured by class; more than two dimensions on their principal plane."""
    y = data.test.y[:10_000]
    z = np.asarray(model.encode(data.test.x[:10_000])).reshape(len(y), -1)
    figure = _figure(f"{title}: codes of {len(z):,} test images", 7.0, 6.0)
    axis = figure.subplots()
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        _, s, rows = np.linalg.svd(centred, full_matrices=False)
        z = centred @ rows[:2].T
        share = s[:2] ** 2 / max(np.sum(s**2), 1e-12)
        axis.set(xlabel=f"component 1 ({share[0]:.0%} of variance)", ylabel=f"component 2 ({share[1]:.0%})")
    else:
        axis.set(xlabel="z1", ylabel="z2")
    for label in np.unique(y):
        chosen = z[y == label]
        name = data.classes[label] if data.classes else "test"
        axis.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=max(4, min(30, 20_000 / len(z))),
            color=COLOURS[label % 10],
            label=name,
            linewidths=0,
            alpha=0.75,
        )
    if 1 <= len(data.classes) <= 20:
        axis.legend(title="class", loc="center left", bbox_to_anchor=(1, 0.5), markerscale=2)
        for label in np.unique(y):  # colours alone do not tell ten classes apart
            middle = np.median(z[y == label], axis=0)
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": COLOURS[label % 10], "alpha": 0.85}
            axis.text(middle[0], middle[1], data.classes[label][:10], ha="center", va="center", weight="bold", bbox=box)
    axis.set_aspect("equal", adjustable="datalim")
    return figure


def manifold(model: Model, title: str, n: int = 15) -> "Figure":
    """The decoded plane on an n x n grid of equal prior mass: normal quantiles at the middles of n intervals."""
    from scipy.stats import norm

    quantiles = norm.ppf((np.arange(n) + 0.5) / n)
    grid = np.stack(np.meshgrid(quantiles, quantiles[::-1]), axis=-1).reshape(-1, 2)
    figure = _figure(f"{title}: decoded plane of codes", 7.0, 7.0)
    axis = figure.subplots()
    _show(axis, _tile(np.asarray(model.decode(grid)), n))
    height, width = (size + 2 * GAP for size in model.shape[:2])
    ticks = range(0, n, 2)
    labels = [f"{quantiles[i]:.1f}" for i in ticks]
    axis.set_xticks([(i + 0.5) * width for i in ticks], labels)
    axis.set_yticks([(n - i - 0.5) * height for i in ticks], labels)
    axis.set(xlabel="z1 (normal quantiles)", ylabel="z2 (normal quantiles)")
    return figure


def samples(model: Model, title: str, n: int = 10) -> "Figure":
    """n x n images decoded from codes of the prior."""
    figure = _figure(f"{title}: samples from the prior", 6.0, 6.3)
    _show(figure.subplots(), _tile(np.asarray(model.sample(jax.random.key(0), n * n)), n))
    return figure


def _tile(images: np.ndarray, columns: int) -> np.ndarray:
    images = np.pad(images, ((0, 0), (GAP, GAP), (GAP, GAP), (0, 0)))
    count, height, width, channels = images.shape
    grid = images.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, channels)


def _show(axis: Any, image: np.ndarray) -> None:
    grey = image.shape[-1] == 1
    limit = 255 if image.dtype == np.uint8 else 1
    axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])


def _figure(title: str, width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure
