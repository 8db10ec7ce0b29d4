"""Folders of pictures: of one kind, one folder per class, or one folder per split."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.data.cache import cached
from jaxae.data.dataset import SPLITS, Dataset, Split, divided
from jaxae.data.pictures import SUFFIXES, Layout, decode
from jaxae.errors import InputError, first_line


class Listed(NamedTuple):
    """A picture file with the split and the class that its folders name."""

    path: Path
    split: int  # 0: training; 1: test
    label: str  # "": none


def load(path: Path, layout: Layout) -> Dataset:
    """The pictures of a folder: directly in it, in one folder per class, or in train/ and test/ with either.

    Without a test/ folder a tenth of each class is the test split. Hidden files and folders are ignored. InputError
    for a folder without pictures, and for what cannot be read.
    """
    found, left_out = listing(path)
    with _listing(path):
        stats = [
            (str(image.path.resolve()), image.path.stat().st_size, image.path.stat().st_mtime_ns, *image[1:])
            for image in found
        ]
    dataset = cached(f"folder {stats} {layout}", lambda: _decoded(found, layout))
    return dataset._replace(notes=(*dataset.notes, *left_out))


def listing(path: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """The pictures of a folder, sorted by split, class and name; notes of what is left out."""
    others: Counter[str] = Counter()
    with _listing(path):
        parts = [child for child in _visible(path) if child.is_dir() and child.name.lower() in SPLITS]
        splits = {SPLITS[part.name.lower()] for part in parts}
        if splits == {0, 1}:
            found = [image for part in parts for image in _classes(part, SPLITS[part.name.lower()], others)]
            for child in _visible(path):
                if child not in parts:
                    others[f"{child.name}, beside train and test"] += 1
        else:
            found = _classes(path, 0, others)
    if not found:
        raise InputError(f"{path}: has no images ({', '.join(SUFFIXES)})")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.items())
    return sorted(found, key=lambda image: (*image[1:], image.path)), (f"left out: {kinds}",) if others else ()


def _decoded(found: list[Listed], layout: Layout) -> Dataset:
    decoded = decode([image.path for image in found], layout)
    kept = [found[place] for place in decoded.places]
    names = sorted({image.label for image in kept} - {""})
    y = np.array([names.index(image.label) if image.label else -1 for image in kept], np.int32)
    classes = tuple(" ".join(os.fsencode(name).decode(errors="replace").split()) for name in names)
    every = Split(decoded.x, y)
    split = np.array([image.split for image in kept])
    if split.any() and not split.all():
        train, test = (every.take(split == number) for number in (0, 1))
    else:
        train, test = divided(every, 0.1)
    return Dataset(train, test, classes, notes=decoded.notes)


def _classes(path: Path, split: int, others: "Counter[str]") -> list[Listed]:
    """Pictures directly in a folder, or in its folders of classes."""
    loose = [Listed(image, split, "") for image in _pictures(path, others)]
    folders = [child for child in _visible(path) if child.is_dir()]
    inside = [Listed(image, split, folder.name) for folder in folders for image in _pictures(folder, others)]
    if loose and inside:
        raise InputError(f"{path}: has images beside folders of images: put each image into the folder of its class")
    return loose + inside


def _pictures(folder: Path, others: "Counter[str]") -> list[Path]:
    found = []
    for file in _visible(folder):
        if file.is_dir():
            continue
        if file.suffix.lower() in SUFFIXES and not file.is_fifo():
            found.append(file)
        else:
            others[f"of {file.suffix or file.name}"] += 1
    return found


def _visible(folder: Path) -> list[Path]:
    """Files and folders that are neither hidden nor written by an operating system."""
    hidden = ("thumbs.db", "desktop.ini", "__macosx")
    return [child for child in sorted(folder.iterdir()) if child.name[0] != "." and child.name.lower() not in hidden]


@contextmanager
def _listing(path: Path) -> Iterator[None]:
    """Turn an error in listing a folder into an InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise InputError(f"{path}: cannot be read ({first_line(error)})") from None
