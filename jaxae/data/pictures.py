"""Decoding of picture files: PNG, JPEG and others."""

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxae.errors import BROKEN_FILE, InputError, first_line

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM")  # Pillow reads other formats with external programs
GREY = ("1", "L", "LA", "I;16", "I;16B", "I;16L", "I")
COLOUR = ("P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")
DAMAGED = 0.1  # largest fraction of pictures that may be unreadable

Fit = Literal["crop", "pad", "stretch", "random"]


class Layout(NamedTuple):
    """How pictures become images of one size.

    size: width and height in pixels (0: as they are). fit: crop the centre, pad with the background, or stretch;
    random: as crop, except where `crops` reads a data set. background: colour behind transparent pixels.
    """

    size: int = 0
    fit: Fit = "crop"
    background: str = "white"


class Decoded(NamedTuple):
    """Images of one size, grey if all are; the indices of the readable files; notes."""

    x: UInt8[np.ndarray, "N H W C"]
    places: list[int]
    notes: tuple[str, ...]


def decode(paths: Sequence[Path], layout: Layout = Layout()) -> Decoded:  # noqa: B008
    """Decode pictures: apply the EXIF orientation, composite transparent pixels onto the background, and resize.

    16 bits per channel become 8; resizing is antialiased. Up to a tenth of the files may be unreadable; they are left
    out. InputError for more of them, for pictures of different sizes, and for an unsupported pixel mode or range.
    """
    if layout.fit != "crop" and not layout.size:
        raise InputError(f"fit={layout.fit} has no effect without size; set both, or omit it")
    found = _each(paths, layout, lambda image: _resized(image, layout), alike=True)
    return Decoded(np.stack(found.x), found.places, found.notes)


class Sizes(NamedTuple):
    """As `Decoded`, with images of different sizes."""

    x: list[UInt8[np.ndarray, "H W C"]]
    places: list[int]
    notes: tuple[str, ...]


def decode_sizes(paths: Sequence[Path], layout: Layout) -> Sizes:
    """Decode pictures as `decode` does, but with their own sizes; enlarge those that are smaller than `layout.size`."""
    return _each(paths, layout, lambda image: _at_least(image, layout.size), alike=False)


def _each(paths: Sequence[Path], layout: Layout, resized: Callable[["Image"], "Image"], alike: bool) -> Sizes:
    """alike: whether all must have the size of the first."""
    from PIL import ImageColor

    try:
        ImageColor.getrgb(layout.background)
    except ValueError:
        raise InputError(f"background={layout.background} is not a colour, such as white or #ff8000") from None
    arrays: list[np.ndarray] = []
    places: list[int] = []
    changes: Counter[str] = Counter()
    broken: dict[Path, str] = {}  # what is wrong with each file
    colour = False
    for place, path in enumerate(paths):
        try:
            opened, is_grey = _opened(path, layout, changes)
            image = np.asarray(resized(opened))
        except InputError:
            raise
        except Exception as error:  # Pillow raises many types of exceptions
            broken[path] = f"{path} cannot be read ({first_line(error)}); {BROKEN_FILE}"
            if len(broken) > DAMAGED * len(paths):
                raise InputError(next(iter(broken.values()))) from None
            continue
        colour = colour or not is_grey
        arrays.append(image)
        places.append(place)
        if alike and image.shape != arrays[0].shape:
            (h, w), (first_h, first_w) = image.shape[:2], arrays[0].shape[:2]
            first = paths[places[0]].name
            raise InputError(
                f"{path} has {w}x{h} pixels, but {first} has {first_w}x{first_h}; resize them, for example by size=64"
            )
    notes = [f"{_pictures(count)} {change}" for change, count in changes.items()]
    if broken:
        more = ", ..." * (len(broken) > 1)
        notes.append(f"{_pictures(len(broken), 'damaged ')} left out ({next(iter(broken)).name}{more})")
    return Sizes(arrays if colour else [x[..., :1] for x in arrays], places, tuple(notes))


def _opened(path: Path, layout: Layout, changes: "Counter[str]") -> "tuple[Image, bool]":
    """A picture of three channels, and whether it is grey."""
    from PIL import Image, ImageColor, ImageOps

    with Image.open(path, formats=FORMATS) as file:
        if file.mode not in (*GREY, *COLOUR):
            raise InputError(f"{path} has pixel mode {file.mode}; save it with 8 bits per channel")
        if getattr(file, "n_frames", 1) > 1:
            changes["of several frames, of which the first is used"] += 1
        if file.getexif().get(0x0112, 1) not in (0, 1):
            changes["rotated (EXIF orientation)"] += 1
        image: Image.Image = ImageOps.exif_transpose(file)
        image.load()
    grey = image.mode in GREY
    if image.mode.startswith("I"):
        changes["with 16 bits per channel converted to 8"] += 1
        image = _eight_bits(path, image)
    if image.has_transparency_data:
        changes[f"with transparent pixels composited onto {layout.background}"] += 1
        image = image.convert("RGBA")
        behind = ImageColor.getrgb(layout.background)
        grey = grey and len(set(behind[:3])) == 1
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*behind[:3], 255)), image)
    return image.convert("RGB"), grey


def _pictures(count: int, kind: str = "") -> str:
    return f"{count:,} {kind}picture{'s' * (count > 1)}"


def _eight_bits(path: Path, image: "Image") -> "Image":
    from PIL.Image import fromarray

    values = np.asarray(image)
    if values.min() < 0 or values.max() > 65535:
        raise InputError(f"{path} has values from {values.min()} to {values.max()}; save it with 8 bits per channel")
    return fromarray(np.round(values / 257).astype(np.uint8))


def _resized(image: "Image", layout: Layout) -> "Image":
    from PIL import Image, ImageOps

    if not layout.size or image.size == (layout.size, layout.size):
        return image
    square, method = (layout.size, layout.size), Image.Resampling.LANCZOS
    if layout.fit == "stretch":
        return image.resize(square, method)
    if layout.fit == "pad":
        return ImageOps.pad(image, square, method, layout.background)
    return ImageOps.fit(image, square, method)


def _at_least(image: "Image", size: int) -> "Image":
    """The picture, enlarged if its shorter side is below `size`."""
    from PIL import Image

    factor = size / min(image.size)
    if factor <= 1:
        return image
    width, height = (max(size, round(side * factor)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)
