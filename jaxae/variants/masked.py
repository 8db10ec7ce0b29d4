"""The masked autoencoder: patches of the image are hidden from the encoder and are the target.

Masking noise (Vincent et al. 2010, section 3.3) on patches, with a mask token in their place, the loss on hidden pixels
only, and targets that may be normalized per patch (He et al. 2022, section 3).
"""

from collections.abc import Callable
from typing import ClassVar, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from jaxae.core.batch import Batch, Loss, Terms
from jaxae.core.divergences import per_example
from jaxae.core.experiment import Corrupt
from jaxae.core.types import Extra, Variables
from jaxae.likelihoods.bernoulli import cross_entropy
from jaxae.nets import Keys
from jaxae.variants import autoencoder

Mask = Callable[[Key[Array, ""], Batch], Float[Array, "B H W C"]]  # 1 where a pixel is hidden, 0 elsewhere

HIDDEN = -1.0  # value of hidden pixels in the input, which no pixel in [0, 1] has


class Masked(autoencoder.Autoencoder, kw_only=True):
    """An autoencoder that replaces hidden patches by a learned mask token.

    Parameter groups: encoder, decoder, mask_token.
    """

    patch: int  # width of a patch in pixels
    hidden: ClassVar[float] = HIDDEN

    @nn.compact
    def _shown(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        token = self.param("mask_token", nn.initializers.normal(0.02), (self.patch, self.patch, x.shape[3]))
        return jnp.where(x == HIDDEN, _tiled(token[None], x.shape), x)

    def __call__(
        self, x: Float[Array, "B H W C"], keys: Keys | None = None, axis: str | None = None
    ) -> tuple[Float[Array, "B *Z"], Float[Array, "B H W C"]]:
        """Codes, and the decoder output before the activation `output`. Hidden pixels of x have the value `HIDDEN`."""
        return super().__call__(self._shown(x), keys, axis)

    def encode(self, x: Float[Array, "B H W C"]) -> Float[Array, "B *Z"]:
        """Codes of x, in which hidden pixels have the value `HIDDEN`."""
        return super().encode(self._shown(x))


class MaskedTransformer(autoencoder.Autoencoder, kw_only=True):
    """A transformer that encodes the visible patches only; the decoder has a mask token in place of the others.

    He et al. 2022, section 3. The code has one token per patch; the token of a hidden patch is the mask token, which
    has the encoder's width, since the decoder starts with a linear map. Parameter groups: encoder, decoder, mask_token.
    """

    patch: int  # width of a patch in pixels
    shown: int  # number of visible patches in training
    hidden: ClassVar[float] = HIDDEN

    @nn.compact
    def _codes(self, x: Float[Array, "B H W C"], count: int | None) -> Float[Array, "B R S Z"]:
        gone = x[:, :: self.patch, :: self.patch, 0] == HIDDEN
        z = self.encoder(x, ~gone, count)
        token = self.param("mask_token", nn.initializers.normal(0.02), z.shape[-1:])
        return jnp.where(gone[..., None], token, z)

    def __call__(
        self, x: Float[Array, "B H W C"], keys: Keys | None = None, axis: str | None = None
    ) -> tuple[Float[Array, "B R S Z"], Float[Array, "B H W C"]]:
        """Codes, and the decoder output before the activation `output`, of images with `shown` visible patches."""
        z = self._codes(x, self.shown)
        return z, self.decoder(z, keys, axis)

    def encode(self, x: Float[Array, "B H W C"]) -> Float[Array, "B R S Z"]:
        """Codes of x with any number of visible patches; pixels of the others have the value `HIDDEN`."""
        return self._codes(x, None)


def patches(shape: tuple[int, ...], patch: int, fraction: float) -> Mask:
    """Hide this fraction of the patches of every image, sampled without replacement, in all channels.

    shape: shape of an image. patch: width in pixels; patches are cropped at the right and bottom edges.
    ValueError for examples that are not images, and for a fraction that hides all patches or none.
    """
    rows, columns, hidden = _hidden(shape, patch, fraction)

    def one(key: Key[Array, ""]) -> Float[Array, "H W C"]:
        grid = (jax.random.permutation(key, rows * columns) < hidden).reshape(rows, columns, 1).astype(jnp.float32)
        pixels = grid.repeat(patch, axis=0).repeat(patch, axis=1)[: shape[0], : shape[1]]
        return jnp.broadcast_to(pixels, shape)

    return lambda key, batch: jax.vmap(one)(batch.keys(key))


def shown(shape: tuple[int, ...], patch: int, fraction: float) -> int:
    """Number of patches of an image that `patches` leaves visible. ValueError as there."""
    rows, columns, hidden = _hidden(shape, patch, fraction)
    return rows * columns - hidden


def _hidden(shape: tuple[int, ...], patch: int, fraction: float) -> tuple[int, int, int]:
    """Rows and columns of patches, and the number of hidden ones."""
    if len(shape) != 3:
        raise ValueError(f"examples of shape {shape} are not images: patches need [H, W, C]")
    rows, columns = (-(-size // patch) for size in shape[:2])
    count, hidden = rows * columns, int(fraction * rows * columns + 0.5)
    if not 0 < hidden < count:
        raise ValueError(f"mask_ratio={fraction} hides {hidden} of {count} patches: hide at least one, and not all")
    return rows, columns, hidden


def visible(mask: Mask) -> Corrupt:
    """Encoder input: the image with hidden pixels set to `HIDDEN`."""
    return lambda key, batch: jnp.where(mask(key, batch) > 0, HIDDEN, batch.x)


def normalized(x: Float[Array, "B H W C"], patch: int) -> Float[Array, "B H W C"]:
    """Every patch minus its mean, divided by sqrt(variance + 1e-6), over pixels and channels (He et al. 2022).

    The variance divides by n, that of the authors' code by n - 1.
    """

    def mean(values: Float[Array, "B H W C"]) -> Float[Array, "B H W 1"]:
        total, count = (_patch_sums(v, patch) for v in (values, jnp.ones_like(values)))
        return (total / count).repeat(patch, axis=1).repeat(patch, axis=2)[:, : x.shape[1], : x.shape[2]]

    centred = x - mean(x)
    return centred / jnp.sqrt(mean(centred**2) + 1e-6)


def grey(v: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
    """Normalized patches as pixels, which lose brightness and contrast: mean 0.5, standard deviation 0.25."""
    return 0.5 + 0.25 * v


def loss(model: Masked | MaskedTransformer, objective: Literal["bce", "mse", "normalized"], mask: Mask) -> Loss:
    """Reconstruction error of the hidden pixels, with the same weight for each image.

    The same key hides the same pixels here and in `visible`.

    objective: bce or mse, for a model with a logistic output; normalized, the squared error of the decoder output
    against `normalized` patches. Terms, means over the hidden pixels: `loss`, the objective; `bce`, nats per pixel, and
    `mse`, pixels in [0, 1], or only `mse`, in units of the normalized targets. Also `code`, mean |z| over latent
    dimensions.
    """

    def terms(variables: Variables, batch: Batch, key: Key[Array, ""]) -> tuple[Terms, Extra]:
        hidden = mask(key, batch)
        x = jnp.where(hidden > 0, HIDDEN, batch.x)
        (z, before), updates = autoencoder.apply(model, variables, batch, x, jax.random.clone(key))
        if objective == "normalized":
            errors = {"mse": (before - normalized(batch.x, model.patch)) ** 2}
        else:
            errors = {"bce": cross_entropy(before, batch.x), "mse": (nn.sigmoid(before) - batch.x) ** 2}
        values = {name: per_example(hidden * error) / per_example(hidden) for name, error in errors.items()}
        total = values["mse" if objective == "normalized" else objective]
        return {"loss": total, **values, "code": per_example(jnp.abs(z)) / z[0].size}, updates

    return terms


def _tiled(token: Float[Array, "1 P P C"], shape: tuple[int, ...]) -> Float[Array, "1 H W C"]:
    rows, columns = (-(-size // token.shape[1]) for size in shape[1:3])
    return jnp.tile(token, (1, rows, columns, 1))[:, : shape[1], : shape[2]]


def _patch_sums(x: Float[Array, "B H W C"], patch: int) -> Float[Array, "B R S 1"]:
    """Sums over the pixels and channels of every patch."""
    padding = [(0, 0), *((0, -size % patch) for size in x.shape[1:3]), (0, 0)]
    padded = jnp.pad(x, padding)
    b, h, w, c = padded.shape
    return padded.reshape(b, h // patch, patch, w // patch, patch, c).sum((2, 4, 5))[..., None]
