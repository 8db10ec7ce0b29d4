"""Files of shards, their parts, and how they store examples."""

from typing import Any, Literal, NamedTuple

import numpy as np

Format = Literal["array_record", "parquet"]


class File(NamedTuple):
    """A file with the number of rows of each of its row groups; an ArrayRecord file counts as one."""

    path: str
    groups: tuple[int, ...]

    @property
    def rows(self) -> int:
        """Number of rows."""
        return sum(self.groups)


class Piece(NamedTuple):
    """Consecutive rows of a file."""

    path: str
    start: int
    stop: int


class Layout(NamedTuple):
    """How an example is stored."""

    shape: tuple[int, ...]
    type: str  # NumPy's string of the dtype
    columns: tuple[str, ...] = ()  # of Parquet
    header: str = ""  # of a record of ArrayRecord, in hexadecimal digits
    left_out: tuple[str, ...] = ()  # other columns

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the numbers."""
        return np.dtype(self.type)

    @property
    def size(self) -> int:
        """Bytes of an example."""
        return int(np.prod(self.shape)) * self.dtype.itemsize
