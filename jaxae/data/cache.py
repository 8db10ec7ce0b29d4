"""Cache of decoded arrays in a user folder (`JAXAE_CACHE`, or `~/.cache/jaxae`).

A set is an `.npz`; a large one is an `.npy` per split, which is memory-mapped.
"""

import hashlib
import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

from jaxae.data.dataset import Split
from jaxae.data.splits import RawDataset
from jaxae.errors import InputError

CHUNK = 10_000  # examples
ARRAYS = ("groups", "spans")  # of a source, besides those of its splits
VERSION = 4  # increment when decoding or splitting changes


def folder() -> Path:
    """`JAXAE_CACHE`, else `jaxae` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXAE_CACHE") or Path(base) / "jaxae")


def part_on_disk(name: str, state: str, x: np.ndarray, part: np.ndarray) -> np.ndarray:
    """x[part] as a memory-mapped array, written to the cache once. InputError if it cannot be written.

    name, state: name and state of the source file of x; copies of its other states are deleted. part: boolean mask of
    the rows.
    """
    rows, shape = np.flatnonzero(part), (int(part.sum()), *x.shape[1:])
    of_name = f"{_digest(name.encode())}-"
    of_state = f"{of_name}{_digest(state.encode())}-"
    path = folder() / f"{of_state}{_digest(part.tobytes())}.npy"
    with suppress(OSError, ValueError):
        found = np.load(path, mmap_mode="r", allow_pickle=False)
        if found.shape == shape:
            return found
    logging.getLogger("jaxae").info("copying %d examples into %s (once)", len(rows), folder())
    try:
        folder().mkdir(parents=True, exist_ok=True)
        for old in folder().glob(f"{of_name}*"):
            if not old.name.startswith(of_state):
                old.unlink()
        with writing(path) as file:  # not a memory map, since a full disk would kill the process
            header = {"descr": x.dtype.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            for i in range(0, len(rows), CHUNK):
                file.write(x[rows[i : i + CHUNK]].tobytes())
    except OSError as error:
        raise InputError(f"{folder()}: cannot be written ({error.strerror}): set JAXAE_CACHE to a folder") from None
    return np.load(path, mmap_mode="r", allow_pickle=False)


def cached(key: str, make: Callable[[], RawDataset]) -> RawDataset:
    """The source cached under this key, or the result of `make`, which is then cached. A damaged file is replaced.

    key: text of everything that the result depends on.
    """
    path = folder() / f"{_digest(key.encode())}.npz"
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            fields: dict[str, Any] = json.loads(str(file["fields"]))
            splits = {
                name: Split(**{part: file[f"{name} {part}"] for part in parts})
                for name, parts in fields.pop("splits").items()
            }
            for name in ("classes", "features", "notes", "names", "applicable"):
                fields[name] = tuple(fields[name])
            return RawDataset(splits, **{**fields, **{name: file[name] for name in ARRAYS if name in file.files}})
    except (OSError, ValueError, KeyError, EOFError, TypeError, zipfile.BadZipFile):
        raw = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            fields = {**raw._asdict(), "splits": {}, **dict.fromkeys(ARRAYS)}
            arrays = {name: array for name in ARRAYS if (array := getattr(raw, name)) is not None}
            for name, split in raw.splits.items():
                parts = {part: array for part, array in split._asdict().items() if array is not None}
                fields["splits"][name] = [*parts]
                arrays |= {f"{name} {part}": array for part, array in parts.items()}
            np.savez(file, fields=np.array(json.dumps(fields)), **arrays)
    except OSError as error:
        logging.getLogger("jaxae").warning("the decoded data is not cached in %s: %s", folder(), error)
    return raw


def _digest(key: bytes) -> str:
    return hashlib.sha256(f"{VERSION} ".encode() + key).hexdigest()[:32]


@contextmanager
def writing(path: Path) -> Iterator[IO[bytes]]:
    """Write a file atomically: it appears at the path when complete, and not at all after an error. OSError."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with partial.open("wb") as file:
            yield file
        partial.replace(path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
