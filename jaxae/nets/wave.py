"""Convolutional encoders and decoders of signals, after SoundStream.

Zeghidour, Luebs, Omran, Skoglund & Tagliasacchi 2021, section 3.1 and figure 3, not causal: convolutions of stride s
and width 2 s between levels of residual units, ELU. A signal is an image of width 1.
"""

from math import prod

import flax.linen as nn
from jaxtyping import Array, Float

from jaxae.nets import cpu_convolution


class Convolution1D(nn.Module):
    """A convolution with padding SAME and a bias: [B, T, I] -> [B, ceil(T / stride), filters]."""

    filters: int
    kernel: int
    stride: int = 1
    precision: str = "float32"
    kernel_init: nn.initializers.Initializer = nn.initializers.glorot_uniform()

    @nn.compact
    def __call__(self, x: Float[Array, "B T I"]) -> Float[Array, "B t filters"]:
        w = self.param("kernel", self.kernel_init, (self.kernel, 1, x.shape[2], self.filters))
        bias = self.param("bias", nn.initializers.zeros, (1, 1, self.filters))
        return cpu_convolution.conv(x[:, :, None], w, self.stride, "SAME", self.precision)[:, :, 0] + bias


class TransposedConvolution1D(nn.Module):
    """The transpose of a convolution with padding SAME, and a bias: [B, t, O] -> [B, stride t, filters]."""

    filters: int
    kernel: int
    stride: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B t O"]) -> Float[Array, "B T filters"]:
        w = self.param("kernel", nn.initializers.glorot_uniform(), (self.kernel, 1, self.filters, x.shape[2]))
        bias = self.param("bias", nn.initializers.zeros, (1, 1, self.filters))
        size = (self.stride * x.shape[1], 1)
        y = cpu_convolution.conv_transpose(x[:, :, None], w, size, self.stride, "SAME", self.precision)
        return y[:, :, 0] + bias


class Unit(nn.Module):
    """x + f(x), f: ELU, a convolution of width `kernel`, ELU, and a convolution of width 1 that is 0 initially."""

    kernel: int
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T C"]) -> Float[Array, "B T C"]:
        y = Convolution1D(x.shape[2], self.kernel, precision=self.precision, name="first")(nn.elu(x))
        zero = nn.initializers.zeros
        return x + Convolution1D(x.shape[2], 1, precision=self.precision, kernel_init=zero, name="last")(nn.elu(y))


class WaveEncoder(nn.Module):
    """[B, T, *D] -> [B, ceil(T / hop), latent], hop the product of the strides; `units` residual units in each level.

    ValueError unless there are as many strides as filters.
    """

    filters: tuple[int, ...]  # of each level
    strides: tuple[int, ...]  # before each level
    latent: int
    units: int = 1
    kernel: int = 7  # of the residual units
    precision: str = "float32"

    @nn.compact
    def __call__(self, x: Float[Array, "B T *D"]) -> Float[Array, "B t latent"]:
        x = x.reshape(*x.shape[:2], -1)
        for number, (filters, stride) in enumerate(_levels(self.filters, self.strides)):
            x = nn.elu(x) if number else x
            x = Convolution1D(filters, 2 * stride, stride, self.precision, name=f"down{number}")(x)
            for unit in range(self.units):
                x = Unit(self.kernel, self.precision, name=f"level{number}_{unit}")(x)
        return Convolution1D(self.latent, 3, precision=self.precision, name="output")(nn.elu(x))


class WaveDecoder(nn.Module):
    """The mirror image of a `WaveEncoder` with the same arguments: [B, t, latent] -> [B, T, *D].

    T is that of `shape`, or hop t if this is smaller. ValueError as for `WaveEncoder`.
    """

    shape: tuple[int, ...]  # of a signal, [T, *D]
    filters: tuple[int, ...]
    strides: tuple[int, ...]
    units: int = 1
    kernel: int = 7
    precision: str = "float32"

    @nn.compact
    def __call__(self, z: Float[Array, "B t latent"]) -> Float[Array, "B T *D"]:
        levels = _levels(self.filters, self.strides)
        x = Convolution1D(self.filters[-1], 3, precision=self.precision, name="input")(z)
        for number, (_, stride) in reversed(list(enumerate(levels))):
            for unit in range(self.units):
                x = Unit(self.kernel, self.precision, name=f"level{number}_{unit}")(x)
            below = levels[number - 1][0] if number else prod(self.shape[1:])
            x = TransposedConvolution1D(below, 2 * stride, stride, self.precision, name=f"up{number}")(nn.elu(x))
        return x[:, : self.shape[0]].reshape(len(x), -1, *self.shape[1:])


def _levels(filters: tuple[int, ...], strides: tuple[int, ...]) -> list[tuple[int, int]]:
    if len(filters) != len(strides):
        raise ValueError(
            f"strides={list(strides)} must have {len(filters)} values, one for each of filters={list(filters)}"
        )
    return list(zip(filters, strides, strict=True))
