"""Tables with named columns: CSV and Parquet files."""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from jaxae.data import covariates
from jaxae.data.covariates import CATEGORIES
from jaxae.data.options import Options
from jaxae.errors import InputError, first_line

SUFFIXES = (".csv", ".tsv", ".parquet")
MISSING = ("", "NA", "N/A", "#N/A", "NaN", "nan", "null", "NULL", "None", "?", "-nan")


class Table(NamedTuple):
    """Numbers, NaN where a cell is empty; the names of the columns; the target and the covariates, if any."""

    x: Float[np.ndarray, "N D"]
    features: tuple[str, ...]
    target: np.ndarray | None
    notes: tuple[str, ...]
    context: covariates.Columns


def read(path: Path, options: Options, features: Sequence[str] = ()) -> Table:
    """The columns of a file, except target, context and drop: numbers, and a column per category of strings.

    features: the columns to return, as returned for another table (default: all). The first line of a CSV file holds
    the names, unless it has numbers only. InputError for dates, for IDs, for an unknown column, and for other content.
    """
    with _arrow_errors(path):
        return _read(_arrow(path), path, options, features)


def of_frame(frame: Any, name: str, options: Options, features: Sequence[str] = ()) -> Table:
    """The columns of a data frame of pandas, which errors call `name`. Other arguments, InputError: as in `read`."""
    import pyarrow as pa

    with _arrow_errors(name):
        return _read(pa.Table.from_pandas(frame, preserve_index=False), name, options, features)


def _read(table: Any, path: Path | str, options: Options, features: Sequence[str]) -> Table:
    names = list(table.column_names)
    left_out = [*options.drop, *filter(None, [options.target]), *options.context]
    if twice := [name for name in options.context if left_out.count(name) > 1]:
        raise InputError(f"context={twice[0]} is named twice, by context, target or drop; name it once")
    for name in left_out:
        if name not in names and (name in options.context or not features):
            raise InputError(f"{path} has no column {name}; it has {', '.join(names[:20])}")
    context = {
        name: _plain(table.column(name), f"{path}: column {name}", "leave it out of context")
        for name in options.context
    }
    target, notes = None, []
    if options.target and options.target in names:
        target = _plain(table.column(options.target), f"{path}: column {options.target}")
        if target.dtype.kind == "f" and (target % 1 > 0).any():
            target, notes = None, [f"target {options.target} left out: real numbers cannot be classes"]
    columns: dict[str, np.ndarray] = {}
    for name in names:
        if name not in left_out:
            values = _plain(table.column(name), f"{path}: column {name}")
            if options.kind == "counts" and values.dtype.kind != "f":
                raise InputError(f"{path}: column {name} has strings, not counts; use drop={name}, or target={name}")
            columns |= (
                _as_in_training(name, values, path, features, names, notes)
                if features
                else _numbers(name, values, path)
            )
    if features:
        if lacking := [name for name in features if name not in columns and name.split("=")[0] not in names]:
            raise InputError(f"{path} has no column {lacking[0]}, which the model was trained on")
        empty = np.zeros(table.num_rows)  # a category that does not occur
        columns = {name: columns.get(name, empty) for name in features}
    if not columns:
        raise InputError(f"{path} has no columns left to train on")
    return Table(np.stack(list(columns.values()), axis=1), tuple(columns), target, tuple(notes), context)


