"""User sequences of any lengths: an `.npz` of ragged arrays.

`np.savez(path, *sequences)`, or `np.savez(path, x=rows, lengths=lengths)` with the rows of all sequences concatenated;
with either, optional classes `y`. Each sequence is [T] or [T, D], of bytes, which are divided by 255, or of numbers;
NaN marks a missing entry.
"""

import re
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxae.data.classes import labels
from jaxae.data.dataset import Split
from jaxae.data.splits import Raw
from jaxae.errors import InputError

SIZE = 2**31  # bytes; padding to the longest sequence may need far more memory than the file


def load(arrays: dict[str, np.ndarray], path: Path) -> Raw:
    """The sequences in the arrays of a file. InputError as in `padded`."""
    x, lengths = padded(arrays, path)
    (y,), names = labels([arrays.get("y")], [len(x)], str(path))
    return Raw({"train": Split(x, y, lengths)}, names, "series")


def padded(arrays: dict[str, np.ndarray], path: Path) -> tuple[Float[np.ndarray, "N T D"], Int[np.ndarray, " N"]]:
    """All sequences in the arrays of a file, padded with 0, and their lengths.

    InputError for other arrays.
    """
    parts = _parts(arrays, path)
    kinds = {(part.dtype, part.shape[1:]) for part in parts}
    if len(kinds) != 1 or parts[0].ndim != 2:
        raise InputError(f"{path}: sequences of {sorted(map(str, kinds))}: all must be [T, D] with one D and one dtype")
    rows = np.concatenate(parts)
    lengths = np.array([len(part) for part in parts], np.int32)
    if not lengths.all() or not rows.size:
        raise InputError(f"{path}: sequence {int(lengths.argmin())} is empty; omit it")
    scale = 255 if rows.dtype == np.uint8 else 1
    if rows.dtype.kind not in "biuf":
        raise InputError(f"{path}: values are {rows.dtype}: save numbers")
    if rows.dtype.kind == "f" and np.isinf(rows).any():
        raise InputError(f"{path}: has infinite values; replace them, by NaN where an entry is missing")
    longest = int(lengths.max())
    if len(parts) * longest * rows.shape[1] * 4 > SIZE:
        raise InputError(f"{path}: {len(parts)} sequences padded to {longest} steps exceed 2 GiB: truncate the longest")
    x = np.zeros((len(parts), longest, rows.shape[1]))
    x[np.arange(longest)[None] < lengths[:, None]] = rows / scale
    return x, lengths


def _parts(arrays: dict[str, np.ndarray], path: Path) -> list[np.ndarray]:
    """The sequences, each [T, D]."""
    if {"x", "lengths"} <= set(arrays):
        x, lengths = arrays["x"], arrays["lengths"]
        if x.ndim == 0 or lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer) or (lengths < 0).any():
            raise InputError(f"{path}: lengths is {lengths.dtype} {lengths.shape}, not the steps of each sequence")
        if lengths.sum() != len(x):
            raise InputError(f"{path}: lengths sum to {lengths.sum()}, but x has {len(x)} rows")
        parts = np.split(x, np.cumsum(lengths)[:-1])
    else:
        names = [name for name in arrays if re.fullmatch(r"arr_\d+", name)]
        if not names or "lengths" in arrays:
            held = ", ".join(arrays) or "nothing"
            raise InputError(
                f"{path}: has {held}, but no x: np.savez(path, x=images, y=classes), np.savez(path, *sequences) or "
                "np.savez(path, x=rows, lengths=lengths)"
            )
        parts = [arrays[name] for name in sorted(names, key=lambda name: int(name[4:]))]
    return [part[:, None] if part.ndim == 1 else part for part in parts]
