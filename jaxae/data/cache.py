"""Cache of decoded and computed arrays in a user folder (`JAXAE_CACHE`, or `~/.cache/jaxae`).

Each data set is one `.npz` file, each computed array one `.npy` file.
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

ARRAYS = ("groups", "spans")  # of a `RawDataset`, besides those of its splits
VERSION = 4  # increment when decoding or splitting changes


def folder() -> Path:
    """`JAXAE_CACHE`, else `jaxae` in `XDG_CACHE_HOME`, else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("JAXAE_CACHE") or Path(base) / "jaxae")


def cached(key: str, make: Callable[[], RawDataset]) -> RawDataset:
    """The data cached under this key, or else the result of `make`, which is then cached. A damaged file is replaced.

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
            for name in ("classes", "features", "notes", "names", "applicable", "covariates"):
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


def cached_array(key: str, make: Callable[[], np.ndarray]) -> np.ndarray:
    """The array cached under this key, or else the result of `make`, which is then cached, as in `cached`."""
    path = folder() / f"{_digest(key.encode())}.npy"
    try:
        with path.open("rb") as file:
            found: np.ndarray = np.load(file, allow_pickle=False)
        return found
    except (OSError, ValueError, EOFError):
        made = make()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as file:
            np.save(file, made, allow_pickle=False)
    except OSError as error:
        logging.getLogger("jaxae").warning("the computed array is not cached in %s: %s", folder(), error)
    return made


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
