"""The kind of data in arrays: images, a table, series or counts."""

from collections.abc import Sequence
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np

from jaxae.data.dataset import Kind
from jaxae.data.rows import chunks, has_missing, mapped, rows
from jaxae.errors import InputError

Wanted = Literal["auto", "image", "table", "series", "counts"]
DARK = 0.1  # largest value, relative to white, of images that are almost certainly scaled wrongly
BFLOAT16 = np.dtype(jnp.bfloat16)
Found = tuple[list[Any], Kind, tuple[str, ...]]  # examples of every split, arrays or `Rows`; their kind; notes


@np.errstate(invalid="ignore")  # signalling NaN in damaged files
def examples(parts: Sequence[np.ndarray], wanted: Wanted, series: bool, where: str, training: bool = True) -> Found:
    """Convert the examples of every split to the shape and type of their kind.

    Images [N, H, W, C] are bytes, if they are uint8 or numbers in [0, 1] (rounded to 256 levels), else real numbers;
    tables [N, D] and series [N, T, D] are real numbers, in which NaN marks a missing entry, as it does in counts
    [N, D], which `scaling.scaled` checks. Arrays above a GiB are `Rows`. wanted: the kind, or auto: arrays of rank 2
    are tables, of rank 3 and 4 images. series: whether auto reads rank 2 and 3 as series, except for bytes of rank 3.
    training: reject images of a range that is almost certainly a mistake, unless wanted is image. InputError
    for other arrays.
    """
    parts = [x.view(BFLOAT16) if x.dtype == "V2" else x for x in parts]  # as NumPy reads a file of bfloat16
    for x in parts:
        if x.dtype.kind not in "biuf" and x.dtype != BFLOAT16:
            raise InputError(f"{where}: x has dtype {x.dtype}; convert it to numbers (categories to one-hot columns)")
        if not x.size:
            raise InputError(f"{where} has no examples: shape {x.shape}")
        if x.shape[1:] != parts[0].shape[1:]:
            raise InputError(f"{where}: examples of another split have shape {x.shape[1:]}, not {parts[0].shape[1:]}")
    extremes = [_extremes(x) for x in parts]
    if not np.isfinite([number for pair in extremes for number in pair if not np.isnan(number)]).all():
        raise InputError(f"{where} has infinite values; replace them, by NaN where an entry is missing")
    first, (low, high) = parts[0], extremes[0]
    notes = () if first.dtype == np.uint8 else (f"{first.dtype} from {low:.4g} to {high:.4g}",)
    kind = _kind(first, series) if wanted == "auto" else wanted
    if first.ndim == {"image": 3, "series": 2}.get(kind):
        parts = [x[..., None] for x in parts]
    parts = [mapped(x, _float32, np.float32) if x.dtype == BFLOAT16 else x for x in map(rows, parts)]
    if kind in ("table", "counts"):
        if first.ndim != 2:
            hint = "x[:, None]" if first.ndim == 1 else "x.reshape(len(x), -1)"
            raise InputError(f"{where}: shape {first.shape} is not a table [N, D]; pass {hint}")
        return parts, kind, notes
    if kind == "series":
        if parts[0].ndim != 3:
            raise InputError(f"{where}: shape {first.shape} is not series [N, T] or [N, T, D]; reshape it")
        return [numbers(x) for x in parts], kind, notes
    images, changed = _images(parts, extremes, training and wanted != "image", training, where)
    return images, kind, (*notes, *changed)


def numbers(x: np.ndarray) -> np.ndarray:
    """Series as floats, bytes divided by 255."""
    divisor = np.float64(255 if x.dtype == np.uint8 else 1)
    return x if x.dtype.kind == "f" else mapped(x, lambda part: part / divisor, np.float64)


def _float32(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32)


def _extremes(x: Any) -> tuple[float, float]:
    """The smallest and the largest number, apart from NaN; NaN if there is no other."""
    each = [(float(np.fmin.reduce(part, axis=None)), float(np.fmax.reduce(part, axis=None))) for part in chunks(x)]
    lows, highs = zip(*each, strict=True)
    return float(np.fmin.reduce(lows)), float(np.fmax.reduce(highs))


def _kind(x: np.ndarray, series: bool) -> Kind:
    if x.ndim == 2:
        return "series" if series else "table"
    return "series" if series and x.ndim == 3 and x.dtype != np.uint8 else "image"


def _images(
    images: list[Any], extremes: Sequence[tuple[float, float]], doubtful: bool, training: bool, where: str
) -> tuple[list[Any], tuple[str, ...]]:
    """doubtful: reject a range that is almost certainly a mistake. training: reject images that are all equal."""
    first = images[0]
    if first.ndim == 4 and first.shape[1] in (1, 3, 4) and first.shape[3] > 4:
        raise InputError(f"{where}: shape {first.shape} has its channels first; pass x.transpose(0, 2, 3, 1)")
    kinds = {"bytes" if x.dtype == np.uint8 else x.dtype.kind for x in images}
    if first.ndim != 4 or (kinds == {"bytes"} and first.shape[3] not in (1, 3, 4)):
        hint = "; pass x[:, None]" if first.ndim == 1 else ""
        raise InputError(f"{where}: shape {first.shape}, not [N, H, W] or [N, H, W, C] with C = 1, 3 or 4{hint}")
    if "bytes" in kinds and len(kinds) > 1:
        types = " and ".join(str(x.dtype) for x in images)
        raise InputError(
            f"{where} has splits of types {types}; pass all of them as bytes, or all as floats of one range"
        )
    low, high = min(low for low, _ in extremes), max(high for _, high in extremes)
    if np.isnan(low):
        raise InputError(f"{where}: all pixels are NaN")
    if first.dtype.kind == "f" and extremes[0][0] >= 0 and extremes[0][1] <= 1 < DARK * high:
        raise InputError(
            f"{where}: training pixels are in [0, 1], but those of another split reach {high:g}; scale all alike"
        )
    if training and low == high:
        raise InputError(f"{where}: all pixels of all images are {low:g}: there is nothing to learn")
    if kinds == {"bytes"}:
        if high < DARK * 255 and doubtful:
            fix = "x * 255" if high == 1 else f"x * {255 // int(high)}"
            raise InputError(
                f"{where}: bytes from {low:g} to {high:g} are almost black in 0 to 255; pass {fix}, or kind=image to "
                "keep them"
            )
        return images, ()
    if kinds == {"b"}:
        return [mapped(x, lambda part: 255 * part.astype(np.uint8), np.uint8) for x in images], ()
    if kinds <= {"i", "u"} and low >= 0 and DARK * 255 < high <= 255:
        return [mapped(x, lambda part: part.astype(np.uint8), np.uint8) for x in images], ("read as bytes",)
    if low >= 0 and high <= 1 and kinds == {"f"}:
        if high < DARK and doubtful:
            raise InputError(
                f"{where}: pixels from {low:.9g} to {high:.9g} are almost black in 0 to 1; were they divided by 255 "
                "twice? Pass x * 255, or kind=image to keep them"
            )
        if any(has_missing(x) for x in images):
            return images, ()
        rounded = [mapped(x, lambda part: np.round(part * 255).astype(np.uint8), np.uint8) for x in images]
        return rounded, ("rounded to 256 levels",)
    return images, ()
