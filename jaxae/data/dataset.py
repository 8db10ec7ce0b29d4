"""A data set: examples and classes of its splits."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from jaxae.core.types import Conditions, Info, Scale
from jaxae.data.draws import Draws
from jaxae.data.rows import chunks, select

Kind = Literal["image", "table", "series", "counts"]
VALUES = 2**24  # numbers of examples that evaluation and figures hold at once: 64 MiB in float32


class Split(NamedTuple):
    """Examples with their classes: images, rows of a table, or series of up to T steps.

    x and observed are `Rows` if they are large, and x of a generated training split is `Draws`: arrays that are read or
    drawn by indexing.
    """

    x: UInt8[np.ndarray, "N H W C"] | Float[np.ndarray, "N *D"]  # bytes, or numbers in model units
    y: Int[np.ndarray, " N"]  # -1 for examples without a class
    lengths: Int[np.ndarray, " N"] | None = None  # of sequences; the padding of x is 0
    factors: Int[np.ndarray, "N F"] | None = None  # factors of variation of each image, if known; counted from 0
    observed: UInt8[np.ndarray, "N *D"] | None = None  # 1 where an entry was measured, 0 where it is missing
    context: Float[np.ndarray, "N C"] | None = None  # covariates in model units, categories as one-hot columns

    def take(self, rows: np.ndarray) -> "Split":
        """The examples at these places."""
        return self.each(lambda part: part[rows])

    def select(self, places: np.ndarray) -> "Split":
        """The examples at these places, without reading `Rows`."""
        return self.each(lambda part: select(part, places))

    def each(self, change: Callable[[Any], Any]) -> "Split":
        """The split with every array changed."""
        return Split(*(change(part) if part is not None else None for part in self))  # type: ignore[arg-type]


class Dataset(NamedTuple):
    """A training and a test split, and a validation split if there is one."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes; empty without classes
    kind: Kind = "image"
    scale: Scale | None = None  # from model units to the user's; None if they are the same
    real: bool = False  # real numbers or counts, not pixels in [0, 1]
    from_bytes: bool = False  # whether the data were uint8, divided by 255
    features: tuple[str, ...] = ()  # names of the columns of a table or of counts
    notes: tuple[str, ...] = ()  # of what was changed or left out while reading
    sample_rate: int = 0  # of recordings, in Hz
    valid: Split | None = None  # for model selection and early stopping
    total: float | None = None  # mean total count of a training example; None unless the data are counts
    covariates: tuple[str, ...] = ()  # names of the columns of `Split.context`
    context_scale: Scale | None = None  # of the covariates, from model units to the user's

    @property
    def splits(self) -> tuple[Split, ...]:
        """All splits."""
        return (self.train, self.test) if self.valid is None else (self.train, self.test, self.valid)

    def each(self, change: Callable[[Split], Split]) -> "Dataset":
        """The data set with every split changed; the training examples may also be the test split."""
        train = change(self.train)
        test = train if self.test is self.train else change(self.test)
        return self._replace(train=train, test=test, valid=None if self.valid is None else change(self.valid))

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
        return Info(
            self.shape,
            len(self.train.x),
            self._mean,
            self._examples,
            self.real,
            missing,
            self.total,
            classes=len(self.classes),
            context=len(self.covariates),
        )

    @property
    def conditions(self) -> Conditions:
        """Classes and covariates."""
        return Conditions(self.classes, self.covariates, self.context_scale)

    def _mean(self) -> Float[np.ndarray, "*D"]:
        x = self.train.x
        total = sum(part.sum(0, dtype=np.float64) for part in chunks(x))
        return np.asarray(total / len(x) / self._divisor)

    def _examples(self, count: int) -> Float[np.ndarray, "N *D"]:
        return (self.train.x[spread(len(self.train.x), count)] / self._divisor).astype(np.float32)

    @property
    def _divisor(self) -> int:
        return 255 if self.train.x.dtype == np.uint8 else 1

    def fingerprint(self) -> str:
        """SHA-256 of all arrays, or of what generates them."""
        digest = hashlib.sha256()
        for array in (
            *(array for split in self.splits for array in split),
            *(self.scale or ()),
            *(self.context_scale or ()),
        ):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                for part in [array.identity()] if isinstance(array, Draws) else chunks(array):
                    digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def spread(count: int, limit: int) -> np.ndarray:
    """Up to `limit` indices, evenly spaced over `count`, since data may be sorted by class."""
    return np.linspace(0, count - 1, min(limit, count)).astype(int)


def slices(count: int, size: int, limit: int = VALUES) -> Iterator[slice]:
    """Slices of `count` examples of `size` numbers each: at most `limit` numbers, and at least one example, in each.

    Multiples of 1,000 examples, the number per call of a model, if they are that many.
    """
    step = max(1, limit // max(size, 1))
    step -= step % 1000 if step > 1000 else 0
    return (slice(first, first + step) for first in range(0, count, step))
