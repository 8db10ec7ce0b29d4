"""The interactive latent space of the report: two dimensions with the decoded image of every point.

A series is a picture with a row of pixels for each dimension, which the page draws as curves.

A report cannot run the decoder, so images are decoded here on a grid, and the report interpolates between its points.
Codes of more than two dimensions are projected onto their first two principal components. A slider for each further
component adds the change in the decoded image when that component alone is moved away from its mean, computed on a
coarser grid.
"""

from collections.abc import Callable, Mapping
from math import prod
from types import MappingProxyType
from typing import Any

import numpy as np

from jaxae.data import Dataset, slices, spread
from jaxae.report.figures.base import (
    bitmap,
    data_url,
    displayed,
    encoded,
    in_units,
    missing,
    originals,
    painted,
    pictures,
    tile,
)
from jaxae.report.figures.conditions import described, own
from jaxae.report.figures.plane import principal
from jaxae.training.examples import part_of
from jaxae.training.trained import Trained

SIZES = (48, 40, 32, 24, 16, 12, 8, 5, 3)  # grid points per axis: the largest that fits the budget
COARSE = (5, 3)  # the same, for components beyond the second
OFFSETS = (-2.0, -1.0, 1.0, 2.0)  # values of those components, in standard deviations
MAX_EXAMPLES = 1000  # test examples
BUDGET = 500_000  # bytes for each of the grid, the sliders and the test examples, of a report of at most 3 MB
COLUMNS = 32  # images per row of a sheet
SIDE = 64  # pixels: larger images are downsampled
STEPS = 256  # of a series: longer ones are downsampled
DIMENSIONS = 10  # of a series, at most
COMPONENTS = 32  # principal components at most


def wall(model: Trained, data: Dataset) -> dict[str, Any] | None:
    """Data of the interactive latent space, as JSON values.

    None for rows of a table, which are not images, and for one-dimensional or constant codes.

    Pictures are data URLs of PNG files: sheets of images, row by row. On the grid the first axis of the plane runs
    fastest; in a slider's sheet it is followed by the second, then by its offset. A grey level of 128 is no change in a
    slider's sheet, and 1 and 255 are changes by -1 and 1.
    """
    if len(data.shape) == 1:
        return None
    model, data = displayed(model, data)
    first = part_of(own(model, data, np.arange(1)), 0)
    at = model.under(**first) if first else model
    numbers = spread(len(data.test.x), 10_000)
    every = encoded(model, data.test, numbers)
    z = every.reshape(len(every), -1).astype(np.float64)
    if z.shape[1] < 2 or not np.ptp(z, axis=0).any():
        return None
    if z.shape[1] == 2:
        mean, directions, labels = np.zeros(2), np.eye(2), ["z1", "z2"]
        deviations, ratios = z.std(0), np.array([0.5, 0.5])
    else:
        components = principal(z, COMPONENTS)
        mean, directions, ratios = components.mean_, components.components_, components.explained_variance_ratio_
        deviations = np.sqrt(components.explained_variance_)
        labels = [f"component {k + 1} ({part:.1%} of variance)" for k, part in enumerate(ratios)]
    plane = (z - mean) @ directions[:2].T
    low, high = _range(plane)

    def decode(places: np.ndarray) -> np.ndarray:
        """Decode points [N, k], the first k components."""
        codes = mean + places @ directions[: places.shape[1]]
        return decoded(at, codes)

    coarsest = sheet(decode(_grid(low, high, SIZES[-1])))
    likely = [size for size in SIZES if len(coarsest) * (size / SIZES[-1]) ** 2 < 2 * BUDGET]  # large ones are slow
    sheets = ((size, sheet(decode(_grid(low, high, size)))) for size in likely)
    n, grid = next(((size, text) for size, text in sheets if len(text) < BUDGET), (SIZES[-1], coarsest))
    inside = np.flatnonzero(np.all((plane >= low) & (plane <= high), axis=1))
    inside = inside[spread(len(inside), MAX_EXAMPLES)]
    chosen, shown = _examples(model, data, numbers[inside])
    places = np.round(plane[inside[chosen]], 5)
    return {
        "size": list(_original(data, np.arange(1)).shape[1:3]),
        "columns": COLUMNS,
        "low": low.tolist(),
        "high": high.tolist(),
        "labels": labels[:2],
        "n": n,
        "grid": grid,
        **_sliders(decode, low, high, deviations, ratios, labels),
        "codes": {"x": places[:, 0].tolist(), "y": places[:, 1].tolist(), **shown},
        "classes": list(data.classes),
        "steps": data.shape[0] if len(data.shape) == 2 else 0,  # of a series
        "missing": data.test.observed is not None,
        "condition": described(first) if first else "",
    }


def decoded(model: Trained, codes: np.ndarray, given: Mapping[str, Any] = MappingProxyType({})) -> np.ndarray:
    """Decoded codes [N, ...] as images for a sheet, decoded in parts of at most `VALUES` numbers.

    given: the conditions of the codes.
    """
    parts = slices(len(codes), prod(model.shape))
    images = (model.decode(codes[part].reshape(-1, *model.code), **part_of(given, part)) for part in parts)
    return np.concatenate([_image(np.asarray(image)) for image in images])


