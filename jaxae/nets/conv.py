"""Convolutional encoders and decoders."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxae.nets import cpu_convolution, resampling
from jaxae.nets.layers import Activation, Keys
from jaxae.nets.mlp import MLP
from jaxae.nets.regularization import Regularization


class Convolution(nn.Module):
    """Optional upsampling, a convolution and a bias: [B, H, W, I] -> [B, h, w, filters]; padding SAME or VALID."""

    filters: int
    kernel: int = 3
    stride: int = 1
    padding: str = "SAME"
    up: int = 1
    precision: str = "float32"
    bias: float | tuple[float, ...] = 0.0  # its initial value, of all filters or of each
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "B H W I"]) -> Float[Array, "B h w filters"]:
        shape = (self.kernel, self.kernel, x.shape[3], self.filters)
        w = self.param("kernel", self.kernel_init, shape)
        bias = self.param("bias", nn.initializers.constant(jnp.asarray(self.bias)), (1, 1, 1, self.filters))
        if (self.kernel, self.up, self.stride) == (3, 2, 1):
            y = resampling.conv_upsampled(x, w, self.precision)
            return (y if self.padding == "SAME" else y[:, 1:-1, 1:-1]) + bias
        x = resampling.upsample(x, self.up) if self.up > 1 else x
        return cpu_convolution.conv(x, w, self.stride, self.padding, self.precision) + bias


class TransposedConvolution(nn.Module):
    """The transpose of a convolution of images of `size`, padding SAME, and a bias: [B, h, w, O] -> [B, H, W, I]."""

    size: tuple[int, int]
    filters: int
    kernel: int = 3
    stride: int = 1
    precision: str = "float32"
    bias: float = 0.0  # its initial value

    @nn.compact
    def __call__(self, x: Float[Array, "B h w O"]) -> Float[Array, "B H W filters"]:
        shape = (self.kernel, self.kernel, self.filters, x.shape[3])
        w = self.param("kernel", nn.initializers.glorot_uniform(), shape)
        bias = self.param("bias", nn.initializers.constant(self.bias), (1, 1, 1, self.filters))
        return cpu_convolution.conv_transpose(x, w, self.size, self.stride, "SAME", self.precision) + bias


class Conv(nn.Module):
    """Convolutions with padding SAME, each with optional max-pooling, and an optional dense layer.

    [*lead, H, W, C] -> [*lead, h, w, filters[-1]], or [*lead, *outputs]. ValueError for lists of the wrong length.
    """

    filters: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)
    pools: tuple[int, ...] = (1,)  # 1: none
    outputs: tuple[int, ...] = ()
    activation: Activation = nn.relu
    batch_norm: bool = False
    dropout: float = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, x: Float[Array, "*lead_and_image"], keys: Keys | None = None, axis: str | None = None
    ) -> Float[Array, "*lead_and_outputs"]:
        if x.ndim < 4:
            _image(x.shape[1:])
        lead = x.shape[:-3]
        x = x.reshape(-1, *x.shape[-3:])
        for filters, kernel, stride, pool in _layers(
            self.filters, kernels=self.kernels, strides=self.strides, pools=self.pools
        ):
            x = Convolution(filters, kernel, stride, precision=self.precision)(x)
            x = self.activation(x)
            if self.batch_norm or self.dropout:
                x = Regularization(self.batch_norm, self.dropout)(x, keys, axis)
            x = resampling.max_pool(x, pool) if pool > 1 else x
        if self.outputs:
            x = MLP((), self.outputs, axes=3, precision=self.precision)(x)
        return x.reshape(*lead, *x.shape[1:])


class UpConv(nn.Module):
    """Convolutions, each followed by upsampling, and a linear last one; cropped to the image shape.

    [*lead, h, w, c] -> [*lead, *shape]. ValueError for lists of the wrong length, and for outputs that are too small.
    """

    shape: tuple[int, ...]  # of an image
    filters: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    last: int = 3  # kernel of the last layer
    bias: float | tuple[float, ...] = 0.0  # initial bias of the last layer, of all channels or of each
    ups: tuple[int, ...] = (2,)
    paddings: tuple[str, ...] = ("SAME",)
    activation: Activation = nn.relu
    precision: str = "float32"

    @nn.compact
    def __call__(
        self,
        z: Float[Array, "*lead h w c"],
        keys: Keys | None = None,  # noqa: ARG002
        axis: str | None = None,  # noqa: ARG002
    ) -> Float[Array, "*lead_and_shape"]:
        height, width, channels = _image(self.shape)
        lead = z.shape[:-3]
        x, before = z.reshape(-1, *z.shape[-3:]), 1
        for filters, kernel, up, padding in _layers(
            self.filters, kernels=self.kernels, ups=self.ups, paddings=self.paddings
        ):
            x = self.activation(Convolution(filters, kernel, 1, padding, before, self.precision)(x))
            before = up
        x = Convolution(channels, self.last, up=before, precision=self.precision, bias=self.bias)(x)
        if x.shape[1] < height or x.shape[2] < width:
            small = f"the output of {x.shape[1]}x{x.shape[2]} is smaller than images of {height}x{width}"
            raise ValueError(f"{small}; change kernels or filters")
        return x[:, :height, :width].reshape(*lead, *self.shape)


class Deconv(nn.Module):
    """The mirror image of a `Conv` with the same arguments: transposed convolutions, the last one linear.

    [*lead, *code] -> [*lead, *shape]. A dense layer maps codes [*lead, Z] to the output shape of `Conv`.
    ValueError for lists of the wrong length.
    """

    shape: tuple[int, ...]  # of an image
    filters: tuple[int, ...]
    kernels: tuple[int, ...] = (3,)
    strides: tuple[int, ...] = (1,)
    bias: float = 0.0  # initial bias of the last layer
    activation: Activation = nn.relu
    batch_norm: bool = False
    dropout: float = 0.0
    precision: str = "float32"

    @nn.compact
    def __call__(
        self, z: Float[Array, "*lead_and_code"], keys: Keys | None = None, axis: str | None = None
    ) -> Float[Array, "*lead_and_shape"]:
        height, width, channels = _image(self.shape)
        layers, sizes = [], [(height, width)]
        for before, kernel, stride in _layers(
            (channels, *self.filters[:-1]), kernels=self.kernels, strides=self.strides
        ):
            layers.append((before, kernel, stride, sizes[-1]))
            sizes.append((-(-sizes[-1][0] // stride), -(-sizes[-1][1] // stride)))
        small = (*sizes[-1], self.filters[-1])
        if z.shape[-3:] == small:
            lead = z.shape[:-3]
        else:
            lead = z.shape[:-1]
            z = MLP((), small, precision=self.precision)(z)
        x = z.reshape(-1, *small)
        for number, (filters, kernel, stride, size) in enumerate(reversed(layers), 1):
            last = number == len(layers)
            bias = self.bias if last else 0.0
            x = TransposedConvolution(size, filters, kernel, stride, self.precision, bias)(x)
            if not last:
                x = self.activation(x)
                if self.batch_norm or self.dropout:
                    x = Regularization(self.batch_norm, self.dropout)(x, keys, axis)
        return x.reshape(*lead, *self.shape)


def _layers(filters: tuple[int, ...], **others: tuple[Any, ...]) -> list[Any]:
    """One row of values per layer, from lists with one value per layer or a single one for all."""
    layers = len(filters)
    for name, values in others.items():
        if len(values) not in (1, layers):
            raise ValueError(
                f"{name}={list(values)}: {len(values)} values for {layers} filters; use {layers}, or one for all"
            )
    same = [values * (layers if len(values) == 1 else 1) for values in others.values()]
    return list(zip(filters, *same, strict=True))


def _image(shape: tuple[int, ...]) -> tuple[int, ...]:
    if len(shape) != 3:
        raise ValueError(f"examples of shape {shape} are not images: this net needs [H, W, C]")
    return shape
