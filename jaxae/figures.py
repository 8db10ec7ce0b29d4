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

UNITS = {"mse": "per pixel", "rmse": "per pixel", "bce": "nats per pixel", "code": "mean |z| over units"}
GAP = 1  # pixels around each image of a grid


def draw(folder: Path, model: Model, data: Dataset, lines: list[log.Record], title: str) -> list[Path]:
    """All pictures that suit the model, into `folder`; their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    from matplotlib.text import Text

    figures = {
        "loss": loss(lines, model.experiment.unit, title),
        "reconstructions": (reconstructions if data.test.lengths is None else curves)(model, data, title),
    }
    if strips := sorted((folder / "training").glob("*.png")):
        figures["training"] = training(strips, model, data, title)
    if len(model.code) == 3:
        figures["codes"] = codes(model, data, title)
    if prod(model.code) > 1:
        figures["latent"] = latent(model, data, title)
    if prod(model.code) > 2 and len(data.test.x) > 100 and np.ptp(_codes(model, data, 2000)[0], axis=0).any():
        figures["tsne"] = tsne(model, data, title)
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


def loss(lines: list[log.Record], unit: str, title: str) -> "Figure":
    """Every metric over epochs, train and test; with several seeds the mean and a band of one standard deviation.

    unit: of the loss and its penalty.
    """
    units = {**UNITS, "loss": unit, "penalty": unit}
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
        axis.set(title=name, xlabel="epoch", ylabel=units.get(name, "nats per image"))
        axis.grid(alpha=0.3)
        axis.xaxis.get_major_locator().set_params(integer=True)
    axes[0].legend()
    return figure


def reconstructions(model: Model, data: Dataset, title: str) -> "Figure":
    """Ten test images, from all over the split, over their reconstructions; between them, noisy, if there is noise."""
    chosen = _ten(data)
    x = data.test.x[chosen]
    rows = {"original": x}
    seen = np.asarray(model.corrupted(x))
    if model.experiment.corrupt:
        rows["noisy"] = seen
    rows["denoised" if model.experiment.corrupt else "decoded"] = np.asarray(model.reconstruct(seen))
    figure = _figure(f"{title}: test images over their reconstructions", 1.1 * len(x), 0.5 + 1.2 * len(rows))
    axes = figure.subplots(len(rows), len(x), squeeze=False)
    for line, (label, images) in zip(axes, rows.items(), strict=True):
        line[0].set_ylabel(label)
        for axis, image in zip(line, images, strict=True):
            _show(axis, image)
    if data.classes:
        for axis, label in zip(axes[0], data.test.y[chosen], strict=True):
            axis.set_title(data.classes[label][:10], fontsize=9)
    return figure


def curves(model: Model, data: Dataset, title: str) -> "Figure":
    """Ten test sequences and their reconstructions over time, up to their ends; of each step the first ten numbers."""
    chosen = _ten(data)
    x, lengths = data.test.x[chosen], np.asarray(data.test.lengths)[chosen]
    y = np.asarray(model.reconstruct(x, lengths))
    figure = _figure(f"{title}: test sequences (points) and their reconstructions (lines)", 12.0, 4.5)
    axes = figure.subplots(2, 5, sharex=True, sharey=True)
    for axis, original, decoded, length in zip(axes.flat, x, y, lengths, strict=False):
        for number, colour in zip(range(x.shape[2]), COLOURS, strict=False):
            axis.plot(original[:length, number], ".", color=colour)
            axis.plot(decoded[:length, number], color=colour)
        axis.grid(alpha=0.3)
    figure.supxlabel("step")
    figure.supylabel("value")
    return figure


def codes(model: Model, data: Dataset, title: str) -> "Figure":
    """Ten test images over their codes as pictures: a code of h x w x c as h columns of w c values."""
    x = data.test.x[_ten(data)]
    z = np.asarray(model.encode(x))
    z = z.reshape(*z.shape[:2], -1).swapaxes(1, 2)
    height = min(8.0, max(1.2, 1.1 * z.shape[1] / z.shape[2]))
    figure = _figure(f"{title}: codes of {'x'.join(map(str, model.code))} as pictures", 1.1 * len(x), 1.8 + height)
    axes = figure.subplots(2, len(x), squeeze=False, height_ratios=(1.1, height))
    for column, (image, code) in enumerate(zip(x, z, strict=True)):
        _show(axes[0][column], image)
        axes[1][column].imshow(code, cmap="gray", vmin=z.min(), vmax=z.max(), aspect="auto")
        axes[1][column].set(xticks=[], yticks=[])
    axes[0][0].set_ylabel("original")
    axes[1][0].set_ylabel(f"code, {z.shape[2]}x{z.shape[1]}")
    return figure


def strip(folder: Path, step: int, model: Model, data: Dataset) -> Path:
    """Ten reconstructions while training, as a picture in `folder` that is named for the step; its path."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{step:07d}.png"
    images = np.asarray(model.reconstruct(model.corrupted(data.test.x[_ten(data)])))
    pixels = (255 * _tile(images, len(images))).round().astype(np.uint8)
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(path)
    return path