def _image(x: np.ndarray) -> np.ndarray:
    """Examples in [0, 1] as images for a sheet: series with a row for each dimension."""
    if x.ndim != 3:
        return small(pictures(x))
    factor = -(-x.shape[1] // STEPS)
    x = np.pad(x[:, :, :DIMENSIONS], ((0, 0), (0, -x.shape[1] % factor), (0, 0)), mode="edge")
    means = x.reshape(len(x), -1, factor, x.shape[2]).mean(2)
    return np.asarray(means.swapaxes(1, 2)[..., None])


def _original(data: Dataset, places: np.ndarray) -> np.ndarray:
    """Test examples as images for a sheet, missing entries in the colour `MISSING`."""
    if len(data.shape) != 2:
        return small(originals(data, places))
    x, absent = _image(in_units(data, data.test.x[places])), missing(data, places)
    return x if absent is None else painted(x, _image(absent.astype(np.float32)) > 0)


def small(images: np.ndarray) -> np.ndarray:
    """Downsample images [N, H, W, C] by an integer factor, to at most `SIDE` pixels per side."""
    height, width = images.shape[1:3]
    factor = -(-max(height, width) // SIDE)
    padding = ((0, 0), (0, -height % factor), (0, -width % factor), (0, 0))
    images = np.pad(images, padding, mode="edge")
    count, height, width, channels = images.shape
    blocks = images.reshape(count, height // factor, factor, width // factor, factor, channels)
    shrunk: np.ndarray = blocks.mean((2, 4))
    return shrunk


def sheet(images: np.ndarray) -> str:
    """Images [N, H, W, C] in [0, 1] as one picture, `COLUMNS` in a row, as a data URL."""
    count = len(images)
    blank = np.zeros((-count % COLUMNS, *images.shape[1:]), images.dtype)
    return data_url(bitmap(tile(np.concatenate([images, blank]), COLUMNS, gap=0)))


def _range(plane: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Corners of the plane: the central 99 % of the codes along each axis, plus a margin."""
    low, high = np.quantile(plane, (0.005, 0.995), axis=0)
    margin = np.maximum(0.05 * (high - low), 1e-3)
    return low - margin, high + margin


def _grid(low: np.ndarray, high: np.ndarray, n: int) -> np.ndarray:
    """n x n points of the plane, [n * n, 2]."""
    x, y = (np.linspace(*ends, n) for ends in zip(low, high, strict=True))
    return np.stack(np.meshgrid(x, y), -1).reshape(-1, 2)


def _examples(model: Trained, data: Dataset, numbers: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """As many of these test examples as fit the budget: their indices, images and reconstructions."""
    parts = [_original(data, numbers[part]) for part in slices(len(numbers), prod(data.shape))]
    channels = max(part.shape[3] for part in parts)  # missing entries have a colour
    before = np.concatenate([np.broadcast_to(part, (*part.shape[:3], channels)) for part in parts])
    after = decoded(model, encoded(model, data.test, numbers, corrupted=True), own(model, data, numbers))
    each = (len(sheet(before[:COLUMNS])) + len(sheet(after[:COLUMNS]))) / min(len(numbers), COLUMNS)
    chosen = spread(len(numbers), max(1, int(BUDGET / each)))
    return chosen, {
        "numbers": numbers[chosen].tolist(),
        "class": data.test.y[numbers[chosen]].tolist(),
        "originals": sheet(before[chosen]),
        "decoded": sheet(after[chosen]),
        "lengths": None if data.test.lengths is None else data.test.lengths[numbers[chosen]].tolist(),
    }


def _sliders(
    decode: Callable[[np.ndarray], np.ndarray],
    low: np.ndarray,
    high: np.ndarray,
    deviations: np.ndarray,
    ratios: np.ndarray,
    labels: list[str],
) -> dict[str, Any]:
    """A slider for every component beyond the second that varies, within the budget.

    without: fraction of the variance in components without a slider.
    """
    moving = [k for k in range(2, len(deviations)) if deviations[k] > 1e-3 * deviations[0]]
    for n in COARSE:
        plane = _grid(low, high, n)
        still = decode(plane)
        sliders: list[dict[str, Any]] = []
        for k in moving:
            places = np.zeros((len(OFFSETS), len(plane), k + 1))
            places[:, :, :2] = plane
            places[:, :, k] = deviations[k] * np.array(OFFSETS)[:, None]
            changes = decode(places.reshape(-1, k + 1)).reshape(len(OFFSETS), *still.shape) - still
            text = sheet((changes.reshape(-1, *still.shape[1:]) * 127 + 128) / 255)
            sliders.append({"label": labels[k], "sheet": text})
            if sum(len(slider["sheet"]) for slider in sliders) > BUDGET:
                sliders.pop()
                break
        if len(sliders) == len(moving):
            break
    without = 1 - float(np.sum(ratios[: 2 + len(sliders)]))
    return {"sliders": sliders, "coarse": n, "offsets": list(OFFSETS), "without": max(0.0, round(without, 4))}
