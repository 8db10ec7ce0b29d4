"""Series of any lengths, whole or cut into windows.

An `.npz` of `np.savez(path, *sequences)`, or `np.savez(path, x=rows, lengths=lengths)` with the rows of all sequences
concatenated; with either, optional classes `y`. Each sequence is [T] or [T, D], of bytes, which are divided by 255, or
of numbers; NaN marks a missing entry.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from jaxae.data import archives
from jaxae.data.classes import labels
from jaxae.data.covariates import Columns, columns, stacked
from jaxae.data.dataset import Split, within
from jaxae.data.kinds import numbers
from jaxae.data.options import OF_SERIES, Options
from jaxae.data.splits import RawDataset
from jaxae.errors import InputError

SIZE = 2**31  # bytes; padding to the longest sequence may need far more memory than the file


def load(arrays: dict[str, np.ndarray], path: Path, options: Options) -> RawDataset:
    """The sequences in the arrays of a file, padded with 0. InputError for other arrays, and as in `assembled`."""
    found = _parts(arrays, path)
    if any(part.ndim > 2 for part in found):
        raise InputError(f"{path} has arrays without names; name them, np.savez(path, x=x, y=y)")
    parts = [checked(part, f"{path}: sequence {number}") for number, part in enumerate(found)]
    kinds = {(part.dtype, part.shape[1:]) for part in parts}
    if len(kinds) > 1:
        raise InputError(
            f"{path}: sequences of {sorted(map(str, kinds))}: all must be [T, D] with one D and one "
            "dtype (examples and classes: np.savez(path, x=x, y=y))"
        )
    given = {role[1]: array for name, array in arrays.items() if (role := archives.role(name)) and not role[0]}
    (y,), classes = labels([given.get("y")], [len(parts)], str(path))
    context = columns(given["context"], len(parts), str(path)) if "context" in given else None
    raw = assembled([numbers(part) for part in parts], y, classes, options, str(path), context)
    return raw._replace(from_bytes=parts[0].dtype == np.uint8)


def checked(part: np.ndarray, where: str) -> np.ndarray:
    """One sequence, [T, D]. where: its name, for messages. InputError for other arrays."""
    part = part[:, None] if part.ndim == 1 else part
    if part.ndim != 2:
        raise InputError(f"{where} has shape {part.shape}; all must be [T, D] with one D and one dtype")
    if not part.size:
        raise InputError(f"{where} is empty; omit it")
    if part.dtype.kind not in "biuf":
        raise InputError(f"{where} has values of type {part.dtype}; save numbers")
    if part.dtype.kind == "f" and np.isinf(part).any():
        raise InputError(f"{where} has infinite values; replace them, by NaN where an entry is missing")
    return part


def assembled(
    parts: Sequence[Float[np.ndarray, "_ D"]],
    y: Int[np.ndarray, " N"],
    classes: tuple[str, ...],
    options: Options,
    where: str,
    context: Columns | None = None,
) -> RawDataset:
    """Sequences with their classes and covariates, cut into windows if `options.window` is set, padded with 0.

    Windows have the class and the covariates of their sequence and stay in one split with it. InputError for sequences
    that padding to the longest would make larger than 2 GiB.
    """
    if options.hop and not options.window:
        raise InputError(f"hop={options.hop} has no effect without window; set both, or omit it")
    groups, spans, notes = None, None, tuple[str, ...]()
    covariates = None if context is None else stacked(context)
    if options.window > max(map(len, parts)):
        raise InputError(
            f"window={options.window} exceeds the {max(map(len, parts))} steps of the longest series; use fewer"
        )
    if options.window:
        cut = [(number, start) for number, part in enumerate(parts) for start in _starts(len(part), options)]
        groups = np.array([number for number, _ in cut])
        spans = np.array([(start, start + options.window) for _, start in cut])
        notes = (f"{len(parts):,} series cut into {len(cut):,} windows of {options.window} steps",)
        parts = [parts[number][start : start + options.window] for number, start in cut]
        y = y[groups]
        covariates = None if covariates is None else covariates[groups]
    lengths = np.array([len(part) for part in parts], np.int32)
    longest, width = int(lengths.max()), parts[0].shape[1]
    if len(parts) * longest * width * 4 > SIZE:
        raise InputError(
            f"{where}: {len(parts):,} sequences padded to {longest:,} steps exceed 2 GiB; cut them, for example by "
            "window=1000"
        )
    x = padded(parts, longest)
    whole = options.window > 0 and bool((lengths == longest).all())
    split = Split(x, y, None if whole else lengths, context=covariates)
    return RawDataset(
        {"train": split},
        classes,
        "series",
        notes=notes,
        groups=groups,
        spans=spans,
        applicable=OF_SERIES,
        covariates=tuple(context or ()),
    )


def padded(parts: Sequence[np.ndarray], longest: int) -> np.ndarray:
    """Series [T, D] of up to `longest` steps as [N, `longest`, D], padded with 0."""
    lengths, rows = np.array([len(part) for part in parts]), np.concatenate(parts)
    x = np.zeros((len(parts), longest, rows.shape[1]), rows.dtype)
    x[within(lengths, longest)] = rows
    return x


def _starts(steps: int, options: Options) -> list[int]:
    """Where the windows of a series begin; the last one ends where the series ends."""
    last = max(steps - options.window, 0)
    return [*range(0, last, options.hop or options.window), last]


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
                f"{path} contains {held}, but no array x; save it with np.savez(path, x=images, y=classes), "
                "np.savez(path, *sequences) or np.savez(path, x=rows, lengths=lengths)"
            )
        parts = [arrays[name] for name in sorted(names, key=lambda name: int(name[4:]))]
    return parts
