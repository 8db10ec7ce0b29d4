"""Rows of many files that together exceed a machine, with the part of the array interface that a split uses."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from jaxae.data import array_records, row_groups
from jaxae.data.pieces import File, Format, Layout, Piece
from jaxae.data.rows import indices


@dataclass(frozen=True, eq=False)
class Shards:
    """Rows `first` to `last` of the concatenation of files.

    `shards[places]` reads rows at any places; training reads them by `lanes`. The sample has rows of all parts of the
    files, for statistics and figures.
    """

    format: Format
    files: tuple[File, ...]
    layout: Layout
    first: int
    last: int
    sample: np.ndarray  # [n, *D]
    window: int  # bytes of examples that are shuffled together, if the format has row groups

    def __len__(self) -> int:
        """Number of rows."""
        return self.last - self.first

    @property
    def shape(self) -> tuple[int, ...]:
        """[N, *D]."""
        return (len(self), *self.layout.shape)

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return self.layout.dtype

    @cached_property
    def _ends(self) -> np.ndarray:
        """The row after the last of every file."""
        return np.cumsum([file.rows for file in self.files])

    def pieces(self, start: int, stop: int) -> list[Piece]:
        """Rows `start` to `stop` as parts of files."""
        return [piece for piece, *_ in self._parts(start, stop, whole=True)]

    def groups(self, start: int, stop: int) -> tuple[list[Piece], list[tuple[int, int]]]:
        """Rows `start` to `stop` as parts of row groups, with the number and the first row of each group."""
        found = self._parts(start, stop, whole=False)
        return [piece for piece, *_ in found], [(number, first) for _, number, first in found]

    def _parts(self, start: int, stop: int, whole: bool) -> list[tuple[Piece, int, int]]:
        start, stop, found = start + self.first, stop + self.first, []
        for number in range(int(np.searchsorted(self._ends, start, "right")), len(self.files)):
            file = self.files[number]
            before = int(self._ends[number]) - file.rows
            if before >= stop:
                break
            at = 0
            for group, rows in enumerate((file.rows,) if whole else file.groups):
                low, high = max(start - before, at), min(stop - before, at + rows)
                if low < high:
                    found.append((Piece(file.path, low, high), group, at))
                at += rows
        return found

    def __getitem__(self, places: Any) -> np.ndarray:
        """Read the rows selected by an index array, a slice or a mask."""
        wanted = indices(places, len(self))
        flat = wanted.ravel()
        found = np.empty((len(flat), *self.layout.shape), self.dtype)
        order = np.argsort(flat, kind="stable")
        if len(flat) and self.format == "array_record":
            low, high = int(flat[order[0]]), int(flat[order[-1]]) + 1
            found[:] = array_records.Records(self.pieces(low, high), self.layout).read((flat - low).tolist())
        elif len(flat):
            low, high = int(flat[order[0]]), int(flat[order[-1]]) + 1
            source, at = row_groups.RowGroups(*self.groups(low, high), self.layout), 0
            ordered = flat[order]
            for number, piece in enumerate(source.pieces):
                end = low + piece.stop - piece.start
                count = int(np.searchsorted(ordered[at:], end))
                if count:
                    chosen = order[at : at + count]
                    found[chosen] = source[number][flat[chosen] - low]
                low, at = end, at + count
        return found.reshape(*wanted.shape, *self.layout.shape)

    def identity(self) -> bytes:
        """A hash of the names and row counts of the files, of the layout and of the sample."""
        names = [(file.path.rsplit("/", 1)[-1], file.groups) for file in self.files]
        window = self.window if self.format == "parquet" else ""
        digest = hashlib.sha256(f"{names}{self.layout}{self.first}{self.last}{window}".encode())
        digest.update(np.ascontiguousarray(self.sample).data)
        return digest.digest()
