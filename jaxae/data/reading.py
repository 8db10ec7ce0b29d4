"""Opening files of the user's data."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from jaxae.errors import BROKEN_FILE, InputError, first_line


@contextmanager
def reading(path: Path, magic: bytes) -> Iterator[IO[bytes]]:
    """Open a file, and raise InputError for every error within the body."""
    try:
        with path.open("rb") as file:
            if file.read(len(magic)) != magic:
                raise InputError(f"{path} is not a {path.suffix} file; {BROKEN_FILE}")
            file.seek(0)
            yield file
    except InputError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many types of exceptions for damaged files
        if "pickle" in str(error):
            raise InputError(
                f"{path} holds pickled objects, which are never loaded; save strings by y.astype(str), series of "
                "different lengths by np.savez(path, *series)"
            ) from None
        raise InputError(f"{path} cannot be read ({first_line(error)}); {BROKEN_FILE}") from None
