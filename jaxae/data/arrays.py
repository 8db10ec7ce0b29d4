"""The user's arrays as a data set: checks of images and classes."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from jaxae.data.dataset import Dataset, Split, hold_out
from jaxae.errors import InputError

CLASSES = 10_000  # maximum number of classes


def from_arrays(
    x: Any,
    y: np.ndarray | None = None,
    *,
    test: Any = None,
    test_y: np.ndarray | None = None,
) -> Dataset:
    """Arrays as a data set: uint8, float in [0, 1] (quantized to 256 levels) or bool, [N, H, W] or [N, H, W, C].

    y: classes, counted from 0. test: the test examples; a fraction that is held out, stratified by class (default: a
    tenth); or 0: the training examples themselves. InputError for other arrays.
    """
    path = Path("the array")
    x, test = _array(x, "x"), _array(test, "test") if test is not None and np.ndim(test) else test
    if isinstance(test, np.ndarray):
        train = Split(pixels(x, path), labels(y, len(x), path)[0])
        held = Split(pixels(test, path), labels(test_y, len(test), path)[0])
        if train.x.shape[1:] != held.x.shape[1:]:
            raise InputError(f"test examples have shape {held.x.shape[1:]}, not {train.x.shape[1:]}")
        return Dataset(train, held, labels(y, len(x), path)[1])
    images = pixels(x, path)
    found, classes = labels(y, len(images), path)
    if test is not None and test == 0:
        split = Split(images, found)
        return Dataset(split, split, classes)
    fraction = 0.1 if test is None else float(test)
    if not 0 < fraction < 1:
        raise InputError(f"test={test} must be a fraction between 0 and 1, 0 for the training examples, or an array")
    return hold_out(images, found, classes, fraction)


def _array(x: Any, name: str) -> np.ndarray:
    """Convert to an array; booleans become float32. InputError for a ragged list."""
    try:
        found = np.asarray(x)
    except ValueError:
        raise InputError(f"{name} is a list of arrays of different shapes; pass one array, [N, H, W, C]") from None
    return found.astype(np.float32) if found.dtype == bool else found


def pixels(x: np.ndarray, path: Path) -> UInt8[np.ndarray, "N H W C"]:
    """Images as bytes [N, H, W, C]; floats in [0, 1] become 256 levels. InputError, with the path, for other arrays."""
    if x.ndim not in (3, 4) or (x.ndim == 4 and x.shape[3] not in (1, 3, 4)):
        raise InputError(f"{path}: shape {x.shape}, not [N, H, W] or [N, H, W, C] with C = 1, 3 or 4")
    if x.size == 0:
        raise InputError(f"{path}: has no images: shape {x.shape}")
    if np.issubdtype(x.dtype, np.floating):
        if not np.isfinite(x).all():
            raise InputError(f"{path}: has NaN or infinite pixels: pixels must be in [0, 1]")
        if x.min() < 0 or x.max() > 1:
            raise InputError(
                f"{path}: pixels from {x.min():.9g} to {x.max():.9g}: floats must be in [0, 1]; divide first"
            )
        x = np.round(x * 255).astype(np.uint8)
    elif x.dtype != np.uint8:
        raise InputError(f"{path}: pixels are {x.dtype}: convert them to uint8 (0 to 255), or to float in [0, 1]")
    return x if x.ndim == 4 else x[..., None]


def labels(y: np.ndarray | None, count: int, path: Path) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    """Check the classes of `count` examples (-1 without y), and name them. InputError for invalid ones."""
    if y is None:
        return np.full(count, -1, np.int32), ()
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= CLASSES:
        raise InputError(f"{path}: y is {y.dtype} {y.shape}, not {count} classes from 0 to {CLASSES - 1}")
    return y.astype(np.int32), tuple(str(label) for label in range(int(y.max()) + 1))
