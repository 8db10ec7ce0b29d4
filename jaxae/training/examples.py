"""Examples in the user's units, or a split in model units, as parts that fit into memory."""

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxae.core.experiment import Experiment
from jaxae.core.types import Scale
from jaxae.data import Split
from jaxae.data.arrays import array, require_values
from jaxae.data.rows import Rows, chunks
from jaxae.data.sequences import padded

CHUNK = 1000  # examples per call of the model, fewer if they have more than 28 x 28 values
Examples: TypeAlias = Num[Any, "N *D"] | Split | Sequence[Any]


def chunk_of(shape: tuple[int, ...]) -> int:
    """Number of examples of this shape per call of the model."""
    return max(1, min(CHUNK, CHUNK * 28 * 28 // max(1, prod(shape))))


class Part(NamedTuple):
    """Some of the examples, in model units."""

    first: int  # index of the first one
    x: Float[Array, "n *D"]  # 0 where an entry is missing
    observed: Float[Array, "n *D"] | None  # 1 where measured, 0 where missing; None: all
    steps: Float[Array, "n T"] | None  # 1 within a sequence, 0 after its end; None: all of one length

    @property
    def mask(self) -> Float[Array, "n *D"] | Float[Array, "n T"] | None:
        """`Batch.observed`."""
        if self.observed is None or self.steps is None:
            return self.steps if self.observed is None else self.observed
        return self.observed * self.steps[..., None]


@runtime_checkable
class Units(Protocol):
    """Shape, units and kind of the examples of a trained model (see `Trained`)."""

    @property
    def experiment(self) -> Experiment:
        """The experiment."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""

    @property
    def scale(self) -> Scale | None:
        """Scale that converts model units to the user's units."""

    @property
    def real(self) -> bool:
        """Real numbers, not pixels in [0, 1]."""

    @property
    def from_bytes(self) -> bool:
        """Whether the data were uint8."""


def parts(units: Units, x: Examples, lengths: Int[Any, " N"] | None = None) -> Iterator[Part]:
    """The examples in model units, `chunk_of` their shape at a time; only these are converted at once.

    A `Split` is in model units already. Series of different lengths are padded to those of training. ValueError for
    examples of another shape or type, or out of range.
    """
    known: Any = None
    convert: Callable[[np.ndarray], np.ndarray]
    if isinstance(x, Split):
        values, known, convert = x.x, x.observed, _pixels if x.x.dtype == np.uint8 else _as_they_are
        lengths = x.lengths if lengths is None else lengths
    else:
        if units.experiment.sequences and lengths is None and isinstance(x, list | tuple) and len(x):
            x, lengths = _padded(units, x)
        values = _shaped(units, x)
        convert = _conversion(units, values)
    size = chunk_of(units.shape)
    for first in range(0, max(len(values), 1), size):
        chunk = slice(first, first + size)
        part = convert(np.asarray(values[chunk])).astype(np.float32)
        seen = None if known is None else np.asarray(known[chunk])
        if not isinstance(x, Split):
            part, seen = _checked(units, part)
        yield Part(
            first,
            jnp.asarray(part),
            None if seen is None else jnp.asarray(seen, jnp.float32),
            None if lengths is None else jnp.asarray(_within(part.shape[1], np.asarray(lengths)[chunk])),
        )


def in_users_units(units: Units, y: Float[Array, "*S_N_D"]) -> Float[Array, "*S_N_D"]:
    """Decoded examples in the user's units, pixels clipped to [0, 1]."""
    if units.scale is not None:
        row = (*[1] * (y.ndim - 1), -1)
        offset, factor = (jnp.asarray(part, jnp.float32).reshape(row) for part in units.scale)
        y = offset + factor * (y if units.real else jnp.clip(y, 0, 1))
    return y if units.real or units.scale is not None else jnp.clip(y, 0, 1)


def _pixels(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) / 255


def _as_they_are(x: np.ndarray) -> np.ndarray:
    return x


def _shaped(units: Units, x: Any) -> Any:
    """An array [N, *D] of numbers, or `Rows`."""
    x = x if isinstance(x, Rows) else array(x, "examples")
    if (*x.shape[1:], 1) == units.shape:  # grey images, and univariate series
        x = x[..., None]
    if x.ndim == 5 and x.shape[2:] == units.shape:  # frames of videos
        x = x.reshape(-1, *units.shape)
    if x.shape[1:] != units.shape:
        raise ValueError(f"examples have shape {x.shape}, not [N, {', '.join(map(str, units.shape))}]")
    if x.dtype.kind not in "biuf" and x.dtype != jnp.bfloat16:
        raise ValueError(f"examples have dtype {x.dtype}; convert them to numbers")
    return x


def _conversion(units: Units, x: Any) -> Callable[[np.ndarray], np.ndarray]:
    """A function that converts rows of x from the user's units to model units."""
    pixels = len(units.shape) > 1 and (units.from_bytes or not (units.real or units.scale))
    integers = x.dtype == np.uint8 or (len(units.shape) == 3 and x.dtype.kind in "iu")
    divided = pixels and integers and all(part.min() >= 0 and part.max() <= 255 for part in chunks(x) if part.size)
    scale = units.scale

    def convert(part: np.ndarray) -> np.ndarray:
        part = _pixels(part) if divided else part
        return part if scale is None else (part - scale.offset) / scale.factor

    return convert


def _checked(units: Units, x: Float[np.ndarray, "n *D"]) -> tuple[np.ndarray, np.ndarray | None]:
    """The examples, 0 where an entry is missing, and which entries are observed, if any is missing."""
    require_values(x, units.experiment.counts and units.scale is None)  # figures have a scale of their own
    known = ~np.isnan(x)
    if not known.all():
        if not units.experiment.missing:
            raise ValueError("examples have NaN: this experiment takes no missing entries")
        return np.where(known, x, 0), known
    if not (units.real or units.scale is not None):
        hidden = getattr(units.experiment.model, "hidden", None)
        shown = x if hidden is None else x[x != hidden]
        if shown.size and not (shown.min() >= 0 and shown.max() <= 1):
            raise ValueError("pixels must be uint8, or float in [0, 1]")
    return x, None


def _padded(units: Units, series: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Series [T] or [T, D], each at most as long as those of training, as [N, T, D]; and their lengths."""
    each = [np.asarray(part).reshape(len(part), -1) for part in series]
    lengths = np.array([len(part) for part in each], np.int32)
    if lengths.max(initial=0) > units.shape[0] or {part.shape[1] for part in each} - {units.shape[1]}:
        shapes = sorted({part.shape for part in each})
        raise ValueError(f"series have shapes {shapes[:3]}, not [T, {units.shape[1]}] with T at most {units.shape[0]}")
    return padded(each, units.shape[0]), lengths


def _within(steps: int, lengths: np.ndarray) -> np.ndarray:
    return (np.arange(steps)[None] < lengths[:, None]).astype(np.float32)
