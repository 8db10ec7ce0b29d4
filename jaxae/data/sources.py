"""Data sets by name or path."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxae.data import binary, crops, digits, files, shard_folders, sprites, tfds
from jaxae.data.arrays import ARRAY, prepared, require_effect
from jaxae.data.classes import labels_of
from jaxae.data.dataset import Dataset, Split
from jaxae.data.kinds import Wanted
from jaxae.data.labels import keep
from jaxae.data.options import Options, require_valid, without_effect
from jaxae.data.simulated_cells import load as load_cells
from jaxae.data.splits import RawDataset, with_splits
from jaxae.data.superposition import load as load_superposition
from jaxae.data.worlds import world_of
from jaxae.errors import InputError

# Data sets that are made from the constants in their names (see `worlds`), and their kinds.
WORLDS: dict[str, tuple[Callable[[str], Dataset], Wanted]] = {
    "superposition": (load_superposition, "table"),
    "simulated_cells": (load_cells, "counts"),
}


def is_world(name: str) -> bool:
    """Whether a data set of this name is made from constants."""
    return world_of(name) in WORLDS


def is_named(name: str) -> bool:
    """Whether a name is that of a data set of jaxae, also where a folder has this name."""
    return name == "digits" or name.split("/")[0] == "sprites" or is_world(name) or tfds.prepares(name)


def _is_sharded(name: str) -> bool:
    return not is_named(name) and shard_folders.is_sharded(name)


def load(name: str, data_dir: str = "", manual_dir: str = "", **fields: Any) -> Dataset:
    """A data set with a training and a test split, in model units.

    name: `digits`, `sprites`, `superposition`, `simulated_cells` (see these modules), a TFDS data set (`mnist`,
    `emnist/letters`, ...), or the path of a file of arrays or a table, of a folder or tar of pictures or recordings
    (see `files.load`), or of shards (see `shard_folders.load`).
    data_dir: folder of prepared TFDS data sets. manual_dir: folder of archives already downloaded.
    fields: those of `Options`, such as kind, scale and binarize. InputError for anything that cannot be read, with a
    one-line message.
    """
    return loaded(Options(data=name, **fields), data_dir, manual_dir)


def loaded(options: Options, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`load` with all options. InputError for `binarize` with data other than pixels."""
    if _is_sharded(options.data):
        require_valid(options)
        return shard_folders.load(options, data_dir, manual_dir)
    found = named(options, data_dir, manual_dir)
    return keep(found, options.labels, options.labels_seed) if is_world(options.data) else prepared(found, options)


def named(options: Options, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`load` in the user's units."""
    require_valid(options)
    if is_world(options.data):
        _require_world(options, data_dir, manual_dir)
        return WORLDS[world_of(options.data)][0](options.data)
    if options.fit == "random":
        return crops.load(options, path_of)
    raw = read(options, data_dir, manual_dir)

    def other(name: str) -> RawDataset:
        alike = replace(options, data=name, kind=raw.kind, sample_rate=raw.sample_rate, test_pattern="")
        return read(alike, data_dir, manual_dir, raw.features, training=False)

    return with_splits(raw, options.test, options.valid, other)


def _require_world(options: Options, data_dir: str, manual_dir: str) -> None:
    """Raise InputError for an option that has no effect on a world."""
    kept = {name: getattr(options, name) for name in ("data", "labels", "labels_seed")}
    known = replace(Options(), kind=WORLDS[world_of(options.data)][1], scale="none", **kept)
    given = {field.name: getattr(options, field.name) for field in fields(Options)}
    for name, value in {**given, "data_dir": data_dir, "manual_dir": manual_dir}.items():
        if value not in (getattr(known, name, ""), getattr(Options(), name, "")):
            raise without_effect(name, value, options.data)


def read(
    options: Options, data_dir: str = "", manual_dir: str = "", features: Sequence[str] = (), training: bool = True
) -> RawDataset:
    """`digits`, `sprites`, a TFDS data set (`mnist`, `emnist/letters`, ...), or the user's data at a path.

    features, training: see `files.load`. InputError for anything that cannot be read, with a one-line message.
    """
    name = options.data
    if _is_sharded(name):
        raise InputError(f"{name} holds shards, which are for training; give a file of arrays")
    path = path_of(name)
    if path is not None:
        raw = files.load(path, options, features, training)
    elif name == "digits":
        raw = digits.load()
    elif name.split("/")[0] == "sprites":
        raw = sprites.load(name)
    else:
        raw = tfds.load(name, data_dir, manual_dir)
    if training:
        require_effect(raw, options)
        for field, folder in (("data_dir", data_dir), ("manual_dir", manual_dir)):
            if folder and (path is not None or name == "digits" or name.split("/")[0] == "sprites"):
                raise InputError(
                    f"{field}={folder} has no effect on {name}, since it applies to TFDS data sets only; omit it, or "
                    f"use data={folder} to read files"
                )
    return raw


class Found(NamedTuple):
    """Examples in the user's units; their names, and the names of their classes and covariates."""

    split: Split
    names: Sequence[str | int]
    classes: tuple[str, ...]
    covariates: tuple[str, ...] = ()

    @property
    def labels(self) -> np.ndarray | None:
        """The class of each example, as `classes.labels` takes them; None without classes."""
        return labels_of(self.split.y, self.classes) if self.classes else None

    @property
    def columns(self) -> dict[str, np.ndarray]:
        """The covariates by name."""
        return {} if self.split.context is None else dict(zip(self.covariates, self.split.context.T, strict=True))

    def arguments(self, name: str, y: bool, context: bool) -> dict[str, Any]:
        """Arguments of `from_arrays` for the split `name`. y, context: whether to pass the classes, the covariates."""
        classes = {f"{name}_y": self.labels} if y else {}
        return {name: self.split.x, **classes, **({f"{name}_context": self.columns or None} if context else {})}


def examples(
    options: Options,
    data_dir: str = "",
    manual_dir: str = "",
    features: Sequence[str] = (),
    classes: bool = False,
) -> Found:
    """All examples at a path, in their order, or the test split of a named data set.

    The training examples of a path come first. The names are the paths of the pictures of a folder, relative to it, or
    numbers from 0. `options.binarize` applies to a named data set only. features: columns of a table (default: all).
    classes: whether `options.target_pattern` applies. InputError as in `read`.
    """
    if path_of(options.data) is None:
        found = binary.binarize(named(options, data_dir, manual_dir), options.binarize)
        return Found(found.test, range(len(found.test.x)), found.classes, found.covariates)
    pattern = options.target_pattern if classes else ""
    options = replace(options, target_pattern=pattern, test_pattern="")
    raw = read(options, data_dir, manual_dir, features, training=False)
    if raw.notes:
        logging.getLogger("jaxae").info("%s: %s", options.data, "; ".join(raw.notes))
    every = raw.concatenated()
    return Found(every, raw.names or range(len(every.x)), raw.classes, raw.covariates)


def path_of(name: str) -> Path | None:
    """The path that a name denotes; None for a named data set. InputError if it is neither."""
    if name == ARRAY:
        raise InputError("data=array is an array that was passed to jaxae.fit, and is not saved; give a path")
    if not name:
        raise InputError("data='' is empty; give digits, sprites, a TFDS name or a path")
    if is_named(name):
        return None
    try:
        path = Path(name).expanduser()
        is_path = path.exists() or files.looks_like_path(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"data={name[:50]} cannot be a path ({error})") from None
    return path if is_path else None
