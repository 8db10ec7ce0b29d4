"""Decoded arrays on disk: an `.npz` per set in the user's cache folder (`JAXAE_CACHE`, or `~/.cache/jaxae`)."""

import hashlib
import logging
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data import Dataset, Split

VERSION = 2  # another one whenever decoding or splitting changes what a key stands for


def folder() -> Path:
    """`JAXAE_CACHE`, else `jaxae` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXAE_CACHE") or Path(base) / "jaxae")


def cached(key: str, make: Callable[[], Dataset]) -> Dataset:
    """The set that was stored under this key, else what `make` gives, stored. A damaged file is made again.

    key: says all that the result depends on.
    """
    path = folder() / f"{hashlib.sha256(f'{VERSION} {key}'.encode()).hexdigest()[:32]}.npz"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return Dataset(
                Split(file["train_x"], file["train_y"]),
                Split(file["test_x"], file["test_y"]),
                tuple(str(name) for name in file["classes"]),
            )
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        dataset = make()
    (train, test, classes) = dataset
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            arrays: dict[str, Any] = {"train_x": train.x, "train_y": train.y, "test_x": test.x, "test_y": test.y}
            np.savez(file, classes=np.array(classes, dtype=np.str_), **arrays)
        partial.replace(path)
    except OSError as error:
        logging.getLogger("jaxae").warning("the decoded data is not cached in %s: %s", folder(), error)
    return dataset
