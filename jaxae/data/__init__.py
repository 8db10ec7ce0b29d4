"""Data: `load` gives any set as uint8 arrays, decoded once."""

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxae.errors import InputError


class Split(NamedTuple):
    """Examples with their classes."""

    x: UInt8[np.ndarray, "N H W C"]
    y: Int[np.ndarray, " N"]  # -1 where there are none


class Dataset(NamedTuple):
    """A training and a test split."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes; empty where there are none

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    def fingerprint(self) -> str:
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            digest.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(name: str, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`digits`, a TFDS set (`mnist`, `emnist/letters`, ...), or the path of the user's own data.

    InputError, in one line, for anything that cannot be read.
    """
    from jaxae.data import digits, files, tfds

    if not name:
        raise InputError("--data is empty: give digits, a TFDS name or a path")
    if name == "digits":
        return digits.load()
    if tfds.prepares(name):
        return tfds.load(name, data_dir, manual_dir)
    try:
        path = Path(name).expanduser()
        is_path = path.exists() or files.looks_like_path(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"--data {name[:50]}: cannot be a path ({error})") from None
    if is_path:
        return files.load(path)
    return tfds.load(name, data_dir, manual_dir)


def hold_out(x: np.ndarray, y: np.ndarray, classes: tuple[str, ...], every: int = 10) -> Dataset:
    """A fixed stratified split: of the examples in the order of their classes, every tenth is for the test."""
    if len(x) < 2:
        raise InputError(f"{len(x)} image: at least 2 are needed, one of them for the test")
    test = np.zeros(len(x), bool)
    test[np.argsort(y, kind="stable")[min(every, len(x)) - 1 :: every]] = True
    return Dataset(Split(x[~test], y[~test]), Split(x[test], y[test]), classes)
