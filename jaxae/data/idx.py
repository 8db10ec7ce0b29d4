"""The IDX format of the MNIST family (LeCun, Cortes & Burges), plain or gzip-compressed."""

import gzip
import zlib
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from jaxae.errors import BROKEN_FILE, InputError

UBYTE = 0x08


def read(path: Path, axes: int) -> np.ndarray:
    """The uint8 array in the file. axes: how many it must have (3 for images, 1 for labels).

    InputError for a wrong magic number, a length other than the header's, or a corrupt archive.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else path.open("rb") as file:
            return parse(file, axes, str(path))
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{path} cannot be read ({error}); {BROKEN_FILE}") from None


def parse(file: Any, axes: int, name: str) -> np.ndarray:
    """Like `read`, from an open binary file."""
    magic = file.read(4)
    if magic != bytes([0, 0, UBYTE, axes]):
        raise InputError(f"{name} is not an IDX file of {axes} axes: magic number {magic.hex()}, not 000008{axes:02x}")
    header = file.read(4 * axes)
    if len(header) < 4 * axes:
        raise InputError(f"{name} ends within its header; download it again")
    shape = tuple(int(n) for n in np.frombuffer(header, ">u4"))
    size = prod(shape)
    body = _read(file, size + 1)  # one byte more than the header declares, to detect a longer file
    if len(body) != size:
        found = "more" if len(body) > size else f"{len(body)}"
        raise InputError(f"{name} has {found} bytes where the header says {size}; download it again")
    if not size:
        raise InputError(f"{name} has no examples: its header says {shape}")
    return np.frombuffer(body, np.uint8).reshape(shape)


def _read(file: Any, size: int) -> bytes:
    """Like `file.read(size)`, allocating memory only for existing bytes."""
    chunks, left = [], size
    while left and (chunk := file.read(min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)
