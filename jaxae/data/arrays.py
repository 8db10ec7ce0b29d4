"""The user's arrays as a data set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from jaxae.data import binary, covariates, frames, kinds, scaling, sequences
from jaxae.data.cells import Frame
from jaxae.data.classes import labels
from jaxae.data.dataset import Dataset, Split
from jaxae.data.labels import keep as keep_labels
from jaxae.data.options import OF_SERIES, OF_TABLES, SOURCE_OPTIONS, Options, require_valid, without_effect
from jaxae.data.splits import HELD_OUT, RawDataset, with_splits
from jaxae.errors import InputError

ARRAY = "array"  # name of data passed as an array, in config.json
WHERE = "the array"
DEFAULT = Options()


def from_arrays(
    x: Any,
    y: Any = None,
    *,
    context: Any = None,
    test: Any = None,
    test_y: Any = None,
    test_context: Any = None,
    valid: Any = None,
    valid_y: Any = None,
    valid_context: Any = None,
    options: Options = DEFAULT,
    **fields: Any,
) -> Dataset:
    """Arrays as a data set in model units.

    x: images [N, H, W] or [N, H, W, C], uint8 or float in [0, 1] (rounded to 256 levels) or of any range, a table
    [N, D], series [N, T] or [N, T, D], or counts [N, D] with kind="counts"; NaN marks a missing entry. y: classes:
    strings, numbers or one-hot rows. context: covariates for conditional models, numbers or strings: an array [N] or
    [N, C], or a data frame or a mapping with a name for each column (see `covariates.columns`). Strings in x, a data
    frame, are categories, and `target`, `drop` and context may name columns of it (see `frames.read`).
    test, valid: the examples of a split, or a fraction or number of examples to hold out (see `splits.with_splits`); by
    default a tenth is the test split. fields: those of `Options`, such as kind and scale. InputError for other arrays.
    """
    given, ys, contexts, held_out = {"train": x}, {"train": y}, {"train": context}, {"test": "", "valid": ""}
    for name, part, of in (("test", test, (test_y, test_context)), ("valid", valid, (valid_y, valid_context))):
        if part is not None and (is_ragged(part) or np.ndim(part)):
            given[name], (ys[name], contexts[name]) = part, of
        elif part is not None:
            held_out[name] = str(part)
    if "valid" in given and "test" not in given:
        held_out["test"] = held_out["test"] or HELD_OUT
    options = replace(options, data=ARRAY, **fields)
    require_valid(options)
    found = None
    if isinstance(x, Frame):
        found = frames.read(given, ys, contexts, options)
        given, ys, contexts = found.x, found.y, found.context
    of_table = found is not None and found.encoded
    reading = replace(options, kind="table") if of_table and options.kind == "auto" else options
    if any(map(is_ragged, given.values())) and options.kind in ("auto", "series"):
        raw = _ragged(given, ys, contexts, options)
    else:
        xs = {name: array(part, _argument(name)) for name, part in given.items()}
        raw = assembled(xs, ys, reading, WHERE, contexts=contexts)
    if found:
        applicable = OF_TABLES if of_table else raw.applicable
        raw = raw._replace(features=found.features, notes=(*raw.notes, *found.notes), applicable=applicable)
    require_effect(raw, options)
    return prepared(with_splits(raw, **held_out, read=_no_source), options)


def _ragged(given: dict[str, Any], ys: dict[str, Any], contexts: dict[str, Any], options: Options) -> RawDataset:
    """Series of different lengths, by split."""
    counts = [len(parts) for parts in given.values()]
    found, classes = labels([ys[name] for name in given], counts, WHERE)
    series = {
        name: [
            kinds.numbers(sequences.checked(np.asarray(part), f"{_argument(name)}: sequence {number}"))
            for number, part in enumerate(parts)
        ]
        for name, parts in given.items()
    }
    by_split = _columns(contexts, dict(zip(given, counts, strict=True)), WHERE)
    of_bytes = all(np.asarray(part).dtype == np.uint8 for parts in given.values() for part in parts)
    return _series(series, found, classes, by_split, options, WHERE)._replace(from_bytes=of_bytes)


def _series(
    parts: Mapping[str, Sequence[np.ndarray]],
    ys: Sequence[np.ndarray],
    classes: tuple[str, ...],
    contexts: Mapping[str, covariates.Columns],
    options: Options,
    where: str,
) -> RawDataset:
    """Series [T, D], their classes and covariates, by split."""
    raws = {
        name: sequences.assembled(series, y, classes, options, where, contexts.get(name))
        for (name, series), y in zip(parts.items(), ys, strict=True)
    }
    return raws["train"]._replace(splits={name: raw.splits["train"] for name, raw in raws.items()})


def _columns(contexts: Mapping[str, Any], counts: Mapping[str, int], where: str) -> dict[str, covariates.Columns]:
    """Covariates by split, with the names of the training split. InputError for a split without them."""
    if all(contexts[name] is None for name in counts):
        return {}
    if lacking := [name for name in counts if contexts[name] is None]:
        raise InputError(
            f"{where}: the {lacking[0]} split has no covariates; pass {lacking[0]}_context to jaxae.data.from_arrays"
        )
    found: dict[str, covariates.Columns] = {}
    for name, count in counts.items():
        found[name] = covariates.columns(contexts[name], count, where, tuple(found.get("train", ())))
    return found


def _argument(split: str) -> str:
    """The argument of `from_arrays` that holds the examples of a split."""
    return "x" if split == "train" else split


def _no_source(name: str) -> RawDataset:
    raise InputError(f"{name} is neither an array nor a number; pass one of them, or load a path with jaxae.data.load")


def require_effect(raw: RawDataset, options: Options) -> None:
    """Raise InputError for an option that has no effect on these data."""
    for name in SOURCE_OPTIONS:
        if name not in raw.applicable and (value := getattr(options, name)) != getattr(DEFAULT, name):
            raise without_effect(name, value, "these data")
    if options.kind not in ("auto", raw.kind):
        raise InputError(f"kind={options.kind} has no effect: the data are of kind {raw.kind}; omit it")


def prepared(dataset: Dataset, options: Options) -> Dataset:
    """Convert a data set from the user's units to model units. InputError for `binarize` if the data are not pixels."""
    found = covariates.encoded(scaling.scaled(dataset, options.scale))
    if found.real and options.binarize != "none":
        other = "counts" if found.kind == "counts" else "real numbers"
        raise InputError(f"binarize={options.binarize} is for pixels in [0, 1], not for {other}; use none")
    return keep_labels(binary.binarize(found, options.binarize), options.labels, options.labels_seed)


