"""User data: files of arrays and tables, folders and tars of pictures and recordings."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from jaxae.data import activations, archives, folders, h5ad, idx, kinds, pictures, rows, sequences, tables, tars
from jaxae.data.arrays import assembled
from jaxae.data.kinds import Wanted
from jaxae.data.options import OF_TABLES, Options
from jaxae.data.reading import reading
from jaxae.data.splits import RawDataset
from jaxae.errors import InputError

MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def looks_like_path(name: str) -> bool:
    """Whether a string that names no existing file looks like a path."""
    suffixes = (".npy", ".npz", ".gz", ".idx", h5ad.SUFFIX, *tables.SUFFIXES, *pictures.SUFFIXES, *tars.SUFFIXES)
    return name.startswith((".", "/", "~")) or name.endswith(suffixes)


OTHERS = "IDX files, folders of pictures or WAV files"
FORMATS = (".npy", ".npz", *tables.SUFFIXES, h5ad.SUFFIX, *tars.SUFFIXES, OTHERS)


def load(path: Path, options: Options, features: Sequence[str] = (), training: bool = True) -> RawDataset:
    """Images of one shape, tables or series, in the user's units.

    `.npy`: the examples. `.npz`: see `archives`. CSV and Parquet: see `tables`. IDX: a file of images, with the file of
    labels beside it, if any, or a folder with the four files of MNIST. A folder or tar of pictures or recordings: see
    `folders`. `.h5ad`: see `h5ad`. A folder of `jaxae activations`: tokens of a line of text stay in one split. An
    `.npy` above one GiB is memory-mapped, and read by `Rows`.
    features: the columns of a table (default: all). training: see `kinds.examples`. InputError for other content.
    """
    _check(path)

    def found(
        xs: Mapping[str, np.ndarray],
        ys: Mapping[str, np.ndarray | None],
        contexts: Mapping[str, np.ndarray | None] | None = None,
    ) -> RawDataset:
        return assembled(xs, ys, options, str(path), training, contexts)

    suffix = path.suffix.lower()
    if folder := activations.folder_of(path):
        lines = activations.read(folder).lines
        raw = found({"train": _numpy(folder / activations.ROWS)}, {"train": None})
        note = f"tokens of {len(np.unique(lines)):,} lines of text, each of which stays in one split"
        return raw._replace(groups=lines, notes=(*raw.notes, note))
    if path.is_dir() and (four := _four(path)):
        return _mnist(four, options)
    if path.is_dir() or path.name.lower().endswith(tars.SUFFIXES):
        raw = folders.load(path, options) if path.is_dir() else tars.load(path, options)
        if training and raw.kind == "image":
            kinds.examples([split.x for split in raw.splits.values()], options.kind, False, str(path))
        return raw
    if suffix == ".npy":
        return found({"train": _numpy(path)}, {"train": None})
    if suffix == ".npz":
        arrays, notes = archives.read(path)
        raw = (
            sequences.load(arrays, path, options)
            if archives.is_sequences(arrays)
            else found(*archives.splits(arrays, path))
        )
        return raw._replace(notes=raw.notes + notes)
    if suffix in tables.SUFFIXES:
        return _table(path, options, features)
    if suffix == h5ad.SUFFIX:
        return _cells(path, options, features, training)
    if "idx" not in path.name and suffix not in ("", ".gz"):
        raise InputError(f"{path}: unsupported format; supported: {', '.join(FORMATS)}")
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    y = idx.read(beside, 1) if beside != path and beside.exists() else None
    return found({"train": idx.read(path, 3)}, {"train": y})


def _check(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder; check the path")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path} is neither a file nor a folder; copy its content into a file")


def _four(path: Path) -> list[Path]:
    """The four files of MNIST in a folder; none if one is missing."""
    found = [file for name in MNIST for file in (path / name, path / f"{name}.gz") if file.exists()]
    return found if len(found) == len(MNIST) else []


def _mnist(four: list[Path], options: Options) -> RawDataset:
    train_x, train_y, test_x, test_y = (idx.read(path, 3 if "images" in path.name else 1) for path in four)
    xs, ys = {"train": train_x, "test": test_x}, {"train": train_y, "test": test_y}
    return assembled(xs, ys, options, str(four[0].parent))


def _numpy(path: Path) -> np.ndarray:
    with reading(path, b"\x93NUMPY") as file:
        if path.stat().st_size > rows.LARGE:
            return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
        return np.lib.format.read_array(file, allow_pickle=False)


def _cells(path: Path, options: Options, features: Sequence[str], training: bool) -> RawDataset:
    """The cells of a file of AnnData. features, training, InputError: as in `h5ad.read`."""
    cells = h5ad.read(path, options, features, training)
    kind: Wanted = "counts" if options.kind == "counts" else "table"
    contexts = {"train": cells.context} if cells.context else None
    how = replace(options, kind=kind)
    raw = assembled({"train": cells.x}, {"train": cells.target}, how, str(path), training, contexts)
    return raw._replace(features=cells.genes, names=cells.names, applicable=h5ad.OPTIONS)


def _table(path: Path, options: Options, features: Sequence[str]) -> RawDataset:
    """The table of a file. features, InputError: as in `tables.read`."""
    table = tables.read(path, options, features)
    kind: Wanted = "counts" if options.kind == "counts" else "table"
    contexts = {"train": table.context} if table.context else None
    raw = assembled(
        {"train": table.x}, {"train": table.target}, replace(options, kind=kind), str(path), contexts=contexts
    )
    return raw._replace(features=table.features, notes=(*raw.notes, *table.notes), applicable=OF_TABLES)
