"""Tars of pictures or recordings, read as folders."""

import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jaxae.data import folders, pictures, recordings
from jaxae.data.cache import cached
from jaxae.data.options import Options
from jaxae.data.splits import NAMES, RawDataset
from jaxae.errors import BROKEN_FILE, InputError, first_line

FILES = (*pictures.SUFFIXES, *recordings.SUFFIXES)
SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")


def load(path: Path, options: Options) -> RawDataset:
    """The files of a tar, as `folders.load` reads the folder that it unpacks to. InputError for a damaged tar."""
    stat = path.stat()
    key = f"tar {path.resolve()} {stat.st_size} {stat.st_mtime_ns} {folders.key(options)}"

    def read() -> RawDataset:
        with unpacked(path) as folder:
            return folders.read(folder, options, str(path))

    return cached(key, read)


@contextmanager
def unpacked(path: Path) -> Iterator[Path]:
    """A temporary folder with the files of a tar. InputError for a damaged tar, and for errors about the folder."""
    with tempfile.TemporaryDirectory() as name:
        try:
            with tarfile.open(path) as tar:
                tar.extractall(name, filter="data")
            yield _top(Path(name))
        except InputError as error:
            raise InputError(str(error).replace(name, str(path))) from None
        except Exception as error:  # tarfile and the decompressors raise many types of exceptions
            raise InputError(f"{path} cannot be unpacked ({first_line(error)}); {BROKEN_FILE}") from None


def _top(folder: Path) -> Path:
    """The folder that holds the files: a tar often has a single folder at its top."""
    inside = [child for child in folders.visible(folder) if child.is_dir() or child.suffix.lower() in FILES]
    single = len(inside) == 1 and inside[0].is_dir() and inside[0].name.lower() not in NAMES
    return inside[0] if single else folder
