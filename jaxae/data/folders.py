"""Folders of pictures or recordings, which may have a folder per class or per split."""

import os
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxae.data import pictures, recordings, sequences
from jaxae.data.cache import cached
from jaxae.data.dataset import Split
from jaxae.data.options import OF_PICTURES, OF_RECORDINGS, Options
from jaxae.data.splits import NAMES, ORDER, RawDataset
from jaxae.errors import InputError, first_line


class Listed(NamedTuple):
    """A file with its split and its class."""

    path: Path
    split: int  # in `ORDER`
    label: str  # "": none


def load(path: Path, options: Options) -> RawDataset:
    """Read the pictures or WAV recordings in a folder, in its subfolders per class, or in train/, val/ and test/.

    The class and the test split can also be those of `options.target_pattern` and `options.test_pattern`. Examples are
    named by their paths in the folder. Hidden files and folders are ignored. InputError for a folder without such
    files, and as in `pictures.decode` and `recordings.decode`.
    """
    with _listing(path):
        files = sorted(file for pattern in ("*", "*/*", "*/*/*") for file in path.glob(pattern) if file.is_file())
        stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    return cached(f"folder {path.resolve()} {stats} {key(options)}", lambda: read(path, options, str(path)))


def key(options: Options) -> str:
    """Text of the options that affect `read`."""
    return str([getattr(options, name) for name in sorted({*OF_PICTURES, *OF_RECORDINGS})])


def read(path: Path, options: Options, where: str) -> RawDataset:
    """`load` without a cache. where: the source, for messages."""
    found, suffixes, notes = listed(path, options, where)
    paths = [file.path for file in found]
    if suffixes is pictures.SUFFIXES:
        decoded = pictures.decode(paths, pictures.Layout(options.size, options.fit, options.background))
        kept = [found[place] for place in decoded.places]
        y, classes = _labels(kept)
        every = Split(decoded.x, y)
        raw = RawDataset(_by_split(every, np.array([file.split for file in kept])), classes)
        return raw._replace(notes=decoded.notes + notes, names=_names(kept, path), applicable=OF_PICTURES)
    heard = recordings.decode(paths, options.sample_rate)
    kept = [found[place] for place in heard.places]
    y, classes = _labels(kept)
    raw = sequences.assembled(heard.parts, y, classes, options, where)
    number = np.arange(len(kept)) if raw.groups is None else raw.groups
    names = _names(kept, path)
    split = np.array([file.split for file in kept])[number]
    return raw._replace(
        splits=_by_split(raw.splits["train"], split),
        groups=None if raw.groups is None else raw.groups[split == 0],
        notes=heard.notes + raw.notes + notes,
        names=names
        if raw.spans is None
        else tuple(f"{names[place]}:{start}" for place, (start, _) in zip(number, raw.spans.tolist(), strict=True)),
        sample_rate=heard.sample_rate,
        applicable=OF_RECORDINGS,
    )


def listed(path: Path, options: Options, where: str) -> tuple[list[Listed], tuple[str, ...], tuple[str, ...]]:
    """The pictures in a folder, or else its recordings; their suffixes; notes. InputError as in `load`."""
    others: Counter[str] = Counter()
    with _listing(path):
        suffixes: tuple[str, ...] = pictures.SUFFIXES
        found = _listed(path, suffixes, others)
        if not found:
            others.clear()
            suffixes = recordings.SUFFIXES
            found = _listed(path, suffixes, others)
    if found and all(file.split for file in found):
        raise InputError(f"{where}: its folder of training examples is empty; fill it, or remove it")
    if not found:
        raise InputError(
            f"{where} has no pictures ({', '.join(pictures.SUFFIXES)}) and no recordings (.wav); check the path"
        )
    found, notes = _by_patterns(found, path, options, where)
    if others:
        notes += ("files left out: " + ", ".join(f"{count:,} {kind}" for kind, count in others.items()),)
    return found, suffixes, notes


