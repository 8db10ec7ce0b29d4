"""Parquet files: row groups of one column of arrays, or of several columns of numbers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.data.pieces import File, Layout, Piece
from jaxae.errors import InputError, first_line

SUFFIX = ".parquet"
EMPTY = "has empty cells, which shards may not have; fill them, or leave these rows out"


def layout(path: Path, drop: Sequence[str] = ()) -> Layout:
    """The layout of the rows of a file: of its only column of arrays, or else of its columns of numbers.

    An array is a list of numbers, of one length, or a tensor of fixed shape. drop: columns to leave out. InputError for
    other columns.
    """
    import pyarrow as pa

    schema = _opened(path).schema_arrow
    if unknown := [name for name in drop if name not in schema.names]:
        raise InputError(f"{path} has no column {unknown[0]}; it has {', '.join(schema.names[:20])}")
    fields = [field for field in schema if field.name not in drop]
    arrays = [field for field in fields if _values(field.type) is not None]
    if len(arrays) > 1:
        raise InputError(f"{path}: columns {', '.join(field.name for field in arrays)} hold arrays; drop all but one")
    if arrays:
        (field,) = arrays
        values, left = _values(field.type), tuple(other.name for other in fields if other is not field)
        tensor = isinstance(field.type, pa.FixedShapeTensorType)
        if tensor and [*(field.type.permutation or [])] not in ([], sorted(field.type.permutation or [])):
            raise InputError(f"{path}: column {field.name} holds transposed tensors; write them in C order")
        shape = tuple(field.type.shape) if tensor else (_length(path, field.name),)
        return Layout(shape, np.dtype(values.to_pandas_dtype()).str, (field.name,), left_out=left)
    wrong = [field for field in fields if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))]
    if wrong or not fields:
        what = f"column {wrong[0].name} holds {wrong[0].type}, not numbers; drop it" if wrong else "no column is left"
        raise InputError(f"{path}: {what}")
    return Layout((len(fields),), np.dtype(np.float32).str, tuple(field.name for field in fields))


def require_alike(paths: Sequence[Path], columns: Sequence[str]) -> None:
    """Raise InputError for a file that lacks a column, or has it with another type than the first file."""
    first, *others = paths
    types = {name: _opened(first).schema_arrow.field(name).type for name in columns}
    for path in others:
        schema = _opened(path).schema_arrow
        for name, kind in types.items():
            if schema.get_field_index(name) < 0:
                raise InputError(f"{path} has no column {name}, unlike {first}; write all files alike")
            if (other := schema.field(name).type) != kind:
                raise InputError(f"{path}: column {name} holds {other}, but {kind} in {first}; write all files alike")


def index(path: Path) -> File:
    """The number of rows of every row group of a file."""
    found = _opened(path).metadata
    return File(str(path), tuple(found.row_group(number).num_rows for number in range(found.num_row_groups)))


class RowGroups:
    """Row groups, or parts of them, as a source of Grain: `RowGroups(pieces, layout)[i]` is an array [n, *D].

    pieces: rows, of one row group each. groups: the number of each row group in its file, and its first row.
    """

    def __init__(self, pieces: Sequence[Piece], groups: Sequence[tuple[int, int]], layout: Layout) -> None:
        self.pieces, self.groups, self.layout = pieces, groups, layout
        self._now: tuple[str, Any] = ("", None)  # the file that was opened last

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, place: int) -> np.ndarray:
        (path, start, stop), (group, first) = self.pieces[place], self.groups[place]
        name, file = self._now
        if name != path:
            file = _opened(Path(path))
            self._now = (path, file)
        try:
            table = file.read_row_group(group, columns=[*self.layout.columns], use_threads=False)
        except Exception as error:  # pyarrow raises many types of exceptions
            raise InputError(f"{path} cannot be read ({first_line(error)}); copy it again") from None
        return self._numpy(table, path)[start - first : stop - first]

    def _numpy(self, table: Any, path: str) -> np.ndarray:
        if any(column.null_count for column in table.columns):
            raise InputError(f"{path} {EMPTY}")
        shape, dtype = self.layout.shape, self.layout.dtype
        if _values(table.schema.field(0).type) is None:
            return np.stack([column.to_numpy() for column in table.columns], axis=1).astype(dtype).reshape(-1, *shape)
        array = table.column(0).combine_chunks()
        array = getattr(array, "storage", array)  # of a tensor
        flat = array.flatten()
        if flat.null_count or len(flat) != len(array) * int(np.prod(shape)) or not _of_one_length(array):
            raise InputError(f"{path}: arrays of different lengths, or with empty entries; write all alike")
        return np.asarray(flat.to_numpy(zero_copy_only=False), dtype).reshape(len(array), *shape)


def write(path: Path, x: np.ndarray, rows: int) -> None:
    """Write an array [N, *D] as a column of tensors, with row groups of this many rows."""
    import pyarrow as pa
    from pyarrow import parquet

    column = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(x))
    parquet.write_table(pa.table({"x": column}), path, row_group_size=rows, compression="none", use_dictionary=False)


def _opened(path: Path) -> Any:
    from pyarrow import parquet

    try:
        return parquet.ParquetFile(path)
    except Exception as error:  # pyarrow raises many types of exceptions
        raise InputError(f"{path} is not a Parquet file ({first_line(error)}); copy it again") from None


def _values(kind: Any) -> Any:
    """The type of the numbers of an array; None for another type."""
    import pyarrow as pa

    if isinstance(kind, pa.FixedShapeTensorType):
        return kind.value_type
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    numbers = (pa.types.is_integer, pa.types.is_floating)
    found = kind.value_type if any(is_list(kind) for is_list in lists) else None
    return found if found is not None and any(is_number(found) for is_number in numbers) else None


def _length(path: Path, column: str) -> int:
    """Numbers in the first array of a column of lists."""
    first = next(_opened(path).iter_batches(1, columns=[column]), None)
    if first is None:
        raise InputError(f"{path} has no rows")
    if not first.column(0)[0].is_valid:
        raise InputError(f"{path} {EMPTY}")
    return len(first.column(0)[0])


def _of_one_length(array: Any) -> bool:
    import pyarrow.compute as pc

    return len(pc.unique(pc.list_value_length(array))) <= 1