def _numbers(name: str, values: np.ndarray, path: Path | str) -> dict[str, np.ndarray]:
    """A column of numbers, or a column per category. InputError for IDs, free text, and numbers mixed with strings."""
    drop = f"drop={name or repr(name)}"
    if values.dtype.kind == "f":
        if _is_id(name, values):
            raise InputError(f"{path}: column {name!r} has a different number in every row, like an ID; use {drop}")
        return {name: values}
    words = sorted(set(values.tolist()) - {""})
    if strange := [word for word in words if not _is_number(word.replace(",", "."))]:
        if len(strange) < len(words) / 2:
            odd = strange[0][:20]
            raise InputError(f"{path}: column {name} has numbers and strings such as {odd!r}; clear these, or {drop}")
    elif words:
        raise InputError(f"{path}: column {name} has decimal commas, such as {words[0]}; use points, or {drop}")
    if len(words) > min(CATEGORIES, max(len(values) // 2, 2)):
        raise InputError(f"{path}: column {name} has {len(words):,} different strings, like IDs or text; use {drop}")
    return _categories(name, values, words)


def _as_in_training(
    name: str, values: np.ndarray, path: Path | str, features: Sequence[str], names: Sequence[str], notes: list[str]
) -> dict[str, np.ndarray]:
    """A column encoded as in the training table with these features; empty if that table lacks it.

    names: of all columns.
    """
    words = words_of(name, features, names)
    if name not in features and not words:
        return {}
    if (values.dtype.kind == "f") != (name in features):
        held, had = ("strings", "numbers") if name in features else ("numbers", "strings")
        raise InputError(f"{path}: column {name} holds {held}, but {had} in the training table; convert it")
    if name in features:
        return {name: values}
    new = sorted(set(values.tolist()) - {"", *words})
    if new:
        count = int(np.isin(values, new).sum())
        rows = f"{count:,} row{'s' * (count > 1)}"
        notes.append(f"{rows} with an unseen category of {name}, such as {new[0]!r}: all its indicator columns are 0")
    return _categories(name, values, words)


def words_of(column: str, features: Sequence[str], columns: Sequence[str]) -> list[str]:
    """The categories of a column of strings that are features. columns: those of the table, which are no categories."""
    own = [feature for feature in features if feature.startswith(f"{column}=") and feature not in columns]
    return [feature.removeprefix(f"{column}=") for feature in own]


def _categories(name: str, values: np.ndarray, words: Sequence[str]) -> dict[str, np.ndarray]:
    return {f"{name}={word}": np.where(values == "", np.nan, values == word).astype(np.float64) for word in words}


def _is_id(name: str, values: np.ndarray) -> bool:
    """Whether a column of distinct integers numbers the rows, or has the name of an ID."""
    known, count = values[~np.isnan(values)], len(values)
    if count < 3 or len(np.unique(known)) < count or (known % 1).any():
        return False
    counted = np.array_equal(np.diff(np.sort(known)), np.ones(count - 1))
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    named = bool(words) and words[-1].lower() in ("id", "index", "key", "no", "nr", "number")
    return counted or named or not name or name.lower().startswith(("unnamed", "__index_level"))


def _plain(column: Any, where: str, fix: str = "") -> np.ndarray:
    """A column as float64 with NaN, or strings with "", where a cell is empty. InputError for dates and other types.

    fix: of that error (default: drop the column).
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array([value or "" for value in column.to_pylist()], dtype=np.str_)
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif pa.types.is_null(kind):
        return np.full(len(column), np.nan)
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        fix = fix or f"use drop={where.split('column ')[-1]}"
        raise InputError(f"{where} holds {kind}, not numbers or strings; {fix}")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _arrow(path: Path) -> Any:
    from pyarrow import csv as arrow
    from pyarrow import parquet

    if path.suffix.lower() == ".parquet":
        table = parquet.read_table(path)
    else:
        content = path.read_bytes()
        _, delimiter, titles = header_of(content, path.suffix)
        table = arrow.read_csv(
            io.BytesIO(content.removeprefix(b"\xef\xbb\xbf")),
            read_options=arrow.ReadOptions(autogenerate_column_names=not titles),
            parse_options=arrow.ParseOptions(delimiter=delimiter),
            convert_options=arrow.ConvertOptions(null_values=MISSING, strings_can_be_null=True),
        )
    if len(set(table.column_names)) < table.num_columns:
        raise InputError(f"{path}: two columns have the same name; rename one")
    if not table.num_rows:
        raise InputError(f"{path} has no rows")
    return table


def header_of(content: bytes, suffix: str) -> tuple[list[str], str, bool]:
    """Names of the columns of a CSV or TSV file, its delimiter, and whether its first line holds the names.

    Without them, the columns are called f0, f1, ....
    """
    head = content[: 1 << 16].decode("utf-8-sig", errors="replace")
    lines = [line for line in head.splitlines() if line.strip()]
    delimiter = "\t" if suffix.lower() == ".tsv" else _delimiter(lines[0] if lines else "")
    first = next(csv.reader(io.StringIO(lines[0]), delimiter=delimiter)) if lines else []
    titles = not all(map(_is_number, first))
    return first if titles else [f"f{place}" for place in range(len(first))], delimiter, titles


@contextmanager
def _arrow_errors(path: Path | str) -> Iterator[None]:
    """Turn an error of pyarrow or csv into an InputError."""
    import pyarrow as pa

    try:
        yield
    except InputError:
        raise
    except (OSError, pa.ArrowException, ValueError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as a table ({first_line(error)})") from None


def _delimiter(line: str) -> str:
    unquoted = re.sub(r'"[^"]*"', "", line)
    return max(",;\t|", key=unquoted.count)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return text in MISSING
    return True
