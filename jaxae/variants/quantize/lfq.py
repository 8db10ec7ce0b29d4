"""Lookup-free quantization (Yu et al. 2023): the signs of the channels."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch
from jaxae.core.divergences import per_example
from jaxae.variants.quantize.base import Quantized, Quantizer, straight_through
from jaxae.variants.quantize.entropy import binary_entropy, joint_entropy, marginal_entropy


class LFQ(Quantizer):
    """Codes c in {-1, 1}^Z, the signs of z; 0 has the sign 1.

    Loss: commitment |z - sg(c)|^2 + entropy (E[H(p(c|z))] - diversity H(E[p(c|z)])) with p(c|z) proportional to
    exp(z . c / temperature) (Yu, Lezama, Gundavarapu, Versari, Sohn, Minnen et al. 2023, equation 5), in nats, summed
    over positions like the other losses. The first entropy is that of each vector, the second that of the mean over the
    global batch, which is omitted in evaluation; with entropy = 0 both are. Terms: `code_entropy`, the first one, mean
    over positions; in training `usage_entropy`, the second, from 0 to Z log 2.
    ValueError for fewer than 1 or more than 30 bits, and for an exact entropy of more than 24 bits.
    """

    bits: int  # Z
    commitment: float = 0.25
    entropy: float = 0.1
    diversity: float = 1.0
    temperature: float = 0.1
    joint: bool = True  # the exact entropy of the mean; otherwise the sum of those of its bits, an upper bound

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 30:
            raise ValueError(f"bits={self.bits} must be from 1 to 30")
        if self.joint and self.bits > 24 and self.entropy:
            raise ValueError(f"bits={self.bits} are too many for an exact entropy; use at most 24, or joint=False")
        super().__post_init__()

    @property
    def size(self) -> int:
        """2^Z."""
        return int(2**self.bits)

    @property
    def shrink(self) -> float:
        """Vectors in [-2, 2] have residuals in [-1, 1]."""
        return 0.5

    @property
    def unit(self) -> float:
        """Magnitude of the channels of a code."""
        return 1.0

    def assign(self, z: Float[Array, "B *P Z"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:  # noqa: ARG002
        """The signs, with a straight-through gradient."""
        q = self.nearest(z)
        terms = {"quantization": per_example((z - q) ** 2)}
        terms["loss"] = self.commitment * per_example((z - jax.lax.stop_gradient(q)) ** 2)
        if self.entropy:
            logits = 2 * self.unit / self.temperature * z
            positions = z[0].size // self.bits
            own = per_example(binary_entropy(logits))
            terms["loss"] = terms["loss"] + self.entropy * own
            terms["code_entropy"] = own / positions
            if batch is not None and batch.training:
                weight = jnp.repeat(batch.weight / batch.total(jnp.sum(batch.weight)), positions) / positions
                entropy = joint_entropy if self.joint else marginal_entropy
                shared = entropy(logits.reshape(-1, self.bits), weight, batch)
                terms["loss"] = terms["loss"] - self.entropy * self.diversity * positions * batch.repeat(shared)
                terms["usage_entropy"] = batch.repeat(shared)
        return Quantized(straight_through(z, q), self.index(q), terms)

    def index(self, q: Float[Array, "B *P Z"]) -> Int[Array, "B *P"]:
        """Indices of these codes: the bits, 1 for a positive sign, the first one least significant."""
        basis = (1 << np.arange(self.bits)).reshape(*[1] * (q.ndim - 1), -1)
        return jnp.sum((q > 0) * basis.astype(np.int32), axis=-1)

    def embed(self, indices: Int[Array, "B *P"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices."""
        bits = (indices[..., None] >> np.arange(self.bits).reshape(*[1] * indices.ndim, -1)) & 1
        return self.unit * (2.0 * bits - 1.0)

    def nearest(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """The signs."""
        return jnp.where(z >= 0, self.unit, -self.unit)