def assembled(
    xs: Mapping[str, np.ndarray],
    ys: Mapping[str, Any],
    options: Options,
    where: str,
    training: bool = True,
    contexts: Mapping[str, Any] | None = None,
) -> RawDataset:
    """Examples, classes and covariates by split, in the shape of their kind. training: see `kinds.examples`.

    Frames of videos [N, T, H, W, C] become images, those of a video in one split. Series are cut into windows.
    """
    frames = {name: x.shape[1] if x.ndim == 5 else 1 for name, x in xs.items()}
    images = [x.reshape(-1, *x.shape[2:]) if x.ndim == 5 else x for x in xs.values()]
    examples, kind, notes = kinds.examples(images, options.kind, options.series, where, training)
    of_bytes = kind == "series" and images[0].dtype == np.uint8
    counts = [len(x) // number for x, number in zip(examples, frames.values(), strict=True)]
    found, classes = labels([ys[name] for name in xs], counts, where)
    by_split = _columns(contexts, dict(zip(xs, counts, strict=True)), where) if contexts else {}
    if kind == "series" and options.window:
        series = {name: [*x] for name, x in zip(xs, examples, strict=True)}
        return _series(series, found, classes, by_split, options, where)._replace(from_bytes=of_bytes)
    splits = {name: Split(x, np.repeat(y, frames[name])) for name, x, y in zip(xs, examples, found, strict=True)}
    for name, columns in by_split.items():
        context = np.repeat(covariates.stacked(columns), frames[name], axis=0)
        splits[name] = splits[name]._replace(context=context)
    groups = None
    if frames["train"] > 1:
        groups = np.repeat(np.arange(counts[0]), frames["train"])
        notes = (*notes, f"{counts[0]:,} videos of {frames['train']:,} frames read as images")
    return RawDataset(
        splits,
        classes,
        kind,
        notes=notes,
        from_bytes=of_bytes,
        groups=groups,
        applicable=OF_SERIES if kind == "series" else (),
        covariates=tuple(by_split.get("train", ())),
    )


def array(x: Any, name: str) -> np.ndarray:
    """Convert to an array, masked entries to NaN. InputError for a ragged list."""
    if isinstance(x, str | PathLike):
        raise InputError(f"{name} is a path; pass an array, as jaxae.data.load(path) gives, or use the command line")
    if isinstance(x, np.ma.MaskedArray):
        return np.where(np.ma.getmaskarray(x), np.nan, np.ma.getdata(x))
    try:
        return np.asarray(x)
    except ValueError:
        raise InputError(
            f"{name} is a list of arrays of different shapes; pass one array, or kind='series' for series"
        ) from None


def require_values(x: np.ndarray, counts: bool) -> None:
    """Raise ValueError for infinite values, and if `counts` for values that are not counts. NaN: a missing entry."""
    if np.isinf(x).any():
        raise ValueError("examples have infinite values, or values beyond float32")
    if counts and ((x < 0) | (x % 1 > 0) | (x > scaling.LARGEST)).any():
        raise ValueError(
            f"examples must be counts, integers from 0 to {scaling.LARGEST:,}, or NaN where one is missing"
        )


def is_ragged(x: Any) -> bool:
    """Whether x is a list, or an array of objects, of series [T] or [T, D] of different lengths."""
    if not isinstance(x, list | tuple) and not (isinstance(x, np.ndarray) and x.dtype.kind == "O"):
        return False
    parts = [np.asarray(part) for part in x]
    return len({len(part) for part in parts if part.ndim}) > 1 and {part.ndim for part in parts} in ({1}, {2})
