"""Examples in the user's units, or a split in model units, as parts that fit into memory."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Num

from jaxae.core.batch import Batch
from jaxae.core.conditions import condition
from jaxae.core.experiment import Experiment
from jaxae.core.types import Conditions, Scale, State, Variables
from jaxae.data import Dataset, Split, cells, covariates, within
from jaxae.data.arrays import array, require_values
from jaxae.data.classes import indices
from jaxae.data.covariates import categories
from jaxae.data.rows import Rows, chunks
from jaxae.data.sequences import padded

CHUNK = 1000  # examples per call of the model, fewer if they have more than 28 x 28 values
Examples: TypeAlias = Num[Any, "N *D"] | Split | Sequence[Any] | cells.Frame


def chunk_of(shape: tuple[int, ...]) -> int:
    """Number of examples of this shape per call of the model."""
    return max(1, min(CHUNK, CHUNK * 28 * 28 // max(1, prod(shape))))


class Part(NamedTuple):
    """Some of the examples, in model units."""

    first: int  # index of the first one
    x: Float[Array, "n *D"]  # 0 where an entry is missing, and after the end of a sequence
    observed: Float[Array, "n *D"] | None  # 1 where measured, 0 where missing; None: all
    steps: Float[Array, "n T"] | None  # 1 within a sequence, 0 after its end; None: all of one length
    y: Int[Array, " n"] | None = None  # classes and covariates in model units, for a conditional model
    context: Float[Array, "n C"] | None = None

    @property
    def mask(self) -> Float[Array, "n *D"] | Float[Array, "n T"] | None:
        """`Batch.observed`."""
        if self.observed is None or self.steps is None:
            return self.steps if self.observed is None else self.observed
        return self.observed * self.steps[..., None]


class Given(NamedTuple):
    """Classes and covariates for a conditional model, as the user passes them, or those of a split."""

    y: Any = None
    context: Any = None
    split: Split | None = None


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
        """Whether the data are real numbers, not pixels in [0, 1]."""

    @property
    def from_bytes(self) -> bool:
        """Whether the data were uint8."""

    @property
    def conditions(self) -> Conditions:
        """Classes and covariates of the data."""

    @property
    def fixed(self) -> Given:
        """Condition of examples that are passed without one."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the columns of a table; empty for other data."""


@runtime_checkable
class Model(Units, Protocol):
    """A trained model (see `Trained`)."""

    @property
    def state(self) -> State:
        """The state of training; with several seeds a leading axis of seeds."""

    @property
    def variables(self) -> Variables:
        """Parameters and the other collections; with several seeds a leading axis of seeds."""

    @property
    def seeds(self) -> range:
        """The seeds."""


def parts(
    units: Units, x: Examples, lengths: Int[Any, " N"] | None = None, given: Given | None = None
) -> Iterator[Part]:
    """Yield the examples in model units, in chunks of `chunk_of` their shape; one chunk is converted at a time.

    A `Split` is in model units already. Series of different lengths are padded to the longest of training. given: see
    `conditioned`; None if the condition is not needed. ValueError for examples of another shape or type, or out of
    range.
    """
    known: Any = None
    convert: Callable[[np.ndarray], np.ndarray]
    if isinstance(x, Split):
        values, known, convert = x.x, x.observed, _pixels if x.x.dtype == np.uint8 else _as_they_are
        lengths = x.lengths if lengths is None else lengths
    else:
        if units.experiment.sequences and lengths is None and isinstance(x, list | tuple) and len(x):
            x, lengths = _padded(units, x)
        values = shaped(units, x)
        convert = _conversion(units, values)
    size = chunk_of(units.shape)
    own = given and given._replace(split=x if isinstance(x, Split) else None)
    inferred = units.experiment.classes == "inferred"
    y, context = conditioned(units, len(values), own, inferred) if own else (None, None)
    for first in range(0, max(len(values), 1), size):
        chunk = slice(first, first + size)
        part = convert(np.asarray(values[chunk])).astype(np.float32)
        seen = None if known is None else np.asarray(known[chunk])
        if not isinstance(x, Split):
            part, seen = _checked(units, part)
        steps = None
        if lengths is not None:
            steps = within(np.asarray(lengths)[chunk], part.shape[1]).astype(np.float32)
            part = part * steps.reshape(*steps.shape, *[1] * (part.ndim - 2))  # the scaled padding is not 0
        yield Part(
            first,
            jnp.asarray(part),
            None if seen is None else jnp.asarray(seen, jnp.float32),
            None if steps is None else jnp.asarray(steps),
            None if y is None else jnp.asarray(y[chunk]),
            None if context is None else jnp.asarray(context[chunk]),
        )


