"""A top-down residual network as in the very deep variational autoencoder (Child 2021).

Each layer of latent variables is an image with few channels; their resolution increases from z_L to z_1 (as in Kingma
et al. 2016).
"""

from itertools import pairwise

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.core.divergences import DiagonalNormal
from jaxae.nets import Convolution
from jaxae.nets.resampling import upsample
from jaxae.nets.residual import Block, Level, norm, sizes
from jaxae.variants import top_down


def enlarged(x: Float[Array, "B h w C"], size: tuple[int, ...]) -> Float[Array, "B H W C"]:
    """The image, doubled by repeating pixels until it reaches the size, then cropped to it."""
    while x.shape[1] < size[0] or x.shape[2] < size[1]:
        x = upsample(x, 2)
    return x[:, : size[0], : size[1]]


class Head(nn.Module):
    """A residual block and a convolution initialised to 0: [N, h, w, X] -> [N, h, w, channels]."""

    channels: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "N h w X"]) -> Float[Array, "N h w channels"]:
        x = nn.silu(norm(Block(precision=self.precision)(x), "norm"))
        return Convolution(self.channels, 1, kernel_init=nn.initializers.zeros, precision=self.precision)(x)


class Layer(top_down.Layer):
    """A block of the top-down network (Child 2021, figure 3): its state is the image h.

    p(z|h) = N(f(h)), and f also changes h; q(z|x, h) = N(g(h, features of x)); then z is added to h by a 1 x 1
    convolution, before a residual block.
    """

    shape: tuple[int, int, int]  # of the state: height, width, channels
    latent: int  # channels of z
    first: bool = False  # whether it is the first layer of its resolution, which adds a learned image
    precision: str = "float32"

    @property
    def size(self) -> int:
        """Number of latent dimensions."""
        return self.shape[0] * self.shape[1] * self.latent

    def setup(self) -> None:
        channels = self.shape[2]
        self.of_p = Head(2 * self.latent + channels, self.precision)
        self.of_q = Head(2 * self.latent, self.precision)
        self.of_z = Convolution(channels, 1, precision=self.precision)
        self.block = Block(precision=self.precision)
        if self.first:
            self.image = self.param("image", nn.initializers.zeros, (1, *self.shape))

    def prior(self, state: Float[Array, "N h w C"]) -> tuple[DiagonalNormal, Float[Array, "N H W C"]]:
        """p(z|h), and h as changed by f."""
        h = enlarged(state, self.shape[:2])
        h = h + self.image if self.first else h
        mean, log_scale, change = jnp.split(self.of_p(h), (self.latent, 2 * self.latent), axis=3)
        return DiagonalNormal(_flat(mean), _flat(log_scale)), h + change

    def posterior(
        self,
        state: Float[Array, "N H W C"],
        p: DiagonalNormal,  # noqa: ARG002
        features: Float[Array, "N H W C"],
    ) -> DiagonalNormal:
        """q(z|x, h)."""
        found = self.of_q(jnp.concatenate([state, features], axis=3))
        return DiagonalNormal(*map(_flat, jnp.split(found, 2, axis=3)))

    def merge(self, state: Float[Array, "N H W C"], z: Float[Array, "N Z"]) -> Float[Array, "N H W C"]:
        """h after z has been added."""
        return self.block(state + self.of_z(z.reshape(len(z), *self.shape[:2], self.latent)))


def _flat(x: Float[Array, "N H W C"]) -> Float[Array, "N Z"]:
    return x.reshape(len(x), -1)


class Encoder(nn.Module):
    """The bottom-up network: the features of a latent layer are the output of the last residual block of its level.

    [B, H, W, C] -> ([B, h, w, channels], ...), for the latent layers in order, those of the first level first.
    """

    channels: int
    layers: tuple[int, ...]  # latent layers of each level
    blocks: int = 1  # of each level
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> tuple[Float[Array, "B h w channels"], ...]:
        found: list[jax.Array] = []
        for number, count in enumerate(self.layers):
            x = Convolution(self.channels, stride=2 if number else 1, precision=self.precision)(x)
            x = Level(self.blocks, precision=self.precision, name=f"level{number}")(x)
            found += [x] * count
        return tuple(found)


class Decoder(nn.Module):
    """The parameters of p(x|z) from the state below z_1: [N, h, w, X] -> [N, *shape]."""

    shape: tuple[int, ...]
    bias: tuple[float, ...] = ()  # initial bias of the result, per channel; (): 0
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "N h w X"]) -> Float[Array, "N *shape"]:
        x = Block(precision=self.precision)(enlarged(x, self.shape[:2]))
        x = nn.silu(norm(x, "norm"))
        return Convolution(self.shape[2], precision=self.precision, bias=self.bias or 0.0)(x)


def layers(
    shape: tuple[int, ...], channels: int, latent: int, counts: tuple[int, ...], precision: str = "float32"
) -> tuple[Layer, ...]:
    """The latent layers z_1, ..., z_L of images of this shape. counts: number of layers at each level, finest first.

    ValueError if there is no latent layer.
    """
    levels = [number for number, count in enumerate(counts) for _ in range(count)]
    if not levels:
        raise ValueError(f"counts={counts}: at least one latent layer is needed")
    firsts = [*(above != level for level, above in pairwise(levels)), True]
    where = sizes(shape, len(counts))
    return tuple(
        Layer((*where[level], channels), latent, first, precision) for level, first in zip(levels, firsts, strict=True)
    )
