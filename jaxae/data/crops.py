"""Random crops of pictures of any size: an endless source.

Each training example is a square of a picture at its full resolution: the picture is sampled uniformly, then the place.
The test split consists of the held-out pictures, cut into tiles.
"""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key, UInt8

from jaxae.core.types import Generator
from jaxae.data import folders, pictures, tars
from jaxae.data.dataset import Dataset, Split
from jaxae.data.draws import Draws
from jaxae.data.options import OF_PICTURES, SOURCE_OPTIONS, Options, without_effect
from jaxae.data.splits import ORDER, amount_of, held_out_mask, renamed, requested
from jaxae.errors import InputError

Picture = UInt8[np.ndarray, "H W C"]
Read = tuple[dict[str, list[np.ndarray]], tuple[str, ...]]  # the pictures of each split; notes


class Pictures(NamedTuple):
    """Pictures of different sizes, all pixels in one array."""

    pixels: Any  # uint8 [P, C]
    first: Any  # [N], index of the first pixel of each picture
    sizes: Any  # [N, 2], heights and widths


def load(options: Options, path_of: Callable[[str], Path | None]) -> Dataset:
    """Random crops of `options.size` pixels of the pictures in a folder or tar, and tiles of the held-out pictures.

    An epoch has as many crops as the training pictures have tiles. `options.test` and `options.valid` hold out
    pictures, as they hold out examples of other data; without either, and without folders of splits, a tenth. Pictures
    that are smaller than a crop are enlarged. The examples have no classes. path_of: the path that a name denotes.
    InputError as in `folders.load`, and for data that are not pictures.
    """
    if not options.size:
        raise InputError("fit=random needs the width of the crops in pixels; set size=64")
    for name in ("target_pattern", *(name for name in SOURCE_OPTIONS if name not in OF_PICTURES)):
        if (value := getattr(options, name)) != getattr(Options(), name):
            raise without_effect(name, value, "random crops, which are images without classes")
    if options.kind not in ("auto", "image"):
        raise without_effect("kind", options.kind, "random crops, which are images without classes")
    parts, notes = _read(options, path_of)
    notes += renamed(parts, options.test)
    for name, wanted in requested(parts, options.test, options.valid).items():
        amount = amount_of(name, wanted)
        if amount is None:
            other, more = _read(replace(options, data=wanted, test_pattern=""), path_of)
            parts[name] = [picture for part in other.values() for picture in part]
            notes += tuple(f"{name}: {note}" for note in more)
        elif amount:
            if amount >= len(parts["train"]):
                raise InputError(f"{name}={amount:g} holds out all {len(parts['train']):,} pictures; use fewer")
            chosen = held_out_mask(np.zeros(len(parts["train"]), int), amount)
            parts[name] = [picture for picture, out in zip(parts["train"], chosen, strict=True) if out]
            parts["train"] = [picture for picture, out in zip(parts["train"], chosen, strict=True) if not out]
    channels = max(picture.shape[2] for part in parts.values() for picture in part)
    for name, part in parts.items():
        parts[name] = [np.broadcast_to(picture, (*picture.shape[:2], channels)) for picture in part]
    train, size = parts["train"], options.size
    shape = (sum((p.shape[0] // size) * (p.shape[1] // size) for p in train), size, size, channels)
    evaluated = {"test": train, **parts} if "test" not in parts else parts  # test=0: the tiles of the training pictures
    cut = {
        name: _split(np.concatenate([tiles(one, size) for one in evaluated[name]]))
        for name in ("test", "valid")
        if name in evaluated
    }
    generator = Generator(_together(train), _drawing(options.size))
    return Dataset(
        _split(Draws(generator, shape, np.dtype(np.uint8))),
        cut["test"],
        (),
        from_bytes=True,
        valid=cut.get("valid"),
        notes=(f"random crops of {len(train):,} pictures, sampled in each step", *notes),
    )


def tiles(picture: Picture, size: int) -> UInt8[np.ndarray, "N size size C"]:
    """All squares of the picture in a grid around its centre, without overlap."""
    rows, columns = (side // size for side in picture.shape[:2])
    top, left = ((side % size) // 2 for side in picture.shape[:2])
    inside = picture[top : top + rows * size, left : left + columns * size]
    cut = inside.reshape(rows, size, columns, size, -1).swapaxes(1, 2)
    return cut.reshape(rows * columns, size, size, -1)


def crop(key: Key[Array, ""], source: Pictures, size: int) -> UInt8[Array, "size size C"]:
    """A square of this size at a random place of a random picture."""
    which, *where = jax.random.split(key, 3)
    number = jax.random.randint(which, (), 0, len(source.first))
    height, width = source.sizes[number]
    row, column = (
        jax.random.randint(k, (), 0, side - size + 1) for k, side in zip(where, (height, width), strict=True)
    )
    places = jnp.arange(size)
    rows, columns = (row + places) * width, column + places
    return source.pixels[source.first[number] + rows[:, None] + columns[None]]


def _drawing(size: int) -> Callable[[Key[Array, ""], Pictures], UInt8[Array, "size size C"]]:
    def draw(key: Key[Array, ""], source: Pictures) -> UInt8[Array, "size size C"]:
        return crop(key, source, size)

    return draw


def _together(parts: list[np.ndarray]) -> Pictures:
    counts = np.array([picture.shape[0] * picture.shape[1] for picture in parts])
    if counts.sum() >= 2**31:
        raise InputError(f"{counts.sum():,} pixels: random crops need fewer than {2**31:,}; use fewer pictures")
    return Pictures(
        np.concatenate([picture.reshape(-1, picture.shape[2]) for picture in parts]),
        (np.cumsum(counts) - counts).astype(np.int32),
        np.array([picture.shape[:2] for picture in parts], np.int32),
    )


def _read(
    options: Options, path_of: Callable[[str], Path | None]
) -> tuple[dict[str, list[np.ndarray]], tuple[str, ...]]:
    """The pictures of each split, and notes."""
    path = path_of(options.data)
    if path is not None and path.is_file() and path.name.lower().endswith(tars.SUFFIXES):
        with tars.unpacked(path) as folder:
            return _decoded(folder, options, str(path))
    if path is None or not path.is_dir():
        raise InputError(f"fit=random needs a folder or a tar of pictures, not data={options.data}; omit it")
    return _decoded(path, options, str(path))


def _decoded(folder: Path, options: Options, where: str) -> Read:
    found, suffixes, notes = folders.listed(folder, options, where)
    if suffixes is not pictures.SUFFIXES:
        raise InputError(f"fit=random needs pictures, but {where} has recordings; omit it")
    layout = pictures.Layout(options.size, options.fit, options.background)
    decoded = pictures.decode_sizes([file.path for file in found], layout)
    split = np.array([found[place].split for place in decoded.places])
    parts = {
        name: [picture for picture, own in zip(decoded.x, split, strict=True) if own == number]
        for number, name in enumerate(ORDER)
    }
    return {name: part for name, part in parts.items() if part}, (*decoded.notes, *notes)


def _split(x: Any) -> Split:
    return Split(x, np.broadcast_to(np.int32(-1), (len(x),)))