def conditioned(units: Units, count: int, given: Given, inferred: bool = False) -> tuple[Any, Any]:
    """Classes [N] and covariates [N, C] in model units of `count` examples; None for what the model does not depend on.

    given: one for all examples, or one for each. Covariates are a mapping of names to values, a data frame, or arrays
    [C] or [N, C] in the order of training. ValueError for a missing or unknown class or covariate, and for either with
    an unconditional model. inferred: whether the model infers classes that are not given; they are -1.
    """
    known, model = units.experiment.condition(units.conditions), type(units.experiment.model).__name__
    if given.split is None:
        fixed = (mine if own is None else own for own, mine in zip(given[:2], units.fixed[:2], strict=True))
        given = Given(*fixed)
    named = categories(known.covariates)
    wanted = {"y": (given.y, known.classes), "context": (given.context, named)}
    for name, (value, names) in wanted.items():
        if value is not None and not (units.experiment.conditional and names):
            lacking = f"it depends on no {'classes' if name == 'y' else 'covariates'}"
            why = lacking if units.experiment.conditional else "it is not conditional"
            raise ValueError(f"{name} has no effect on {model}: {why}; omit it")
        lacks = value is None and given.split is None and not (inferred and name == "y")
        if units.experiment.conditional and names and lacks:
            what = f"a class of {', '.join(known.classes[:20])}" if name == "y" else f"covariates {', '.join(named)}"
            raise ValueError(f"{model} is conditional; pass {name}, {what}: one for all examples, or one for each")
    if not units.experiment.conditional:
        return None, None
    y, context = (None, None) if given.split is None else (given.split.y, given.split.context)
    if given.y is None and given.split is None:
        y = np.full(count, -1, np.int32)
    if given.y is not None:
        y = indices(given.y, known.classes, count)
    if given.context is not None:
        columns = covariates.columns(covariates.repeated(given.context, count, [*named]), count, "context", [*named])
        context = covariates.in_model_units(columns, known)
    return y if known.classes else None, context


def own_conditions(units: Units, data: Dataset, split: Split, places: Any = slice(None)) -> dict[str, Any]:
    """`y` and `context` of these examples of a split, for the methods of `Trained`.

    Empty for an unconditional model.
    """
    if not units.experiment.conditional:
        return {}
    known = units.experiment.condition(units.conditions)
    found = covariates.given(data, split, places)
    return found if known.classes else {**found, "y": None}


def part_of(conditions: Mapping[str, Any], places: Any) -> dict[str, Any]:
    """`y` and `context` of some of the examples."""
    return {
        name: {column: values[places] for column, values in value.items()} if isinstance(value, dict) else value[places]
        for name, value in conditions.items()
        if value is not None
    }


def condition_of(units: Units, y: Any, context: Any) -> tuple[Float[Array, "n K"], ...]:
    """The condition, as last argument of the methods of a conditional model; () for an unconditional one."""
    if not units.experiment.conditional:
        return ()
    y, context = (None if part is None else jnp.asarray(part) for part in (y, context))
    return (condition(y, context, len(units.experiment.condition(units.conditions).classes)),)


def corrupted(units: Units, x: Examples, first: int) -> Float[Array, "N *shape"]:
    """Encoder inputs in training: see `Trained.corrupted`."""
    found = []
    for part in parts(units, x):
        examples = part.x
        if units.experiment.corrupt is not None:
            index = first + part.first + jnp.arange(len(examples))
            batch = Batch(examples, index, jnp.ones(len(examples)), jnp.int32(0))
            examples = units.experiment.corrupt(jax.random.key(0), batch)
        found.append(examples if units.scale is None else in_users_units(units, examples))
    return jnp.concatenate(found)


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


def shaped(units: Units, x: Any) -> Any:
    """An array [N, *D] of numbers, or `Rows`. The columns of a data frame are found by name if they have names."""
    if isinstance(x, cells.Frame) and units.features:
        x = cells.of_frame(x, units.features)
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
    """The examples, 0 where an entry is missing; and which entries are observed, None if all are."""
    require_values(x, units.experiment.counts and units.scale is None)  # figures have a scale of their own
    known = ~np.isnan(x)
    if not (known.all() or units.experiment.missing):
        raise ValueError("examples have NaN, but this experiment does not support missing entries; fill them in")
    if not (units.real or units.scale is not None):
        hidden = getattr(units.experiment.model, "hidden", None)
        shown = x[known if hidden is None else known & (x != hidden)]
        if shown.size and not (shown.min() >= 0 and shown.max() <= 1):
            raise ValueError("pixels must be uint8, or float in [0, 1]")
    return (x, None) if known.all() else (np.where(known, x, 0), known)


def _padded(units: Units, series: Sequence[Any]) -> tuple[np.ndarray, np.ndarray]:
    """Series [T] or [T, D], each at most as long as those of training, as [N, T, D]; and their lengths."""
    each = [np.asarray(part).reshape(len(part), -1) for part in series]
    lengths = np.array([len(part) for part in each], np.int32)
    if lengths.max(initial=0) > units.shape[0] or {part.shape[1] for part in each} - {units.shape[1]}:
        shapes = sorted({part.shape for part in each})
        raise ValueError(f"series have shapes {shapes[:3]}, not [T, {units.shape[1]}] with T at most {units.shape[0]}")
    return padded(each, units.shape[0]), lengths
