"""Fill in the missing cells of the user's table, a data frame or the content of a file."""

import io
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int

from jaxae.data.tables import MISSING, header_of, words_of


@runtime_checkable
class Frame(Protocol):
    """A data frame, such as `pandas.DataFrame`."""

    @property
    def columns(self) -> Any:
        """Names of the columns."""


class Fill(NamedTuple):
    """The missing cells of a column, filled in."""

    column: str
    rows: Int[np.ndarray, " n"]
    values: np.ndarray  # [n], numbers or strings
    features: Int[np.ndarray, " n"]  # index of the feature that each value is from


def fills(
    columns: Sequence[str],
    features: Sequence[str],
    missing: Bool[np.ndarray, "N D"],
    x: Float[np.ndarray, "N D"],
) -> Iterator[Fill]:
    """The missing cells of these columns.

    features: names of the columns of x; `colour=red` is one of the indicators of a column of strings, which is filled
    in by the category with the largest indicator. missing: the entries of x to fill in.
    """
    for column in columns:
        places = _places_of(column, features, columns)
        if not len(places):
            continue
        rows = np.flatnonzero(missing[:, places[0]])
        chosen = places[np.argmax(x[rows][:, places], axis=1)]
        values = x[rows, chosen]
        if column not in features:
            values = np.array([features[place].removeprefix(f"{column}=") for place in chosen], dtype=np.str_)
        yield Fill(column, rows, values, chosen)


def columns_of(content: bytes, suffix: str) -> list[str]:
    """Names of the columns of a CSV, TSV or Parquet file."""
    if suffix == ".parquet":
        from pyarrow import parquet

        return [str(name) for name in parquet.read_schema(io.BytesIO(content)).names]
    return header_of(content, suffix)[0]


def _places_of(column: str, features: Sequence[str], columns: Sequence[str]) -> Int[np.ndarray, " K"]:
    """Indices of the features that a column of the user's table is read as. columns: all of that table."""
    if column in features:
        return np.array([features.index(column)])
    return np.array([features.index(f"{column}={word}") for word in words_of(column, features, columns)], int)


def of_frame(frame: Any, features: Sequence[str]) -> Float[np.ndarray, "N D"]:
    """The columns of a model from a data frame, NaN where a cell is missing.

    features: as in `fills`; empty for all columns of the data frame. ValueError if the data frame lacks one,
    and for strings in a column of numbers.
    """
    names = [str(name) for name in frame.columns]
    columns: dict[str, np.ndarray] = {}
    for i, feature in enumerate(features or names):
        column, *word = [feature] if feature in names else feature.split("=", 1)
        if column not in names:
            raise ValueError(f"the data frame has no column {feature}, which the model was trained on")
        series = frame.iloc[:, names.index(column)]
        if word:
            absent = series.isna().to_numpy(dtype=bool)
            columns[f"{i}"] = np.where(absent, np.nan, series.astype(str).to_numpy() == word[0]).astype(np.float64)
            continue
        try:
            columns[f"{i}"] = series.to_numpy(dtype=np.float64, na_value=np.nan)
        except (TypeError, ValueError):
            raise ValueError(f"column {column} holds strings, but numbers in the training table; convert it") from None
    return np.stack(list(columns.values()), axis=1)


def filled_frame(
    frame: Any, features: Sequence[str], before: Float[np.ndarray, "N D"], after: Float[np.ndarray, "N D"]
) -> Any:
    """A copy of a data frame with its missing cells filled in. before: `of_frame`; after: the same, filled in.

    Columns of integers with missing cells become real numbers.
    """
    names = [str(name) for name in frame.columns]
    result = frame.copy()
    for fill in fills(names, features or names, np.isnan(before), after):
        if not len(fill.rows):
            continue
        place = names.index(fill.column)
        series = result.iloc[:, place].copy()
        if series.dtype.kind in "iub":
            series = series.astype("Float64")
        if hasattr(series, "cat"):
            series = series.cat.add_categories(sorted({*fill.values.tolist()} - {*series.cat.categories}))
        series.iloc[fill.rows] = fill.values
        result.isetitem(place, series)
    return result


def filled_file(
    content: bytes, suffix: str, features: Sequence[str], missing: Bool[np.ndarray, "N D"], x: Float[np.ndarray, "N D"]
) -> bytes:
    """The content of a CSV, TSV or Parquet file with its missing cells filled in. Arguments: as of `filled_text`."""
    if suffix == ".parquet":
        return _filled_parquet(content, features, missing, x)
    return filled_text(content, suffix, features, missing, x)


def _filled_parquet(
    content: bytes, features: Sequence[str], missing: Bool[np.ndarray, "N D"], x: Float[np.ndarray, "N D"]
) -> bytes:
    """Columns of integers with missing cells become float64."""
    import pyarrow as pa
    from pyarrow import parquet

    table: Any = parquet.read_table(io.BytesIO(content))
    for fill in fills(table.column_names, features, missing, x):
        if not len(fill.rows):
            continue
        place = table.column_names.index(fill.column)
        values = np.array(table.column(place).to_pylist(), dtype=object)
        values[fill.rows] = fill.values
        kind = table.schema.field(place).type
        if fill.values.dtype.kind == "f" and not pa.types.is_floating(kind):
            kind = pa.float64()
        table = table.set_column(place, pa.field(fill.column, kind), pa.array(values.tolist(), type=kind))
    written = io.BytesIO()
    parquet.write_table(table, written)
    return written.getvalue()


def filled_text(
    content: bytes, suffix: str, features: Sequence[str], missing: Bool[np.ndarray, "N D"], x: Float[np.ndarray, "N D"]
) -> bytes:
    """The content of a CSV or TSV file with its empty cells filled in: all other bytes stay as they are.

    suffix: of the file. features, missing, x: as in `fills`. ValueError if the lines of the file are not the rows of x.
    """
    columns, delimiter, titles = header_of(content, suffix)
    new: dict[tuple[int, int], str] = {}
    for fill in fills(columns, features, missing, x):
        place = columns.index(fill.column)
        for row, value in zip(fill.rows.tolist(), fill.values.tolist(), strict=True):
            new[row, place] = _quoted(text_of(value), delimiter)
    cell = re.compile(rf'("(?:[^"]|"")*"|[^{re.escape(delimiter)}\r\n]*)({re.escape(delimiter)}|\r\n|\r|\n|\Z)')
    row, place, written = -int(titles), 0, []
    for own, end in cell.findall(content.decode("utf-8", "surrogateescape")):
        blank = not place and not own and end != delimiter
        known = new.pop((row, place), None)
        if known is not None and own.strip('"') not in MISSING:
            raise ValueError(f"row {row}, column {columns[place]}: {own[:20]} is not empty")
        written += [own if known is None or blank else known, end]
        place += 1
        if end != delimiter:
            row, place = row + (not blank), 0
    if new or row != len(x):
        raise ValueError(f"it has {row:,} lines of data, not {len(x):,}")
    return "".join(written).encode("utf-8", "surrogateescape")


def text_of(value: str | float) -> str:
    """A filled cell as text: a number by the fewest digits that give it back in float32."""
    if isinstance(value, str):
        return value
    positional = value == 0 or 1e-4 <= abs(value) < 1e15
    write = np.format_float_positional if positional else np.format_float_scientific
    return write(np.float32(value), trim="-")


def _quoted(text: str, delimiter: str) -> str:
    """A string as a cell of a CSV file."""
    return '"' + text.replace('"', '""') + '"' if re.search(rf'[{re.escape(delimiter)}"\r\n]', text) else text
