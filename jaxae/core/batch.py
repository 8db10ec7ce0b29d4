"""The batch: the input of a loss, with means and noise that do not depend on its layout.

A loss maps a global batch, a per-device batch or a microbatch to terms per example; the engine (`reduction`) takes the
means over examples, microbatches and devices.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, no_type_check

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Int, Key

from jaxae.core.types import Extra, Variables

AXIS = "data"  # name of the mapped device axis that a batch is split over


PerDevice: TypeAlias = Callable[[jax.Array], jax.Array]  # global batch -> per-device batch


class Layout(NamedTuple):
    """How a global batch is split. The default: one device, all examples at once."""

    axis: str | None = None  # mapped device axis; None on one device, and under jit with shardings
    microbatches: int = 1  # per device, processed sequentially
    ordered: bool = False  # sum microbatches in a fixed order, for the same bits on any number of devices
    partial: bool = False  # this batch is a microbatch

    @property
    def split(self) -> bool:
        """Whether the engine splits the per-device batch into microbatches."""
        return self.microbatches > 1 or self.ordered


UNSPLIT = Layout()


@no_type_check  # JAX rebuilds it with sentinels and shapes in place of arrays
@struct.dataclass
class Batch:
    """Examples with their indices, weights, masks and labels. Static fields are part of the pytree structure."""

    x: Float[Array, "B *D"]  # in model units: bytes divided by 255
    index: Int[Array, " B"]  # position in the global batch (evaluation: in the split), which keys the noise
    weight: Float[Array, " B"]  # 1, or 0 for the padding of an evaluation's last batch
    step: Int[Array, ""]  # training step, for schedules
    observed: Float[Array, "B *D"] | Float[Array, "B T"] | None = None  # 1 where measured, 0 where missing; None: all
    y: Int[Array, " B"] | None = None  # class; None where the data has none
    context: Float[Array, "B C"] | None = None  # covariates; None where the data has none
    training: bool = struct.field(pytree_node=False, default=True)  # dropout, noise and batch statistics are on
    layout: Layout = struct.field(pytree_node=False, default=UNSPLIT)

    if TYPE_CHECKING:

        def replace(self, **changes: Any) -> "Batch":
            """The batch with other values of some fields (Flax adds the method)."""

    @property
    def axis(self) -> str | None:
        """The mapped axis of batch statistics, for Flax's `BatchNorm(axis_name=)`; None for a microbatch."""
        return None if self.layout.partial else self.layout.axis

    def keys(self, key: Key[Array, ""]) -> Key[Array, " B"]:
        """A key per example, a function of (key, `index`) alone, and thus the same on any number of devices."""
        return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(key, self.index)

    def noise(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "B *shape"]:
        """Standard normal noise, from a key per example."""
        return jax.vmap(lambda k: jax.random.normal(k, shape))(self.keys(key))

    def scheduled(self, weight: "Weight") -> float | Float[Array, ""]:
        """The value of a weight at this step."""
        return weight(self.step) if callable(weight) else weight

    def repeat(self, number: Float[Array, ""]) -> Float[Array, " B"]:
        """Broadcast a statistic of the batch to a term, with the same value for every example."""
        return jnp.broadcast_to(number, self.index.shape)

    def mean(self, values: Float[Array, "B *rest"]) -> Float[Array, "*rest"]:
        """Mean over the examples of the global batch, excluding padding.

        ValueError for a microbatch.
        """
        self._require_full_batch("mean")
        total, count = weighted_sum(values, self.weight), jnp.sum(self.weight)
        return self.total(total) / self.total(count)

    def total(self, sums: Float[Array, "*rest"]) -> Float[Array, "*rest"]:
        """Sum over devices of a sum over the examples of this batch, which has to exclude padding (see `weight`).

        ValueError for a microbatch.
        """
        self._require_full_batch("total")
        return jax.lax.psum(sums, self.axis) if self.axis else sums

    def gather(self, values: Float[Array, "B *rest"]) -> Float[Array, "N *rest"]:
        """The values of all examples of the global batch, in the order of `index`.

        ValueError for a microbatch, and in evaluation, whose batches hold padding.
        """
        self._require_full_batch("gather")
        if not self.training:
            raise ValueError("Batch.gather is for training only; evaluation batches hold padding")
        return jax.lax.all_gather(values, self.axis, tiled=True) if self.axis else values

    def _require_full_batch(self, method: str) -> None:
        if self.layout.partial:
            raise ValueError(
                f"Batch.{method} needs the global batch, not a microbatch; use accumulate=1 and reduction=fast"
            )


Weight: TypeAlias = float | Float[Array, ""] | optax.Schedule  # a number, or a function of the training step
Terms: TypeAlias = dict[str, Float[Array, " B"]]  # name -> one value per example; "loss" is minimised
Loss: TypeAlias = Callable[[Variables, Batch, Key[Array, ""]], tuple[Terms, Extra]]
"""(variables, batch, key) -> (terms, updates): updates are new values of collections other than the parameters."""


def weighted_sum(values: Float[Array, "B *rest"], weight: Float[Array, " B"]) -> Float[Array, "*rest"]:
    """Sum over examples of weight times value."""
    return jnp.sum(weight.reshape(-1, *[1] * (values.ndim - 1)) * values, axis=0)
