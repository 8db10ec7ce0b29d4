"""Quantization of a linear map of the vectors, usually to fewer channels (Yu et al. 2021, section 3.2)."""

import flax.linen as nn
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch
from jaxae.variants.quantize.base import Quantized, Quantizer


class Projected(Quantizer):
    """Map the vectors to `width` channels, quantize these, and map the codes back to Z channels.

    Used for codebooks of low dimension (factorized codes), and where levels or bits fix the number of channels. The
    terms are those of the inner quantizer.
    """

    inner: Quantizer
    width: int
    latent: int  # Z

    def setup(self) -> None:
        self.into, self.back = nn.Dense(self.width), nn.Dense(self.latent)

    @property
    def size(self) -> int:
        """The size of the inner quantizer."""
        return self.inner.size

    def prepare(self, z: Float[Array, "B *P Z"]) -> Float[Array, "B *P w"]:
        """The mapped vectors, prepared by the inner quantizer."""
        return self.inner.prepare(self.into(z))

    def assign(self, z: Float[Array, "B *P w"], batch: Batch | None, key: Key[Array, ""] | None) -> Quantized:
        """The codes of the inner quantizer, mapped back."""
        found = self.inner.assign(z, batch, key)
        return found._replace(codes=self.back(found.codes))

    def embed(self, indices: Int[Array, "B *I"]) -> Float[Array, "B *P Z"]:
        """The codes with these indices, mapped back."""
        return self.back(self.inner.embed(indices))
