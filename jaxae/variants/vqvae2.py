"""VQ-VAE-2: a quantized autoencoder of two levels (Razavi, van den Oord & Vinyals 2019)."""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from jaxae.core.batch import Batch
from jaxae.nets.resampling import upsample
from jaxae.variants.quantize import Quantized, Quantizer
from jaxae.variants.quantize.several import merged
from jaxae.variants.vqvae import VQVAE


class Levels(NamedTuple):
    """The codes of both levels."""

    top: Quantized
    bottom: Quantized


class VQVAE2(VQVAE, kw_only=True):
    """Two levels of codes: the top level quantizes features of half the resolution, the bottom level given its codes.

    Algorithm 1 of the paper: h = encoder(x); e_top = top_quantizer(top_encoder(h)); e_bottom = quantizer(a linear map
    of h and top_decoder(e_top)); the decoder gets both, the top codes repeated to the size of the bottom ones. Codes
    and indices of an example are those of the top level, row by row, then those of the bottom level; `loss` of `vqvae`
    applies, with the sum of the losses of both quantizers.
    """

    encoder: nn.Module  # [B, H, W, C] -> [B, h, w, F]
    decoder: nn.Module  # [B, h, w, 2 Z] -> [B, H, W, C]
    top_encoder: nn.Module  # [B, h, w, F] -> [B, h', w', Z], of half the size, rounded up
    top_decoder: nn.Module  # [B, h', w', Z] -> [B, h, w, F]
    top_quantizer: Quantizer  # of as many codes as `quantizer`
    joined: nn.Module  # [B, h, w, 2 F] -> [B, h, w, Z]
    size: tuple[int, int]  # h, w

    def setup(self) -> None:
        """Two quantizers cannot share the scope of the model."""

    def __call__(
        self, x: Float[Array, "B H W C"], batch: Batch | None = None, key: Key[Array, ""] | None = None
    ) -> tuple[Quantized, Float[Array, "B H W C"]]:
        """The codes, and the decoder output. batch, key: see `Quantizer`."""
        found = self.levels(x, batch, key)
        codes, indices = (
            jnp.concatenate([_flat(part) for part in parts], axis=1)
            for parts in ([level.codes for level in found], [level.indices for level in found])
        )
        terms = merged([level.terms for level in found])
        terms["quantization"] = found.top.terms["quantization"] + found.bottom.terms["quantization"]
        return Quantized(codes, indices, terms), self.decoder(self._both(found.top.codes, found.bottom.codes))

    def levels(
        self, x: Float[Array, "B H W C"], batch: Batch | None = None, key: Key[Array, ""] | None = None
    ) -> Levels:
        """The codes of both levels."""
        keys = (None, None) if key is None else jax.random.split(key)
        h = self.encoder(x)
        top = self.top_quantizer(self.top_encoder(h), batch, keys[0])
        given = jnp.concatenate([h, self.top_decoder(top.codes)], axis=-1)
        return Levels(top, self.quantizer(self.joined(given), batch, keys[1]))

    def encode(self, x: Float[Array, "B H W C"]) -> Float[Array, "B P Z"]:
        """The codes, as vectors."""
        return self(x)[0].codes

    def indices(self, x: Float[Array, "B H W C"]) -> Int[Array, "B P"] | Int[Array, "B P Q"]:
        """The codes, as indices from 0 to `codes` - 1."""
        return self(x)[0].indices

    def embed(self, indices: Int[Array, "B P"] | Int[Array, "B P Q"]) -> Float[Array, "B P Z"]:
        """The codes with these indices, as vectors."""
        top, bottom = jnp.split(indices, [self.top_positions], axis=1)
        return jnp.concatenate([self.top_quantizer.embed(top), self.quantizer.embed(bottom)], axis=1)

    def decode(self, z: Float[Array, "B P Z"]) -> Float[Array, "B H W C"]:
        """The mean of p(x|z), decoded from the codes nearest to these vectors (see `Quantizer.nearest`)."""
        top, bottom = jnp.split(z, [self.top_positions], axis=1)
        top, bottom = self.top_quantizer.nearest(top), self.quantizer.nearest(bottom)
        above = top.reshape(len(z), *self._top_size, -1)
        below = bottom.reshape(len(z), *self.size, -1)
        return self.likelihood.mean(self.decoder(self._both(above, below)))

    @property
    def top_positions(self) -> int:
        """Number of codes of the top level."""
        return self._top_size[0] * self._top_size[1]

    @property
    def _top_size(self) -> tuple[int, int]:
        return -(-self.size[0] // 2), -(-self.size[1] // 2)

    def _both(self, top: Float[Array, "B r s Z"], bottom: Float[Array, "B h w Z"]) -> Float[Array, "B h w _"]:
        above = upsample(top, 2)[:, : self.size[0], : self.size[1]]
        return jnp.concatenate([above, bottom], axis=-1)


def _flat(codes: jax.Array) -> jax.Array:
    """[B, h, w, ...] -> [B, h w, ...]."""
    return codes.reshape(len(codes), -1, *codes.shape[3:])
