"""The records that travel through training.

Shape letters: B batch, D data (any number of axes, usually H W C), Z code, K samples, T time.
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
from jaxtyping import Array, Float, Int, Key, UInt8

Params: TypeAlias = dict[str, Any]  # top-level keys are the groups that `step.descend` can select
Extra: TypeAlias = dict[str, Any]  # Flax's other collections: batch statistics, a codebook
Metrics: TypeAlias = dict[str, jax.Array]  # name -> scalar, a mean over the global batch


class State(NamedTuple):
    """All that training changes. With several seeds every leaf has a leading axis of seeds."""

    step: Int[Array, "*seeds"]
    params: Params
    opt_state: Any
    extra: Extra


class Batch(NamedTuple):
    """What a loss sees of the data: the examples, or one device's share of them."""

    x: Float[Array, "B *D"]  # pixels in [0, 1]
    y: Int[Array, " B"]  # class, -1 where the data has none
    number: Int[Array, " B"]  # place in the global batch (evaluation: in the data); noise belongs to it
    weight: Float[Array, " B"]  # 1, or 0 for the padding of the last batch of an evaluation
    mask: Float[Array, "B T"] | None = None  # sequences: 1 where there is a value, 0 in the padding


class Examples(NamedTuple):
    """A data split on the device, as flat rows: gathering uint8 rows is what is fast."""

    x: UInt8[Array, "N D"] | Float[Array, "N D"]
    y: Int[Array, " N"]
    lengths: Int[Array, " N"] | None = None  # sequences: how many of their T rows are theirs


Loss: TypeAlias = Callable[[Params, Extra, Batch, Key[Array, ""]], tuple[Float[Array, ""], tuple[Extra, Metrics]]]
