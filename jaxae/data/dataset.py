"""A data set: examples and classes of a training and a test split."""

import hashlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxae.core.types import Info, Scale
from jaxae.errors import InputError

Kind = Literal["image", "table", "series"]
SPLITS = {"train": 0, "training": 0, "test": 1, "testing": 1}  # in names of folders and arrays; 0: training, 1: test
Take = Callable[[np.ndarray, np.ndarray], np.ndarray]  # (x, mask) -> the examples where the mask is true


class Split(NamedTuple):
    """Examples with their classes: images, rows of a table, or series of up to T steps."""

    x: UInt8[np.ndarray, "N H W C"] | Float[np.ndarray, "N *D"]  # bytes, or numbers in model units
    y: Int[np.ndarray, " N"]  # -1 for examples without a class
    lengths: Int[np.ndarray, " N"] | None = None  # of sequences; the padding of x is 0
    factors: Int[np.ndarray, "N F"] | None = None  # factors of variation of each image, if known; counted from 0
    observed: UInt8[np.ndarray, "N *D"] | None = None  # 1 where an entry was measured, 0 where it is missing

    def take(self, rows: np.ndarray) -> "Split":
        """The examples at these places."""
        return self.each(lambda part: part[rows])

    def each(self, change: Callable[[Any], Any]) -> "Split":
        """The split with every array changed."""
        return Split(*(change(part) if part is not None else None for part in self))  # type: ignore[arg-type]


class Dataset(NamedTuple):
    """A training and a test split."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes; empty without classes
    kind: Kind = "image"
    scale: Scale | None = None  # from model units to the user's; None if they are the same
    real: bool = False  # real numbers, not pixels in [0, 1]
    features: tuple[str, ...] = ()  # names of the columns of a table
    notes: tuple[str, ...] = ()  # of what was changed or left out while reading

    @property
    def splits(self) -> tuple[Split, ...]:
        """All splits."""
        return (self.train, self.test)

    def each(self, change: Callable[[Split], Split]) -> "Dataset":
        """The data set with every split changed; the training examples may also be the test split."""
        train = change(self.train)
        return self._replace(train=train, test=train if self.test is self.train else change(self.test))

    def feature(self, place: int) -> str:
        """Name of a place on the last axis of an example, for messages."""
        return f"column {self.features[place]}" if self.features else f"place {place} of the last axis"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def info(self) -> Info:
        """The properties from which an experiment is built."""
        missing = self.train.observed is not None
        return Info(self.shape, len(self.train.x), self._mean, self._examples, self.real, missing)

    def _mean(self) -> Float[np.ndarray, "*D"]:
        return np.asarray(np.mean(self.train.x, axis=0, dtype=np.float64) / self._divisor)

    def _examples(self, count: int) -> Float[np.ndarray, "N *D"]:
        return (self.train.x[spread(len(self.train.x), count)] / self._divisor).astype(np.float32)

    @property
    def _divisor(self) -> int:
        return 255 if self.train.x.dtype == np.uint8 else 1

    def fingerprint(self) -> str:
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test, *(self.scale or ())):
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
    take: Take | None = None,
    seed: int | None = 0,
) -> Dataset:
    """A data set whose test split is a fraction of the examples, as in `divided`."""
    return Dataset(*divided(Split(x, y, lengths), fraction, seed, take), classes)


def divided(split: Split, fraction: float, seed: int | None = 0, take: Take | None = None) -> tuple[Split, Split]:
    """The remaining examples, and a held-out fraction, stratified by class, both in their order.

    seed: of the choice of the held-out examples; None: evenly spaced after sorting by class.
    """
    count = len(split.x)
    if count < 2:
        raise InputError(f"{count} example: at least 2 are needed, one of them for the test split")
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    held = np.zeros(count, bool)
    wanted = min(max(1, int(fraction * count + 1e-9)), count - 1)
    places = np.minimum(np.ceil(np.arange(1, wanted + 1) / fraction - 1e-9).astype(int) - 1, count - 1)
    held[order[np.argsort(split.y[order], kind="stable")][places]] = True
    first, second = (
        split._replace(x=np.arange(count)).take(part)._replace(x=take(split.x, part) if take else split.x[part])
        for part in (~held, held)
    )
    return first, second
