"""Common to all figures: colours, grids of images, the ten test examples."""

import base64
import io
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxae.core.types import Sampler, Scale
from jaxae.data import Dataset, Split, slices, spread, within
from jaxae.data.dataset import VALUES
from jaxae.measure import mixture
from jaxae.training.trained import Trained

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Ten colours, distinguishable with any colour vision (Petroff 2021, arXiv:2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
MISSING = "#ff2d9b"  # colour of entries that were not measured: pink, which no grey picture has
GAP = 1  # pixels around each image of a grid
FITTED = 10_000  # training examples to whose codes a mixture is fitted


def ten(data: Dataset) -> np.ndarray:
    """Indices of ten test examples, evenly spaced."""
    return spread(len(data.test.x), 10)


def at_most(data: Dataset, count: int) -> int:
    """`count`, or the number of examples that have `VALUES` numbers if that is smaller."""
    return min(count, max(1, VALUES // prod(data.shape)))


def tile(images: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """Tile images [N, H, W, C] into one image, with `columns` of them, which divides N, in every row."""
    images = np.pad(images, ((0, 0), (gap, gap), (gap, gap), (0, 0)))
    count, height, width, channels = images.shape
    grid = images.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, channels)


def show(axis: Any, image: np.ndarray) -> None:
    """Show an image [H, W, C], uint8 or in [0, 1], on an axis."""
    grey = image.shape[-1] == 1
    limit = 255 if image.dtype == np.uint8 else 1
    axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])


def canvas(title: str, width: float, height: float) -> "Figure":
    """An empty figure; width and height in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def pictures(x: np.ndarray, lengths: np.ndarray | None = None) -> np.ndarray:
    """Examples in [0, 1] as displayable images [N, H, W, C], C = 1 or 3.

    Transparent images are composited on white. Sequences [N, T, D] become grey images, time to the right, with a band
    for each dimension; padding is black. Rows of a table [N, D] become a band of D fields.
    """
    if x.ndim == 2:
        x = x[..., None]
    if x.ndim == 4:
        return x if x.shape[3] < 4 else x[..., :3] * x[..., 3:] + 1 - x[..., 3:]
    if lengths is not None:
        x = x * within(lengths, x.shape[1])[..., None]
    band = -(-max(28, x.shape[1] // 3) // x.shape[2])
    return np.repeat(x.swapaxes(1, 2), band, axis=1)[..., None]


def unit(x: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1]."""
    return x / np.float32(255) if x.dtype == np.uint8 else x


def in_units(data: Dataset, x: np.ndarray) -> np.ndarray:
    """Examples of the data in the units of its scale, bytes as pixels in [0, 1]."""
    if x.dtype == np.uint8:
        return unit(x)
    return x if data.scale is None else data.scale.offset + data.scale.factor * x


def displayed(model: Trained, data: Dataset) -> tuple[Trained, Dataset]:
    """Model and data with a scale in whose units black is 0 and white 1; without a scale for pixels.

    For real numbers, black and white are the 0.1 % and 99.9 % quantiles of the training split in model units; for
    counts, most of which are small, the 0.1 % and 95 % quantiles.
    """
    if not data.real:
        return replace(model, scale=None), data._replace(scale=None)
    rows = data.train.x[spread(len(data.train.x), at_most(data, 10_000))]
    low, high = np.quantile(rows, (0.001, 0.95 if data.kind == "counts" else 0.999))
    width = high - low if high > low else 1.0
    scale = Scale(np.array([-low / width]), np.array([1 / width]))
    return replace(model, scale=scale), data._replace(scale=scale)


def missing(data: Dataset, places: np.ndarray) -> np.ndarray | None:
    """Whether an entry of these test examples was not measured, [N, *D]; None if all were."""
    if data.test.observed is None:
        return None
    found: np.ndarray = np.equal(data.test.observed[places], 0)
    return found if np.any(found) else None


def originals(data: Dataset, places: np.ndarray) -> np.ndarray:
    """These test examples as displayable images, missing entries in the colour `MISSING`."""
    lengths = lengths_of(data, places)
    images = pictures(in_units(data, data.test.x[places]), lengths)
    return marked(images, missing(data, places))


def marked(images: np.ndarray, where: np.ndarray | None) -> np.ndarray:
    """Displayable images [N, H, W, C] with these entries of the examples, [N, *D], in the colour `MISSING`."""
    if where is None:
        return images
    if where.ndim == 4:
        where = np.max(where, axis=3, keepdims=True)
    return painted(images, pictures(where.astype(np.float32)) > 0)


def painted(images: np.ndarray, where: np.ndarray) -> np.ndarray:
    """Images [N, H, W, C] with these pixels, [N, H, W, 1], in the colour `MISSING`."""
    from matplotlib.colors import to_rgb

    return np.where(where, np.array(to_rgb(MISSING), np.float32), images)


def remark(data: Dataset, places: np.ndarray) -> str:
    """A line for a title that explains `MISSING`; empty if nothing is missing in these test examples."""
    return "" if missing(data, places) is None else "\npink: not measured, and filled in by the reconstruction"


def shown(model: Trained, first: np.ndarray, *others: np.ndarray) -> tuple[np.ndarray, ...]:
    """Examples as displayable values: pixels unchanged, real numbers scaled from the range of `first` to [0, 1].

    Each index of the last axis has its own range, since channels have their own units.
    """
    if not model.real and model.scale is None:
        return first, *others
    axes = tuple(range(first.ndim - 1))
    low, high = np.nanmin(first, axis=axes, keepdims=True), np.nanmax(first, axis=axes, keepdims=True)
    width = np.where(high > low, high - low, 1)
    return tuple(((x - low) / width).clip(0, 1) for x in (first, *others))


def lengths_of(data: Dataset, places: np.ndarray) -> np.ndarray | None:
    """Lengths of these test examples; None unless they are sequences."""
    return None if data.test.lengths is None else np.asarray(data.test.lengths)[places]


def encoded(model: Trained, split: Split, places: np.ndarray, corrupted: bool = False) -> np.ndarray:
    """Codes of these examples of a split. corrupted: with the noise or mask of training, if any."""
    plain = replace(model, scale=None)

    def codes(part: slice) -> np.ndarray:
        some = split.take(places[part])
        if corrupted and model.experiment.corrupt is not None and some.lengths is None:
            some = some._replace(x=np.asarray(plain.corrupted(some, part.start)))
        return np.asarray(plain.encode(some))

    return np.concatenate([codes(part) for part in slices(len(places), prod(model.shape))])


def fitted_mixture(model: Trained, train: Split, components: int) -> Sampler:
    """A Gaussian mixture fitted to the codes of at most `FITTED` training examples, for a model of one seed."""
    return mixture.fit(encoded(model, train, spread(len(train.x), FITTED)), components)


def bitmap(pixels: np.ndarray) -> "Image":
    """Pixels [H, W, C] in [0, 1] as a picture, grey or colour."""
    from PIL.Image import fromarray

    rounded = np.round(255 * pixels.clip(0, 1)).astype(np.uint8)
    return fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)


def label(classes: tuple[str, ...], number: int) -> str:
    """The first ten characters of a class name, or its number if the font lacks one of them."""
    from matplotlib import font_manager, ft2font

    font = ft2font.FT2Font(font_manager.findfont("DejaVu Sans"))
    name = classes[number][:10]
    return name if all(font.get_char_index(ord(letter)) for letter in name) else str(number)


def colour(number: int) -> str:
    """The colour of a class; examples without one are dark."""
    return COLOURS[number % len(COLOURS)] if number >= 0 else "#44505e"


def data_url(picture: "Image") -> str:
    """A picture as the data URL of a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()


def figure_url(figure: "Figure") -> str:
    """A figure as the data URL of a PNG file."""
    from PIL import Image

    file = io.BytesIO()
    save(figure, file, dpi=100)
    with Image.open(file) as picture:
        return data_url(picture.convert("RGB").quantize(128))


def save(figure: "Figure", file: Path | io.BytesIO, dpi: int = 130) -> None:
    """Write a figure as a PNG file."""
    from matplotlib.text import Text

    for text in figure.findobj(Text):
        text.set_parse_math(False)  # type: ignore[attr-defined]  # a class may be called $a^$
    figure.savefig(file, dpi=dpi, metadata={"Software": None})
