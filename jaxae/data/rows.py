"""Rows of a large array, in memory or on disk, that are converted when they are read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Int

LARGE = 1 << 30  # bytes above which an array is neither copied nor converted as a whole
CHUNK = 1 << 26  # bytes read at once
BLOCK = 1 << 16  # numbers converted at once


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows of an array, with the part of the array interface that a `Split` uses.

    `rows[places]` reads these rows into memory; `np.asarray(rows)` reads all of them.
    """

    base: Any  # [N, *D], usually a memory-mapped array
    dtype: np.dtype[Any]  # after conversion
    places: Int[np.ndarray, " n"] | None = None  # indices of the rows in the base; None: all
    convert: Callable[[np.ndarray], np.ndarray] | None = None  # applied to the rows that are read; keeps their shape

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.base if self.places is None else self.places)

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *D]."""
        return (len(self), *self.base.shape[1:])

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return self.base.ndim

    @property
    def nbytes(self) -> int:
        """Bytes of all rows after conversion."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize

    @property
    def sample(self) -> np.ndarray | None:
        """The sample of the base, converted, if it has one: then the rows are too many to be read as a whole."""
        sample = getattr(self.base, "sample", None)
        return None if sample is None else self.converted(sample.reshape(-1, *self.shape[1:]))

    def converted(self, x: np.ndarray) -> np.ndarray:
        """Rows of the base that were read already, after conversion."""
        return replace(self, base=x, places=None)[:]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Read the rows selected by an index array, a slice or a mask.

        They are converted in blocks that fit into the cache of a core.
        """
        if self.convert is None:
            return np.asarray(self.base[rows if self.places is None else self.places[rows]])
        places = indices(rows, len(self))
        places = places if self.places is None else self.places[places]
        found = np.empty((places.size, *self.shape[1:]), self.dtype)
        size = max(1, BLOCK // max(1, int(np.prod(self.shape[1:], dtype=np.int64))))
        for first in range(0, places.size, size):
            found[first : first + size] = self.convert(np.asarray(self.base[places.ravel()[first : first + size]]))
        return found.reshape(*places.shape, *self.shape[1:])

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        """Read all rows."""
        found = np.concatenate([*chunks(self)])
        return found if dtype is None else found.astype(dtype)

    def select(self, places: Int[np.ndarray, " n"]) -> "Rows":
        """These rows, without reading them."""
        return replace(self, places=places if self.places is None else self.places[places])

    def map(self, convert: Callable[[np.ndarray], np.ndarray], dtype: Any) -> "Rows":
        """The rows with another conversion after their own."""
        before = self.convert
        both = convert if before is None else lambda part: convert(before(part))
        return replace(self, convert=both, dtype=np.dtype(dtype))


def indices(selection: Any, count: int) -> np.ndarray:
    """The indices that an index array, a slice or a mask selects of `count` rows."""
    if isinstance(selection, slice):
        return np.arange(*selection.indices(count))
    found = np.asarray(selection)
    return np.flatnonzero(found) if found.dtype == bool else found


def rows(x: np.ndarray) -> Any:
    """An array above `LARGE` as `Rows`; a smaller one unchanged."""
    return Rows(x, x.dtype) if x.nbytes > LARGE else x


def mapped(x: Any, convert: Callable[[np.ndarray], np.ndarray], dtype: Any) -> Any:
    """An array with every row converted, in chunks; `Rows` and `Draws` stay unread. convert: keeps the shape."""
    if not isinstance(x, np.ndarray):
        return (x if isinstance(x, Rows) else Rows(x, x.dtype)).map(convert, dtype)
    found = np.empty(x.shape, dtype)
    first = 0
    for part in chunks(x):
        found[first : first + len(part)] = convert(part)
        first += len(part)
    return found


def select(x: Any, places: Int[np.ndarray, " n"]) -> Any:
    """Rows of an array: a copy, or `Rows` of `Rows`."""
    return x.select(places) if isinstance(x, Rows) else x[places]


def chunks(x: Any) -> Iterator[np.ndarray]:
    """An array, a few rows at a time."""
    size = max(1, CHUNK // max(1, 8 * int(np.prod(x.shape[1:], dtype=np.int64))))
    for first in range(0, max(len(x), 1), size):
        yield np.asarray(x[first : first + size])


def has_missing(x: Any) -> bool:
    """Whether an array has NaN."""
    return x.dtype.kind == "f" and any(np.isnan(part).any() for part in chunks(x))
