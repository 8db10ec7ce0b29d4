"""A data set: examples and classes of a training and a test split."""

import hashlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from jaxae.core.types import Info
from jaxae.errors import InputError


class Split(NamedTuple):
    """Examples with their classes: images, or sequences of up to T steps of D numbers in [0, 1]."""

    x: UInt8[np.ndarray, "N H W C"] | Float32[np.ndarray, "N T D"]
    y: Int[np.ndarray, " N"]  # -1 for examples without a class
    lengths: Int[np.ndarray, " N"] | None = None  # of sequences; the padding of x is 0
    factors: Int[np.ndarray, "N F"] | None = None  # factors of variation of each image, if known; counted from 0


class Dataset(NamedTuple):
    """A training and a test split."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes; empty without classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def info(self) -> Info:
        """The properties from which an experiment is built."""
        return Info(self.shape, len(self.train.x), self._mean, self._examples)

    def _mean(self) -> Float[np.ndarray, "*D"]:
        return np.asarray(np.mean(self.train.x, axis=0, dtype=np.float64) / self._scale)

    def _examples(self, count: int) -> Float[np.ndarray, "N *D"]:
        return (self.train.x[spread(len(self.train.x), count)] / self._scale).astype(np.float32)

    @property
    def _scale(self) -> int:
        return 255 if self.train.x.dtype == np.uint8 else 1

    def fingerprint(self) -> str:
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def spread(count: int, limit: int) -> np.ndarray:
    """Up to `limit` indices, evenly spaced over `count`, since data may be sorted by class."""
    return np.linspace(0, count - 1, min(limit, count)).astype(int)


def hold_out(
    x: np.ndarray,
    y: np.ndarray,
    classes: tuple[str, ...],
    fraction: float = 0.1,
    lengths: np.ndarray | None = None,
    take: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, part: x[part],
) -> Dataset:
    """A fixed split, stratified by class.

    fraction: fraction of the test split, whose examples are evenly spaced after sorting by class.
    take: (x, mask) -> the examples where the mask is true.
    """
    if len(x) < 2:
        raise InputError(f"{len(x)} example: at least 2 are needed, one of them for the test split")
    test = np.zeros(len(x), bool)
    count = min(max(1, int(fraction * len(x) + 1e-9)), len(x) - 1)
    places = np.minimum(np.ceil(np.arange(1, count + 1) / fraction - 1e-9).astype(int) - 1, len(x) - 1)
    test[np.argsort(y, kind="stable")[places]] = True
    train, held = (Split(take(x, part), y[part], None if lengths is None else lengths[part]) for part in (~test, test))
    return Dataset(train, held, classes)
