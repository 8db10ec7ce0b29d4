"""Files that commands write: arrays as `.npy`, tables as `.csv`, grids of images as `.png`.

Results come in chunks, [*S, n, ...] with an axis of seeds S if there are several, so that they need not fit into
memory. A file, or a folder, is written completely or not at all; InputError if it cannot be written.
"""

import csv
import errno
import io
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from pathlib import Path
from types import MappingProxyType
from typing import IO

import numpy as np
from jaxtyping import Float, Int

from jaxae.data.cache import writing
from jaxae.errors import InputError
from jaxae.report.figures.base import bitmap, pictures, tile
from jaxae.report.figures.series import sketch

STDOUT = Path("-")  # a table is written to standard output
Chunks = Iterable[np.ndarray]  # [*S, n, ...] each


def write_array(path: Path, chunks: Chunks, count: int, several: bool) -> tuple[int, ...]:
    """Write all chunks as one array, float32 [*S, count, ...]; return its shape."""
    first, shape, start = 0, (count,), 0
    with opened_file(path) as file:
        for chunk in chunks:
            seeds = np.asarray(chunk if several else chunk[None], np.float32)
            if not start:
                shape = (*chunk.shape[:several], count, *seeds.shape[2:])
                header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(file, header)
                start = file.tell()
            for seed, part in enumerate(seeds):
                file.seek(start + 4 * (seed * count + first) * prod(seeds.shape[2:]))
                file.write(part.astype("<f4").tobytes())
            first += seeds.shape[1]
    return shape


def write_table(
    path: Path,
    chunks: Chunks,
    names: Sequence[str | int],
    column: str,
    seeds: Sequence[int],
    columns: Sequence[str] = (),
    labels: Mapping[str, np.ndarray] = MappingProxyType({}),
) -> tuple[int, ...]:
    """Write a row for each example, its name, its labels and its numbers; return the shape of all numbers.

    Columns of numbers are named by `columns` if given, else `column`, or `column0`, `column1`, ... for several numbers
    per example; with several seeds a name ends in `_seed3`.
    """
    first, shape = 0, (len(names),)
    with opened_file(path) as file:
        text = io.TextIOWrapper(file, "utf-8", "surrogateescape", newline="")
        try:
            table = csv.writer(text, lineterminator="\n")
            for chunk in chunks:
                values = np.asarray(chunk if len(seeds) > 1 else chunk[None], np.float32)
                if not first:
                    shape = (*chunk.shape[: len(seeds) > 1], len(names), *values.shape[2:])
                    numbers = (
                        [f"{column}{i}" for i in range(prod(shape[-values.ndim + 2 :]))]
                        if values.ndim > 2
                        else [column]
                    )
                    numbers = list(columns) or numbers
                    marks = [f"_seed{seed}" for seed in seeds] if len(seeds) > 1 else [""]
                    table.writerow(["name", *labels, *(f"{number}{mark}" for mark in marks for number in numbers)])
                for row in values.swapaxes(0, 1):
                    own = [values[first] for values in labels.values()]
                    table.writerow([names[first], *own, *row.ravel().astype(str)])
                    first += 1
        finally:
            text.detach()  # flushes; `file` is closed by `opened_file`, or is standard output
    return shape


def drawn(x: Float[np.ndarray, "N *D"], lengths: Int[np.ndarray, " N"] | None = None) -> np.ndarray:
    """Images, or curves of series, as displayable images [N, H, W, C]. x: in [0, 1]; NaN where an entry is missing."""
    return sketch(x, lengths) if x.ndim == 3 else pictures(np.nan_to_num(x))


def write_grid(path: Path, rows: Sequence[Float[np.ndarray, "N H W C"]], columns: int) -> tuple[int, int]:
    """Write images in [0, 1] as one picture; return its width and height in pixels.

    rows: arrays of equal length; images of the same index form a column.
    """
    blank = -len(rows[0]) % columns
    padded = [np.pad(images, ((0, blank), (0, 0), (0, 0), (0, 0))) for images in rows]
    lines = np.stack([images.reshape(-1, columns, *images.shape[1:]) for images in padded], axis=1)
    picture = bitmap(tile(lines.reshape(-1, *lines.shape[3:]), columns))
    with opened_file(path) as file:
        picture.save(file, "PNG")
    width, height = picture.size
    return width, height


@contextmanager
def writing_folder(out: Path, overwrite: bool, mark: str) -> Iterator[Path]:
    """Yield a folder that becomes `out` when it is complete, and disappears after an error.

    overwrite: replace a folder that holds the file `mark`. InputError for any other that exists.
    """
    known = (out / mark).is_file()
    if out.exists() and not (overwrite and known):
        fix = "; use another, or overwrite=True to replace it" if known else f" and holds no {mark}; use another"
        raise InputError(f"out={out} exists{fix}")
    partial = out.with_name(f"{out.name}.{os.getpid()}.tmp")
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            shutil.rmtree(out)
        partial.rename(out)
    except OSError as error:
        raise InputError(f"out={out} cannot be written ({error.strerror or error}); use another") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def opened_file(path: Path) -> Iterator[IO[bytes]]:
    """A file that is written completely or not at all, or standard output. InputError if it cannot be written."""
    if path == STDOUT:
        yield sys.stdout.buffer
        return
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        with writing(path) as file:
            yield file
    except OSError as error:
        raise InputError(f"--out {path} cannot be written ({error.strerror or error}); use another") from None
