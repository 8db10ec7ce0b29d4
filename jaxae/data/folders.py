"""Folders of pictures: of one kind, one folder per class, or one folder per split."""

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.data.cache import cached
from jaxae.data.dataset import Split
from jaxae.data.pictures import SUFFIXES, Layout, decode
from jaxae.data.splits import NAMES, ORDER, Raw
from jaxae.errors import InputError, first_line


class Listed(NamedTuple):
    """A picture file with the split and the class that its folders name."""

    path: Path
    split: int  # in `ORDER`
    label: str  # "": none


def load(path: Path, layout: Layout) -> Raw:
    """The pictures of a folder: directly in it, in one folder per class, or in train/, val/ and test/ with either.

    Named by their paths in the folder. Hidden files and folders are ignored. InputError for a folder without pictures,
    and for what cannot be read.
    """
    found, left_out = listing(path)
    with _listing(path):
        stats = [
            (str(image.path.resolve()), image.path.stat().st_size, image.path.stat().st_mtime_ns, *image[1:])
            for image in found
        ]
    raw = cached(f"folder {path.resolve()} {stats} {layout}", lambda: _decoded(found, layout, path))
    return raw._replace(notes=(*raw.notes, *left_out))


def listing(path: Path) -> tuple[list[Listed], tuple[str, ...]]:
    """The pictures of a folder, sorted by split, class and name; notes of what is left out."""
    others: Counter[str] = Counter()
    with _listing(path):
        folders = [child for child in _visible(path) if child.is_dir()]
        parts = {child: NAMES[child.name.lower()] for child in folders if child.name.lower() in NAMES}
        if "train" in parts.values() and (len({*parts.values()}) > 1 or len(folders) == 1):
            found = [image for part, name in parts.items() for image in _classes(part, ORDER.index(name), others)]
            for child in _visible(path):
                if child not in parts:
                    others[f"{child.name}, beside {' and '.join(part.name for part in parts)}"] += 1
        else:
            found = _classes(path, 0, others)
    if not found:
        raise InputError(f"{path}: has no images ({', '.join(SUFFIXES)})")
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in others.items())
    return sorted(found, key=lambda image: (*image[1:], image.path)), (f"left out: {kinds}",) if others else ()


def _decoded(found: list[Listed], layout: Layout, path: Path) -> Raw:
    decoded = decode([image.path for image in found], layout)
    kept = [found[place] for place in decoded.places]
    labels = sorted({image.label for image in kept} - {""})
    y = np.array([labels.index(image.label) if image.label else -1 for image in kept], np.int32)
    classes = tuple(" ".join(os.fsencode(label).decode(errors="replace").split()) for label in labels)
    every, split = Split(decoded.x, y), np.array([image.split for image in kept])
    splits = {name: every.take(split == number) for number, name in enumerate(ORDER) if (split == number).any()}
    return Raw(splits, classes, notes=decoded.notes, names=tuple(str(image.path.relative_to(path)) for image in kept))


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
