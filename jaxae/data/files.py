"""User data: `.npy`, `.npz` and IDX files, folders of images."""

import os
import re
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from jaxtyping import UInt8

from jaxae.data import idx, sequences
from jaxae.data.arrays import labels, pixels
from jaxae.data.cache import cached, part_on_disk
from jaxae.data.dataset import Dataset, Split, hold_out
from jaxae.errors import InputError, first_line

IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow reads other formats with external programs
MNIST = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")  # 8 bits per channel
GREY = ("1", "L", "LA")
LARGE = 1 << 30  # bytes


def looks_like_path(name: str) -> bool:
    """Whether a name that does not exist was meant as a path."""
    return name.startswith((".", "/", "~")) or Path(name).suffix in (".npy", ".npz", ".gz", ".idx", *IMAGES)


def load(path: Path) -> Dataset:
    """Images of one shape, grey or colour, uint8 or float in [0, 1] (quantized to 256 levels).

    `.npy`: the images. `.npz`: `x`, and optional classes `y`; or sequences. IDX: a file of images, with the file
    of labels beside it, if any, or a folder with the four files of MNIST. A folder of images (8 bits per channel; an
    alpha channel is dropped): one folder per class, or none.
    A tenth of each class is the test split; the four files of MNIST have their own. InputError for other content.
    """
    _check(path)
    if path.is_dir():
        four = _four(path)
        return _mnist(four) if four else _folder(path)
    if path.suffix == ".npy":
        return _large(path) or _split(_numpy(path), None, path)
    if path.suffix == ".npz":
        arrays = _npz(path)
        if "x" not in arrays or "lengths" in arrays:
            return sequences.load(arrays, path)
        return _split(arrays["x"], arrays.get("y"), path)
    beside = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
    has_labels = beside != path and beside.exists()
    return _split(idx.read(path, 3), idx.read(beside, 1) if has_labels else None, path)


def read(path: Path) -> tuple[Split, Sequence[str | int]]:
    """All examples at a path (as for `load`) in order, without classes; and their names.

    The names are the paths of the images of a folder, relative to it and sorted; else numbers from 0. Of the four files
    of MNIST the training images come first. An `.npy` of bytes above one GiB is memory-mapped. InputError as in `load`.
    """
    _check(path)
    lengths, names = None, None
    if path.is_dir():
        if four := _four(path):
            x = np.concatenate([split.x for split in _mnist(four)[:2]])
        else:
            with _listing(path):
                images = [image for image, _ in _list(path)[0]]
            x, names = _decode(images), [str(image.relative_to(path)) for image in images]
    elif path.suffix == ".npy":
        mapped = _mapped(path)
        x = pixels(_numpy(path) if mapped is None else mapped, path)
    elif path.suffix == ".npz":
        arrays = _npz(path)
        if "x" not in arrays or "lengths" in arrays:
            x, lengths = sequences.padded(arrays, path)
        else:
            x = pixels(arrays["x"], path)
    else:
        x = pixels(idx.read(path, 3), path)
    return Split(x, labels(None, len(x), path)[0], lengths), range(len(x)) if names is None else names


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
    train_x, test_x = pixels(train_x, four[0]), pixels(test_x, four[2])
    if train_x.shape[1:] != test_x.shape[1:]:
        raise InputError(f"{four[2]}: images of {test_x.shape[1:]}, but {train_x.shape[1:]} in {four[0].name}")
    train_y, train_classes = labels(train_y, len(train_x), four[1])
    test_y, test_classes = labels(test_y, len(test_x), four[3])
    return Dataset(Split(train_x, train_y), Split(test_x, test_y), max(train_classes, test_classes, key=len))


def _large(path: Path) -> Dataset | None:
    """The splits of a uint8 file above one GiB, as memory-mapped arrays; None for other files."""
    x = _mapped(path)
    if x is None:
        return None
    stat = path.stat()
    take = partial(part_on_disk, str(path.resolve()), f"{stat.st_size} {stat.st_mtime_ns}")
    return hold_out(pixels(x, path), *labels(None, len(x), path), take=take)


