"""Data sets by name or path."""

from collections.abc import Sequence
from pathlib import Path

from jaxae.data import binary, digits, files, sprites, tfds
from jaxae.data.dataset import Dataset, Split
from jaxae.errors import InputError

ARRAY = "array"  # name of data passed as an array, in config.json


def load(name: str, data_dir: str = "", manual_dir: str = "", binarize: str = "none") -> Dataset:
    """A data set with a training and a test split.

    name: `digits`, `sprites`, a TFDS set (`mnist`, `emnist/letters`, ...), or the path of a `.npy`, `.npz` or IDX file
    or of a folder of images, of which a tenth is held out. data_dir, manual_dir: folders of TFDS and of files for it.
    binarize: none, or how grey images become binary (see `binary.binarize`). InputError for anything that cannot be
    read, with a one-line message.
    """
    return binary.binarize(named(name, data_dir, manual_dir), binarize)


def named(name: str, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`digits`, `sprites`, a TFDS set (`mnist`, `emnist/letters`, ...), or the path of the user's images or sequences.

    InputError for anything that cannot be read, with a one-line message.
    """
    path = path_of(name)
    if path is not None:
        return files.load(path)
    if name == "digits":
        return digits.load()
    if name.split("/")[0] == "sprites":
        return sprites.load(name)
    return tfds.load(name, data_dir, manual_dir)


def examples(
    name: str, data_dir: str = "", manual_dir: str = "", binarize: str = "none"
) -> tuple[Split, Sequence[str | int]]:
    """All examples at a path, in their order, or the test split of a named data set; and the names of the examples.

    The names are the paths of the images in a folder, or numbers from 0 (see `files.read`). binarize: as for `load`,
    of a named data set. InputError as in `named`.
    """
    path = path_of(name)
    if path is not None:
        return files.read(path)
    test = load(name, data_dir, manual_dir, binarize).test
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
