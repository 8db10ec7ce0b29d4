"""Records of the training state, the examples and the data.

Shape letters: B batch, D data (any number of axes, usually H W C), Z code, K samples, T time, N examples of a split.
"""

from collections.abc import Callable
from math import inf
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Key, Shaped, UInt, UInt8

Params: TypeAlias = dict[str, Any]  # top-level keys are the groups that `step.descend` can select
Extra: TypeAlias = dict[str, Any]  # Flax's other collections: batch statistics, a codebook
Variables: TypeAlias = dict[str, Any]  # {"params": Params, **Extra}, as Flax's `apply` takes them
Sampler: TypeAlias = Callable[[Key[Array, ""], int], Float[Array, "N *code"]]  # (key, N) -> codes
Metrics: TypeAlias = dict[str, jax.Array]  # name -> scalar, a mean over the global batch


class Averaged(NamedTuple):
    """Optimizer state of a transition that also averages the parameters (see `step.averaged`)."""

    inner: Any
    params: Params  # moving averages


class State(NamedTuple):
    """The state that training updates. With several seeds every leaf has a leading axis of seeds."""

    step: Int[Array, "*seeds"]
    params: Params
    opt_state: Any
    extra: Extra

    @property
    def variables(self) -> Variables:
        """Variables for evaluation: parameters, or their moving averages if any, and the other collections."""
        averaged = isinstance(self.opt_state, Averaged)
        return {"params": self.opt_state.params if averaged else self.params, **self.extra}


class Examples(NamedTuple):
    """A data split as flat rows, since gathering uint8 rows is fast; in host or device memory."""

    x: UInt8[Array | np.ndarray, "N D"] | Float[Array | np.ndarray, "N D"]
    y: Int[Array | np.ndarray, " N"]
    lengths: Int[Array | np.ndarray, " N"] | None = None  # of sequences, in steps
    observed: UInt8[Array | np.ndarray, "N D"] | None = None  # 1 where measured, 0 where missing; None: all are
    context: Float[Array | np.ndarray, "N C"] | None = None  # covariates in model units


@struct.dataclass
class Generator:
    """Endless examples: example n is draw(fold_in(key, n), arrays)."""

    arrays: Any
    draw: Callable[..., jax.Array] = struct.field(pytree_node=False)

    def examples(self, key: Key[Array, ""], numbers: UInt[Array, " B"]) -> Shaped[Array, "B *D"]:
        """The examples with these numbers."""
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, numbers)
        return jax.vmap(self.draw, in_axes=(0, None))(keys, self.arrays)


class Scale(NamedTuple):
    """The user's units: offset + factor * model units, along the last axis of an example."""

    offset: Float[np.ndarray, " C"]
    factor: Float[np.ndarray, " C"]


class Conditions(NamedTuple):
    """The classes and covariates of the data, on which a conditional model depends."""

    classes: tuple[str, ...] = ()  # their names
    covariates: tuple[str, ...] = ()  # a name for each column of `context`; `colour=red` indicates a category
    scale: Scale | None = None  # of the covariates, from model units to the user's

    @property
    def size(self) -> int:
        """Length of a condition."""
        return len(self.classes) + len(self.covariates)


class Info(NamedTuple):
    """The properties of the data from which an experiment is built."""

    shape: tuple[int, ...]  # of one example
    train: int  # number of training examples
    mean: Callable[[], Float[np.ndarray, "*D"]] | None = None  # of the training examples, if available
    examples: Callable[[int], Float[np.ndarray, "N *D"]] | None = None  # N training examples, evenly spaced
    real: bool = False  # real numbers or counts, not pixels in [0, 1]
    missing: bool = False  # whether entries are missing
    total: float | None = None  # mean total count of a training example; None unless the data are counts
    classes: int = 0  # number of classes
    context: int = 0  # number of columns of covariates
    labelled: int = 0  # number of training examples with a class
    # Logarithms of the total counts of the training examples [N], and their covariates [N, C], if available.
    log_totals: Callable[[], tuple[Float[np.ndarray, " N"], Float[np.ndarray, "N C"]]] | None = None

    @property
    def counts(self) -> bool:
        """Whether the data are counts."""
        return self.total is not None

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and the largest value of the data in model units."""
        return (0.0 if self.counts else -inf, inf) if self.real or self.counts else (0.0, 1.0)

    def require_images(self, name: str) -> None:
        """Raise ValueError for examples that are not images [H, W, C], for the experiment of this name."""
        if len(self.shape) != 3:
            raise ValueError(f"examples of shape {self.shape} are not images: {name} needs [H, W, C]")

    def initial_mean(self) -> Float[np.ndarray, "*D"]:
        """The mean training example, to initialise a decoder; pixels are clipped away from 0 and 1, counts from 0.

        An unknown mean is 0, or 0.5 for pixels and counts.
        """
        low, high = self.limits
        if self.mean is None:
            return np.full(self.shape, 0.0 if low < 0 else 0.5)
        return np.clip(self.mean(), low + 1e-3, high - 1e-3)
