"""How data are read: fields of every experiment, and keyword arguments of `jaxae.data.load`."""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from jaxae.data import pictures
from jaxae.data.kinds import Wanted
from jaxae.data.scaling import Scaling
from jaxae.errors import InputError


@dataclass(frozen=True)
class Options:
    """Fields of the data."""

    series: ClassVar[bool] = False  # whether --kind auto reads arrays of rank 2 and 3 as series

    data: str = "digits"
    """Data set: digits (embedded), sprites (known factors), superposition (known dictionary), simulated_cells, mnist or
    another TFDS image set; or the path of a .npy, .npz, CSV, Parquet, .h5ad or IDX file, of a folder or tar of pictures
    or WAV recordings, of a folder of `jaxae activations`, or of a folder or pattern of ArrayRecord or Parquet shards,
    such as 'FOLDER/*.parquet', which are read as needed."""
    kind: Wanted = "auto"
    """Kind of data. auto: arrays [N, H, W] and [N, H, W, C] are images, [N, D] tables; an experiment for sequences
    reads [N, T] and [N, T, D] as series. counts: non-negative integers [N, D], for variational experiments."""
    scale: Scaling = "auto"
    """Scaling by the training split. standard: mean 0 and variance 1 for each feature or channel. unit: range [0, 1].
    auto: standard for real numbers, none for images and series in [0, 1] and for counts."""
    test: str = ""
    """Test split: a path, or a fraction or number of training examples to hold out; 0: the training examples.
    (default: the test split of the data, or a tenth)"""
    valid: str = ""
    """Validation split, for --keep best and --stop-after: a path, or a fraction or number to hold out; 0: none.
    (default: that of the data, if any)"""
    target: str = ""
    """Column of a table, or of obs of an .h5ad file, that holds the classes. (default: none)"""
    context: tuple[str, ...] = ()
    """Columns of a table, or of obs of an .h5ad file, that are covariates of a conditional model: numbers or
    strings."""
    labels: int = 0
    """Training examples that keep their class, the same number of each class; the others train without one, for a
    semi-supervised experiment (0: all)."""
    labels_seed: int = 0
    """Seed of the random choice of the examples of --labels."""
    drop: tuple[str, ...] = ()
    """Columns of a table to leave out."""
    layer: str = ""
    """Layer of an .h5ad file that holds the counts. (default: its matrix X)"""
    genes: str = ""
    """Column of var of an .h5ad file that is true for the genes to use, such as highly_variable. (default: all)"""
    target_pattern: str = ""
    """Regular expression searched in the path of each file of a folder or tar; its first group, or else the match, is
    the class. (default: the folder is the class)"""
    test_pattern: str = ""
    """Regular expression; files of a folder or tar whose paths contain a match are the test split. (default: none)"""
    size: int = 0
    """Width and height in pixels to which pictures are resized (0: not resized; all must have the same size)."""
    fit: pictures.Fit = "crop"
    """How --size makes pictures square: crop the centre, pad with --background, or stretch. random: endless crops at
    full resolution, each from a random place of a random picture; the test split consists of tiles of held-out
    pictures."""
    background: str = "white"
    """Colour behind transparent pixels."""
    sample_rate: int = 0
    """Sample rate in Hz to which recordings are resampled (0: the most common one)."""
    window: int = 0
    """Window length in time steps (0: series and recordings are not cut)."""
    hop: int = 0
    """Hop length: time steps between the starts of successive windows (0: the window length). The last window ends with
    the series."""
    shuffle_mib: int = 256
    """MiB of examples that are shuffled together, where the data are Parquet shards."""
    binarize: Literal["none", "static", "dynamic"] = "none"
    """Binary images. static: sample each pixel as black or white, once for all seeds. dynamic: resample the training
    images every step."""


# Options that apply to some sources only.
SOURCE_OPTIONS = (
    "target",
    "context",
    "drop",
    "layer",
    "genes",
    "target_pattern",
    "test_pattern",
    "size",
    "fit",
    "background",
    "sample_rate",
    "window",
    "hop",
    "shuffle_mib",
)
OF_TABLES = ("target", "context", "drop")
OF_SHARDS = ("drop", "shuffle_mib")
OF_SERIES = ("window", "hop")
OF_PICTURES = ("target_pattern", "test_pattern", "size", "fit", "background")
OF_RECORDINGS = ("target_pattern", "test_pattern", "sample_rate", "window", "hop")


def without_effect(name: str, value: Any, what: str) -> InputError:
    """The error for an option that has no effect on `what`."""
    spelled = " ".join(value) if isinstance(value, tuple) else value
    return InputError(f"{name}={spelled} has no effect on {what}; omit it")


def require_valid(options: Options) -> None:
    """Raise InputError for a choice that does not exist, or a negative number."""
    for name, hint in get_type_hints(Options).items():
        value = getattr(options, name)
        if get_origin(hint) is Literal and value not in get_args(hint):
            raise InputError(f"{name}={value} must be one of {', '.join(get_args(hint))}")
        if hint is int and not (type(value) is int and value >= 0):
            raise InputError(f"{name}={value} must be at least 0")
