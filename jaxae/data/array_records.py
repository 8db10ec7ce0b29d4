"""ArrayRecord files: every record is an array in the format of `.npy`."""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data.pieces import File, Layout, Piece
from jaxae.errors import InputError, first_line

NAME = re.compile(r"\.array_?record(-\d+-of-\d+)?$")  # with or without the number that TFDS appends
OPTIONS = "group_size:1,uncompressed"  # single records are read without their neighbours


def layout(path: Path) -> Layout:
    """The layout of the first record of a file. InputError for a record that is not an array of numbers."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        record = io.BytesIO(reader.read([0])[0])
        reader.close()
        major = np.lib.format.read_magic(record)
        of = np.lib.format.read_array_header_1_0 if major == (1, 0) else np.lib.format.read_array_header_2_0
        shape, columns_first, dtype = of(record)
    except Exception as error:  # errors of the C++ library and of NumPy are of many types
        raise InputError(
            f"{path}: its first record is not an array as numpy.save writes it ({first_line(error)}); write the files "
            "by jaxae.data.write_shards"
        ) from None
    if dtype.kind not in "uif" or columns_first:
        raise InputError(f"{path}: its records hold {dtype}; write numbers in C order")
    return Layout(shape, dtype.str, header=record.getvalue()[: record.tell()].hex())


def index(path: Path) -> File:
    """The number of records of a file. InputError for a damaged file."""
    from array_record.python.array_record_module import ArrayRecordReader

    try:
        reader = ArrayRecordReader(str(path))
        count = reader.num_records()
        reader.close()
    except Exception as error:  # errors of the C++ library are of many types
        raise InputError(f"{path} is not an ArrayRecord file ({first_line(error)}); copy it again") from None
    return File(str(path), (count,))


class Records:
    """Consecutive records of files, read by Grain's source of ArrayRecord files."""

    def __init__(self, pieces: Sequence[Piece], layout: Layout) -> None:
        import grain

        self.layout, self.pieces = layout, pieces
        # With their ranges, files are opened when they are read.
        self._source: Any = grain.sources.ArrayRecordDataSource([f"{path}[{a}:{b}]" for path, a, b in pieces])

    def read(self, places: Sequence[int]) -> np.ndarray:
        """The records at these places, [n, *D], read in their order in the files."""
        order = np.argsort(places, kind="stable")
        try:
            records = self._source.__getitems__([int(places[at]) for at in order])
        except Exception as error:  # errors of the C++ library are of many types
            raise InputError(f"{self._where()} cannot be read ({first_line(error)}); copy it again") from None
        header = bytes.fromhex(self.layout.header)
        length = len(header) + self.layout.size
        if any(len(record) != length or not record.startswith(header) for record in records):
            raise InputError(f"{self._where()}: records of different shapes or types; write all arrays alike")
        flat = np.frombuffer(b"".join(records), np.uint8).reshape(len(records), length)[:, len(header) :]
        found = np.empty((len(records), *self.layout.shape), self.layout.dtype)
        found[order] = np.ascontiguousarray(flat).view(self.layout.dtype).reshape(found.shape)
        return found

    def _where(self) -> str:
        return " or ".join(sorted({piece.path for piece in self.pieces})[:3])


def write(path: Path, x: np.ndarray) -> None:
    """Write an array [N, *D] as a file of N records."""
    from array_record.python.array_record_module import ArrayRecordWriter

    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, np.lib.format.header_data_from_array_1_0(np.ascontiguousarray(x[0])))
    writer = ArrayRecordWriter(str(path), OPTIONS)
    for row in x:
        writer.write(head.getvalue() + np.ascontiguousarray(row).tobytes())
    writer.close()