def training(strips: list[Path], model: Model, data: Dataset, title: str, rows: int = 10) -> "Figure":
    """Originals, and under them their reconstructions as training went on, at steps that grow by a factor."""
    from PIL import Image

    places = np.unique(np.geomspace(1, len(strips), min(rows, len(strips))).round().astype(int) - 1)
    images = data.test.x[_ten(data)]
    lines = {"original": _tile(images, len(images))}
    for place in places:
        with Image.open(strips[place]) as picture:
            pixels = np.asarray(picture)
        lines[f"step {int(strips[place].stem):,}"] = pixels.reshape(*pixels.shape[:2], model.shape[2])
    figure = _figure(f"{title}: reconstructions while training", 8.0, 0.5 + 0.8 * len(lines))
    for axis, (label, pixels) in zip(figure.subplots(len(lines), 1), lines.items(), strict=True):
        _show(axis, pixels)
        axis.set_ylabel(label, rotation=0, ha="right", va="center")
    return figure


def latent(model: Model, data: Dataset, title: str) -> "Figure":
    """The codes of up to 10,000 test examples, coloured by class; more than two dimensions on their principal plane."""
    z, y = _codes(model, data, 10_000)
    labels = ("z1", "z2")
    if z.shape[1] > 2:
        centred = z - z.mean(0)
        _, s, rows = np.linalg.svd(centred, full_matrices=False)
        z = centred @ rows[:2].T
        share = s[:2] ** 2 / max(np.sum(s**2), 1e-12)
        labels = (f"component 1 ({share[0]:.0%} of variance)", f"component 2 ({share[1]:.0%})")
    return _scatter(z, y, data.classes, labels, f"{title}: codes of {len(z):,} test examples")


def tsne(model: Model, data: Dataset, title: str) -> "Figure":
    """The codes of up to 2,000 test examples in two dimensions by t-SNE (van der Maaten & Hinton 2008)."""
    from sklearn.manifold import TSNE

    z, y = _codes(model, data, 2000)
    plane = TSNE(init="pca", random_state=0).fit_transform(z)
    name = f"{title}: {z.shape[1]}-dimensional codes of {len(z):,} test examples by t-SNE"
    return _scatter(plane, y, data.classes, ("t-SNE 1", "t-SNE 2"), name)


def _codes(model: Model, data: Dataset, most: int) -> tuple[np.ndarray, np.ndarray]:
    test = data.test
    z = model.encode(test.x[:most], None if test.lengths is None else test.lengths[:most])
    return np.asarray(z).reshape(len(z), -1), test.y[:most]


def _scatter(z: np.ndarray, y: np.ndarray, classes: tuple[str, ...], labels: tuple[str, str], title: str) -> "Figure":
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    figure = _figure(title, 7.0, 6.0)
    axis = figure.subplots()
    colours = [COLOURS[label % 10] for label in y]
    shuffled = np.random.default_rng(0).permutation(len(z))  # so that no class covers the others
    size = max(4, min(30, 20_000 / len(z)))
    axis.scatter(z[shuffled, 0], z[shuffled, 1], s=size, c=[colours[i] for i in shuffled], linewidths=0, alpha=0.75)
    if 1 <= len(classes) <= 20:
        n = len(classes)
        palette = ListedColormap([COLOURS[label % 10] for label in range(n)])
        bar = figure.colorbar(ScalarMappable(BoundaryNorm(np.arange(n + 1) - 0.5, n), palette), ax=axis, label="class")
        bar.set_ticks(range(n), labels=[name[:20] for name in classes])
        for label in np.unique(y):  # colours alone do not tell ten classes apart
            middle = np.median(z[y == label], axis=0)
            box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": COLOURS[label % 10], "alpha": 0.85}
            axis.text(middle[0], middle[1], classes[label][:10], ha="center", va="center", weight="bold", bbox=box)
    axis.set(xlabel=labels[0], ylabel=labels[1])
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


def _ten(data: Dataset) -> np.ndarray:
    """Ten places all over the test split."""
    count = len(data.test.x)
    return np.linspace(0, count - 1, min(10, count)).astype(int)


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
