"""Data sets as arrays: images as uint8, sequences as float32."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Float32, Int, UInt8

from jaxae.core.types import Info
from jaxae.errors import InputError

ARRAY = "array"  # name of data passed as an array, in config.json
CLASSES = 10_000  # maximum number of classes


class Split(NamedTuple):
    """Examples with their classes: images, or sequences of up to T steps of D numbers in [0, 1]."""

    x: UInt8[np.ndarray, "N H W C"] | Float32[np.ndarray, "N T D"]
    y: Int[np.ndarray, " N"]  # -1 for examples without a class
    lengths: Int[np.ndarray, " N"] | None = None  # of sequences; the padding of x is 0
    factors: Int[np.ndarray, "N F"] | None = None  # factors of variation of each image, if known; counted from 0


class Dataset(NamedTuple):
    """A training and a test split."""

    train: Split
    test: Split
    classes: tuple[str, ...]  # names of the classes; empty without classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.train.x.shape[1:]

    @property
    def info(self) -> Info:
        """The properties from which an experiment is built."""
        return Info(self.shape, len(self.train.x), self._mean)

    def _mean(self) -> Float[np.ndarray, "*D"]:
        scale = 255 if self.train.x.dtype == np.uint8 else 1
        return np.asarray(np.mean(self.train.x, axis=0, dtype=np.float64) / scale)

    def fingerprint(self) -> str:
        """SHA-256 of all arrays."""
        digest = hashlib.sha256()
        for array in (*self.train, *self.test):
            if array is not None:
                digest.update(f"{array.dtype}{array.shape}".encode())
                digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()


def load(name: str, data_dir: str = "", manual_dir: str = "", binarize: str = "none") -> Dataset:
    """Like `named`, with binarized images if requested: see `binary.binarize`."""
    from jaxae.data import binary

    return binary.binarize(named(name, data_dir, manual_dir), binarize)


def from_arrays(
    x: Any,
    y: np.ndarray | None = None,
    *,
    test: Any = None,
    test_y: np.ndarray | None = None,
) -> Dataset:
    """Arrays as a data set: uint8, float in [0, 1] (quantized to 256 levels) or bool, [N, H, W] or [N, H, W, C].

    y: classes, counted from 0. test: the test examples; a fraction that is held out, stratified by class (default: a
    tenth); or 0: the training examples themselves. InputError for other arrays.
    """
    from jaxae.data import files

    path = Path("the array")
    x, test = _array(x, "x"), _array(test, "test") if test is not None and np.ndim(test) else test
    if isinstance(test, np.ndarray):
        train = Split(files.pixels(x, path), labels(y, len(x), path)[0])
        held = Split(files.pixels(test, path), labels(test_y, len(test), path)[0])
        if train.x.shape[1:] != held.x.shape[1:]:
            raise InputError(f"test examples have shape {held.x.shape[1:]}, not {train.x.shape[1:]}")
        return Dataset(train, held, labels(y, len(x), path)[1])
    images = files.pixels(x, path)
    found, classes = labels(y, len(images), path)
    if test is not None and test == 0:
        split = Split(images, found)
        return Dataset(split, split, classes)
    fraction = 0.1 if test is None else float(test)
    if not 0 < fraction < 1:
        raise InputError(f"test={test} must be a fraction between 0 and 1, 0 for the training examples, or an array")
    return hold_out(images, found, classes, fraction)


def _array(x: Any, name: str) -> np.ndarray:
    """Convert to an array; booleans become float32. InputError for a ragged list."""
    try:
        found = np.asarray(x)
    except ValueError:
        raise InputError(f"{name} is a list of arrays of different shapes; pass one array, [N, H, W, C]") from None
    return found.astype(np.float32) if found.dtype == bool else found


def named(name: str, data_dir: str = "", manual_dir: str = "") -> Dataset:
    """`digits`, `sprites`, a TFDS set (`mnist`, `emnist/letters`, ...), or the path of the user's images or sequences.

    InputError for anything that cannot be read, with a one-line message.
    """
    from jaxae.data import digits, files, sprites, tfds

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
    from jaxae.data import files

    path = path_of(name)
    if path is not None:
        return files.read(path)
    test = load(name, data_dir, manual_dir, binarize).test
    return test, range(len(test.x))


def path_of(name: str) -> Path | None:
    """The path that a name denotes; None for a named data set. InputError if it is neither."""
    from jaxae.data import files, tfds

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


def labels(y: np.ndarray | None, count: int, path: Path) -> tuple[Int[np.ndarray, " N"], tuple[str, ...]]:
    """Check the classes of `count` examples (-1 without y), and name them. InputError for invalid ones."""
    if y is None:
        return np.full(count, -1, np.int32), ()
    if y.shape != (count,) or not np.issubdtype(y.dtype, np.integer) or y.min() < 0 or y.max() >= CLASSES:
        raise InputError(f"{path}: y is {y.dtype} {y.shape}, not {count} classes from 0 to {CLASSES - 1}")
    return y.astype(np.int32), tuple(str(label) for label in range(int(y.max()) + 1))


def spread(count: int, limit: int) -> np.ndarray:
    """Up to `limit` indices, evenly spaced over `count`, since data may be sorted by class."""
    return np.linspace(0, count - 1, min(limit, count)).astype(int)


def hold_out(
    x: np.ndarray,
    y: np.ndarray,
    classes: tuple[str, ...],
    fraction: float = 0.1,
    lengths: np.ndarray | None = None,
    take: Callable[[np.ndarray, np.ndarray], np.ndarray] = lambda x, part: x[part],
) -> Dataset:
    """A fixed split, stratified by class.

    fraction: fraction of the test split, whose examples are evenly spaced after sorting by class.
    take: (x, mask) -> the examples where the mask is true.
    """
    if len(x) < 2:
        raise InputError(f"{len(x)} example: at least 2 are needed, one of them for the test split")
    test = np.zeros(len(x), bool)
    count = min(max(1, int(fraction * len(x) + 1e-9)), len(x) - 1)
    places = np.minimum(np.ceil(np.arange(1, count + 1) / fraction - 1e-9).astype(int) - 1, len(x) - 1)
    test[np.argsort(y, kind="stable")[places]] = True
    train, held = (Split(take(x, part), y[part], None if lengths is None else lengths[part]) for part in (~test, test))
    return Dataset(train, held, classes)
