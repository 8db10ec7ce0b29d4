"""Binary spherical quantization (Zhao, Xiong & Kraehenbuehl 2024): the signs of the channels of a unit vector."""

from jaxtyping import Array, Float

from jaxae.variants.quantize.lfq import LFQ
from jaxae.variants.quantize.rotation import unit


class BSQ(LFQ):
    """Codes in {-1, 1}^Z / sqrt(Z) on the unit sphere, the signs of z / |z|.

    The loss is that of LFQ for z / |z|. Unless `joint`, the entropy of the mean is replaced by its upper bound, the sum
    of the entropies of its bits (Zhao, Xiong & Kraehenbuehl 2024, section 4.2).
    """

    temperature: float = 0.01
    joint: bool = False

    @property
    def unit(self) -> float:
        """1 / sqrt(Z)."""
        return float(self.bits**-0.5)

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P Z"]:
        """z / |z|."""
        return unit(z)
