"""User data: `.npy`, `.npz` and IDX files, folders of images."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np

from jaxae.data import archives, folders, idx, kinds, pictures, sequences, tables
from jaxae.data.arrays import assembled
from jaxae.data.cache import part_on_disk
from jaxae.data.dataset import Dataset, Split
from jaxae.data.options import Options
from jaxae.data.reading import reading
from jaxae.errors import InputError

MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
LARGE = 1 << 30  # bytes


def looks_like_path(name: str) -> bool:
    """Whether a name that does not exist was meant as a path."""
    suffixes = (".npy", ".npz", ".gz", ".idx", *tables.SUFFIXES, *pictures.SUFFIXES)
    return name.startswith((".", "/", "~")) or Path(name).suffix in suffixes


def load(path: Path, options: Options) -> Dataset:
    """Images of one shape, tables or series, in the user's units.

    `.npy`: the examples. `.npz`: see `archives`. CSV and Parquet: see `tables`. IDX: a file of images, with the file of
    labels beside it, if any, or a folder with the four files of MNIST. A folder of pictures: see `folders`.
    A tenth of each class is the test split, unless the data have one. InputError for other content.
    """
    _check(path)
    if path.is_dir():
        four = _four(path)
        return _mnist(four) if four else folders.load(path, _layout(options))
    if path.suffix == ".npy":
        return _large(path) or _assembled([_numpy(path)], [None], path, options)
    if path.suffix == ".npz":
        arrays = archives.read(path)
        if archives.is_sequences(arrays):
            return sequences.load(arrays, path)
        return _assembled(*archives.splits(arrays, path), path, options)
    if path.suffix in tables.SUFFIXES:
        return tables.load(path, options)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    has_labels = beside != path and beside.exists()
    return _assembled([idx.read(path, 3)], [idx.read(beside, 1) if has_labels else None], path, options)


def read(path: Path, options: Options, features: Sequence[str] = ()) -> tuple[Split, Sequence[str | int]]:
    """All examples at a path (as for `load`) in order, without classes; and their names.

    The names are the paths of the images of a folder, relative to it and sorted; else numbers from 0. Of the four files
    of MNIST the training images come first. An `.npy` of bytes above one GiB is memory-mapped. features: the columns of
    a table (default: all). InputError as in `load`.
    """
    _check(path)
    lengths, names = None, None
    if path.is_dir():
        if four := _four(path):
            x = np.concatenate([split.x for split in _mnist(four)[:2]])
        else:
            images = [image.path for image in folders.listing(path)[0]]
            decoded = pictures.decode(images, _layout(options))
            x, names = decoded.x, [str(images[place].relative_to(path)) for place in decoded.places]
    elif path.suffix == ".npy":
        mapped = _mapped(path)
        x = _examples(_numpy(path) if mapped is None else mapped, path, options)
    elif path.suffix == ".npz":
        arrays = archives.read(path)
        if archives.is_sequences(arrays):
            x, lengths = sequences.padded(arrays, path)
        else:
            x = np.concatenate([_examples(part, path, options) for part in archives.splits(arrays, path)[0]])
    elif path.suffix in tables.SUFFIXES:
        x = tables.read(path, options, features).x
    else:
        x = _examples(idx.read(path, 3), path, options)
    return Split(x, np.full(len(x), -1, np.int32), lengths), range(len(x)) if names is None else names


def _examples(x: np.ndarray, path: Path, options: Options) -> np.ndarray:
    (found,), _, _ = kinds.examples([x], options.kind, options.series, str(path), training=False)
    return found


def _check(path: Path) -> None:
    if not path.exists():
        raise InputError(f"{path}: there is no such file or folder: check the path")
    if not (path.is_dir() or path.is_file()):
        raise InputError(f"{path}: is neither a file nor a folder: copy its content into a file")


def _four(path: Path) -> list[Path]:
    """The four files of MNIST in a folder; none if one is missing."""
    found = [file for name in MNIST for file in (path / name, path / f"{name}.gz") if file.exists()]
    return found if len(found) == len(MNIST) else []


def _mnist(four: list[Path]) -> Dataset:
    train_x, train_y, test_x, test_y = (idx.read(path, 3 if "images" in path.name else 1) for path in four)
    return assembled([train_x, test_x], [train_y, test_y], "image", False, str(four[0].parent))


def _large(path: Path) -> Dataset | None:
    """The splits of a uint8 file above one GiB, as memory-mapped arrays; None for other files."""
    x = _mapped(path)
    if x is None:
        return None
    stat = path.stat()
    take = partial(part_on_disk, str(path.resolve()), f"{stat.st_size} {stat.st_mtime_ns}")
    return assembled([x], [None], "image", False, str(path), take=take)


def _mapped(path: Path) -> np.ndarray | None:
    """The memory-mapped array of a uint8 file above one GiB; None for other files."""
    if path.stat().st_size <= LARGE:
        return None
    with reading(path, b"\x93NUMPY"):
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    return x if x.dtype == np.uint8 else None


def _numpy(path: Path) -> np.ndarray:
    with reading(path, b"\x93NUMPY") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _assembled(xs: Sequence[np.ndarray], ys: Sequence[np.ndarray | None], path: Path, options: Options) -> Dataset:
    return assembled(xs, ys, options.kind, options.series, str(path))


def _layout(options: Options) -> pictures.Layout:
    return pictures.Layout(options.size, options.fit, options.background)
