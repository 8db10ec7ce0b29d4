"""Residual networks of images, with group norm and self-attention.

Group norm (Wu & He 2018) normalizes each example by itself, so that results depend neither on the batch nor on the
devices. Blocks are in pre-activation order (He, Zhang, Ren & Sun 2016, "Identity mappings"), as in the networks of
Vahdat & Kautz 2020 and Rombach et al. 2022. The last convolution of each block starts at 0, so that it starts as the
identity (Zhang, Dauphin & Ma 2019).
"""

from math import gcd

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxae.nets.attention import SelfAttention
from jaxae.nets.conv import Convolution
from jaxae.nets.layers import Keys, layer_keys, numbered
from jaxae.nets.mlp import MLP
from jaxae.nets.regularization import drop

LAST_INPUT = "last_input"  # name of the captured input of the last convolution of an `UpResNet`
CHANNELS = 8  # per group of the group norm, if they divide the width


def norm(x: Float[Array, "B *P C"], name: str) -> Float[Array, "B *P C"]:
    """Group norm with scale and bias per channel; call within a compact method."""
    groups = gcd(x.shape[-1], max(x.shape[-1] // CHANNELS, 1))
    return nn.GroupNorm(groups, epsilon=1e-6, use_fast_variance=False, name=name)(x)


def sizes(shape: tuple[int, ...], levels: int) -> list[tuple[int, int]]:
    """Height and width at each level: those of the image, halved and rounded up from level to level."""
    found = [(shape[0], shape[1])]
    for _ in range(levels - 1):
        found.append((-(-found[-1][0] // 2), -(-found[-1][1] // 2)))
    return found


class Block(nn.Module):
    """x + f(x), where f is norm, SiLU and a 3 x 3 convolution, twice: [B, H, W, C] -> [B, H, W, C].

    squeeze: multiply the channels of f by a gate computed from their means (squeeze-and-excitation, Hu et al. 2018).
    drop_path: probability of omitting f for an example in training; otherwise f is divided by 1 - drop_path
    (stochastic depth, Huang et al. 2016).
    """

    squeeze: bool = False
    drop_path: float = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], keys: Keys | None = None) -> Float[Array, "B H W C"]:
        filters, zero = x.shape[-1], nn.initializers.zeros
        y = Convolution(filters, precision=self.precision, name="first")(nn.silu(norm(x, "first_norm")))
        y = nn.silu(norm(y, "last_norm"))
        y = Convolution(filters, kernel_init=zero, precision=self.precision, name="last")(y)
        if self.squeeze:
            gate = MLP((max(filters // 4, 1),), (filters,), final=nn.sigmoid, precision=self.precision, name="gate")
            y = y * gate(y.mean((1, 2)))[:, None, None]
        if self.drop_path and keys is not None:
            y = y * drop(jnp.ones((len(y), 1, 1, 1)), keys, self.drop_path)
        return x + y


class Attention(nn.Module):
    """x + self-attention of the pixels of the normalized x: [B, H, W, C] -> [B, H, W, C]."""

    heads: int = 1
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        pixels = norm(x, "norm").reshape(len(x), -1, x.shape[-1])
        return x + SelfAttention(self.heads, zero=True, precision=self.precision)(pixels).reshape(x.shape)


class Step(nn.Module):
    """A block, followed by attention if there are heads, as the body of a scan over the blocks of a level."""

    heads: int = 0
    squeeze: bool = False
    drop_path: float = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W C"], number: Int[Array, ""], keys: Keys | None
    ) -> tuple[Float[Array, "B H W C"], None]:
        own = None if keys is None else numbered(keys, number)
        x = Block(self.squeeze, self.drop_path, self.precision)(x, own)
        return (Attention(self.heads, self.precision)(x) if self.heads else x), None


class Level(nn.Module):
    """A scan over `blocks` blocks of equal size: [B, H, W, C] -> [B, H, W, C]. Its parameters have an axis of blocks.

    heads: of the self-attention after each block (0: none).
    remat: recompute activations in the backward pass, which saves their memory (Chen et al. 2016). It relies on the
    scan, since XLA on CPU removes the barriers of recomputation outside a scan.
    """

    blocks: int
    heads: int = 0
    squeeze: bool = False
    drop_path: float = 0.0
    remat: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"], keys: Keys | None = None) -> Float[Array, "B H W C"]:
        step = nn.remat(Step, prevent_cse=False) if self.remat else Step
        scanned = nn.scan(
            step,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast),
            length=self.blocks,
        )
        blocks = scanned(self.heads, self.squeeze, self.drop_path, self.precision, name="blocks")
        own = None if keys is None else layer_keys(keys, self.path)
        found: jax.Array = blocks(x, jnp.arange(self.blocks), own)[0]
        return found


class ResNet(nn.Module):
    """An encoder: a convolution, then levels of residual blocks; height and width are halved between levels.

    [B, H, W, C] -> [B, *outputs], by a dense layer of the last level's pixels; or without outputs [B, h, w, channels],
    by a 1 x 1 convolution. Halves are rounded up. attention: levels, counted from 0, with self-attention.
    """

    filters: tuple[int, ...]  # of each level
    blocks: int = 2  # of each level
    outputs: tuple[int, ...] = ()
    channels: int = 0
    attention: tuple[int, ...] = ()
    heads: int = 1
    squeeze: bool = False
    drop_path: float = 0.0
    remat: bool = False
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W C"],
        keys: Keys | None = None,
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "B *outputs"]:
        x = Convolution(self.filters[0], precision=self.precision, name="stem")(x)
        for number, filters in enumerate(self.filters):
            if number:
                x = Convolution(filters, stride=2, precision=self.precision, name=f"down{number}")(x)
            x = _level(self, number)(x, keys)
        x = nn.silu(norm(x, "norm"))
        if self.outputs:
            return MLP((), self.outputs, axes=3, precision=self.precision, name="output")(x)
        return Convolution(self.channels, 1, precision=self.precision, name="output")(x)


class UpResNet(nn.Module):
    """The decoder for a `ResNet` with the same arguments: levels in reverse order, with sizes doubled between them.

    [*lead, Z] or [*lead, h, w, channels] -> [*lead, *shape]. Doubling repeats pixels before a 3 x 3 convolution
    (Odena, Dumoulin & Olah 2016), and crops the result to the size of the level.
    """

    shape: tuple[int, ...]  # of the result, [H, W, C]
    filters: tuple[int, ...]  # of each level of the encoder
    blocks: int = 2
    attention: tuple[int, ...] = ()
    heads: int = 1
    squeeze: bool = False
    drop_path: float = 0.0
    remat: bool = False
    bias: tuple[float, ...] = ()  # initial bias of the result, per channel; (): 0
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "*lead_and_code"],
        keys: Keys | None = None,
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "*lead_and_shape"]:
        each = sizes(self.shape, len(self.filters))
        small = (*each[-1], self.filters[-1])
        spatial = z.ndim > 3 and z.shape[-3:-1] == each[-1]
        lead = z.shape[:-3] if spatial else z.shape[:-1]
        if spatial:
            x = Convolution(self.filters[-1], 1, precision=self.precision, name="input")(z.reshape(-1, *z.shape[-3:]))
        else:
            x = MLP((), small, precision=self.precision, name="input")(z).reshape(-1, *small)
        for number, filters in reversed(list(enumerate(self.filters))):
            if number < len(self.filters) - 1:
                x = Convolution(filters, up=2, precision=self.precision, name=f"up{number}")(x)
                x = x[:, : each[number][0], : each[number][1]]
            x = _level(self, number)(x, keys)
        x = nn.silu(norm(x, "norm"))
        self.sow("intermediates", LAST_INPUT, x)
        start = self.bias or 0.0
        x = Convolution(self.shape[2], precision=self.precision, bias=start, name="output")(x)
        return x.reshape(*lead, *self.shape)


def _level(net: ResNet | UpResNet, number: int) -> Level:
    heads = net.heads if number in net.attention else 0
    return Level(net.blocks, heads, net.squeeze, net.drop_path, net.remat, net.precision, name=f"level{number}")
