"""How data are read: fields of every experiment, and keyword arguments of `jaxae.data.load`."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxae.data import pictures
from jaxae.data.kinds import Wanted
from jaxae.data.scaling import Scaling


@dataclass(frozen=True)
class Options:
    """Fields of the data."""

    series: ClassVar[bool] = False  # whether --kind auto makes series of arrays of rank 2 and 3

    data: str = "digits"
    """Data set: digits (embedded), sprites (known factors), mnist or another TFDS image set; or the path of a .npy,
    .npz, CSV, Parquet or IDX file or of a folder of pictures."""
    kind: Wanted = "auto"
    """Kind of data. auto: arrays [N, H, W] and [N, H, W, C] are images, [N, D] tables; an experiment for sequences
    makes series of [N, T] and [N, T, D]."""
    scale: Scaling = "auto"
    """Scaling by the training split. standard: mean 0 and variance 1 for each feature or channel. unit: range [0, 1].
    auto: standard for real numbers, none for images and series in [0, 1]."""
    test: str = ""
    """Test split: a path with its examples, a fraction of the training examples, or their number; 0: the training
    examples themselves. (default: that of the data, or a tenth of them)"""
    valid: str = ""
    """Validation split, for --keep best and --stop-after: as --test. (default: that of the data, or none)"""
    target: str = ""
    """Column of a table that holds the classes. (default: none)"""
    drop: tuple[str, ...] = ()
    """Columns of a table to leave out."""
    size: int = 0
    """Width and height in pixels to which pictures are resized (0: as they are, all of one size)."""
    fit: pictures.Fit = "crop"
    """How --size makes pictures square: crop the centre, pad with --background, or stretch."""
    background: str = "white"
    """Colour behind transparent pixels."""
    binarize: Literal["none", "static", "dynamic"] = "none"
    """Binary images. static: sample each pixel as black or white, once for all seeds. dynamic: resample the training
    images every step."""
