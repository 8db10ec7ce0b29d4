"""Data sets by name or path."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jaxae.data import binary, digits, files, sprites, tfds
from jaxae.data.arrays import ARRAY, prepared
from jaxae.data.dataset import Dataset, Split
from jaxae.data.options import Options
from jaxae.errors import InputError


def load(name: str, data_dir: str = "", manual_dir: str = "", **fields: Any) -> Dataset:
    """A data set with a training and a test split, in model units.

    name: `digits`, `sprites`, a TFDS set (`mnist`, `emnist/letters`, ...), or the path of a `.npy`, `.npz` or IDX file
    or of a folder of images, of which a tenth is held out. data_dir, manual_dir: folders of TFDS and of files for it.
    fields: those of `Options`, such as kind, scale and binarize. InputError for anything that cannot be read, with a
    one-line message.
    """
    return loaded(Options(data=name, **fields), data_dir, manual_dir)


def loaded(options: Options, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`load` with all options. InputError for real numbers that are to be binarized."""
    return prepared(named(options, data_dir, manual_dir), options)


def named(options: Options, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`digits`, `sprites`, a TFDS set (`mnist`, `emnist/letters`, ...), or the user's data at a path.

    In the user's units. InputError for anything that cannot be read, with a one-line message.
    """
    name = options.data
    path = path_of(name)
    if path is not None:
        return files.load(path, options)
    if name == "digits":
        return digits.load()
    if name.split("/")[0] == "sprites":
        return sprites.load(name)
    return tfds.load(name, data_dir, manual_dir)


def examples(
    options: Options, data_dir: str = "", manual_dir: str = "", features: Sequence[str] = ()
) -> tuple[Split, Sequence[str | int]]:
    """All examples at a path, in their order, or the test split of a named data set; and the names of the examples.

    In the user's units. The names are the paths of the images in a folder, or numbers from 0 (see `files.read`).
    `options.binarize` is for a named data set. features: columns of a table (default: all). InputError as in `named`.
    """
    path = path_of(options.data)
    if path is not None:
        return files.read(path, options, features)
    test = binary.binarize(named(options, data_dir, manual_dir), options.binarize).test
    return test, range(len(test.x))


def path_of(name: str) -> Path | None:
    """The path that a name denotes; None for a named data set. InputError if it is neither."""
    if name == ARRAY:
        raise InputError("data=array: is an array that was passed to jaxae.fit, and is not saved; give a path")
    if not name:
        raise InputError("data='' is empty: give digits, sprites, a TFDS name or a path")
    if name == "digits" or name.split("/")[0] == "sprites" or tfds.prepares(name):
        return None
    try:
        path = Path(name).expanduser()
        is_path = path.exists() or files.looks_like_path(name)
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"data={name[:50]}: cannot be a path ({error})") from None
    return path if is_path else None