def _listed(path: Path, suffixes: tuple[str, ...], others: "Counter[str]") -> list[Listed]:
    """The files with these suffixes, sorted by split, class and name. others: counts of the files left out, by kind."""
    folders = [child for child in visible(path) if child.is_dir()]
    parts = {child: NAMES[child.name.lower()] for child in folders if child.name.lower() in NAMES}
    if "train" in parts.values() and (len({*parts.values()}) > 1 or len(folders) == 1):
        found = [file for part, name in parts.items() for file in _classes(part, ORDER.index(name), suffixes, others)]
        for child in visible(path):
            if child not in parts:
                others[f"{child.name}, beside {' and '.join(part.name for part in parts)}"] += 1
    elif len(parts) == len(folders) > 1:
        raise InputError(
            f"{path} has {' and '.join(part.name for part in parts)}, but no train; add a folder train, or rename them"
        )
    else:
        found = _classes(path, 0, suffixes, others)
    return sorted(found, key=lambda file: (*file[1:], file.path))


def _by_patterns(found: list[Listed], path: Path, options: Options, where: str) -> tuple[list[Listed], tuple[str, ...]]:
    """The files, sorted, with classes and test split assigned by the patterns, and notes. InputError for no match."""
    notes: tuple[str, ...] = ()
    for name in ("target_pattern", "test_pattern"):
        text = getattr(options, name)
        if not text:
            continue
        try:
            pattern = re.compile(text)
        except re.error as error:
            raise InputError(f"{name}={text} is not a valid regular expression: {error}") from None
        matches = [pattern.search(file.path.relative_to(path).as_posix()) for file in found]
        if not any(matches):
            raise InputError(f"{name}={text} matches no file of {where}, such as {found[0].path.name}")
        if name == "test_pattern":
            if all(matches) or any(file.split for file in found):
                reason = "matches every file" if all(matches) else "has no effect beside folders of splits"
                raise InputError(f"{name}={text} {reason} of {where}; change it, or omit it")
            found = [file._replace(split=2 * bool(match)) for file, match in zip(found, matches, strict=True)]
        else:
            labels = [match[bool(match.re.groups)] or "" if match else "" for match in matches]
            found = [file._replace(label=label) for file, label in zip(found, labels, strict=True)]
            if without := labels.count(""):
                notes = (f"{without:,} file{'s' * (without > 1)} without a class by {name}",)
    return sorted(found, key=lambda file: (*file[1:], file.path)), notes


def _labels(files: list[Listed]) -> tuple[np.ndarray, tuple[str, ...]]:
    """The class of each file, counted from 0, -1 for none; and the names of the classes."""
    labels = sorted({file.label for file in files} - {""})
    places = {label: place for place, label in enumerate(labels)}
    classes = tuple(" ".join(os.fsencode(label).decode(errors="replace").split()) for label in labels)
    return np.array([places.get(file.label, -1) for file in files], np.int32), classes


def _by_split(every: Split, split: np.ndarray) -> dict[str, Split]:
    """The examples of each split by name. split: numbers in `ORDER`."""
    return {name: every.take(split == number) for number, name in enumerate(ORDER) if (split == number).any()}


def _names(files: list[Listed], path: Path) -> tuple[str, ...]:
    return tuple(str(file.path.relative_to(path)) for file in files)


def _classes(path: Path, split: int, suffixes: tuple[str, ...], others: "Counter[str]") -> list[Listed]:
    """Files directly in a folder, or in its folders of classes."""
    loose = [Listed(file, split, "") for file in _files(path, suffixes, others)]
    folders = [child for child in visible(path) if child.is_dir()]
    inside = [Listed(file, split, folder.name) for folder in folders for file in _files(folder, suffixes, others)]
    if deeper := sum(child.is_dir() for folder in folders for child in visible(folder)):
        others["below the class folders"] += deeper
    if loose and inside:
        raise InputError(f"{path} has images beside folders of images; put each image into the folder of its class")
    return loose + inside


def _files(folder: Path, suffixes: tuple[str, ...], others: "Counter[str]") -> list[Path]:
    found = []
    for file in visible(folder):
        if file.is_dir():
            continue
        if file.suffix.lower() in suffixes and not file.is_fifo():
            found.append(file)
        else:
            others[f"of {file.suffix or file.name}"] += 1
    return found


def visible(folder: Path) -> list[Path]:
    """Files and folders that are neither hidden nor written by an operating system."""
    hidden = ("thumbs.db", "desktop.ini", "__macosx")
    return [child for child in sorted(folder.iterdir()) if child.name[0] != "." and child.name.lower() not in hidden]


@contextmanager
def _listing(path: Path) -> Iterator[None]:
    """Turn an error in listing a folder into an InputError."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # RuntimeError: a link to itself
        raise InputError(f"{path} cannot be read ({first_line(error)})") from None