def _mapped(path: Path) -> np.ndarray | None:
    """The memory-mapped array of a uint8 file above one GiB; None for other files."""
    if path.stat().st_size <= LARGE:
        return None
    with _reading(path, b"\x93NUMPY"):
        x = np.load(path, mmap_mode="r", allow_pickle=False)
    return x if x.dtype == np.uint8 else None


def _numpy(path: Path) -> np.ndarray:
    with _reading(path, b"\x93NUMPY") as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _npz(path: Path) -> dict[str, np.ndarray]:
    with _reading(path, b"PK") as opened, zipfile.ZipFile(opened) as archive:
        found = {}
        for member in archive.namelist():
            if re.fullmatch(r"(x|y|lengths|arr_\d{1,9})\.npy", member):
                with archive.open(member) as file:
                    found[member.removesuffix(".npy")] = np.lib.format.read_array(file, allow_pickle=False)
        return found


@contextmanager
def _reading(path: Path, magic: bytes) -> Iterator[IO[bytes]]:
    """Open a file, and raise InputError for every error within the body."""
    try:
        with path.open("rb") as file:
            if file.read(len(magic)) != magic:
                raise InputError(f"{path}: is not a {path.suffix} file: is it truncated or damaged?")
            file.seek(0)
            yield file
    except InputError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many types of exceptions for damaged files
        if "pickle" in str(error):
            raise InputError(f"{path}: holds pickled objects, which are never loaded: save numeric arrays") from None
        raise InputError(f"{path}: cannot be read ({first_line(error)}): is it truncated or damaged?") from None


def _split(x: np.ndarray, y: np.ndarray | None, path: Path) -> Dataset:
    return hold_out(pixels(x, path), *labels(y, len(x), path))


def _folder(path: Path) -> Dataset:
    with _listing(path):
        found, classes = _list(path)
        stats = [(str(image.resolve()), image.stat().st_size, image.stat().st_mtime_ns) for image, _ in found]
    names = tuple(" ".join(os.fsencode(name).decode(errors="replace").split()) for name in classes)
    return cached(
        f"folder {stats} {classes}",
        lambda: hold_out(
            _decode([image for image, _ in found]), np.array([label for _, label in found], np.int32), names
        ),
    )


@contextmanager
def _listing(path: Path) -> Iterator[None]:
    """Turn an error in listing a folder into an InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None


def _list(path: Path) -> tuple[list[tuple[Path, int]], tuple[str, ...]]:
    classes = tuple(sorted(child.name for child in path.iterdir() if child.is_dir() and any(_images(child))))
    loose = sorted(_images(path))
    if loose and classes:
        raise InputError(f"{path}: has images beside folders of images: put each image into the folder of its class")
    found = [(image, -1) for image in loose]
    found += [(image, label) for label, name in enumerate(classes) for image in sorted(_images(path / name))]
    if not found:
        raise InputError(f"{path}: has no images ({', '.join(IMAGES)})")
    return found, classes


def _images(folder: Path) -> Iterable[Path]:
    return (file for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.is_fifo())


def _decode(paths: list[Path]) -> UInt8[np.ndarray, "N H W C"]:
    """The images in these files: grey if all are, otherwise in colour. InputError for other content."""
    from PIL import Image

    arrays: list[np.ndarray] = []
    colour = False
    for path in paths:
        try:
            with Image.open(path, formats=FORMATS) as image:
                if image.mode not in MODES:
                    raise InputError(f"{path}: has pixel mode {image.mode}: save it with 8 bits per channel")
                colour = colour or image.mode not in GREY
                arrays.append(np.asarray(image.convert("RGB")))
        except InputError:
            raise
        except Exception as error:  # Pillow too raises many types of exceptions
            raise InputError(f"{path}: cannot be read ({first_line(error)}): is it truncated or damaged?") from None
        if arrays[-1].shape != arrays[0].shape:
            (h, w), (first_h, first_w) = arrays[-1].shape[:2], arrays[0].shape[:2]
            raise InputError(f"{path}: {w}x{h} pixels, but {paths[0].name} has {first_w}x{first_h}: resize them")
    x = np.stack(arrays)
    return x if colour else x[..., :1]
