"""Figures of latent codes: as points, as images, and their activity."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxae.data import Dataset, spread
from jaxae.report.figures.base import COLOURS, canvas, colour, encoded, label, originals, remark, show, ten
from jaxae.training.trained import Trained

FEW = 100  # codes, too few for t-SNE
LIMIT = 2000  # codes in two dimensions

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from sklearn.decomposition import PCA


def codes(model: Trained, data: Dataset, title: str) -> "Figure":
    """Ten test images above their codes as images; a code [h, w, c] is shown as h columns of w c values."""
    chosen = ten(data)
    z = encoded(model, data.test, chosen)
    z = z.reshape(*z.shape[:2], -1).swapaxes(1, 2)
    height = min(8.0, max(1.2, 1.1 * z.shape[1] / z.shape[2]))
    about = f"{title}: codes of {'x'.join(map(str, model.code))} as images{remark(data, chosen)}"
    figure = canvas(about, 1.1 * len(z), 1.8 + height)
    axes = figure.subplots(2, len(z), squeeze=False, height_ratios=(1.1, height))
    for column, (image, code) in enumerate(zip(originals(data, chosen), z, strict=True)):
        show(axes[0][column], image)
        axes[1][column].imshow(code, cmap="gray", vmin=z.min(), vmax=z.max(), aspect="auto")
        axes[1][column].set(xticks=[], yticks=[])
    axes[0][0].set_ylabel("original")
    axes[1][0].set_ylabel(f"code, {z.shape[2]}x{z.shape[1]}")
    return figure


def latent(z: np.ndarray, y: np.ndarray, classes: tuple[str, ...], title: str) -> "Figure":
    """Codes [N, K], coloured by class [N]; for K > 2 the first two principal components."""
    labels = ("z1", "z2")
    if z.shape[1] > 2:
        components = principal(z, 2)
        z = components.transform(z)
        ratio = components.explained_variance_ratio_
        labels = (f"component 1 ({ratio[0]:.0%} of variance)", f"component 2 ({ratio[1]:.0%})")
    return scatter(z, y, classes, labels, f"{title}: codes of {len(z):,} test examples")


def principal(z: np.ndarray, count: int) -> "PCA":
    """Up to `count` principal components of codes [N, K], N > 1."""
    from sklearn.decomposition import PCA

    return PCA(min(count, *z.shape), random_state=0).fit(z.astype(np.float64))


class Projected(NamedTuple):
    """Codes [N, K] of test examples, and their positions in two dimensions."""

    z: np.ndarray
    plane: np.ndarray  # [N, 2]
    method: str


def projected(model: Trained, data: Dataset) -> Projected:
    """The codes of up to `LIMIT` test examples, evenly spaced."""
    z, _ = codes_of(model, data, LIMIT)
    return Projected(z, *_plane_of(z))


def tsne(shown: Projected, data: Dataset, title: str) -> "Figure":
    """t-SNE of the codes (van der Maaten & Hinton 2008)."""
    name = f"{title}: t-SNE of the {shown.z.shape[1]}-dimensional codes of {len(shown.z):,} test examples"
    y = data.test.y[spread(len(data.test.x), LIMIT)]
    return scatter(shown.plane, y, data.classes, ("t-SNE 1", "t-SNE 2"), name)


def _plane_of(z: np.ndarray) -> tuple[np.ndarray, str]:
    """Codes [N, K] in two dimensions, and the name of the method: t-SNE, or for few codes principal components."""
    if z.shape[1] <= 2:
        return np.pad(z, ((0, 0), (0, 2 - z.shape[1]))), "plot"
    if len(z) <= FEW:
        return principal(z, 2).transform(z), "principal components"
    from sklearn.manifold import TSNE

    return TSNE(init="pca", random_state=0).fit_transform(z), "t-SNE"


def activity(z: np.ndarray, title: str) -> "Figure":
    """Histogram of the values of codes [N, K], and the standard deviation of each latent dimension.

    A dimension is active if its variance is above 0.01 (Burda, Grosse & Salakhutdinov 2016, section 5.1).
    """
    deviation = np.sort(z.std(0))[::-1]
    figure = canvas(f"{title}: activity of the latent dimensions", 9.0, 3.6)
    values, dimensions = figure.subplots(1, 2)
    values.hist(z.ravel(), bins=60, color=COLOURS[0])
    values.set(xlabel="latent value", ylabel="count", yscale="log")
    values.yaxis.set_major_formatter("{x:,.0f}")
    values.yaxis.set_minor_formatter("")
    dimensions.bar(
        np.arange(1, len(deviation) + 1), deviation, color=COLOURS[0], width=0.9 if len(deviation) < 50 else 1
    )
    active = int((deviation**2 > 0.01).sum())
    dimensions.set(xlabel=f"latent dimension, sorted: {active} of {len(deviation)} active", ylabel="standard deviation")
    dimensions.xaxis.get_major_locator().set_params(integer=True)
    return figure


def codes_of(model: Trained, data: Dataset, limit: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes [N, K] of up to `limit` test examples, evenly spaced, and their classes."""
    chosen = spread(len(data.test.x), limit)
    z = encoded(model, data.test, chosen)
    return z.reshape(len(z), -1), data.test.y[chosen]


def scatter(z: np.ndarray, y: np.ndarray, classes: tuple[str, ...], labels: tuple[str, str], title: str) -> "Figure":
    """Scatter plot coloured by class, with the class names in a colour bar and at the medians."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import BoundaryNorm, ListedColormap

    figure = canvas(title, 7.0, 6.0)
    axis = figure.subplots()
    colours = [colour(number) for number in y.tolist()]
    shuffled = np.random.default_rng(0).permutation(len(z))  # so that no class covers the others
    size = max(4, min(30, 20_000 / len(z)))
    axis.scatter(z[shuffled, 0], z[shuffled, 1], s=size, c=[colours[i] for i in shuffled], linewidths=0, alpha=0.75)
    n = len(classes)
    if 1 <= n <= 20:
        palette = ListedColormap([colour(number) for number in range(n)])
        bar = figure.colorbar(ScalarMappable(BoundaryNorm(np.arange(n + 1) - 0.5, n), palette), ax=axis, label="class")
        bar.set_ticks(range(n), labels=[label(classes, number) for number in range(n)])
    for number in np.unique(y[y >= 0]).tolist() if n <= 100 else ():  # colours alone do not distinguish the classes
        middle = np.median(z[y == number], axis=0)
        box = {"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": colour(number), "alpha": 0.85}
        axis.text(middle[0], middle[1], label(classes, number), ha="center", va="center", weight="bold", bbox=box)
    axis.set(xlabel=labels[0], ylabel=labels[1])
    axis.set_aspect("equal", adjustable="datalim")
    return figure
