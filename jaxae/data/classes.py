"""Classes from labels of any kind: strings, numbers, one-hot rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Int

from jaxae.errors import InputError

CLASSES = 10_000  # maximum number of classes

Labels = tuple[list[Int[np.ndarray, " N"]], tuple[str, ...]]


def labels(parts: Sequence[Any], counts: Sequence[int], where: str) -> Labels:
    """The class of each example, counted from 0, and the names of the classes, for the labels of every split.

    parts: strings, booleans, integers (possibly stored as floats) or one-hot rows, [N] or [N, 1] or [N, K]; empty
    strings and NaN mean no class, -1; None for a split without classes. counts: number of examples. InputError for
    other labels, and for a training split (the first one) without classes if another split has them.
    """
    if all(part is None for part in parts):
        return [np.full(count, -1, np.int32) for count in counts], ()
    if parts[0] is None:
        raise InputError(f"{where}: a split has classes, but the training split has none; pass the classes of both")
    if any(part is None for part in parts):
        some = [place for place, part in enumerate(parts) if part is not None]
        known_parts, classes = labels([parts[place] for place in some], [counts[place] for place in some], where)
        every = dict(zip(some, known_parts, strict=True))
        return [every.get(place, np.full(count, -1, np.int32)) for place, count in enumerate(counts)], classes
    plain = [_column(np.asarray(part), count, where) for part, count in zip(parts, counts, strict=True)]
    kinds = {part.dtype.kind in "US" for part in plain}
    if len(kinds) > 1:
        raise InputError(f"{where}: classes are strings in one split and numbers in another; use one of the two")
    joined = np.concatenate(plain)
    known = joined != "" if True in kinds else np.ones(len(joined), bool)
    if joined.dtype.kind == "f":
        known = ~np.isnan(joined)
        whole = joined[known]
        if not np.array_equal(whole, np.round(whole)) or np.isinf(whole).any():
            raise InputError(
                f"{where}: y holds real numbers from {whole.min():g} to {whole.max():g}, not classes; omit it, or pass "
                "integers or strings"
            )
        joined = np.where(known, joined, 0).astype(np.int64)
    names, places = np.unique(joined[known], return_inverse=True)
    if len(names) > CLASSES:
        raise InputError(
            f"{where}: y has {len(names):,} different values, more than {CLASSES:,}; pass classes or omit y"
        )
    found = np.full(len(joined), -1, np.int32)
    found[known] = places
    return np.split(found, np.cumsum(counts)[:-1]), tuple(" ".join(str(name).split()) for name in names.tolist())


def labels_of(y: Int[np.ndarray, " N"], classes: Sequence[str]) -> np.ndarray:
    """The inverse of `labels`: names, or numbers if all classes are numbers; "" or NaN for -1."""
    names = np.array([*classes, ""])[y]
    try:
        return np.where(names == "", "nan", names).astype(np.float64)
    except ValueError:
        return names


def indices(y: Any, classes: Sequence[str], count: int) -> Int[np.ndarray, " N"]:
    """The indices in `classes` of labels as in `labels`; one label is that of all `count` examples.

    An integer is an index if no class has an integer as its name. InputError for other labels.
    """
    y = np.asarray(y)
    (found,), names = labels([np.full(count, y) if y.ndim == 0 else y], [count], "condition")
    index_of = {name: index for index, name in enumerate(classes)}
    strings = not any(name.lstrip("-").isdecimal() for name in classes)
    index_of |= {str(index): index for index in range(len(classes)) if strings and y.dtype.kind in "iu"}
    if unknown := [name for name in names if name not in index_of]:
        raise InputError(f"y={unknown[0]} is not a class; use one of {', '.join(classes[:20])}")
    return np.array([*(index_of[name] for name in names), -1], np.int32)[found]


def _column(y: np.ndarray, count: int, where: str) -> np.ndarray:
    """One label per example."""
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim == 2 and len(y) == count and y.dtype.kind in "biuf":
        if not (np.isin(y, (0, 1)).all() and (y.sum(1) == 1).all()):
            raise InputError(f"{where}: y has shape {y.shape}, and its rows are not one-hot; pass y.argmax(1)")
        y = y.argmax(1)
    if y.shape != (count,):
        raise InputError(f"{where}: y has shape {y.shape}, not ({count},); pass one class for each example")
    if y.dtype.kind == "O" and all(isinstance(label, str) for label in y.tolist()):
        y = y.astype(np.str_)
    if y.dtype.kind == "S":
        y = np.char.decode(y, errors="replace")
    if y.dtype.kind not in "biufU":
        raise InputError(f"{where}: y is {y.dtype}; pass strings or integers")
    return y.astype(np.str_) if y.dtype.kind == "b" else y
