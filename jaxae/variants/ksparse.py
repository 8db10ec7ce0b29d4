"""The k-sparse autoencoder (Makhzani & Frey 2013): only the k largest latent activations stay nonzero."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Loss, Terms, Weight
from jaxae.core.types import Extra, Variables
from jaxae.nets import Activation, Keys, linear
from jaxae.variants import autoencoder
from jaxae.variants.tied import Tied
from jaxae.variants.top_k import largest


def falling(start: int, end: int, steps: int) -> Weight:
    """Schedule of k, linear from `start` to `end` in the first half of the steps (Makhzani & Frey 2013, 4.2.1)."""
    return lambda step: jnp.round(start + (end - start) * jnp.minimum(2 * step / steps, 1)).astype(jnp.int32)


class KSparse(Tied):
    """z = largest(x W + b), logits = z W' + c: `active` nonzero dimensions in training, alpha times as many afterwards.

    Makhzani & Frey 2013, section 2.1.
    """

    activation: Activation = linear
    output: Activation = linear
    active: int | Int[Array, ""] = 25
    alpha: float = 3.0
    limit: int | None = None  # largest value of an `active` that changes during training

    def __call__(
        self,
        x: Float[Array, "B *D"],
        keys: Keys | None = None,
        axis: str | None = None,  # noqa: ARG002
    ) -> tuple[jax.Array, Float[Array, "B *D"]]:
        """Codes and reconstructions. keys: passed in training only."""
        z = self.encode(x) if keys is None else largest(super().encode(x), self.active, self.limit)
        return z, self.logits(z)

    def encode(self, x: Float[Array, "B *D"]) -> Float[Array, "B Z"]:
        """Codes with `evaluated` nonzero dimensions."""
        return largest(super().encode(x), self.evaluated)

    @property
    def evaluated(self) -> int:
        """Number of nonzero latent dimensions after training."""
        return int(self.alpha * self.active + 0.5)


def loss(model: KSparse, active: Weight) -> Loss:
    """The squared error of `autoencoder.loss`, with a number k of nonzero dimensions that may be a schedule.

    For training; k must not exceed `model.limit`.
    """

    def objective(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        return autoencoder.loss(model.clone(active=batch.scheduled(active)), "mse")(variables, batch, key)

    return objective
