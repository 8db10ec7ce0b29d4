"""Which kind of data arrays are: images, a table, series or counts."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from jaxae.data.dataset import Kind
from jaxae.errors import InputError

Wanted = Literal["auto", "image", "table", "series", "counts"]
DARK = 0.1  # largest value, relative to white, of images that are almost certainly scaled wrongly
Found = tuple[list[np.ndarray], Kind, tuple[str, ...]]  # examples of every split, their kind, notes of what was changed


@np.errstate(invalid="ignore")  # signalling NaN in damaged files
def examples(parts: Sequence[np.ndarray], wanted: Wanted, series: bool, where: str, training: bool = True) -> Found:
    """The examples of every split in the shape of their kind.

    Images [N, H, W, C] are bytes, if they are uint8 or numbers in [0, 1] (rounded to 256 levels), else real numbers;
    tables [N, D] and series [N, T, D] are real numbers, in which NaN marks a missing entry, as it does in counts
    [N, D], which `scaling.scaled` checks. wanted: the kind, or auto: arrays of rank 2 are tables, of rank 3 and 4
    images. series: whether auto makes series of rank 2 and 3, unless they are bytes of rank 3. training: reject images
    of a range that is almost certainly a mistake, unless wanted is image.
    InputError for other arrays.
    """
    for x in parts:
        if x.dtype.kind not in "biuf":
            raise InputError(f"{where}: x has dtype {x.dtype}; convert it to numbers (categories to one-hot columns)")
        if not x.size:
            raise InputError(f"{where}: has no examples: shape {x.shape}")
        if x.dtype.kind == "f" and np.isinf(x).any():
            raise InputError(f"{where}: has infinite values; replace them, by NaN where an entry is missing")
        if x.shape[1:] != parts[0].shape[1:]:
            raise InputError(f"{where}: examples of another split have shape {x.shape[1:]}, not {parts[0].shape[1:]}")
    first = parts[0]
    kind = _kind(first, series) if wanted == "auto" else wanted
    if kind in ("table", "counts"):
        if first.ndim != 2:
            hint = "x[:, None]" if first.ndim == 1 else "x.reshape(len(x), -1)"
            raise InputError(f"{where}: shape {first.shape} is no table [N, D]; pass {hint}")
        return [x.astype(np.float64) for x in parts], kind, ()
    if kind == "series":
        if first.ndim not in (2, 3):
            raise InputError(f"{where}: shape {first.shape} is no series [N, T] or [N, T, D]; reshape it")
        return [numbers(x if x.ndim == 3 else x[..., None]) for x in parts], kind, ()
    return _images(parts, training and wanted != "image", training, where)


def numbers(x: np.ndarray) -> np.ndarray:
    """Series as float64, bytes divided by 255."""
    return x / np.float64(255) if x.dtype == np.uint8 else x.astype(np.float64)


def _kind(x: np.ndarray, series: bool) -> Kind:
    if x.ndim == 2:
        return "series" if series else "table"
    return "series" if series and x.ndim == 3 and x.dtype != np.uint8 else "image"


def _images(parts: Sequence[np.ndarray], doubtful: bool, training: bool, where: str) -> Found:
    """doubtful: reject a range that is almost certainly a mistake. training: reject images that are all equal."""
    first = parts[0]
    if first.ndim == 4 and first.shape[1] in (1, 3, 4) and first.shape[3] > 4:
        raise InputError(f"{where}: shape {first.shape} has its channels first; pass x.transpose(0, 2, 3, 1)")
    bytes_ = all(x.dtype == np.uint8 for x in parts)
    if first.ndim not in (3, 4) or (first.ndim == 4 and bytes_ and first.shape[3] not in (1, 3, 4)):
        raise InputError(f"{where}: shape {first.shape}, not [N, H, W] or [N, H, W, C] with C = 1, 3 or 4")
    if len({x.dtype == np.uint8 for x in parts}) > 1:
        types = " and ".join(str(x.dtype) for x in parts)
        raise InputError(f"{where}: the splits are {types}: pass all of them as bytes, or all as floats of one range")
    images = [x if x.ndim == 4 else x[..., None] for x in parts]
    extremes = [(np.fmin.reduce(x, axis=None), np.fmax.reduce(x, axis=None)) for x in images]  # ignore NaN
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if np.isnan(low):
        raise InputError(f"{where}: all pixels are NaN")
    if first.dtype.kind == "f" and extremes[0][0] >= 0 and extremes[0][1] <= 1 < DARK * high:
        raise InputError(
            f"{where}: training pixels are in [0, 1], those of another split reach {high:g}; scale all alike"
        )
    if training and low == high:
        raise InputError(f"{where}: all pixels of all images are {low}: there is nothing to learn")
    if bytes_:
        if high < DARK * 255 and doubtful:
            fix = "x * 255" if high == 1 else f"x * {255 // int(high)}"
            raise InputError(
                f"{where}: bytes from {low} to {high} are almost black in 0 to 255; pass {fix}, or kind=image to keep "
                "them"
            )
        return images, "image", ()
    kinds = {x.dtype.kind for x in images}
    if kinds == {"b"}:
        return [255 * x.astype(np.uint8) for x in images], "image", ()
    if kinds <= {"i", "u"} and low >= 0 and DARK * 255 < high <= 255:
        return [x.astype(np.uint8) for x in images], "image", ("read as bytes",)
    if low >= 0 and high <= 1 and kinds == {"f"}:
        if high < DARK and doubtful:
            raise InputError(
                f"{where}: pixels from {low:.9g} to {high:.9g} are almost black in 0 to 1; were they divided by 255 "
                "twice? Pass x * 255, or kind=image to keep them"
            )
        if any(np.isnan(x).any() for x in images):
            return [x.astype(np.float32) for x in images], "image", ()
        return [np.round(x * 255).astype(np.uint8) for x in images], "image", ("rounded to 256 levels",)
    return [x.astype(np.float64) for x in images], "image", ()
