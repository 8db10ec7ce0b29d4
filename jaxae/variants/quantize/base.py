"""The protocol of quantizers, and the straight-through estimator."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import flax.linen as nn
import jax
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch, Terms

# (vectors, their codes) -> the codes, with a gradient with respect to the vectors
Estimator: TypeAlias = Callable[[Float[Array, "B *P Z"], Float[Array, "B *P Z"]], Float[Array, "B *P Z"]]


class Quantized(NamedTuple):
    """Codes of the vectors at the positions P, usually h w."""

    codes: Float[Array, "B *P Z"]  # with a gradient with respect to the vectors
    indices: Int[Array, "B *P"] | Int[Array, "B *P Q"]  # of the codes; Q of them for each vector, if there are several
    terms: Terms  # `loss`, which is added to the reconstruction error; `quantization`, |z - e|^2; further metrics


class Quantizer(nn.Module):
    """A map of vectors [B, *P, Z] to codes from a finite set.

    A subclass defines `size`, `assign` and `embed`. State without a gradient, such as a codebook of moving averages, is
    a Flax collection, which `assign` writes in training: apply the model with `mutable`, and return the new collections
    as the updates of the loss. Losses are sums over positions and dimensions, so the loss of an example does not depend
    on the size of the batch.
    """

    @property
    def size(self) -> int:
        """K, the number of values of each index: log2(K) bits."""
        raise NotImplementedError

    @property
    def shrink(self) -> float | tuple[float, ...]:
        """Ratio of residuals to vectors, for each dimension: the scale of the next stage of a residual quantizer."""
        return 1.0

    def __call__(
        self, z: Float[Array, "B *P Z"], batch: Batch | None = None, key: Key[Array, ""] | None = None
    ) -> Quantized:
        """Codes of these vectors. batch, key: in training, for statistics of the global batch and noise."""
        return self.assign(self.prepare(z), batch, key)

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """Map vectors into the range of the codes (default: the identity)."""
        return z

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """Codes of prepared vectors."""
        raise NotImplementedError

    def embed(self, indices: Int[Array, "B *I"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices."""
        raise NotImplementedError

    def nearest(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The codes nearest to any vectors, such as samples of a density (default: the vectors themselves)."""
        return z


def straight_through(z: Float[Array, "*D"], q: Float[Array, "*D"]) -> Float[Array, "*D"]:
    """The straight-through estimator: the value of q, bit for bit, with the gradient passed to z.

    Bengio, Leonard & Courville 2013; van den Oord et al. 2017, section 3.2.
    """
    return jax.lax.stop_gradient(q) + (z - jax.lax.stop_gradient(z))
