"""What all pictures share: colours, grids of images, the ten test examples that are shown."""

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxae.data import Dataset
from jaxae.experiment import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

# Ten colours that people with any colour vision tell apart best (Petroff 2021, arXiv:2107.02270).
COLOURS = ("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6", "#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd")
GAP = 1  # pixels around each image of a grid


def ten(data: Dataset) -> np.ndarray:
    """Ten places all over the test split."""
    count = len(data.test.x)
    return np.linspace(0, count - 1, min(10, count)).astype(int)


def tile(images: np.ndarray, columns: int, gap: int = GAP) -> np.ndarray:
    """[N, H, W, C] as one image [N / columns rows of images, columns of images, C]."""
    images = np.pad(images, ((0, 0), (gap, gap), (gap, gap), (0, 0)))
    count, height, width, channels = images.shape
    grid = images.reshape(count // columns, columns, height, width, channels).swapaxes(1, 2)
    return grid.reshape(-1, columns * width, channels)


def show(axis: Any, image: np.ndarray) -> None:
    """An image [H, W, C], uint8 or in [0, 1], on an axis."""
    grey = image.shape[-1] == 1
    limit = 255 if image.dtype == np.uint8 else 1
    axis.imshow(image[..., 0] if grey else image, cmap="gray" if grey else None, vmin=0, vmax=limit)
    axis.set_xticks([])
    axis.set_yticks([])


def canvas(title: str, width: float, height: float) -> "Figure":
    """An empty figure of so many inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.suptitle(title)
    return figure


def pictures(x: np.ndarray) -> np.ndarray:
    """Examples as images [N, H, W, C]: sequences [N, T, D] as grey ones, a row per step."""
    return x if x.ndim == 4 else x[..., None]


def unit(x: np.ndarray) -> np.ndarray:
    """Pixels in [0, 1]."""
    return x / np.float32(255) if x.dtype == np.uint8 else x


def encoded(model: Model, data: Dataset, places: np.ndarray, seen: bool = False) -> np.ndarray:
    """Codes of these test examples. seen: with the noise that the encoder sees in training, where there is one."""
    x, lengths = data.test.x[places], data.test.lengths
    if seen and lengths is None:
        x = np.asarray(model.corrupted(x))
    return np.asarray(model.encode(x, None if lengths is None else lengths[places]))


def bitmap(pixels: np.ndarray) -> "Image":
    """Pixels [H, W, C] in [0, 1] as a picture, grey or colour."""
    from PIL.Image import fromarray

    rounded = np.round(255 * pixels).astype(np.uint8)
    return fromarray(rounded[..., 0] if rounded.shape[-1] == 1 else rounded)


def address(picture: "Image") -> str:
    """A picture as a data address, a PNG file, for a page."""
    file = io.BytesIO()
    picture.save(file, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
